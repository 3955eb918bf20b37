"""What is not a clip's fault ends an extraction in one line, and the same command goes on to the same file."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from cmg.data import convert
from cmg.data.features import FeatureFile
from cmg.extract import media
from cmg.extract.__main__ import main
from support import CODE, killed_conversion
from support_media import tone, write_wav

CLIPS = 8


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(CLIPS):
        write_wav(tmp_path / "clips" / f"c{number}.wav", tone(300 + 50 * number, 2, 16000), 16000)
    return tmp_path / "clips"


def call_of(folder, out, *flags):
    return ["--videos", str(folder), "--modalities", "audio", "--seconds", "2", "--out", str(out), *map(str, flags)]


def stopped(capsys, *call, run=main):
    with pytest.raises(SystemExit) as stop:
        run(list(call))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    return [line for line in printed.err.splitlines() if line]


def read_failing_at(fault, clip, when):
    """`Source.read` of which one fails: the `when`-th of a clip."""
    whole, count = media.Source._read, []

    def read(source, n):
        if os.path.basename(source.path) == clip:
            count.append(n)
            if len(count) == when:
                raise OSError(fault, os.strerror(fault))
        return whole(source, n)

    return read


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENOMEM, errno.ETIMEDOUT])
@pytest.mark.parametrize("when", [1, 2])
def test_a_read_that_fails_stops_the_run_which_goes_on(folder, tmp_path, capsys, monkeypatch, fault, when):
    main(call_of(folder, tmp_path / "whole.h5", "--workers", 0))
    out = tmp_path / "a.h5"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(media.Source, "_read", read_failing_at(fault, "c5.wav", when))
        *_, line = stopped(capsys, *call_of(folder, out, "--workers", 0))
    assert f"c5.wav: {os.strerror(fault)}; the same command goes on, {out}.parts keeps 5 clips" in line
    assert not out.exists() and not (tmp_path / "a.h5.failed.csv").exists()
    main(call_of(folder, out, "--workers", 0))
    same_files(out, tmp_path / "whole.h5")


def same_files(a, b):
    a, b = FeatureFile(a), FeatureFile(b)
    assert a.ids == b.ids
    for m in a.modalities:
        for x, y in zip(a.read(m, range(len(a.ids))), b.read(m, range(len(b.ids)))):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x"),
                                   PermissionError(errno.EACCES, "Permission denied", "x"),
                                   RuntimeError("can't start new thread")])
def test_a_file_that_cannot_be_opened_for_no_fault_of_its_own(folder, tmp_path, capsys, monkeypatch, fault):
    """EACCES: of a folder that may no longer be entered, where nothing can be asked about the file either."""
    whole, stat = av.open, os.stat

    def opened(source, *args, **kwargs):
        if source.path.endswith("c3.wav"):
            monkeypatch.setattr(os, "stat", lambda path, *a, **k: stat("/nowhere" if path == source.path else path))
            raise fault
        return whole(source, *args, **kwargs)

    monkeypatch.setattr(av, "open", opened)
    *_, line = stopped(capsys, *call_of(folder, tmp_path / "a.h5", "--workers", 0))
    assert str(fault.args[0] if len(fault.args) == 1 else fault.args[1]) in line and "keeps 3 clips" in line
    assert not (tmp_path / "a.h5.failed.csv").exists()


def test_a_folder_that_goes_away_stops_the_run(folder, tmp_path, capsys, monkeypatch):
    whole = media.audio_seconds

    def last(path, seconds):
        found = whole(path, seconds)
        if path.endswith("c3.wav"):
            folder.rename(tmp_path / "away")
        return found

    monkeypatch.setattr("cmg.extract.workers.audio_seconds", last)
    *_, line = stopped(capsys, *call_of(folder, tmp_path / "a.h5", "--workers", 0))
    assert "c4.wav: No such file or directory; the same command goes on" in line and "keeps 4 clips" in line
    (tmp_path / "away").rename(folder)
    main(call_of(folder, tmp_path / "a.h5", "--workers", 0))
    assert FeatureFile(tmp_path / "a.h5").ids == [f"c{number}" for number in range(CLIPS)]


def test_damage_and_what_is_no_file_cost_one_clip_each(folder, tmp_path, capsys):
    """Also a file that ends early, whose reads all succeed; a link that leads nowhere is listed by its name."""
    (folder / "c1.wav").write_bytes(b"RIFF")
    (folder / "x.wav").symlink_to("gone.wav")
    listed = tmp_path / "list.txt"
    os.mkfifo(tmp_path / "pipe.wav")
    listed.write_text("".join(f"clips/{path.name}\n" for path in sorted(folder.iterdir())) + "pipe.wav\n")
    main(call_of(listed, tmp_path / "a.h5", "--workers", 0))
    told = (tmp_path / "a.h5.failed.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in told] == ["c1", "pipe", "x"]
    assert told[1].endswith("audio: cannot be opened (not a file)")
    assert told[2].endswith("audio: a link that leads nowhere")
    assert len(FeatureFile(tmp_path / "a.h5").ids) == CLIPS - 1


def test_the_exit_status_says_that_most_clips_are_bad(folder, tmp_path, capsys):
    for number in range(5):
        (folder / f"c{number}.wav").write_bytes(b"")
    *_, line = stopped(capsys, *call_of(folder, tmp_path / "a.h5", "--workers", 0))
    assert line == (f"cmg.extract: error: {tmp_path / 'a.h5'}: holds only 3 of 8 clips, for more than half are bad; "
                    f"reasons in {tmp_path / 'a.h5'}.failed.csv")
    assert len(FeatureFile(tmp_path / "a.h5").ids) == 3
    (folder / "c0.wav").write_bytes((folder / "c5.wav").read_bytes())  # half of them are enough
    main(call_of(folder, tmp_path / "b.h5", "--workers", 0))
    assert len(FeatureFile(tmp_path / "b.h5").ids) == 4


def test_a_run_that_was_killed_at_its_very_start_begins_again(folder, tmp_path):
    """While it wrote down its settings."""
    (tmp_path / "a.h5.parts").mkdir()
    (tmp_path / "a.h5.parts" / "settings.json.tmp-7").write_text('{"sha')
    main(call_of(folder, tmp_path / "a.h5", "--workers", 0))
    assert len(FeatureFile(tmp_path / "a.h5").ids) == CLIPS and not (tmp_path / "a.h5.parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.3, 0.8, 1.3, 2.0])
def test_term_is_one_line_at_any_moment(folder, tmp_path, wait):
    """To the whole process group, as batch systems do, while workers start and later."""
    env = {**os.environ, "PYTHONPATH": str(CODE)}
    call = [sys.executable, "-m", "cmg.extract", *call_of(folder, tmp_path / "a.h5", "--workers", 3)]
    process = subprocess.Popen(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.h5.parts" / "settings.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:  # it was done before
        assert (tmp_path / "a.h5").exists() and said == ""
    else:
        assert (process.returncode, said) == (143, "interrupted\n")


# -- convert ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
    (tmp_path / "npy").mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        np.save(tmp_path / "npy" / f"c{number}.npy", rng.normal(size=(10, 4)).astype(np.float16))
    return tmp_path / "npy"


def convert_call(folder, out, workers=0):
    return ["zips", "--audio", str(folder), "--workers", str(workers), "--out", str(out)]


def test_most_clips_say_what_shape_is_right(arrays, tmp_path, capsys):
    np.save(arrays / "a.npy", np.zeros((10, 5), np.float16))  # the first of all
    convert.main(convert_call(arrays, tmp_path / "a.h5"))
    assert FeatureFile(tmp_path / "a.h5").ids == [f"c{number}" for number in range(10)]
    assert "bad clip a: shapes differ from those of 'c0'" in capsys.readouterr().err
    for number in range(6):
        (arrays / f"c{number}.npy").write_bytes(b"")
    *_, line = stopped(capsys, *convert_call(arrays, tmp_path / "b.h5"), run=convert.main)
    assert line.endswith("b.h5: holds only 4 of 11 clips, for more than half are bad; reasons in "
                         f"{tmp_path / 'b.h5'}.failed.csv")


@pytest.mark.parametrize("fault", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOENT])
def test_what_is_not_an_array_s_fault_stops_a_conversion(arrays, tmp_path, capsys, monkeypatch, fault):
    whole = np.lib.format.open_memmap

    def opened(path, **kwargs):
        if path.name == "c4.npy":
            raise OSError(fault, os.strerror(fault))
        return whole(path, **kwargs)

    monkeypatch.setattr(np.lib.format, "open_memmap", opened)
    (line,) = stopped(capsys, *convert_call(arrays, tmp_path / "a.h5"), run=convert.main)
    parts = tmp_path / "a.h5.parts"
    assert line == (f"cmg.data.convert: error: {arrays / 'c4.npy'}: {os.strerror(fault)}; the same command goes on, "
                    f"{parts} keeps 4 clips")
    assert [path.name for path in tmp_path.glob("a.h5*")] == ["a.h5.parts"]


def test_links_that_lead_nowhere_and_folders_are_left_out_by_name(arrays, tmp_path, capsys):
    (arrays / "x.npy").symlink_to("gone.npy")
    (arrays / "y.zip").mkdir()
    convert.main(convert_call(arrays, tmp_path / "a.h5"))
    told = capsys.readouterr().err
    assert "bad clip x: audio: a link that leads nowhere" in told
    assert "bad clip y: audio: cannot be opened (Is a directory)" in told
    assert len(FeatureFile(tmp_path / "a.h5").ids) == 10
    shutil.rmtree(arrays / "y.zip")


def test_a_conversion_goes_on_where_a_disk_or_a_kill_ended_it(arrays, tmp_path, capsys):
    """What is there is neither read again nor looked for; a bad file that was mended meanwhile is in its place."""
    convert.main(convert_call(arrays, tmp_path / "whole.h5"))
    good, out = (arrays / "c1.npy").read_bytes(), tmp_path / "a.h5"
    (arrays / "c1.npy").write_bytes(b"")
    killed_conversion(convert_call(arrays, out), shard=3, before=1)
    (arrays / "c1.npy").write_bytes(good)
    (arrays / "c0.npy").write_bytes(b"")
    capsys.readouterr()
    convert.main(convert_call(arrays, out))
    assert "resuming: 3 of 10 clips are done" in capsys.readouterr().err
    same_files(out, tmp_path / "whole.h5")
    assert {path.name for path in tmp_path.glob("a.h5*")} == {"a.h5"}


def test_workers_keep_the_order(arrays, tmp_path):
    for workers in (0, 2):
        convert.main(convert_call(arrays, tmp_path / f"{workers}.h5", workers))
    same_files(tmp_path / "0.h5", tmp_path / "2.h5")
