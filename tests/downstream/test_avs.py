"""AVS-S4: metrics, network, losses, the public folder's reader, queries, and the task from folder to results."""

import json
import pickle
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cmg.data.avs import S4Clip, S4Set, read_log_mel, read_s4
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream import avs
from cmg.downstream.avs_queries import QueryReader
from cmg.downstream.avs_run import build, distorted, to_frames
from cmg.errors import UserError
from cmg.extract.backbones import Choice
from cmg.extract.hashed import HashedWords
from cmg.extract.logmel import LogMel
from cmg.files import held
from cmg.losses.avs import contrast, first_frame_bce, matching
from cmg.metrics.segmentation import Scores, f_curve, frame_iou
from cmg.models.segmentation import Segmenter, Tpavi
from cmg.models.unified import UnifiedModel
from cmg.training import checkpoint
from support import FIXTURES, untrained

Image = pytest.importorskip("PIL.Image")
FIXTURE = FIXTURES / "avs_official_metrics.npz"


# Metrics


def official():
    data = np.load(FIXTURE)
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


# Network and losses


def test_tpavi_is_the_sum_over_all_pairs_of_cells():
    torch.manual_seed(0)
    block = Tpavi(6, query_width=5).double()
    torch.nn.init.normal_(block.scale.weight)
    x, query = torch.randn(2, 3, 6, 2, 2).double(), torch.randn(2, 3, 5).double()
    z, aligned = block(x, query)
    cells = x.permute(0, 1, 3, 4, 2).reshape(2, 12, 6)
    answers = block.align(query).repeat_interleave(4, 1)  # the frame's query at each of its cells
    y = torch.zeros(2, 12, 3).double()
    for b in range(2):
        for p in range(12):
            for q in range(12):
                y[b, p] += (block.theta(cells[b, p]) @ block.phi(answers[b, q])) * block.g(cells[b, q]) / 12
    out = block.mu(y)
    out = (out - out.mean((0, 1))) / (out.var((0, 1), correction=0) + block.scale.eps).sqrt() * block.scale.weight
    expected = F.layer_norm(cells + out, (6,)).view(2, 3, 2, 2, 6).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(aligned, block.align(query))


def test_tpavi_starts_as_a_layer_norm():
    x = torch.randn(2, 5, 8, 3, 3)
    z, _ = Tpavi(8)(x, torch.randn(2, 5, 128))
    torch.testing.assert_close(z, F.layer_norm(x.permute(0, 1, 3, 4, 2), (8,)).permute(0, 1, 4, 2, 3))


@pytest.mark.parametrize("size", [64, 50])
def test_segmenter_answers_per_pixel_at_any_size(size):
    net = Segmenter(7, "tiny", channels=16, dilations=(1, 2), fusion=(1, 3))
    out = net(torch.rand(2, 5, 3, size, size), torch.randn(2, 5, 7))
    assert out.logits.shape == (2, 5, size, size)
    assert [tuple(a.shape) for a in out.queries] == [(2, 5, 16)] * 2
    assert [tuple(grid.shape[:3]) for grid in out.maps] == [(2, 5, 16)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "pvt_v2_b5"])
def test_published_backbones_have_four_stages(name):
    if name == "pvt_v2_b5":
        pytest.importorskip("timm")
    backbone = avs.BACKBONES[name]("none").eval()
    with torch.no_grad():
        shapes = [tuple(grid.shape) for grid in backbone(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, c, 16 >> i, 16 >> i) for i, c in enumerate(backbone.channels)]


def test_backbone_weights_are_read_from_a_file_or_refused_in_one_line(tmp_path):
    from cmg.models.visual import Tiny

    first = Tiny()
    torch.save(first.state_dict(), tmp_path / "tiny.pth")
    second = Tiny(str(tmp_path / "tiny.pth"))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    torch.save({"foreign": torch.zeros(1)}, tmp_path / "other.pth")
    for weights, reason in ((tmp_path / "none.pth", "no such file"), (tmp_path / "other.pth", "not weights of this")):
        with pytest.raises(UserError, match=reason) as caught:
            Tiny(str(weights))
        assert "\n" not in str(caught.value)


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


