"""Losses of the segmentation task, by hand and against loops over their formulas."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cmg.downstream.avs.losses import contrast, first_frame_bce, matching


def test_first_frame_bce_sees_the_first_frame_only():
    logits = torch.zeros(2, 5, 1, 2)
    logits[0, 0] = torch.tensor([2.0, -1.0])
    logits[:, 1:] = 99.0
    masks = torch.tensor([[[[1, 0]]], [[[1, 1]]]]).bool()
    expected = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1)) + 2 * np.log(2)) / 4
    assert first_frame_bce(logits, masks).item() == pytest.approx(expected, rel=1e-6)


def test_matching_is_the_log_cosine_of_masked_mean_and_query():
    grid = torch.tensor([[3.0, 0.0], [4.0, 7.0]]).view(1, 1, 2, 1, 2)  # C = 2 channels, 1×2 cells
    logits = torch.tensor([9.0, 9.0, -9.0, -9.0]).view(1, 1, 1, 4)  # pooled to two cells: in, out
    query = torch.tensor([[[1.0, 0.0]]])
    assert matching(logits, [grid], [query]).item() == pytest.approx(-np.log(3 / 5), rel=1e-5)
    both = matching(logits, [grid, grid], [query, torch.tensor([[[-1.0, 0.0]]])]).item()
    assert both == pytest.approx((-np.log(3 / 5) - np.log(1e-6)) / 2, rel=1e-5)  # a negative cosine counts as 0
    nothing = matching(torch.full((1, 1, 1, 4), -9.0), [grid], [query])
    assert nothing.item() == pytest.approx(-np.log(1e-6), rel=1e-5)
    leaf, asked = grid.clone().requires_grad_(), query.clone().requires_grad_()
    matching(logits, [leaf], [asked]).backward()
    assert leaf.grad[..., 1].abs().max() == 0 and leaf.grad[..., 0].abs().max() > 0 and asked.grad.abs().max() > 0


def test_contrast_is_the_cross_entropy_among_clips_of_other_classes():
    """Against loops over the formula: three clips with masks, two of one class, and one whose mask is empty."""
    torch.manual_seed(0)
    grid, query = torch.randn(4, 2, 2, 2, 3).double(), torch.randn(4, 2, 3).double()
    masks = torch.zeros(4, 1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2, :2], masks[1, 0, 2:], masks[2, 0, 0, 2:] = True, True, True
    labels = torch.tensor([5, 7, 5, 1])
    seen = [grid[0, 0, 0, 0], grid[1, 0, 1].mean(0), grid[2, 0, 0, 1]]  # of the cells under the mask
    alike = [[10 * F.cosine_similarity(v, u, dim=0).item() for u in query[:3, 0]] for v in seen]
    rivals = [(0, 1), (1, 0, 2), (2, 1)]  # the first and the third are of one class
    rows = [np.log(sum(np.exp(alike[i][j]) for j in rivals[i])) - alike[i][i] for i in range(3)]
    columns = [np.log(sum(np.exp(alike[i][j]) for i in rivals[j])) - alike[j][j] for j in range(3)]
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert contrast([(grid, query)], masks, labels).item() == pytest.approx(expected, rel=1e-5)
    assert contrast([(grid, query)] * 2, masks, labels).item() == pytest.approx(expected, rel=1e-5)  # mean over stages
    assert contrast([(grid, query)], masks, torch.zeros(4).long()).item() == pytest.approx(0)  # one class: no rival
    assert contrast([(grid, query)], masks & False, labels).item() == 0
