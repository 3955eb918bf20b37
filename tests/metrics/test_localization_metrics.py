"""Localisation metrics against the benchmark's own numbers, a second implementation and cases counted by hand."""


import numpy as np
import pytest
import torch

from cmg.losses.exp_log import exp_log_loss
from cmg.metrics.localization import (
    batched_precision_recall,
    event_counts,
    harmonic_mean,
    official_f,
    precision_recall,
    run_lengths,
    segment_counts,
    video_f,
)
from support import FIXTURES


def mask(*rows):
    """`mask("110", "011")` -> bool [2, 3]."""
    return torch.tensor([[character == "1" for character in row] for row in rows])


@pytest.mark.parametrize("level", ["segment", "event"])
def test_official_f_scores_are_the_benchmarks(level):
    stored = np.load(FIXTURES / "avvp_official_metrics.npz")
    masks = [torch.tensor(stored[name] > 0) for name in ("pred_audio", "pred_video", "gt_audio", "gt_video")]
    f = official_f(level, *masks)
    expected = dict(zip(stored["columns"].tolist(), stored["per_video"].T))
    prefix = {"segment": "seg", "event": "ev"}[level]
    for ours, theirs in {"audio": "a", "video": "v", "av": "av", "event_av": "all"}.items():
        np.testing.assert_allclose(f[ours].numpy(), expected[f"{prefix}_{theirs}"], atol=1e-12)
    mean = (f["audio"] + f["video"] + f["av"]) / 3
    torch.testing.assert_close(f["type_av"], mean, atol=1e-12, rtol=0)


def runs_of(row):
    """Second implementation: the runs of a 0/1 list as sets of seconds."""
    runs, open_run = [], set()
    for t, on in enumerate([*row, 0]):
        if on:
            open_run.add(t)
        elif open_run:
            runs.append(open_run)
            open_run = set()
    return runs


def test_event_counts_agree_with_a_count_over_sets():
    generator = torch.Generator().manual_seed(1)
    prediction, truth = (torch.rand(300, 4, 10, generator=generator) < p for p in (0.55, 0.65))
    counts = event_counts(prediction, truth)
    for n in range(0, 300, 7):
        for k in range(4):
            p, g = runs_of(prediction[n, k].tolist()), runs_of(truth[n, k].tolist())
            hit = sum(any(2 * len(a & b) >= len(a | b) for b in g) for a in p)
            found = sum(any(2 * len(a & b) >= len(a | b) for a in p) for b in g)
            assert [int(part[n, k]) for part in counts] == [hit, len(p) - hit, len(g) - found]


def test_counts_by_hand():
    prediction, truth = mask("0111100000", "1100001111", "0000000000"), mask("0011000000", "1111000000", "0000000000")
    assert [c.tolist() for c in segment_counts(prediction, truth)] == [[2, 2, 0], [2, 4, 0], [0, 2, 0]]
    # IoU 2/4 is a hit, exactly on the edge; 2/4 again; the last four seconds are made up.
    assert [c.tolist() for c in event_counts(prediction, truth)] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert run_lengths(mask("0110111"))[0].tolist() == [0, 2, 2, 0, 3, 3, 3]
    assert video_f(segment_counts(prediction, truth)).item() == pytest.approx((4 / 6 + 4 / 10) / 2)
    nothing = torch.zeros(3, 10, dtype=torch.bool)
    assert video_f(segment_counts(nothing, nothing)).item() == 1.0


def test_precision_and_recall_are_those_of_the_public_script():
    stored = np.load(FIXTURES / "cmg_avvp_precision_recall.npz")
    precision, recall = precision_recall(torch.tensor(stored["prob"] > 0.5), torch.tensor(stored["label"] > 0))
    assert precision.item() == pytest.approx(float(stored["precision"]), rel=1e-6)
    assert recall.item() == pytest.approx(float(stored["recall"]), rel=1e-6)


def test_precision_of_batches_is_a_mean_of_ratios():
    truth = mask("10", "10", "11").view(3, 1, 2)
    prediction = mask("10", "01", "11").view(1, 3, 1, 2)
    precision, recall = batched_precision_recall(prediction, truth, batch_size=2)
    assert precision.tolist() == pytest.approx([(2 * 1 / 2 + 1 * 2 / 2) / 3])
    assert recall.tolist() == pytest.approx([(2 * 1 / 2 + 1 * 2 / 2) / 3])
    pooled = precision_recall(prediction, truth)
    assert [part.item() for part in pooled] == [3 / 4, 3 / 4]
    silent = precision_recall(torch.zeros_like(prediction), truth)
    assert [part.item() for part in silent] == [0, 0] and harmonic_mean(*silent).item() == 0
    assert harmonic_mean(torch.tensor(0.5), torch.tensor(1.0)).item() == pytest.approx(2 / 3)


def test_exp_log_loss_is_that_of_the_public_script():
    stored = np.load(FIXTURES / "exp_log_loss.npz")
    logits, label = torch.tensor(stored["logits"]).T, torch.tensor(stored["label"]).T
    alpha = torch.full((26,), float(stored["alpha"]))
    loss = exp_log_loss(logits, label, alpha)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(stored["loss"]), rel=1e-6)


def test_exp_log_loss_counts_equal_seconds_together():
    logits = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([[0.1] * 5, [0.3] * 5], dtype=torch.float64)
    row = torch.tensor([0, 2, 2, 1])  # four seconds of three distinct vectors, five classes, two probes
    label = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]).T
    counts = torch.zeros(5, 3, dtype=torch.int64).index_add_(1, row, label)
    together = exp_log_loss(logits, counts, alpha, seconds=4)
    one_by_one = torch.stack([exp_log_loss(logits[p, :, row], label, alpha[p]) for p in range(2)])
    torch.testing.assert_close(together, one_by_one)
