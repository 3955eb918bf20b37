"""The parts of CMMixer against the numbers of the public program, in float64."""

import numpy as np
import pytest
import torch

from cmg.distributed import seed_shared
from cmg.losses.nt_xent import nt_xent, unit
from cmg.losses.patches import normalised, patch_mse
from cmg.methods.cmmixer.grid import fold, patchify, positions_on, unfold, unpatchify
from cmg.methods.cmmixer.mixing import blend, boxes, draw_map, exact_map, inside, mix, paste
from cmg.methods.cmmixer.network import Decoder, Encoder, hide
from support import FIXTURES

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def fixture(name):
    with np.load(FIXTURES / f"cmmixer_{name}.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: x.double() if x.dtype == torch.float32 else x for key, x in arrays.items()}


# -- mixing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixing():
    return fixture("mixing")


def test_boxes_and_the_share_that_is_left_after_clipping(mixing):
    for H, W, lam, row, column, *edges, corrected in mixing["box/H_W_lam_cy_cx_y0_y1_x0_x1_lamcorr"]:
        box = boxes(lam, row.long(), column.long(), int(H), int(W))
        assert [int(edge) for edge in box] == [int(edge) for edge in edges]
        left = 1 - inside(box, int(H), int(W)).double().mean()
        assert left.item() == pytest.approx(corrected.item(), abs=1e-12)


@pytest.mark.parametrize("direction", ["y_into_x", "x_into_y"])
def test_one_box_for_the_clip(mixing, direction):
    X, Y = mixing["X"], mixing["Y"]
    H, W = X.shape[-2:]
    key = f"video/{direction}"
    box = boxes(mixing[f"{key}/lam_drawn"], *mixing[f"{key}/centre"], H, W)
    assert torch.stack(box).tolist() == mixing[f"{key}/box"].tolist()
    from_second = inside(box, H, W).expand(*X.shape[:2], H, W) ^ (direction == "x_into_y")
    assert (mixing[f"{key}/coin"] >= 0.5) == (direction == "x_into_y")
    assert torch.equal(paste(X, Y, from_second), mixing[f"{key}/out"])


@pytest.mark.parametrize("direction", ["y_into_x", "x_into_y"])
def test_a_box_for_every_frame_position(mixing, direction):
    X, Y = mixing["X"], mixing["Y"]
    H, W = X.shape[-2:]
    key = f"image/{direction}"
    lam = mixing[f"{key}/lam_drawn"].expand(X.shape[:2])
    box = boxes(lam, *mixing[f"{key}/intended_centres"].unbind(-1), H, W)
    assert torch.equal(torch.stack(box, -1), mixing[f"{key}/intended_box"])
    region = inside(box, H, W)  # (B, P, H, W)
    torch.testing.assert_close(1 - region.double().mean((2, 3)), mixing[f"{key}/intended_lam_corrected"])
    out = paste(X, Y, region ^ (direction == "x_into_y"))
    assert torch.equal(out, mixing[f"{key}/intended_out"])
    assert not torch.equal(out, mixing[f"{key}/release_out"])  # whose boxes shrink along the batch


@pytest.mark.parametrize("rate", ["0.25", "0.5", "1.0"])
def test_a_map_of_pixels(mixing, rate):
    X, Y, zeros = mixing["X"], mixing["Y"], mixing[f"pixel/p{rate}/map"] == 0
    out = paste(X, Y, zeros.expand(*X.shape[:2], *zeros.shape))
    assert torch.equal(out, mixing[f"pixel/p{rate}/intended_out"])
    drawn = exact_map(torch.rand(5, *zeros.shape, dtype=torch.float64), float(rate))
    assert drawn.flatten(1).sum(1).tolist() == [zeros.sum().item()] * 5


def test_additive_mixing(mixing):
    X, Y = mixing["X"][:, :, :1].double(), mixing["Y"][:, :, :1].double()
    torch.testing.assert_close(blend(X, Y, mixing["additive/lam"]), mixing["additive/out_video_mode"], **CLOSE)
    lam = mixing["additive/lam_per_frame"].view(1, -1, 1, 1, 1)
    torch.testing.assert_close(blend(X, Y, lam), mixing["additive/out_image_mode"], rtol=1e-6, atol=1e-6)


# What the released program fails.


@pytest.fixture
def two():
    """Pictures of 64 clips whose first modality is positive and whose second is negative."""
    first = 1 + torch.rand(64, 4, 3, 16, 16, dtype=torch.float64)
    return first, -1 - torch.rand_like(first)


@pytest.mark.parametrize("mode", ["image", "video", "pixel", "soft"])
def test_the_mixture_is_neither_of_the_two(two, mode):
    seed_shared(0, 0)
    first, second = two
    mixed = mix(first, second, mode).pictures
    differs = [(mixed != x).flatten(1).any(1).double().mean() for x in two]
    assert min(differs) > 0.9  # but for boxes that are empty, or all
    if mode != "soft":
        assert ((mixed == first) | (mixed == second)).all()
    assert torch.equal(mix(first, second, "none").pictures, first)  # what the release does


@pytest.mark.parametrize("mode, mean", [("image", 0.3), ("video", 0.3), ("pixel", 0.25)])
def test_boxes_do_not_shrink_along_the_batch(mode, mean):
    """Over 2000 batches of eight clips the first clip's area is the last one's, within four standard errors."""
    seed_shared(0, 0)
    area = []
    for _ in range(20):
        taken = draw_map(mode, 8 * 100, 2, 32, 32, 0.25, True, torch.device("cpu"))
        pasted = taken.double().mean((1, 2, 3))
        area.append(torch.minimum(pasted, 1 - pasted) if mode == "pixel" else pasted)
    area = torch.cat(area).view(-1, 8)
    spread = area.std(0) / len(area) ** 0.5
    assert (area[:, 0].mean() - area[:, 7].mean()).abs() <= 4 * (spread[0] + spread[7])
    if mode == "pixel":
        assert (area == mean).all()
    else:  # boxes go one way or the other, so that half of all pixels come from either modality
        assert (area.mean() - 0.5).abs() < 0.02


@pytest.mark.parametrize("mode", ["image", "video", "pixel", "soft"])
def test_the_share_is_of_what_was_really_pasted(two, mode):
    seed_shared(1, 0)
    ones, zeros = torch.ones_like(two[0]), torch.zeros_like(two[0])
    mixed = mix(ones, zeros, mode)
    torch.testing.assert_close(mixed.share, mixed.pictures.mean((1, 2, 3, 4)))
    assert mixed.share.std() > 0.05 or mode == "pixel"


@pytest.mark.parametrize("mode", ["image", "video", "pixel", "soft"])
def test_some_clips_show_one_modality_alone(two, mode):
    seed_shared(2, 0)
    first, second = (x.repeat(8, 1, 1, 1, 1) for x in two)
    mixed = mix(first, second, mode, alone=0.5).pictures
    shares = [(mixed == x).flatten(1).all(1).double().mean().item() for x in (first, second)]
    assert shares == pytest.approx([0.25, 0.25], abs=0.08)


# -- patches and positions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mae():
    return fixture("mae")


def test_patches(mae):
    frames, patch = int(mae["frames"]), int(mae["patch"])
    wide = fold(mae["X"])
    assert torch.equal(wide[0], mae["fold/X0"]) and torch.equal(unfold(wide, frames), mae["X"])
    patches = patchify(wide, patch)
    assert torch.equal(patches[0], mae["patchify/X0"])
    assert torch.equal(unpatchify(patches, patch, wide.shape[2] // patch), wide)
    assert torch.equal(patchify(mae["square/img"], patch), mae["square/patches"])
    assert torch.equal(unpatchify(mae["square/patches"], patch, mae["square/img"].shape[2] // patch), mae["square/img"])


def test_positions():
    pos = fixture("pos")
    for dim, side in ((16, 6), (32, 8)):
        torch.testing.assert_close(positions_on(side, side, dim), pos[f"square/D{dim}_g{side}"], **CLOSE)
    torch.testing.assert_close(positions_on(4, 16, 16)[1:], pos["rect/D16_h4_w16"], **CLOSE)
    assert not torch.allclose(positions_on(4, 16, 16)[1:], pos["release_on_rect/D16_h4_w16"])


# -- the network -----------------------------------------------------------------------------------------------------

PARTS = {"norm1_w": "norm1.weight", "norm1_b": "norm1.bias", "qkv_w": "attn.qkv.weight", "qkv_b": "attn.qkv.bias",
         "proj_w": "attn.proj.weight", "proj_b": "attn.proj.bias", "norm2_w": "norm2.weight", "norm2_b": "norm2.bias",
         "fc1_w": "mlp.fc1.weight", "fc1_b": "mlp.fc1.bias", "fc2_w": "mlp.fc2.weight", "fc2_b": "mlp.fc2.bias"}
ENCODER = {"cls_token": "cls", "pos_embed": "place", "patch_conv_w": "embed.weight", "patch_conv_b": "embed.bias",
           "norm_w": "norm.weight", "norm_b": "norm.bias"}
DECODER = {"mask_token": "blank", "decoder_pos_embed": "place", "dec_in_w": "enter.weight", "dec_in_b": "enter.bias",
           "dec_norm_w": "norm.weight", "dec_norm_b": "norm.bias", "head_video_w": "heads.video.weight",
           "head_video_b": "heads.video.bias", "head_mel_w": "heads.audio.weight", "head_mel_b": "heads.audio.bias"}


def named(encoder, decoder=None):
    """Name in the fixture -> parameter or buffer."""
    found = {}
    for module, names, stem in ((encoder, ENCODER, "enc"), (decoder, DECODER, "dec")):
        if module is not None:
            own = dict(module.named_parameters()) | dict(module.named_buffers())
            found |= {old: own[new] for old, new in names.items()}
            found |= {f"{stem}{i}.{old}": own[f"blocks.{i}.{new}"] for i in range(len(module.blocks))
                      for old, new in PARTS.items()}
    return found


def depth(arrays, stem):
    return sum(key.startswith(f"w/{stem}") and key.endswith("qkv_w") for key in arrays)


@torch.no_grad()
def filled(arrays, prefix, encoder, decoder=None):
    for module in filter(None, (encoder, decoder)):
        module.double()
    theirs = {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
    ours = named(encoder, decoder)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        x.copy_(theirs[name])
    return ours


def test_losses_and_gradients_of_the_tiny_model(mae):
    heads, decoder_heads, patch, eps = (mae[key].item() for key in ("heads", "dec_heads", "patch", "ln_eps"))
    mixed = fold(torch.where(mae["from_Y"], mae["Y"], mae["X"]))
    grid = mixed.shape[2] // patch, mixed.shape[3] // patch
    dim, inner = mae["w/norm_w"].numel(), mae["w/dec_norm_w"].numel()
    ratio = mae["w/enc0.fc1_w"].shape[0] / dim
    encoder = Encoder(grid, patch, dim, depth(mae, "enc"), heads, ratio, eps)
    decoder = Decoder(grid, ("video", "audio"), 3 * patch**2, dim, inner, depth(mae, "dec"), decoder_heads, ratio, eps)
    ours = filled(mae, "w/", encoder, decoder)

    hidden = hide(mae["noise"], mae["mask_ratio"].item())
    assert hidden.visible.shape[1] == mae["n_keep"]
    assert torch.equal(hidden.mask.double(), mae["mask"]) and torch.equal(hidden.restore, mae["ids_restore"])
    latent = encoder(mixed, hidden.visible)
    latent.retain_grad()
    torch.testing.assert_close(latent, mae["latent"], **CLOSE)
    predicted = decoder(latent, hidden.restore)
    torch.testing.assert_close(predicted["video"][:1], mae["pred_video"], **CLOSE)
    torch.testing.assert_close(predicted["audio"][:1], mae["pred_mel"], **CLOSE)
    targets = {"video": patchify(fold(mae["X"]), patch), "audio": patchify(fold(mae["Y"]), patch)}
    losses = {m: patch_mse(predicted[m], targets[m], hidden.mask) for m in targets}
    torch.testing.assert_close(losses["video"], mae["loss_video"], **CLOSE)
    torch.testing.assert_close(losses["audio"], mae["loss_mel"], **CLOSE)
    by_patch = sum(patch_mse(predicted[m], normalised(targets[m]), hidden.mask) for m in targets)
    torch.testing.assert_close(by_patch, mae["loss_norm_pix"], **CLOSE)

    sum(losses.values()).backward()
    torch.testing.assert_close(latent.grad[0], mae["grad_latent_sample0"], **CLOSE)
    grads = {key[2:]: x for key, x in fixture("mae_grads").items() if key.startswith("g/")}
    assert grads.keys() == {name for name, x in ours.items() if x.requires_grad}
    for name, gradient in grads.items():
        torch.testing.assert_close(ours[name].grad, gradient, **CLOSE)


# -- fine-tuning -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finetune():
    return fixture("finetune")


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_nt_xent(finetune, case):
    A, V = (finetune[f"{case}/{m}"].clone().requires_grad_() for m in "AV")
    loss = nt_xent(A, V, torch.ones(len(A), dtype=torch.bool), finetune[f"{case}/temperature"].item())
    torch.testing.assert_close(loss, finetune[f"{case}/loss"], **CLOSE)
    loss.backward()
    torch.testing.assert_close(A.grad, finetune[f"{case}/grad_A"], **CLOSE)
    torch.testing.assert_close(V.grad, finetune[f"{case}/grad_V"], **CLOSE)


def test_a_clip_that_lacks_a_modality_is_nobodys_negative():
    torch.manual_seed(0)
    A, V = torch.randn(2, 5, 7, dtype=torch.float64).unbind()
    A.requires_grad_()
    exists = torch.tensor([True, False, True, True, False])
    loss = nt_xent(A, V, exists, 0.2)
    torch.testing.assert_close(loss, nt_xent(A[exists], V[exists], exists[exists], 0.2), **CLOSE)
    loss.backward()
    assert (A.grad[~exists] == 0).all() and (A.grad[exists] != 0).any()
    assert nt_xent(A, V, exists & False, 0.2) == 0


def test_cosines(finetune):
    out = unit(finetune["cosine/video"]) @ unit(finetune["cosine/audio"]).T
    torch.testing.assert_close(out, finetune["cosine/out"], **CLOSE)


def test_the_read_outs_of_a_vit(finetune):
    weights = {key: x for key, x in finetune.items() if key.startswith("vit/w/")}
    patch, dim = weights["vit/w/patch_conv_w"].shape[-1], weights["vit/w/norm_w"].numel()
    side = finetune["vit/x"].shape[-1] // patch
    ratio = weights["vit/w/enc0.fc1_w"].shape[0] / dim
    encoder = Encoder((side, side), patch, dim, 1, finetune["vit/heads"].item(), ratio, 1e-6)
    filled(finetune, "vit/w/", encoder)
    torch.testing.assert_close(encoder(finetune["vit/x"])[:, 0], finetune["vit/cls"], **CLOSE)
    torch.testing.assert_close(encoder.read(finetune["vit/x"], "cls"), finetune["vit/cls"], **CLOSE)
    torch.testing.assert_close(encoder.read(finetune["vit/x"], "mean"), finetune["vit/mean_pool"], **CLOSE)
