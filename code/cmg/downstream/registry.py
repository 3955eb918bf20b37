"""The downstream tasks: one line each, from which README's table, table files and the help of commands are fed.

A task of one's own is a Python file with a `main(argv)`: table files name it by its path.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """module : of cmg.downstream. title : its name in prose. script : in scripts/. measures : what it reports."""

    module: str
    title: str
    script: str
    measures: str


TASKS = {
    "ave": Entry("ave", "AVE event classification; chooses the checkpoint", "ave.sh",
                 "clip top-1, 29-way segment accuracy"),
    "avvp": Entry("avvp", "AVVP event localization", "avvp.sh",
                  "official segment and event F, pooled micro-F1; public micro precision"),
    "ave_avvp": Entry("ave_avvp", "AVE → AVVP", "ave_avvp.sh", "the same, across data sets, over 12 shared classes"),
    "ucf_vggsound": Entry("ucf_vggsound", "UCF101 (video) ↔ VGGSound (audio)", "ucf_vggsound.sh",
                          "top-1 across modality and data set"),
    "avs": Entry("avs", "AVS-S4 segmentation, A2T / T2A", "avs_train.sh", "mIoU, F with β² = 0.3"),
    "retrieval": Entry("retrieval", "retrieval, zero-shot or with a head", "retrieval.sh",
                       "R@1/5/10, median rank, on codes and semantics"),
    "codebook": Entry("codebook", "how the codebook is shared", "fig4.sh", "use of every code by modality"),
}
