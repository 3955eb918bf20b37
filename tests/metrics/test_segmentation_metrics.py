"""Segmentation metrics: those of the benchmark's code, of plain loops, and by hand."""

import numpy as np
import pytest
import torch

from cmg.metrics.segmentation import Scores, f_curve, frame_iou
from support import FIXTURES


def official():
    data = np.load(FIXTURES / "avs_official_metrics.npz")
    return torch.from_numpy(data["pred_logits"]), torch.from_numpy(data["gt"]) > 0, data


def test_metrics_are_the_benchmarks():
    logits, masks, expected = official()
    scores = Scores()
    scores.add(logits, masks)
    for metrics in (scores.paper(), scores.strict()):  # one batch: no difference
        assert metrics.miou == pytest.approx(100 * expected["miou"], abs=1e-4)
        assert metrics.f_measure == pytest.approx(100 * expected["f_measure"], abs=1e-4)
    assert scores.n_empty == 1 and scores.n_frames == 6


def test_f_curve_is_that_of_all_comparisons():
    logits, masks, _ = official()
    probability, curve = logits.sigmoid(), f_curve(logits, masks)
    kept = [i for i in range(len(masks)) if masks[i].any()]
    for k, threshold in enumerate(torch.linspace(0, 1 - 1e-10, 255)):
        for row, i in enumerate(kept):
            chosen = probability[i] >= threshold
            hit = (chosen & masks[i]).sum().item()
            precision, recall = hit / max(1, chosen.sum().item()), hit / masks[i].sum().item()
            expected = 1.3 * precision * recall / (0.3 * precision + recall) if hit else 0.0
            assert curve[row, k].item() == pytest.approx(expected, abs=1e-12)


def test_iou_and_f_by_hand():
    high, low = 9.0, -9.0
    logits = torch.tensor([[[high, high, low, low]], [[high, low, low, low]], [[0.0, low, low, low]]])
    masks = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]).bool()
    # 1 of 3; an empty mask: 3 of 4 background pixels; sigmoid 0.5 is not above 0.5
    assert frame_iou(logits, masks).tolist() == pytest.approx([1 / 3, 3 / 4, 0])
    curve = f_curve(logits, masks)  # the empty one is left out
    assert curve.shape == (2, 255)
    assert curve[:, 127].tolist() == pytest.approx([0.5, 1.0])  # P = R = 1/2; at 0.5 itself >= holds
    assert curve[0, 0].item() == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))  # everything chosen: P = 1/2, R = 1


def test_strict_pools_what_paper_averages_over_batches():
    hit = torch.tensor([[[9.0, -9.0]]]), torch.tensor([[[True, False]]])
    miss = torch.tensor([[[-9.0, 9.0]]]), torch.tensor([[[True, False]]])
    scores = Scores()
    scores.add(*(torch.cat([a, a, a]) for a in hit))
    scores.add(*miss)
    assert scores.strict().miou == 75.0 and scores.paper().miou == 50.0
    half = 1.3 * 0.5 / (0.3 * 0.5 + 1)  # the best for a miss is to choose everything
    assert scores.strict().f_measure == pytest.approx(75.0) and scores.paper().f_measure == pytest.approx(
        100 * (1 + half) / 2, abs=1e-4)
    empty = Scores()
    empty.add(torch.full((2, 1, 2), -9.0), torch.zeros(2, 1, 2, dtype=torch.bool))
    assert empty.strict() == (100.0, None, None) and empty.paper() == (100.0, 0.0, 0.0)
