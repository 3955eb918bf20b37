"""MultiSK's networks against numbers of the public implementation; missing modalities, maps and their steps."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.errors import UserError
from cmg.models.multisk import MultiSKModel, TowerConfig, unit
from cmg.models.multisk_audio import MelFront, MelFrontConfig
from cmg.models.multisk_blocks import GatedProjection, TokenBlock, token_mean
from support import FIXTURES

EXACT = {"rtol": 1e-8, "atol": 1e-10}
NAMES = {"text": "t", "video": "v", "audio": "a"}


def fixture(name):
    with np.load(FIXTURES / f"multisk_{name}.npz") as file:
        found = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
    return {key: x.double() if x.is_floating_point() else x for key, x in found.items()}


def below(found, prefix):
    return {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix)}


def load_gated(module, weights):
    module.load_state_dict({"linear.weight": weights["W"], "linear.bias": weights["b"], "gate.weight": weights["U"],
                            "gate.bias": weights["c"]})


def block_weights(weights):
    return {f"{name[:-2]}.{'weight' if name[-1] == 'w' else 'bias'}": x for name, x in weights.items()}


def front_weights(weights):
    """Names of the fixture as those of the front: stage1.block0.skip_conv -> blocks.0.skip.0."""
    found, order = {}, []
    for name, x in weights.items():
        name = name.removeprefix("conv/")
        if not name.startswith("stage"):
            found[name.replace("stem_conv", "stem").replace("stem_norm", "norm")] = x
            continue
        stage, block, rest = name.split(".", 2)
        if (stage, block) not in order:
            order.append((stage, block))
        rest = rest.replace("skip_conv", "skip.0").replace("skip_norm", "skip.1")
        found[f"blocks.{order.index((stage, block))}.{rest}"] = x
    return found


def load_front(front, weights):
    lost = front.load_state_dict(front_weights(weights), strict=False)
    assert not lost.unexpected_keys and all("num_batches" in name for name in lost.missing_keys)


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_the_gated_projection_is_that_of_the_release(kind):
    f = below(fixture("blocks"), "gated/")
    module = GatedProjection(*reversed(f["W"].shape)).double()
    load_gated(module, f)
    x = f[f"{kind}/x"].requires_grad_()
    y = module(x)
    assert_close(y, f[f"{kind}/y"], **EXACT)
    y.backward(f[f"{kind}/upstream"])
    own = {"x": x, "W": module.linear.weight, "b": module.linear.bias, "U": module.gate.weight, "c": module.gate.bias}
    for name, tensor in own.items():
        assert_close(tensor.grad, f[f"{kind}/grad_{name}"], **EXACT)


def test_the_block_is_that_of_the_release():
    f = below(fixture("blocks"), "block/")
    module = TokenBlock(f["x"].shape[-1], int(f["heads"])).double()
    module.load_state_dict(block_weights(below(f, "w/")))
    x, exists = f["x"].requires_grad_(), f["mask"] > 0
    y = module(x, exists)
    mean = token_mean(y, exists)
    assert_close(y, f["tokens_out"], **EXACT)
    assert_close(mean, f["mean_out"], **EXACT)
    mean.backward(f["upstream"])
    assert_close(x.grad, f["grad_x"], **EXACT)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert_close(gradients, block_weights(below(f, "grad/")), **EXACT)


@pytest.mark.parametrize("number", [0, 1])
def test_the_front_of_audio_is_that_of_the_release(number):
    f = below(fixture("audio"), f"c{number}/")
    config = MelFrontConfig(f["widths"].tolist(), f["blocks_per_stage"].tolist())
    front = MelFront(int(f["n_mel"]), config).double()
    load_front(front, below(f, "w/"))
    lengths = [int(name.removeprefix("x_len")) for name in f if name.startswith("x_len")]
    front.eval()
    for length in lengths:
        assert_close(front(f[f"x_len{length}"]).transpose(1, 2), f[f"eval_len{length}"], **EXACT)
    front.train()
    x = f[f"x_len{lengths[-1]}"].requires_grad_()
    y = front(x).transpose(1, 2)
    assert_close(y, f["train_y"], **EXACT)
    y.backward(f["train_upstream"])
    assert_close(x.grad, f["train_grad_x"], **EXACT)
    assert_close(front.stem.weight.grad, f["train_grad_stem_conv"], **EXACT)
    later = next(block for block in front.blocks[1:] if block.conv1.stride == (1, 2))  # stage 2
    assert_close(later.conv1.weight.grad, f["train_grad_stage2_block0_conv1"], **EXACT)
    assert_close(front.norm.running_mean, f["train_running_mean_stem"], **EXACT)
    assert_close(front.norm.running_var, f["train_running_var_stem"], **EXACT)


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture
def released():
    """The model of the fixture, and its batch: features and valid steps, audio as maps of one frame a step."""
    f = fixture("model")
    stages = [f[name].shape for name in f if name.startswith("w/a/conv/") and name.endswith("skip_conv.weight")]
    blocks = [sum(f"stage{s + 1}.block" in name and name.endswith("conv1.weight") for name in f)
              for s in range(len(stages))]
    batch = {m: f[m] for m in ("text", "video")} | {"audio": f["audio"].transpose(1, 2).unsqueeze(2)}
    valid = {m: f[f"{m}_mask"] > 0 for m in ("text", "video")} | {"audio": f["audio_frame_mask"] > 0}
    width, joint = len(f["w/mask_token"]), len(f["w/t/out_proj/b"])
    config = TowerConfig(width, joint, int(f["heads"]), MelFrontConfig(f["conv_widths"].tolist(), blocks))
    model = MultiSKModel({m: x.shape[1:] for m, x in batch.items()}, config).double()
    model.blank.data = f["w/mask_token"]
    for m, letter in NAMES.items():
        tower, own = model.towers[m], below(f, f"w/{letter}/")
        load_gated(tower.project, below(own, "token_proj/"))
        load_gated(tower.joint, below(own, "out_proj/"))
        tower.block.load_state_dict(block_weights(below(own, "block/")))
        tower.norm.load_state_dict({"weight": own["token_norm_w"], "bias": own["token_norm_b"]})
        if tower.front:
            load_front(tower.front, below(own, "conv/"))
    return f, model.eval(), batch, valid


def test_the_model_is_that_of_the_release(released):
    f, model, batch, valid = released
    found = {m: model.embed(m, batch[m], valid[m]) for m in NAMES}
    assert not all(e.present.all() for e in found.values())
    for m, letter in NAMES.items():
        assert torch.equal(found[m].present, f[f"nonempty/{letter}"])
        assert_close(found[m].input, f[f"x/{letter}"], **EXACT)
        assert_close(found[m].joint, f[f"e/{letter}"], **EXACT)
        assert torch.equal(model.items(m, batch[m], valid[m])["joint"], found[m].joint)
        similarity = found[m].input @ unit(f[f"w/{letter}/anchor_in"]).t()
        assert_close(similarity, f[f"sim_in/{letter}"], **EXACT)
        for other, name in NAMES.items():
            similarity = found[other].joint @ unit(f[f"w/{letter}/anchor_joint"]).t()
            assert_close(similarity, f[f"sim_joint/n_{name}/m_{letter}"], **EXACT)
    for a, b in (("t", "v"), ("t", "a"), ("v", "a")):
        mean = sum(found[m].joint for m in NAMES if NAMES[m] in (a, b)) / 2
        assert_close(mean, f[f"pair_embed/{a}_{b}"], **EXACT)


def test_masked_frames_are_the_tokens_that_the_release_masks(released):
    f, model, batch, valid = released
    _, exists, _ = model.read("audio", batch["audio"], valid["audio"])
    assert torch.equal(exists, f["audio_token_mask_after_fix"] > 0)


def test_what_does_not_exist_is_not_read(released):
    _, model, batch, valid = released
    for m in ("text", "video"):
        other = torch.where(valid[m][..., None], batch[m], 7.0)
        for one, two in zip(model.embed(m, batch[m], valid[m]), model.embed(m, other, valid[m])):
            assert_close(one, two)
    absent = torch.zeros_like(valid["text"])
    empty = model.embed("text", batch["text"], absent)
    assert_close(empty.joint, empty.joint[:1].expand_as(empty.joint))  # all the same, whatever the features
    assert not empty.present.any()


def test_a_grid_is_the_mean_of_its_cells_and_half_precision_is_read():
    torch.manual_seed(0)
    model = MultiSKModel({"video": (4, 3, 3, 8), "audio": (4, 8)}, TowerConfig(16, 12, 2)).eval()
    model.towers["audio"].load_state_dict(model.towers["video"].state_dict())
    x = torch.randn(5, 4, 3, 3, 8)
    tokens = model.encode(video=x)
    assert tokens.codes is tokens.quantized is None and tokens.vectors.shape == (5, 4, 12)
    assert_close(tokens.vectors.norm(dim=-1), torch.ones(5, 4))
    assert_close(tokens.vectors, model.encode(audio=x.mean((2, 3))).vectors)
    assert_close(model.encode(video=x.half()).vectors, tokens.vectors, atol=5e-3, rtol=0)
    with pytest.raises(UserError, match=r"video features have shape \(4, 3, 3, 7\)"):
        model.encode(video=x[..., :7])


def test_steps_of_maps_are_means_of_the_tokens_that_they_overlap():
    """Three steps of 8 frames are 12 tokens of 2 frames; 4 steps of 6 frames are 3 of 8, of which step 1 has a third of
    the first and two thirds of the second."""
    config = TowerConfig(8, 6, 2, MelFrontConfig([4, 4], [1]))
    tower = MultiSKModel({"audio": (3, 8, 5)}, config).towers["audio"]
    y = torch.arange(12.0)[None, :, None]
    assert_close(tower.by_step(y, 3)[0, :, 0], torch.tensor([1.5, 5.5, 9.5]))
    assert_close(tower.by_step(torch.tensor([[[0.0], [3.0], [9.0]]]), 4)[0, :, 0], torch.tensor([0, 2, 5, 9.0]))
    model = MultiSKModel({"audio": (3, 8, 5)}, config).eval()
    assert model.encode(audio=torch.randn(2, 3, 8, 5)).vectors.shape == (2, 3, 6)
    assert model.encode(audio=torch.randn(2, 4, 8, 5)).vectors.shape == (2, 4, 6)  # of another number of steps


def test_lengths_that_do_not_divide_are_refused():
    config = TowerConfig(8, 6, 2, MelFrontConfig([4] * 7, [1] * 6))
    with pytest.raises(UserError, match="audio clips have 3 × 50 frames; MultiSK's convolutions need a multiple of 64"):
        MultiSKModel({"audio": (3, 50, 5)}, config)
    model = MultiSKModel({"audio": (4, 32, 5)}, config).eval()
    assert model.fits("audio", (6, 32, 5)) and not model.fits("audio", (5, 32, 5))
    with pytest.raises(UserError, match=r"audio features have shape \(5, 32, 5\)"):
        model.encode(audio=torch.randn(1, 5, 32, 5))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="--width 10: expected a multiple of --heads 4"):
        TowerConfig(10, 8, 4)
    with pytest.raises(UserError, match="--mel-widths: 3 numbers for the 1 stages of --mel-blocks; expected 2"):
        MelFrontConfig([4, 4, 4], [1])
