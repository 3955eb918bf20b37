"""The released codebook over 700 steps and two waves of resets, beside a second implementation in plain loops.

The fixtures of the public implementation end after three steps, long before its first reset.
"""

import numpy as np
import pytest
import torch

from cmg.models import codebook
from cmg.released import networks

CODES, DIM, CLIPS, SECONDS, STEPS = 40, 8, 6, 5, 700


def clustered(modalities, step):
    """A batch of all modalities, dict modality -> [B, T, D]: eight clusters, seen by each with an offset of its own."""
    rng = np.random.default_rng([1, step])
    centres = np.random.default_rng(2).normal(size=(8, DIM))
    label = rng.integers(0, 8, (CLIPS, SECONDS))
    return {m: centres[label] + 0.3 * number + 0.1 * rng.normal(size=(CLIPS, SECONDS, DIM))
            for number, m in enumerate(modalities)}


class Reference:
    """Embedding, counts and counters as the public quantiser moves them: one modality, token and code at a time."""

    def __init__(self, start):
        self.embedding, self.weight = start.copy(), start.copy()
        self.count, self.unused = np.zeros(CODES), np.full(CODES, -1)
        self.resets, self.survivors, self.fresh = [], 0, set()

    def step(self, z, noise, picks):
        """One batch; returns the code of every token, dict modality -> [B, T]. noise [M, D] and picks [M] : uniform in
        [0, 1), those of code k in row k."""
        codes = {m: np.zeros((CLIPS, SECONDS), int) for m in z}
        for m, x in z.items():
            for b in range(CLIPS):
                for t in range(SECONDS):
                    codes[m][b, t] = ((self.embedding - x[b, t]) ** 2).sum(1).argmin()
        share = 0.5 / (len(z) - 1)  # of each other modality
        for m in z:
            hits, sums = np.zeros(CODES), np.zeros((CODES, DIM))
            for b in range(CLIPS):
                for t in range(SECONDS):
                    k = codes[m][b, t]
                    hits[k] += 1
                    sums[k] += 0.5 * z[m][b, t] + sum(share * z[other][b, t] for other in z if other != m)
            self.count = 0.99 * self.count + 0.01 * hits
            whole = self.count.sum()
            self.count = (self.count + 1e-5) / (whole + CODES * 1e-5) * whole
            self.weight = 0.99 * self.weight + 0.01 * sums
            self.embedding = self.weight / self.count[:, None]
        selected = {int(k) for own in codes.values() for k in own.flatten()}
        self.survivors += len(self.fresh & selected)
        self.unused += 1
        for k in selected:
            self.unused[k] = 0
        recent = [k for k in range(CODES) if 0 <= self.unused[k] < 100]
        dead = [k for k in range(CODES) if self.unused[k] > 300]
        vectors = self.embedding.copy()
        for k in dead:
            self.embedding[k] = vectors[recent[int(picks[k] * len(recent))]] + (2 * noise[k] - 1) / 1024
            self.unused[k] = 0
        self.fresh = set(dead)
        self.resets.append(len(dead))
        return codes


@pytest.mark.parametrize("modalities", [("audio", "video"), ("audio", "video", "text")])
def test_resets_and_what_becomes_of_them(modalities, monkeypatch):
    """Codes, vectors, statistics and counters to 1e-12 at every step; of the codes that are reset some are selected at
    once and live, the others fall back."""
    ours = np.random.default_rng(3)
    for module in (networks, codebook):
        monkeypatch.setattr(module, "shared_rand", lambda n, device: torch.from_numpy(ours.random(n)).to(device))
    book = networks.ReleasedCodebook(modalities, CODES, DIM, mm_ema="aligned", reset="any", reset_after=300)
    start = np.random.default_rng(4).uniform(-1 / 400, 1 / 400, (CODES, DIM))
    book.embedding.copy_(torch.from_numpy(start))
    book.weight.copy_(book.embedding)
    reference, theirs = Reference(start), np.random.default_rng(3)
    valid = {m: torch.ones(CLIPS, SECONDS, dtype=torch.bool) for m in modalities}
    for step in range(STEPS):
        z = clustered(modalities, step)
        expected = reference.step(z, theirs.random(CODES * DIM).reshape(CODES, DIM), theirs.random(CODES))
        tensors = {m: torch.from_numpy(x) for m, x in z.items()}
        codes = {m: book.quantize(x).codes for m, x in tensors.items()}
        book.update(tensors, codes, valid)
        for m in modalities:
            assert np.array_equal(codes[m], expected[m]), (step, m)
        for own, other in (("embedding", "embedding"), ("weight", "weight"), ("count", "count")):
            np.testing.assert_allclose(getattr(book, own), getattr(reference, other), rtol=1e-12, atol=1e-12,
                                       err_msg=f"{own} after step {step}")
        assert np.array_equal(book.idle.amin(0), reference.unused), step
    waves = [step for step, dead in enumerate(reference.resets) if dead]
    assert waves[:2] == [301, 602]  # all that the first batch did not select, at once
    assert int(book.revived) == sum(reference.resets) > reference.survivors > 0
