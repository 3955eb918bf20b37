"""Which files make a clip: names, links, lists, sound apart from pictures, several captions."""

import csv
import os
import shutil

import numpy as np
import pytest

from cmg.data import captions as captions_command
from cmg.data.features import FeatureFile
from cmg.errors import UserError
from cmg.extract.__main__ import main
from cmg.extract.captions import of_each
from cmg.extract.clips import Media, find_media
from cmg.extract.hashed import HashedWords
from support_media import levels, rows_of, tone, write_video, write_wav


def wav(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, tone(440, 1, 16000), 16000)
    return path


def extract(out, *flags, workers=0):
    main([*map(str, flags), "--seconds", "1", "--words", "3", "--workers", str(workers), "--out", str(out)])
    return rows_of(out)


def failures(out):
    with open(f"{out}.failed.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: (row["path"], row["reason"]) for row in csv.DictReader(file)}


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("listed", [False, True])
def test_a_name_that_is_not_utf8_costs_itself_alone(tmp_path, workers, listed):
    clips, out, odd = tmp_path / "clips", tmp_path / "a.h5", os.fsdecode(b"caf\xe9.wav")
    wav(clips / "a.wav")
    for name in ("b.wav", odd):
        shutil.copyfile(clips / "a.wav", clips / name)
    names = tmp_path / "list.txt"
    names.write_bytes(b"\r\n".join(b"clips/" + os.fsencode(name) for name in ("a.wav", odd, "b.wav")))
    where = names if listed else clips
    assert list(extract(out, "--videos", where, "--modalities", "audio", workers=workers)) == ["a", "b"]
    assert failures(out) == {r"caf\udce9": (rf"{clips}/caf\udce9.wav", "its name is not UTF-8")}


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"d\xe9")
    wav(folder / "a.wav")
    assert list(extract(tmp_path / "a.h5", "--videos", folder, "--modalities", "audio")) == ["a"]
    assert FeatureFile(tmp_path / "a.h5").attrs["source"] == rf"{tmp_path}/d\udce9"


NAMES = ["-a", "drone #3", " spaces ", "a:b", "http:c", "%03d", "q?x=1&y", "100%", "ünï", "猫", "x.mp4", "UPPER",
         "it's", "a\tb", "\u2028line"]


def test_odd_names_are_names(tmp_path, monkeypatch):
    """In a folder and in a list, and relative to the folder one is in."""
    for name in NAMES:
        wav(tmp_path / "clips" / f"{name}.wav")
    monkeypatch.chdir(tmp_path / "clips")
    (tmp_path / "list.txt").write_text("".join(f"clips/{name}.wav\n" for name in NAMES), encoding="utf-8")
    for number, where in enumerate((".", "../list.txt")):
        rows = extract(tmp_path / f"{number}.h5", "--videos", where, "--modalities", "audio")
        assert sorted(rows) == sorted(NAMES)


def test_spaces_around_a_line_of_a_list(tmp_path):
    paths = [wav(tmp_path / name) for name in ("a.wav", " b.wav")]
    (tmp_path / "list.txt").write_text("\ufeff  a.wav \n b.wav\n\n   \n", encoding="utf-8")
    assert find_media([tmp_path / "list.txt"])[0] == {"a": Media(str(paths[0])), " b": Media(str(paths[1]))}


def test_files_with_other_endings_are_told(tmp_path, capsys):
    for name in ("a.WAV", "b.mts", "c.MTS", "notes.txt", "readme"):
        wav(tmp_path / "clips" / name)
    rows = extract(tmp_path / "a.h5", "--videos", tmp_path / "clips", "--modalities", "audio")
    assert list(rows) == ["a"]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"extract: left out of {tmp_path}/clips: 4 files with other endings: .mts (2), .txt (1), none (1)"


# --- links --------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_entered_once(tmp_path):
    clips, other = tmp_path / "clips", tmp_path / "other"
    for path in (clips / "local/a.wav", other / "b.wav", other / "deep/c.wav"):
        wav(path)
    (clips / "0_again").symlink_to(clips / "local")  # the folder's own name is preferred to a link's
    (clips / "1_other").symlink_to(other)
    (clips / "2_other").symlink_to(tmp_path / "clips/1_other")
    (clips / "local/up").symlink_to(clips)
    (other / "deep/back").symlink_to("..")
    (clips / "itself").symlink_to("itself")
    found, notes = find_media([clips])
    assert {name: os.path.relpath(media.path, clips) for name, media in found.items()} == {
        "a": "local/a.wav", "b": "1_other/b.wav", "c": "1_other/deep/c.wav"}
    assert notes == [f"left out: {clips}/itself is a link that leads nowhere"]


def test_links_that_lead_nowhere_are_listed(tmp_path, capsys):
    clips, out = tmp_path / "clips", tmp_path / "a.h5"
    wav(clips / "a.wav")
    (clips / "b.wav").symlink_to(tmp_path / "gone.wav")
    (clips / "disk").symlink_to("/not/mounted")
    assert list(extract(out, "--videos", clips, "--modalities", "audio")) == ["a"]
    assert failures(out) == {"b": (f"{clips}/b.wav", "audio: a link that leads nowhere")}
    assert f"extract: left out: {clips}/disk is a link that leads nowhere" in capsys.readouterr().err


