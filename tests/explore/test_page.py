"""The page's folder: data.js says what the model says, other folders stay, nothing is left by halves."""

import base64
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import cmg
from cmg.data.features import FeatureSet
from cmg.downstream.codebook import SHARED, shares
from cmg.downstream.tokens import codebook_sharing, encode_set
from cmg.explore import page as folders
from cmg.explore.__main__ import main, parser
from cmg.explore.vocabulary import Steps
from support import CODE, ROOT, VectorModel, untrained
from support_explore import CODES, HOSTILE, SHAPES, caption, data_of, write_features


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].split(": error: ")[1]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpacked(row, said):
    codes = np.frombuffer(base64.b64decode(row["codes"]), f"<u{said['bytes']}")
    return codes.reshape(len(said["ids"]), row["length"])


@pytest.mark.parametrize("size, kind", [(7, "u1"), (255, "u1"), (256, "<u2"), (4096, "<u2"), (70000, "<u4")])
def test_codes_take_as_few_bytes_as_their_number_needs(size, kind):
    codes, valid = torch.tensor([[0, size - 1], [3, 5]]), torch.tensor([[True, True], [False, True]])
    text = folders.packed(Steps(codes, valid, codes), size)
    assert np.frombuffer(base64.b64decode(text), kind).tolist() == [0, size - 1, size, 5]


