"""`--adapt`: where moved features lie, by hand; that a set which lies elsewhere is read as if it did not; its rows."""

import h5py
import numpy as np
import pytest
import torch
from support_pair import FAST, PAIRS, OneHotModel, by_pair

import cmg
from cmg.data.features import FeatureSet
from cmg.data.numbers import Numbers, measure
from cmg.downstream.adapt import EPSILON, Adapted, mover
from cmg.downstream.splits import Split
from cmg.downstream.tokens import Encoded
from cmg.downstream.ucf_vggsound import PairTask
from cmg.errors import UserError
from cmg.models.scale import FeatureScale
from support import SHAPES, untrained, write_clips

PRETRAINED = Numbers(0.0, 1.0, 1.0, (1.0, -2.0, 0.5), (2.0, 1.0, 0.0))


def scale_of(numbers, modality="audio", channels=3):
    scale = FeatureScale({modality: (4, channels)})
    scale.learn(modality, numbers)
    return scale


def test_every_channel_gets_the_mean_and_deviation_of_pretraining():
    own = Numbers(0.0, 1.0, 1.0, (10.0, 4.0, 3.0), (0.5, 0.0, 1.0))
    x = 3 * torch.randn(2, 4, 3, dtype=torch.float64)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    epsilon = EPSILON * (5 / 3) ** 0.5  # of all channels of pretraining
    wanted = x.clone()
    for c, (mean, spread, to, wide) in enumerate(zip(own.channels, own.spreads, PRETRAINED.channels,
                                                     PRETRAINED.spreads)):
        wanted[..., c] = (x[..., c] - mean) * (wide + epsilon) / (spread + epsilon) + to
    wanted[1, 2:] = 0
    move = mover(scale_of(PRETRAINED), "audio", own)
    torch.testing.assert_close(move(x.float(), valid), wanted.float(), rtol=1e-5, atol=1e-5)
    found = measure(move(own.channels[0] + torch.zeros(1, 4, 3), valid[:1]), valid[:1])  # of what never moves
    assert found.spreads == (0, 0, 0) and np.isfinite(found.channels).all()


def test_features_that_lie_where_they_lay_stay():
    x, valid = torch.randn(3, 4, 3), torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(mover(scale_of(PRETRAINED), "audio", PRETRAINED)(x, valid), x)


@pytest.mark.parametrize("standardise", ["off", "on"])
def test_another_place_and_width_of_every_channel_do_not_matter(tmp_path, standardise):
    """The same clips in other units: the codes that a moved set has are those of the set itself, whether or not the
    checkpoint standardises."""
    here = FeatureSet(write_clips(tmp_path / "here.h5"))
    clips = here.stored(range(len(here)))

    def learn(model):
        for m in SHAPES:
            model.feature_scale.learn(m, measure(clips[m], clips[f"valid/{m}"]), standardise)

    untrained(tmp_path / "epoch_000.pt", SHAPES, features=here, prepare=learn)
    model = cmg.load_pretrained(tmp_path / "epoch_000.pt")
    rng = np.random.default_rng(0)
    with h5py.File(write_clips(tmp_path / "there.h5"), "r+") as file:
        width = rng.uniform(0.5, 2, SHAPES["audio"][-1])
        file["audio"][...] = (file["audio"][...] * width + rng.normal(size=width.shape)).astype("f4")
    there = FeatureSet(tmp_path / "there.h5")
    rows = torch.arange(len(here))
    splits = {("fit", "audio"): Split(there, "audio", rows, list(there.ids), {})}
    wanted = model.encode(here)["audio"].codes
    plain, moved = (one(model, splits).tokens("fit", "audio") for one in (Encoded, Adapted))
    assert (moved.codes == wanted)[moved.valid].float().mean() > 0.97
    assert (plain.codes == wanted)[moved.valid].float().mean() < 0.9


class Known(OneHotModel):
    """Codes by the largest channel, of features that were pretrained on with a mean of 1 in channel 0."""

    def __init__(self):
        super().__init__()
        self.feature_scale = FeatureScale(self.shapes)
        for m, (_, channels) in self.shapes.items():
            self.feature_scale.learn(m, Numbers(0, 1, 1, (0.1,) * channels, (0.2,) * channels))


def test_rows_stand_beside_the_others(sets):
    plain = PairTask(*sets, PAIRS, FAST).run(Known())
    task = PairTask(*sets, PAIRS, FAST._replace(adapt=True))
    both = task.run(Known())
    assert both[: len(plain)] == plain and len(both) == 2 * len(plain)
    rows = by_pair(both[len(plain):])
    assert {row["metric"] for row in rows.values()} == {"adapted_accuracy"}
    assert {(source, target, "adapted_accuracy") for source, target in PAIRS} <= set(task.clips)


def test_what_is_tested_alone_is_not_measured(sets):
    task = PairTask(*sets, PAIRS, FAST._replace(adapt=True))
    features, rows = task.splits["test", "audio"].features, task.splits["test", "audio"].rows
    other = FeatureSet([file.path for file in features.files])
    task.splits["test", "audio"] = Split(other, "audio", rows, task.splits["test", "audio"].names, {})
    with pytest.raises(UserError, match="^--adapt: no audio clip of the set that is tested is fitted on"):
        task.settle()


def test_a_checkpoint_that_knows_no_channels(sets):
    model = OneHotModel()
    with pytest.raises(UserError, match="^--adapt: the checkpoint does not know mean .* of video and audio; "):
        PairTask(*sets, PAIRS, FAST._replace(adapt=True)).run(model)
