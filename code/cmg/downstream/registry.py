"""The downstream tasks: one line each, from which README's table, table files and the help of commands are fed.

A task of one's own is a Python file with a `main(argv)`: table files name it by its path, see `cmg.downstream.task`.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """module : of cmg.downstream. title : what it is. measures : what it reports. calls : how, in scripts/. rows :
    whether it writes results.json, of which a table can be made."""

    module: str
    title: str
    measures: str
    calls: tuple[str, ...]
    rows: bool = True

    @property
    def about(self) -> str:
        """One sentence, for the help of its command."""
        return f"{self.title}. Measures {self.measures}."


TASKS = {  # name in results.json -> its entry
    "ave": Entry("ave", "AVE event classification; chooses the checkpoint", "clip top-1, 29-way segment accuracy",
                 ("ave.sh",)),
    "labels": Entry("ave", "own labels", "AVE's figures, of clips of one's own", ("ave.sh --labels FILE.csv",)),
    "avvp": Entry("avvp", "AVVP event localization",
                  "official segment and event F, pooled micro-F1; public micro precision", ("avvp.sh",)),
    "ave_avvp": Entry("ave_avvp", "AVE → AVVP", "AVVP's figures, across data sets, over 12 shared classes",
                      ("ave_avvp.sh",)),
    "ucf_vggsound": Entry("ucf_vggsound", "UCF101 (video) ↔ VGGSound (audio)", "top-1 across modality and data set",
                          ("ucf_vggsound.sh",)),
    "ave_open_set": Entry("ave", "AVE with unknown classes", "AUROC of known against unknown clips, H at a threshold",
                          ("ave.sh --open-set 14",)),
    "ucf_vggsound_open_set": Entry("ucf_vggsound", "UCF101 ↔ VGGSound with unknown classes", "the same",
                                   ("ucf_vggsound.sh --open-set 8",)),
    "avs": Entry("avs", "AVS-S4 segmentation, A2T / T2A", "mIoU, F with β² = 0.3", ("avs_train.sh", "avs_test.sh")),
    "retrieval": Entry("retrieval", "retrieval, zero-shot", "R@1/5/10/25/50, median and mean rank, on codes, "
                       "semantics or joint embeddings; text ↔ video+audio",
                       ("retrieval.sh",)),
    "retrieval_head": Entry("retrieval", "retrieval with a head, V2T / T2V (Table 5)", "R@1/5/10, on codes",
                            ("retrieval.sh --gallery audio",)),
    "neighbourhood": Entry("neighbourhood", "whether clips keep their neighbours",
                           "nearest clips in common with the input, and Spearman's ρ of similarities",
                           ("neighbourhood.sh",)),
    "separation": Entry("separation", "whether CMMixer separates what it mixed",
                        "what is rebuilt of hidden patches, and by the clip's own other modality", ("cmmixer.sh",)),
    "captioning": Entry("captioning", "captions of clips", "BLEU-1 to -4, ROUGE-L, CIDEr-D", ("uniq4cap.sh",)),
    "codebook": Entry("codebook", "how the codebook is shared (Fig. 4)", "each code's use by modality",
                      ("fig4.sh",), rows=False),
}
MODULES = tuple(dict.fromkeys(entry.module for entry in TASKS.values()))
TABLED = tuple(dict.fromkeys(entry.module for entry in TASKS.values() if entry.rows))
