"""Every figure that a task writes has a printed name and an axis with a unit."""

import doctest

import pytest

from cmg.downstream import ave, retrieval, retrieval_head
from cmg.figures import names
from cmg.figures.names import METRICS, TASKS, arrow, axis_label, figure_name
from cmg.metrics import captions
from cmg.metrics.words import TOKENIZERS

PROBED = {
    "ave": [kind.metric for kind in ave.AveTask.kinds],
    "labels": [kind.metric for kind in ave.OwnLabels.kinds],
    "avvp": ["micro_f1", "segment_f1", "event_f1", "precision"],
    "ave_avvp": ["micro_f1", "segment_f1", "event_f1", "f1"],
    "ucf_vggsound": ["accuracy"],
    "ave_open_set": ["auroc", "h_score"],
    "ucf_vggsound_open_set": ["auroc", "h_score"],
}
WRITTEN = {
    **{task: [f"{readout}{metric}" for readout in ("", "toc_", "adapted_")[: 2 if task == "ave_avvp" else 3]
              for metric in own] for task, own in PROBED.items()},
    "avs": ["miou", "f_measure"],
    "retrieval": [f"{kind}_{name}" for kind in names.REPRESENTATIONS
                  for name in (*(f"r{k}{end}" for k in retrieval.RECALLS for end in ("", retrieval.EXPECTED)),
                               "median_rank", "mean_rank")] + ["mtm_accuracy"],
    "neighbourhood": [f"{kind}_{name}" for kind in ("features", "input") for name in ("overlap", "correlation")],
    "separation": [kind + name for kind in ("", "alone_") for name in ("explained", "gain")],
    "captioning": [f"{words}_{metric}" for words in TOKENIZERS for metric in captions.METRICS],
    "retrieval_head": [f"r{k}" for k in retrieval_head.RECALLS],
}


def test_examples():
    assert doctest.testmod(names).failed == 0


def test_all_tasks_and_their_metrics_are_named():
    assert set(WRITTEN) == set(TASKS) and {m for own in WRITTEN.values() for m in own} == set(METRICS)
    printed = [figure_name(task, metric) for task, own in WRITTEN.items() for metric in own]
    assert len(set(printed)) == len(printed) and not any("_" in name for name in printed)
    assert all(label.endswith(", %") or label == "rank" for _, label in METRICS.values())


@pytest.mark.parametrize(("asked", "printed"), [
    (("ave", "accuracy", "v2a"), "AVE clip top-1, V→A"),
    (("ave_avvp", "segment_f1", "a2v"), "AVE→AVVP segment F1, A→V"),
    (("ucf_vggsound", "accuracy", "v2a", "paper"), "UCF101↔VGGSound clip top-1 (paper), V→A"),
    (("avs", "miou", "a2t"), "AVS-S4 mean IoU, A→T"),
    (("retrieval", "codes_r10", "t2v"), "Retrieval R@10 of codes, T→V"),
    (("retrieval_head", "r1", "v2t"), "Retrieval by a head R@1, V→T"),
    (("mine", "fun", "depth2v"), "mine fun, depth→V"),
])
def test_printed_names(asked, printed):
    assert figure_name(*asked) == printed


def test_axes_and_directions():
    assert axis_label("accuracy") == "accuracy, %" and axis_label("fun") == "fun"
    assert arrow("text", "video") == "T→V" and arrow("v", "imu") == "V→imu"
