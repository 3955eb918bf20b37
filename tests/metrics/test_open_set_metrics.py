"""Open-set figures: the published sweep against its numbers, AUROC against scikit-learn, and by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.testing import assert_close

from cmg.metrics.open_set import answers, confidence, pair_wins, rates, sweep
from support import FIXTURES

with np.load(FIXTURES / "oscmg.npz") as file:
    PUBLIC = {key: torch.from_numpy(file[key]) for key in file.files}
CASES = sorted({key.split("/")[0] for key in PUBLIC if "/" in key})


def close(found, expected):
    assert_close(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_sweep_is_the_public_one(case):
    own = {key.removeprefix(f"{case}/"): x for key, x in PUBLIC.items() if key.startswith(f"{case}/")}
    logits, target = own["logits"], own["target"]
    assert logits.shape[1] == int(own["known"])
    close(confidence(logits), own["confidence"])
    thresholds, found = sweep(logits, target, len(own["rows"]))
    close(torch.stack([thresholds, *found], 1), own["rows"])
    assert answers(logits.expand(len(thresholds), -1, -1), thresholds).tolist() == own["predictions"].tolist()
    best = found.h.argmax()
    for ours, public in ((found.h, "best_overall_Hscore"), (thresholds, "best_thred_Hscore"),
                         (found.known, "best_acc_insider"), (found.unknown, "best_acc_outsider")):
        close(ours[best], own[public])


def test_the_best_of_several_epochs_is_the_public_one():
    best = [sweep(PUBLIC[f"{case}/logits"], PUBLIC[f"{case}/target"])[1].h.max() for case in ("mixed", "confident")]
    close(max(best), PUBLIC["best_over_epochs"])


def test_auroc_is_that_of_scikit_learn():
    sure = torch.randint(0, 9, (3, 50)).float() / 9  # with ties
    target = torch.randint(0, 5, (50,))
    wins = pair_wins(sure, target, 3)
    for own, scores in zip(sure, wins):
        expected = roc_auc_score(target < 3, own)
        for side in (target < 3, target >= 3):
            assert scores[side].mean().item() == pytest.approx(expected)


def test_rates_by_hand():
    answer, target = torch.tensor([0, 0, 1, 2, 2, 1]), torch.tensor([0, 0, 0, 1, 2, 2])  # K = 2
    plain, by_class = (rates(answer, target, 2, by) for by in (False, True))
    assert [x.item() for x in plain] == pytest.approx([2 / 4, 1 / 2, 1 / 2, 3 / 6])
    assert by_class.known.item() == pytest.approx((2 / 3 + 0) / 2)
    nobody = rates(torch.tensor([1, 0]), torch.tensor([0, 2]), 2)
    assert nobody.h.item() == 0.0  # the public code divides by zero
