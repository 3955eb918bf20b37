"""Neighbourhood preservation against brute force, scikit-learn and scipy, and its limits."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from cmg.metrics.neighbourhood import knn_overlap, similarity_correlation


def vectors(seed, n=60, dim=5):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim)))


def test_overlap_and_correlation_agree_with_others():
    a = vectors(0)
    b = a[:, :4] + 0.5 * vectors(1, dim=4)
    near = [NearestNeighbors(n_neighbors=8, metric="cosine").fit(x).kneighbors(return_distance=False) for x in (a, b)]
    expected = 100 * np.mean([len({*one} & {*two}) / 7 for one, two in zip(*(n[:, :7] for n in near))])
    assert knn_overlap(a, b, 7) == knn_overlap(a, b, 7, block=9) == pytest.approx(expected)
    cosines = []
    for x in (a, b):
        unit = (x / x.norm(dim=1, keepdim=True)).numpy()
        cosines.append([unit[i] @ unit[j] for i in range(60) for j in range(i + 1, 60)])
    assert similarity_correlation(a, b) == pytest.approx(100 * spearmanr(*cosines).statistic)


def test_limits():
    a = vectors(2, n=400)
    turned = a @ torch.linalg.qr(vectors(3, n=5)).Q * 3  # a rotation and a scale change no neighbour
    assert knn_overlap(a, turned) == 100 and similarity_correlation(a, turned) == pytest.approx(100)
    other = vectors(4, n=400)
    assert knn_overlap(a, other) == pytest.approx(100 * 10 / 399, abs=1)
    assert abs(similarity_correlation(a, other)) < 5
    assert similarity_correlation(a, -a, most=50) == pytest.approx(100)  # cosines of opposites are the same
