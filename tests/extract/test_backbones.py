"""Backbones with weights: VGG-19, VGGish and where weights come from."""

import hashlib
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from cmg.errors import UserError
from cmg.extract.backbones import Choice, load_backbone
from cmg.extract.pictures import NetworkInput
from cmg.extract.vgg19 import VGG19
from cmg.extract.vggish import LogMel, Network, VGGish, VGGishPCA, mel_bands
from cmg.extract.weights import build, identity, sha256
from support import FIXTURES

FIXTURE = FIXTURES / "vggish_log_mel.npz"
RNG = np.random.default_rng(0)


# --- VGGish's log-mel ---------------------------------------------------------------------------------------------


def test_log_mel_is_that_of_the_public_package():
    """The fixture is what torchvggish 0.2 makes of a second of sound (its `waveform_to_examples`)."""
    with np.load(FIXTURE) as file:
        sound, theirs = torch.from_numpy(file["sound"] / np.float32(32768)), file["log_mel"]
    ours = LogMel()(sound[None])[0].numpy()
    assert ours.shape == theirs.shape == (96, 64)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_log_mel_again_in_numpy():
    """Step by step as AudioSet describes it, in float64; silence gives log 0.01 exactly."""
    sound = RNG.normal(scale=0.2, size=(2, 16000))
    sound[1] = 0
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, 16000 - 400 + 1, 160)
    assert len(starts) == 98
    magnitude = np.abs(np.fft.rfft([[x[s : s + 400] * window for s in starts] for x in sound], 512))  # [2, 98, 257]
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    bands = np.zeros((257, 64))
    for k in range(64):
        for bin in range(1, 257):
            up = (mel[bin] - edges[k]) / (edges[k + 1] - edges[k])
            down = (edges[k + 2] - mel[bin]) / (edges[k + 2] - edges[k + 1])
            bands[bin, k] = max(0, min(up, down))
    np.testing.assert_allclose(mel_bands(), bands, atol=1e-12)
    wanted = np.log(magnitude @ bands + 0.01)[:, :96]
    ours = LogMel()(torch.from_numpy(sound).float())
    np.testing.assert_allclose(ours, wanted, atol=2e-5)
    np.testing.assert_allclose(ours[1], np.log(0.01), rtol=1e-6)


def test_the_end_of_a_second_has_no_say():
    sound = torch.from_numpy(RNG.normal(size=(1, 16000))).float()
    later = sound.clone()
    later[:, 15600:] = 1.0  # 96 windows end at 975 ms
    assert torch.equal(LogMel()(sound), LogMel()(later))
    later[:, 15590:] = 1.0
    assert not torch.equal(LogMel()(sound), LogMel()(later))


# --- VGGish -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vggish_file(tmp_path_factory):
    """A file with the names and shapes of the public weights, at random."""
    path = tmp_path_factory.mktemp("weights") / "vggish.pth"
    convs = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    lines = {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for group, sizes, window in (("features", convs, (3, 3)), ("embeddings", lines, ())):
        for number, (out, into) in sizes.items():
            scale = (2 / (into * 9 ** (group == "features"))) ** 0.5
            weight = torch.empty(out, into, *window).uniform_(-1.7 * scale, 1.7 * scale, generator=generator)
            state |= {f"{group}.{number}.weight": weight, f"{group}.{number}.bias": torch.full((out,), 0.01)}
    torch.save(state, path)
    return path, state


def test_vggish_again_layer_by_layer(vggish_file):
    """The public network, written out: the map is flattened frame by frame, band by band, channels last."""
    path, state = vggish_file
    backbone = VGGish((str(path),))
    sound = torch.from_numpy(RNG.normal(scale=0.1, size=(2, 16000))).float()
    ours = backbone(sound)
    x = LogMel()(sound)[:, None]
    for layers in ((0,), (3,), (6, 8), (11, 13)):
        for layer in layers:
            x = F.relu(F.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1))
        x = F.max_pool2d(x, 2)
    assert x.shape == (2, 512, 6, 4)
    x = torch.stack([torch.cat([clip[:, row, column] for row in range(6) for column in range(4)]) for clip in x])
    for layer in (0, 2, 4):
        x = F.relu(F.linear(x, state[f"embeddings.{layer}.weight"], state[f"embeddings.{layer}.bias"]))
    assert ours.shape == (2, 128) and ours.min() == 0 and 0.1 < (ours > 0).mean() < 0.9  # after the last ReLU
    np.testing.assert_allclose(ours, x, atol=1e-4 * float(x.max()))
    assert backbone.sha256 == sha256(path) and len(backbone.sha256) == 64
    np.testing.assert_allclose(backbone(sound[1:]), ours[1:], atol=1e-4 * ours.max())  # every second by itself
    backbone.precision = "bf16"
    np.testing.assert_allclose(backbone(sound), ours, atol=0.05 * ours.max())


