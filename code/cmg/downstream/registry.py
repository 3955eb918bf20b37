"""The downstream tasks: one line each, from which README's table, table files and the help of commands are fed.

A task of one's own is a Python file with a `main(argv)`: table files name it by its path, see `cmg.downstream.task`.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """title : what it is. measures : what it reports. script : how it is called, in scripts/."""

    title: str
    measures: str
    script: str


TASKS = {  # module of cmg.downstream -> its entry
    "ave": Entry("AVE event classification; chooses the checkpoint", "clip top-1, 29-way segment accuracy", "ave.sh"),
    "avvp": Entry("AVVP event localization", "official segment and event F, pooled micro-F1; public micro precision",
                  "avvp.sh"),
    "ave_avvp": Entry("AVE → AVVP", "the same as AVVP, across data sets, over 12 shared classes", "ave_avvp.sh"),
    "ucf_vggsound": Entry("UCF101 (video) ↔ VGGSound (audio)", "top-1 across modality and data set", "ucf_vggsound.sh"),
    "avs": Entry("AVS-S4 segmentation, A2T / T2A", "mIoU, F with β² = 0.3", "avs_train.sh"),
    "retrieval": Entry("retrieval, zero-shot or with a head", "R@1/5/10, median rank, on codes and semantics",
                       "retrieval.sh"),
    "codebook": Entry("how the codebook is shared, the paper's Fig. 4", "use of every code by modality", "fig4.sh"),
}