def test_what_is_compared_is_what_tpavi_multiplies():
    torch.manual_seed(0)
    net = Segmenter(7, "tiny", channels=16, dilations=(1,), fusion=(1, 3)).eval()
    maps, query = net.see(torch.rand(2, 1, 3, 32, 32)), torch.randn(2, 1, 7)
    for stage, (seen, asked) in zip(("1", "3"), net.compared(maps, query)):
        block, x = net.fusion[stage], maps[int(stage)]
        affinity = torch.einsum("bthwc,btc->bthw", seen, asked)
        y = block.mu(affinity[..., None] * block.g(x.mean((3, 4)))[:, :, None, None])  # one frame: no other to ask
        torch.nn.init.ones_(block.scale.weight)
        y = block.scale(y.flatten(0, 3)).view_as(y)
        expected = block.norm(x.permute(0, 1, 3, 4, 2) + y).permute(0, 1, 4, 2, 3)
        torch.testing.assert_close(block(x, net.query(query))[0], expected)


def test_four_clips_are_learnt_by_heart():
    torch.manual_seed(0)
    frames, masks = 0.3 * torch.rand(3, 32, 32).repeat(4, 2, 1, 1, 1), torch.zeros(4, 2, 32, 32).bool()
    query = torch.eye(4)[:, None].repeat(1, 2, 1)
    for clip in range(4):  # four times the same two bright squares; only the query says which one is meant
        frames[clip, :, :, 4:14, 4:14] = 0.9
        frames[clip, :, 0, 18:28, 18:28] = 0.9
        masks[clip, :, 4:14, 4:14] = clip % 2 == 0
        masks[clip, :, 18:28, 18:28] = clip % 2 == 1
    net = Segmenter(4, "tiny", channels=16, dilations=(1,), fusion=(0, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(120):
        loss = first_frame_bce(net(frames, query).logits, masks[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = net.train()(frames, query).logits
    assert frame_iou(logits.flatten(0, 1), masks.flatten(0, 1)).mean() > 0.95
    swapped = net(frames, query.roll(1, 0)).logits  # another query, another mask
    assert frame_iou(swapped.flatten(0, 1), masks.flatten(0, 1)).mean() < 0.3


def test_distortion_moves_frames_and_masks_alike():
    torch.manual_seed(0)
    frames, masks = torch.zeros(3, 5, 3, 32, 32), torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    frames[..., 8:20, 12:18], masks[..., 8:20, 12:18] = 1, True
    moved, moved_masks = distorted(frames, masks, 0.15)
    assert frame_iou(moved[:, 3, 1] - 0.5, moved_masks[:, 0]).min() > 0.85  # edges are smoothed in frames alone
    assert frame_iou(moved[:, 3, 1] - 0.5, masks[:, 0]).max() < 0.85
    assert torch.equal(moved[:, 0], moved[:, 4]) and not torch.equal(moved_masks[0], moved_masks[1])
    same, same_masks = distorted(frames, masks, 0.0)
    torch.testing.assert_close(same, frames, atol=1e-5, rtol=0)
    assert torch.equal(same_masks, masks)


# The public folder


def write_clip(folder, clip, frames, masks, tone):
    """Write a clip as the public folder has it; tone in Hz, five seconds of 16 kHz."""
    def picture(kind, second, array):
        path = folder / "s4_data" / kind / clip.split / clip.category / clip.name / f"{clip.name}_{second + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for second in range(5):
        picture("visual_frames", second, frames[second])
        if clip.split != "train" or second == 0:
            picture("gt_masks", second, masks[second])
    path = folder / "s4_data" / "audio_wav" / clip.split / clip.category / f"{clip.name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 9000 * np.sin(2 * np.pi * tone * np.arange(5 * 16000) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound.astype("<i2").tobytes())


TONES = {"red_box": 300, "blue-box": 2500}


@pytest.fixture(scope="module")
def s4(tmp_path_factory):
    """A folder of 32-pixel clips with a red and a blue box, of which the class's one is masked: 16, 4 and 4 clips."""
    folder = tmp_path_factory.mktemp("s4") / "Single-source"
    folder.mkdir()
    lines = ["name,start_time,category,split"]
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        for number in range(count):
            category = list(TONES)[number % 2]
            clip = S4Clip(f"{split}_{number}", "0", category, split)
            generator = np.random.default_rng([len(split), number // 2])  # pairs differ in sound and mask alone
            frames = generator.integers(0, 40, (5, 32, 32, 3)).astype(np.uint8)
            masks = np.zeros((5, 32, 32), np.uint8)
            for name, channel, side in (("red_box", 0, 0), ("blue-box", 2, 16)):
                y, x = generator.integers(0, 20), side + generator.integers(0, 6)
                frames[:, y : y + 10, x : x + 10, channel] = 230
                if name == category:
                    masks[:, y : y + 10, x : x + 10] = 255
            if clip.name == "test_1":
                masks[4] = 0  # nothing sounds in the last frame
            write_clip(folder, clip, frames, masks, TONES[category])
            lines.append(f"{clip.name},0,{category},{split}")
    (folder / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_folder_is_read_as_it_is(s4):
    folder = read_s4(s4)
    assert folder.classes == ["red_box", "blue-box"]
    assert {split: len(clips) for split, clips in folder.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert read_s4(s4.parent) == folder  # and from above
    train = S4Set(folder, folder.splits["train"], 32)
    frames, masks, index = train[3]
    assert frames.shape == (5, 32, 32, 3) and frames.dtype == torch.uint8 and index == 3
    assert masks.shape == (1, 32, 32) and masks.dtype == torch.bool and masks.sum() == 100
    red = S4Set(folder, folder.splits["train"], 32, cache=True)[0]
    assert bool((red[0][0, ..., 0][red[1][0]] == 230).all())  # the mask lies where the box is
    small = S4Set(folder, folder.splits["test"], 16)[0]
    assert small[0].shape == (5, 16, 16, 3) and small[1].shape == (5, 16, 16)
    assert 16 <= small[1][0].sum() <= 36


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: f.unlink("visual_frames"), "train_1_3.png: no such file; s4_meta_data.csv lists clip train_1 (train)"),
    (lambda f: f.table(",0,red_box,train\n"), "line 2: empty name or category"),
    (lambda f: f.table("x,0,red_box,dev\n"), "line 2: split 'dev'; expected train, val or test"),
    (lambda f: f.table("x,0,red_box\n"), "line 2: 3 fields; expected 4"),
    (lambda f: f.table("train_0,0,red_box,train\ntrain_0,0,red_box,train\n"), "clip train_0 occurs twice"),
    (lambda f: f.table("train_0,0,red_box,train\n"), "the val split is empty"),
    (lambda f: f.table("", header="name,start,label,split"), "header name,start,label,split; expected four columns"),
])
def test_a_broken_folder_is_one_line(s4, tmp_path, change, message):
    class Copy:
        def table(self, text, header="name,start_time,category,split"):
            (tmp_path / "s4_meta_data.csv").write_text(f"{header}\n{text}")

        def unlink(self, kind):
            self.table((s4 / "s4_meta_data.csv").read_text().split("\n", 1)[1])
            for path in s4.glob("s4_data/*/*/*/*/*.png"):
                if path.name != "train_1_3.png" or kind not in path.parts:
                    copy = tmp_path / path.relative_to(s4)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.symlink_to(path)

    change(Copy())
    with pytest.raises(UserError) as caught:
        read_s4(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mask_of_another_size_is_one_line(tmp_path):
    clip, frames = S4Clip("a", "0", "cat", "test"), np.zeros((5, 8, 8, 3), np.uint8)
    write_clip(tmp_path, clip, frames, np.zeros((5, 8, 6), np.uint8), 100)
    from cmg.data.avs import S4Folder

    with pytest.raises(UserError, match="a_1.png: mask of 6x8 pixels, its frame has 8x8"):
        S4Set(S4Folder(tmp_path / "s4_data", ["cat"], {}), [clip], 8)[0]
    (tmp_path / "s4_data/visual_frames/test/cat/a/a_1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a_1.png: not a readable picture"):
        S4Set(S4Folder(tmp_path / "s4_data", ["cat"], {}), [clip], 8)[0]


def test_log_mel_is_read_without_running_code(tmp_path):
    x = torch.rand(5, 1, 96, 64)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(x))
    assert torch.equal(read_log_mel(path), x)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="not a pickled tensor"):
        read_log_mel(path)
    assert not (tmp_path / "touched").exists()
    path.write_bytes(pickle.dumps(x[:3]))
    with pytest.raises(UserError, match=r"expected a tensor of shape \(5, 1, 96, 64\)"):
        read_log_mel(path)


# Queries and the whole task


def padded(*sentences):
    """Hashed words of sentences as `cmg.extract` stores them, ten a clip: ([n, 10, 300], valid [n, 10])."""
    x, valid = torch.zeros(len(sentences), 10, 300), torch.zeros(len(sentences), 10, dtype=torch.bool)
    for row, words in enumerate(sentences):
        x[row, : len(words)], valid[row, : len(words)] = torch.from_numpy(HashedWords()(words)).half().float(), True
    return x, valid


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, s4):
    """A checkpoint whose audio and text of the same class lie close to the same code, fitted to do so."""
    torch.manual_seed(0)
    shapes = {"audio": (10, *LogMel.shape), "text": (10, *HashedWords.shape)}
    path = tmp_path_factory.mktemp("pretrained") / "best.pt"
    model = untrained(path, shapes, codes=8).train()
    model.codebook.embedding.copy_(F.layer_norm(torch.randn(8, 16), (16,)))  # within reach of Φ's last LayerNorm
    folder = read_s4(s4)
    reader = QueryReader(folder, "raw", backbones={"audio": Choice("audio", "logmel")})
    clips = folder.splits["train"][:2]
    sound = reader("audio", clips)  # (2, 5, 640)
    words, spoken = padded(["red", "box"], ["blue", "box"])
    everything = torch.ones(sound.shape[:2], dtype=torch.bool)
    wanted = model.codebook.embedding[:2]
    optimizer = torch.optim.Adam(model.semantic.parameters(), lr=3e-3)
    model.eval()
    for _ in range(60):
        loss = 0
        for m, x, valid in (("audio", sound, everything), ("text", words, spoken)):
            encoder = model.semantic[m]
            said = encoder(encoder.inputs(x, valid), valid)
            loss = loss + F.mse_loss(said[valid], wanted[:, None].expand_as(said)[valid])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learnt = checkpoint.load(path) | {"model": model.state_dict(), "pretrain_ids": ["elsewhere"]}
    checkpoint.save(path, learnt)
    return path


def test_queries_are_codes_of_five_steps_and_means_of_words(s4, pretrained, tmp_path):
    model, folder = checkpoint.load_pretrained(pretrained), read_s4(s4)
    clips = folder.splits["test"]
    backbones = {"audio": Choice("audio", "logmel"), "text": Choice("text", "hash")}
    reader = QueryReader(folder, "codes", model, backbones=backbones)
    sound, text = reader("audio", clips), reader("text", clips)
    assert sound.shape == text.shape == (4, 5, 16)
    raw = QueryReader(folder, "raw", backbones={"audio": Choice("audio", "logmel")})("audio", clips)
    torch.testing.assert_close(sound, model.encode(audio=raw).quantized)
    expected = model.encode_modality("text", *padded(["blue", "box"])).quantized[0, :2].mean(0)
    torch.testing.assert_close(text[1], expected.expand(5, -1))
    # the fitted checkpoint: both modalities say the class's code
    assert torch.equal(model.encode(audio=raw).codes, torch.tensor([0, 1, 0, 1])[:, None].expand(4, 5))
    torch.testing.assert_close(text, sound)
    assert QueryReader(folder, "none")("audio", clips).shape == (4, 5, 1)

    # the same from a feature file of ten steps: its first five
    path = tmp_path / "sound.h5"
    with FeatureWriter(path, {"audio": (10, 640)}, {"source": "test"}) as writer:
        ten = np.concatenate([raw.numpy(), np.full((4, 5, 640), 7)], 1).astype(np.float16)
        writer.append([clip.name for clip in clips], {"audio": ten}, {"audio": np.arange(10)[None].repeat(4, 0) < 5})
    stored = QueryReader(folder, "codes", model, FeatureSet(path))
    torch.testing.assert_close(stored("audio", clips), sound)
    with pytest.raises(UserError, match="--data: 4 of 4 clips have no features, the first is val_0"):
        stored("audio", folder.splits["val"])


@pytest.fixture
def run(s4, pretrained, tmp_path):
    """Run the task with small settings -> its rows; the run folder is `run.out`."""
    def call(*flags, out=tmp_path / "run"):
        return avs.main([
            "--annotations", str(s4), "--checkpoint", str(pretrained), "--out", str(out), "--device", "cpu",
            "--preset", "small", "--size", "32", "--channels", "16", "--fusion", "0", "1", "--lr", "5e-3",
            "--batch-size", "4", "--distort", "0", *map(str, flags),
        ])

    call.out = tmp_path / "run"
    return call


def best_without_query(masks):
    """The highest mIoU and F of masks that know the frames but not the query: (miou, f_measure) in %.

    Clips come in pairs of the same frames, with the one or the other box asked for. For a mask that covers shares r and
    b of two separate boxes of one size the two IoUs add up to at most r/(1+b) + b/(1+r), which is at its most, 1, where
    each of r and b is 0 or 1; so the candidates are either box, both and, for an empty true mask, none.
    """
    red, blue = masks[0::2, :1].repeat(1, 5, 1, 1), masks[1::2, :1].repeat(1, 5, 1, 1)  # boxes stand still
    found = []
    for guess in (red, blue, red | blue, red & False):
        scores = Scores()
        scores.add(18.0 * guess.repeat_interleave(2, 0).flatten(0, 1) - 9, masks.flatten(0, 1))
        found.append(scores.strict())
    return max(one.miou for one in found), max(one.f_measure for one in found)


@pytest.mark.slow
def test_trained_by_sound_and_asked_by_text(run, s4, pretrained, capsys):
    rows = run("--epochs", 20, "--schedule", "constant")
    miou, f = rows
    assert (miou["task"], miou["source"], miou["target"], miou["metric"]) == ("avs", "audio", "text", "miou")
    assert f["metric"] == "f_measure" and miou["n_train"] == 16 and miou["n_test"] == 4
    assert miou["n_frames"] == 20 and miou["n_empty"] == 1 and miou["protocol"] == "strict"
    assert miou["value"] == pytest.approx(miou["source_value"], abs=1e-3)  # the codes are the same

    # At least half of what no mask without the query can reach, and with the query of another class less than that.
    folder = read_s4(s4)
    clips, test = folder.splits["test"], S4Set(folder, folder.splits["test"], 32)
    frames, masks = (torch.stack(parts) for parts in zip(*(test[i][:2] for i in range(4))))
    free_miou, free_f = best_without_query(masks)
    assert free_miou == pytest.approx(100 * (10 + 924 / 1024) / 20, abs=1e-3)  # one box always: 10 hits, and background
    assert free_f == pytest.approx(100 * 1.3 * 0.5 / (0.3 * 0.5 + 1), abs=1e-3)  # both boxes: P = 1/2, R = 1
    assert miou["value"] > (free_miou + 100) / 2 and f["value"] > (free_f + 100) / 2
    assert miou["chance"] < free_miou and f["chance"] < free_f

    # In every frame most of what is chosen lies in the box that was asked for.
    content = checkpoint.load(run.out / "best.pt")
    net = build(content["args"], content["query_width"]).eval()
    net.load_state_dict(content["net"])
    reader = QueryReader(folder, "codes", checkpoint.load_pretrained(pretrained),
                         backbones={"text": Choice("text", "hash")})
    with torch.no_grad():
        chosen = net(to_frames(frames, "cpu"), reader("text", clips)).logits > 0
    inside, outside = chosen & masks[:, :1], chosen & masks[[1, 0, 3, 2], :1]
    assert (inside.sum((2, 3)) > outside.sum((2, 3))).all()
    assert json.loads((run.out / "results.json").read_text()) == rows
    assert {path.name for path in run.out.iterdir()} == {"args.json", "best.pt", "best_paper.pt", "latest.pt",
                                                         "masks_strict.png", "metrics.csv", "results.json", "tb"}
    with Image.open(run.out / "masks_strict.png") as picture:
        assert picture.size == (5 * 32, 4 * (14 + 3 * 32))
    assert "audio → text (codes)" in capsys.readouterr().out

    again = avs.main(["--stage", "test", "--out", str(run.out), "--device", "cpu"])
    assert again == rows  # everything but the folder comes from the run
    paper = avs.main(["--stage", "test", "--out", str(run.out), "--device", "cpu", "--protocol", "paper"])
    assert paper[0]["protocol"] == "paper" and paper[0]["value"] > (free_miou + 100) / 2
    assert len(json.loads((run.out / "results.json").read_text())) == 4


def test_a_resumed_run_gives_the_same_network(run, tmp_path):
    run("--stage", "train", "--epochs", 3, "--schedule", "constant", "--distort", "0.1", out=tmp_path / "whole")
    stop = avs.Training._train_epoch

    def interrupted(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return stop(self)

    flags = ("--stage", "train", "--epochs", 3, "--schedule", "constant", "--distort", "0.1", "--resume", "auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avs.Training, "_train_epoch", interrupted)
        with pytest.raises(SystemExit):
            run(*flags)
    run(*flags)
    whole, parts = (checkpoint.load(folder / "latest.pt") for folder in (tmp_path / "whole", run.out))
    assert whole["epoch"] == parts["epoch"] == 3 and whole["best"] == parts["best"]
    assert all(torch.equal(a, b) for a, b in zip(whole["net"].values(), parts["net"].values()))
    read = [(folder / "metrics.csv").read_text() for folder in (tmp_path / "whole", run.out)]
    assert read[0] == read[1] and len(read[0].splitlines()) == 4


def test_bf16_raw_and_no_queries_train(run, tmp_path):
    flags = ("--epochs", 1, "--w-matching", "0.1", "--precision", "bf16")
    raw = run("--query", "raw", *flags, out=tmp_path / "raw")
    assert {(row["source"], row["target"], row["query"]) for row in raw} == {("audio", "audio", "raw")}
    none = run("--query", "none", "--epochs", 1, out=tmp_path / "none")
    assert {row["source"] for row in none} == {"none"} and none[0]["value"] == none[0]["chance"]


def test_pretrained_test_clips_are_left_out_of_strict(run, pretrained, tmp_path):
    content = checkpoint.read(pretrained)
    content["pretrain_ids"] = ["test_0", "test_3"]
    checkpoint.save(tmp_path / "seen.pt", content)
    rows = run("--epochs", 1, "--checkpoint", tmp_path / "seen.pt")
    assert rows[0]["n_test"] == 2 and rows[0]["n_excluded"] == 2
    paper = run("--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "seen.pt", "--protocol", "paper")
    assert paper[0]["n_test"] == 4 and paper[0]["n_excluded"] == 0
    content["pretrain_ids"] += ["test_1", "test_2"]
    checkpoint.save(tmp_path / "seen.pt", content)
    assert refused(run, "--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "seen.pt").endswith(
        "--checkpoint: all 4 test clips were pretrained on; nothing to test")


def refused(run, *flags):
    """The one line that a call ends with."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as caught:
        run(*flags)
    assert caught.value.code == 2
    assert said.getvalue().count("\n") == 1
    return said.getvalue().strip()


def test_what_a_user_can_get_wrong_is_one_line(run, pretrained, tmp_path):
    assert "--target audio: the same as --source" in refused(run, "--target", "audio")
    assert "--query raw: is from audio to audio only" in refused(run, "--query", "raw", "--source", "text")
    assert "expected a text with one {}" in refused(run, "--prompt", "a box")
    assert "--size: '8' is not a whole number of at least 32" in refused(run, "--size", "8")
    assert "no s4_meta_data.csv there" in refused(run, "--annotations", tmp_path)
    assert "not a segmentation network" in refused(run, "--stage", "test", "--out", pretrained.parent)
    content = checkpoint.read(pretrained)
    silent = {"args": content["args"], "shapes": {"audio": content["shapes"]["audio"]}}
    model = UnifiedModel(silent["shapes"], silent["args"]).state_dict()
    checkpoint.save(tmp_path / "silent.pt", {**content, **silent, "model": model})
    assert refused(run, "--checkpoint", tmp_path / "silent.pt").endswith(
        "--target text: --checkpoint has only audio")

    run("--stage", "train", "--epochs", 1)
    assert "is not empty; continue with --resume auto" in refused(run, "--epochs", 1)
    with held(run.out):
        assert "another process is at work there" in refused(run, "--epochs", 1, "--resume", "auto")
    with pytest.raises(UserError, match="latest.pt: not a checkpoint of cmg.pretrain, 'shapes' is missing"):
        checkpoint.read(run.out / "latest.pt")
    assert "--epochs 2: the run in --out has 1" in refused(run, "--epochs", 2, "--resume", "auto")
    assert "--size 64: the network in --out was trained with 32" in refused(
        run, "--stage", "test", "--epochs", 1, "--size", 64)
    content["model"]["codebook.embedding"] += 1
    checkpoint.save(tmp_path / "other.pt", content)
    assert "its codebook is not the one" in refused(
        run, "--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "other.pt")