def test_vggish_pca_is_whitened_and_quantised(tmp_path):
    axes, means = RNG.normal(size=(128, 128)), RNG.uniform(size=128)
    np.savez(tmp_path / "pca.npz", pca_eigen_vectors=axes, pca_means=means[:, None])
    weights = ("random:3", str(tmp_path / "pca.npz"))
    sound = torch.from_numpy(RNG.normal(scale=0.1, size=(1, 16000))).float()
    backbone = VGGishPCA(weights)
    quantised, (raw,) = backbone(sound), VGGish.__call__(backbone, sound)
    for k in range(128):
        whitened = sum(axes[k, j] * (raw[j] - means[j]) for j in range(128))
        level = (min(max(whitened, -2), 2) + 2) * 255 / 4
        assert abs(quantised[0, k] - level) <= 0.5 + 1e-6 and quantised[0, k] == round(quantised[0, k])
    assert quantised.min() == 0 and quantised.max() == 255
    assert np.array_equal(quantised.astype(np.float16), quantised)  # exact in a feature file
    assert backbone.sha256 == f"random:3 {sha256(tmp_path / 'pca.npz')}"
    np.savez(tmp_path / "pca.npz", pca_eigen_vectors=axes[:5], pca_means=means)
    with pytest.raises(UserError, match=r"pca.npz: pca_eigen_vectors \(5, 128\)"):
        VGGishPCA(weights)
    (tmp_path / "pca.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="not AudioSet's PCA parameters"):
        VGGishPCA(weights)


# --- VGG-19 -------------------------------------------------------------------------------------------------------


def test_frames_are_squeezed_and_normalised():
    frames = np.zeros((1, 30, 80, 3), np.uint8)
    frames[:, :, 40:] = [255, 0, 51]
    x = NetworkInput(8, (0.5, 0.25, 0.0), (0.5, 1.0, 0.1), torch.device("cpu"))(frames)[0]
    assert x.shape == (3, 8, 8)
    torch.testing.assert_close(x[:, 3, 0], torch.tensor([-1.0, -0.25, 0.0]))  # the whole frame, nothing cut off
    torch.testing.assert_close(x[:, 3, 7], torch.tensor([1.0, -0.25, 2.0]))


def test_vgg19_is_the_mean_of_pool5(tmp_path):
    """Against torchvision's own network, from a file that has the classifier too."""
    torch.manual_seed(0)
    reference = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"]).eval()
    state = {f"features.{key}": value for key, value in reference.state_dict().items()}
    assert len(state) == 32
    path = tmp_path / "vgg19.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    backbone = VGG19((str(path),))
    frames = RNG.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    ours = backbone(iter([frames, frames[1:]]))
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
    with torch.no_grad():
        maps = reference(x / torch.tensor([0.229, 0.224, 0.225])[:, None, None]).permute(0, 2, 3, 1).numpy()
    assert ours.shape == (2, 7, 7, 512) and ours.max() > 0
    np.testing.assert_allclose(ours[0], maps.mean(axis=0), atol=1e-4 * maps.max())
    np.testing.assert_allclose(ours[1], maps[1], atol=1e-4 * maps.max())
    assert backbone.sha256 == sha256(path)
    backbone.precision = "bf16"
    assert np.abs(backbone([frames[1:]])[0] - maps[1]).max() < 0.05 * maps.max()


def test_a_random_start_is_the_seed_s():
    frames = [RNG.integers(0, 256, (1, 60, 80, 3), dtype=np.uint8)]
    first, again, other = (VGG19((f"random:{seed}",)) for seed in (0, 0, 1))
    for a, b, c in zip(*(backbone.net.state_dict().values() for backbone in (first, again, other))):
        assert torch.equal(a, b) and (a.dim() == 1 or not torch.equal(a, c))
    assert first.sha256 == "random:0" and other.sha256 == "random:1"
    x = first(frames)
    # He's start keeps the size of activations through all sixteen layers: no feature file full of zeros or infinities.
    assert 0.1 < np.sqrt((x**2).mean()) < 10 and 0.1 < (x > 0).mean()


# --- weights ------------------------------------------------------------------------------------------------------


def small():
    return torch.nn.Linear(2, 3)


@pytest.mark.parametrize("zipped", [True, False])  # the public files are older than the zip format
def test_weights_round_trip(tmp_path, zipped):
    module = small()
    state = {f"net.{key}": value.double() for key, value in module.state_dict().items()}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    back = build(small, str(tmp_path / "a.pth"), prefix="net.")
    assert not back.training
    for key, value in module.state_dict().items():
        assert torch.equal(back.state_dict()[key], value) and back.state_dict()[key].dtype == torch.float32
    assert identity(str(tmp_path / "a.pth")) == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("content, message", [
    ({"weight": torch.zeros(3, 2)}, "missing key 'bias'"),
    ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "scale": torch.zeros(3)}, "unknown key 'scale'"),
    ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, r"'weight' has shape \(2, 3\), expected \(3, 2\)"),
    ({"weight": torch.zeros(3, 2), "bias": [0.0]}, "not a state dict"),
    (torch.zeros(3), "not a state dict"),
    (None, "no such"),
    (b"junk", "not a readable"),
])
def test_weights_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        build(small, str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_malicious_weight_file_is_not_run(tmp_path):
    for content in (Attack(tmp_path / "mark"), {"weight": Attack(tmp_path / "mark")}):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(UserError, match="not a readable"):
            build(small, str(tmp_path / "a.pth"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("choice, message", [
    (Choice("video", "pixels", ("a.pth",)), "--video-weights: 1 given, pixels expects none: it has no weights"),
    (Choice("video", "vgg19"), "--video-weights: 0 given, vgg19 expects torchvision's vgg19-.*random:SEED"),
    (Choice("audio", "vggish-pca", ("a.pth",)), "1 given, vggish-pca expects torchvggish's .* and AudioSet's"),
    (Choice("video", "vgg19", ("gone.pth",)), "gone.pth: no such"),
    (Choice("audio", "vggish", ("random:x",)), "random:x: no such"),
])
def test_weights_are_never_chosen_silently(choice, message):
    with pytest.raises(UserError, match=message):
        load_backbone(choice)


def test_vggish_has_no_other_layers_than_the_public_one(vggish_file):
    with torch.device("meta"):
        ours = {key: value.shape for key, value in Network().state_dict().items()}
    assert ours == {key: value.shape for key, value in vggish_file[1].items()}