def test_a_file_that_is_found_twice_is_one(tmp_path):
    path = wav(tmp_path / "clips/a.wav")
    (tmp_path / "clips/link").mkdir()
    (tmp_path / "clips/link/a.wav").symlink_to(path)
    assert find_media([tmp_path, tmp_path / "clips"]) == ({"a": Media(str(path))}, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "closed").mkdir(mode=0)
    assert find_media([tmp_path])[1] == [f"left out: {tmp_path}/closed cannot be read (Permission denied)"]


# --- sound apart from pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [["set"], ["set/sound", "set/pictures"], ["set/list.txt"]])
def test_sound_and_pictures_in_files_of_their_own(tmp_path, capsys, places):
    """The same features as from one file that has both."""
    folder, out = tmp_path / "set", tmp_path / "a.h5"
    sound, frames = tone(440, 1, 16000), levels(4)
    (folder / "pictures").mkdir(parents=True)
    write_video(folder / "pictures/a.mkv", frames, fps=4, sound=0 * sound)  # which its file of sound replaces
    write_video(folder / "pictures/b.mkv", frames, fps=4, sound=(sound * 32767).round())
    wav(folder / "sound/a.wav")
    (folder / "list.txt").write_text("sound/a.wav\npictures/a.mkv\npictures/b.mkv\n")
    rows = extract(out, "--videos", *(tmp_path / place for place in places))
    for m in ("video", "audio"):
        np.testing.assert_array_equal(rows["a"][m][0], rows["b"][m][0])
    assert f"1 clips have a file of their own for sound, such as {folder}/sound/a.wav" in capsys.readouterr().err
    (folder / "sound/a.wav").write_bytes(b"")
    assert list(extract(out, "--videos", folder, "--overwrite")) == ["b"]
    assert failures(out)["a"] == (f"{folder}/pictures/a.mkv and {folder}/sound/a.wav",
                                  "audio: cannot be opened (Invalid data found when processing input)")


@pytest.mark.parametrize("names", [("a.mkv", "x/a.mp4"), ("a.wav", "x/a.mp3"), ("a.mkv", "a.wav", "a.mp3")])
def test_more_files_of_one_id_are_refused(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]))
    with pytest.raises(UserError, match="id 'a' occurs twice: .*; expected one file, or one of pictures and one of"):
        find_media([tmp_path])


# --- captions -----------------------------------------------------------------------------------------------------


def rows(*pairs):
    return [(line, *pair) for line, pair in enumerate(pairs, 2)]


@pytest.mark.parametrize(("name", "caption"), [
    ("a", "a"), ("a", "a.mp4"), ("a", "a.MP4"), ("a", "a#0"), ("a", "a#17"), ("a", "a.wav#2"), ("drone #3", "drone #3"),
    ("drone #3", "drone #3#1"), ("drone #3", "drone #3.mp4"), ("a.mp4", "a.mp4"), ("v1.0", "v1.0"),
    ("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "cafe\u0301#1"),
])
def test_whose_a_caption_is(name, caption):
    assert of_each("c.csv", rows(("x", "no"), (caption, "yes")), [name, "other"]) == {name: ["yes"]}


def test_the_whole_id_comes_first():
    """`a#1` is the clip of this name if there is one, and else a caption of `a`."""
    found = of_each("c.csv", rows(("a#1", "one"), ("a", ""), ("a#0", "none"), ("a", "late")), ["a", "a#1"])
    assert found == {"a#1": ["one"], "a": ["none", "late"]}


@pytest.mark.parametrize(("pairs", "said"), [
    ([("video1#0", "x"), ("video2", "y")], "none of its 2 ids .*: captions have 'video1#0', files 'a'"),
    ([("a", " ")], "none of its 1 ids is the name of a file, with a caption"),
    ([], "none of its 0 ids .*: it has no rows"),
])
def test_captions_of_no_clip_are_refused_in_one_line(pairs, said):
    with pytest.raises(UserError, match=said):
        of_each("c.csv", rows(*pairs), ["a", "b"])


def test_the_first_of_several_captions_is_taken(tmp_path, capsys):
    """MSR-VTT's own list, by way of `cmg.data.captions`; a list that names a clip twice."""
    for name in ("video1", "video2"):
        wav(tmp_path / "clips" / f"{name}.wav")
    public, ours, twice = (tmp_path / name for name in ("msrvtt.csv", "ours.csv", "twice.csv"))
    public.write_text("key,vid_key,video_id,sentence\n"
                      "r0,m1,video1,a guitar\nr1,m1,video1,strings\nr2,m2,video2,a dog\n")
    captions_command.main([str(public), "--out", str(ours)])
    twice.write_text("id,caption\nvideo1.mp4,a guitar\nvideo1.mp4,strings\nvideo2.mp4,a dog\n")
    for captions in (ours, twice):
        found = extract(tmp_path / f"{captions.stem}.h5", "--videos", tmp_path / "clips", "--captions", captions,
                        "--modalities", "audio", "text")
        for name, words in (("video1", ["a", "guitar"]), ("video2", ["a", "dog"])):
            x, valid = found[name]["text"]
            np.testing.assert_array_equal(x[valid], HashedWords()(words).astype(np.float16))
        told = f"extract: --captions {captions}: 3 captions of 2 clips, the first of each is taken"
        assert told in capsys.readouterr().err
    alone = extract(tmp_path / "text.h5", "--captions", ours, "--modalities", "text")  # for retrieval, each by itself
    assert list(alone) == ["video1#0", "video1#1", "video2"]