def test_codes_of_pieces_are_steps_of_half_a_second(small, tmp_path):
    """Their typical steps lie in the second they are of, and words stand twice."""
    model = untrained(tmp_path / "pieces.pt", SHAPES, method="onecode", dim=8, codes=CODES, pieces=2)
    main([str(word) for word in ("--checkpoint", tmp_path / "pieces.pt", "--data", small.at / "f.h5", "--captions",
                                 small.at / "captions.csv", "--device", "cpu", "--out", tmp_path / "page")])
    said, features = data_of(tmp_path / "page"), FeatureSet(small.at / "f.h5")
    assert said["size"] == 2 * CODES
    tokens = {m: encode_set(model, features, m) for m in SHAPES}
    for row in said["modalities"]:
        m, length = row["name"], SHAPES[row["name"]][0]
        assert (row["length"], row["seconds"]) == (2 * length, 0.5)
        codes = unpacked(row, said).reshape(9, length, 2)
        valid = tokens[m].valid.numpy()
        assert np.array_equal(codes[valid], tokens[m].codes.numpy()[valid]) and (codes[~valid] == 2 * CODES).all()
        gaps = (tokens[m].semantic - tokens[m].vectors).square().view(9, 2 * length, 4).sum(-1)  # of each piece
        for code, own in zip(said["used"], row["typical"]):
            nearest = [gaps[clip, step].item() for clip, step in zip(own[::2], own[1::2])]
            assert nearest == sorted(nearest)
            assert all(codes[clip, step // 2, step % 2] == code for clip, step in zip(own[::2], own[1::2]))
    ((_, _, rate, chance),) = said["pairs"]
    sharing = codebook_sharing(tokens["video"], tokens["audio"])
    assert (rate, chance) == (sharing["match_rate"], sharing["match_chance"])
    assert said["words"][0] == ["a", "a", "bell", "bell"]


def test_the_page_says_what_the_model_says(page, small):
    said, model = data_of(page), cmg.load_pretrained(small.at / "best.pt")
    features = FeatureSet(small.at / "f.h5")
    codes = model.encode(small.at / "f.h5")
    tokens = {m: encode_set(model, features, m) for m in SHAPES}
    counts = {m: t.codes[t.valid].bincount(minlength=CODES) for m, t in tokens.items()}
    share = shares(counts)
    assert said["ids"] == small.ids and said["size"] == CODES and said["title"] == f"{small.at.name}/best"
    assert said["used"] == (share.sum(0) > 0).nonzero()[:, 0].tolist()
    assert said["shared"] == ((share > SHARED).sum(0) > 1).int()[said["used"]].tolist()
    assert [row["name"] for row in said["modalities"]] == [*SHAPES]
    for row in said["modalities"]:
        valid = tokens[row["name"]].valid
        expected = torch.where(valid, codes[row["name"]].codes, CODES)
        assert unpacked(row, said).tolist() == expected.tolist()
        for code, own in zip(said["used"], row["typical"]):
            steps = list(zip(own[::2], own[1::2]))
            assert len(steps) <= 3 and all(expected[clip, step] == code for clip, step in steps)
            gaps = (codes[row["name"]].semantic - model.codebook.embedding[code]).norm(dim=-1)  # [N, T]
            if steps:
                first = gaps.masked_fill(expected != code, torch.inf)
                assert gaps[steps[0]] == first.min() and [*map(gaps.__getitem__, steps)] == sorted(
                    map(gaps.__getitem__, steps))
    ((a, b, rate, chance),) = said["pairs"]
    sharing = codebook_sharing(tokens["video"], tokens["audio"])
    assert (a, b, rate, chance) == ("video", "audio", sharing["match_rate"], sharing["match_chance"])
    assert said["captions"] == [caption(n) for n in range(9)]
    assert said["words"][:3] == [["a", "bell"], ["a", "small", "bell", "it", "rings"],
                                 ["script", "b", "onclick", "hurt", "1"]]
    assert said["labels"] == sorted(["bell", HOSTILE]) and said["labelled"][1] == [said["labels"].index(HOSTILE)]


def test_pictures_and_sounds_are_those_of_typical_seconds(page, small):
    said = data_of(page)
    assert {*said["pictures"]} == {path.stem for path in (page / "pictures").iterdir()} == set("012345")
    for n in range(6):
        strip = Image.open(page / "pictures" / f"{n}.webp")
        assert strip.size == (4 * 32, 24) and said["pictures"][str(n)] == [4, round(32 / 24, 3)]
        assert abs(strip.convert("L").getpixel((80, 12)) - 30 * n) < 8
    typical = {(clip, step) for own in said["modalities"][1]["typical"] for clip, step in zip(own[::2], own[1::2])}
    heard = {f"{clip}_{step}" for clip, step in typical if clip < 6}
    assert {*said["sounds"]} == heard == {path.stem for path in (page / "sounds").iterdir()}


def test_nothing_of_the_data_is_in_the_html(page):
    """The files but data.js, pictures and sounds are those of the package; scripts set no HTML."""
    for name in folders.FILES:
        source = CODE / "cmg" / "explore" / ("template.html" if name == "index.html" else name)
        assert (page / name).read_bytes() == source.read_bytes()
    scripts = "".join((page / name).read_text() for name in folders.FILES if name.endswith(".js"))
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp|import ", scripts)
    everything = scripts + (page / "index.html").read_text() + (page / "page.css").read_text()
    assert not re.findall(r"https?:|//[a-z]+\.[a-z]", everything)  # no network


def test_text_alone_and_nothing_beside(tmp_path, capsys):
    untrained(tmp_path / "best.pt", {"text": (5, 5)}, dim=8, codes=CODES)
    write_features(tmp_path / "f.h5", ["a", "b", "c"], {"text": (5, 5)})
    flags = ["--checkpoint", tmp_path / "best.pt", "--data", tmp_path / "f.h5", "--device", "cpu"]
    main([*map(str, flags), "--out", str(tmp_path / "page")])
    said = data_of(tmp_path / "page")
    assert [row["name"] for row in said["modalities"]] == ["text"] and said["pairs"] == [] and sum(said["shared"]) == 0
    assert (said["captions"], said["words"], said["frequent"], said["pictures"]) == (None, None, None, {})
    assert "without --captions the page says" in capsys.readouterr().err


def test_an_earlier_page_is_replaced_and_other_folders_are_not(page, small, tmp_path, capsys):
    flags = ["--checkpoint", small.at / "best.pt", "--data", small.at / "f.h5", "--device", "cpu", "--out"]
    own = tmp_path / "mine"
    own.mkdir()
    main([*map(str, flags), str(own)])  # an empty folder
    before = content(own)
    main([*map(str, flags), str(own)])
    assert content(own) == before and [*tmp_path.iterdir()] == [own]  # the same page of the same codes
    (own / "thesis.txt").write_text("mine")
    assert refused(capsys, *flags, own) == (f"--out {own}: holds 'thesis.txt'; expected a new or empty folder, or an "
                                            "earlier page alone")
    (own / "thesis.txt").unlink()
    (own / "data.js").write_text("const mine = 1;")
    assert refused(capsys, *flags, own).startswith(f"--out {own}: holds 'data.js'")
    assert refused(capsys, *flags, small.at / "f.h5" / "page").endswith("is a file; expected a folder")


def test_an_interrupted_page_leaves_the_earlier_one(small, tmp_path, monkeypatch):
    flags = [*map(str, ("--checkpoint", small.at / "best.pt", "--data", small.at / "f.h5", "--device", "cpu", "--out",
                        tmp_path / "page"))]
    main(flags)
    before = content(tmp_path / "page")

    def interrupted(folder, said):
        (folder / "index.html").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 130 and content(tmp_path / "page") == before
    assert [*tmp_path.iterdir()] == [tmp_path / "page"]


def test_what_is_wrong_is_told_in_one_line(small, tmp_path, capsys, monkeypatch):
    flags = ["--checkpoint", small.at / "best.pt", "--data", small.at / "f.h5", "--device", "cpu", "--out",
             tmp_path / "page"]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "other.mp4").touch()
    (tmp_path / "l.csv").write_text("id,label\nother,dog\n")
    assert refused(capsys, *flags, "--videos", tmp_path / "videos") == (
        f"--videos {tmp_path / 'videos'}: no file has the name of a clip of --data; files have 'other', clips 'clip0'")
    assert refused(capsys, *flags, "--labels", tmp_path / "l.csv").startswith(f"--labels {tmp_path / 'l.csv'}: none")
    assert refused(capsys, *flags, "--modalities", "depth") == "--modalities depth: --checkpoint has only audio, " \
        "video, text"
    assert refused(capsys, *flags, "--modalities", "video", "--captions", small.at / "captions.csv") == (
        f"--captions {small.at / 'captions.csv'}: --data and --checkpoint share no text, only video")
    monkeypatch.setattr(cmg, "load_pretrained", lambda *_: VectorModel())
    assert refused(capsys, *flags) == (f"--checkpoint {small.at / 'best.pt'}: offers vectors; this task needs codes")
    assert not (tmp_path / "page").exists()


def test_media_that_cannot_be_read_are_counted(small, tmp_path, capsys):
    main([*map(str, ("--checkpoint", small.at / "best.pt", "--data", small.at / "f.h5", "--videos", small.at / "media",
                     "--device", "cpu", "--workers", 0, "--pictures", 0, "--typical", 9, "--out", tmp_path / "page"))])
    told = capsys.readouterr().err
    assert "explore: --videos: 2 of 9 clips, such as 'clip7', have no file" in told
    assert "1 of 7 clips could not be shown in full, such as 'clip6': sounds: cannot be opened" in told
    assert data_of(tmp_path / "page")["pictures"] == {}


def test_the_commands_of_its_guide_parse():
    guide = (ROOT / "docs" / "explore.md").read_text(encoding="utf-8")
    calls = re.sub(r"\\\n", " ", "".join(re.findall(r"```bash\n(.*?)```", guide, re.S))).splitlines()
    calls = [shlex.split(call) for call in calls if "-m cmg.explore" in call]
    assert calls
    for call in calls:
        parser().parse_args(call[call.index("cmg.explore") + 1 :])
    known = parser().format_help()
    assert all(flag in known for flag in re.findall(r"`(--[a-z-]+)", guide))
