"""Files that are replaced whole, folders that one process holds, and run folders that lose nothing."""

import multiprocessing
import os
import resource
import shutil
import signal
import time

import pytest
import torch

from cmg.downstream.results import prepare_results, read_results, write_results
from cmg.errors import UserError
from cmg.files import (
    in_turn,
    locked,
    parse_json,
    read_columns,
    read_text,
    replacing,
    replacing_folder,
    write_atomically,
)
from cmg.training import checkpoint
from support import SMALL, refused, rows, run, same_weights, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5", n=16))


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def again(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "again")


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "first, ±")
    with replacing(path) as part:
        part.write_text("second")
        assert path.read_text(encoding="utf-8") == "first, ±"
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(stop), replacing(path) as part:
        part.write_text("half")
        raise stop
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "new" / "page"
    for text in ("first", "second"):
        with replacing_folder(path) as folder:
            (folder / "part").mkdir()
            (folder / "part" / text).write_text(text)
            assert not path.exists() or [one.name for one in (path / "part").iterdir()] == ["first"]
    assert [one.name for one in (path / "part").iterdir()] == ["second"] and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("between", [False, True])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, stop, between):
    path = tmp_path / "page"
    with replacing_folder(path) as folder:
        (folder / "old").touch()
    (tmp_path / "page.tmp-new").mkdir()  # as a killed process leaves it
    (tmp_path / "page.tmp-new" / "half").touch()
    rename, calls = os.rename, []

    def interrupted(*names):
        calls.append(names)
        if between and len(calls) == 2:  # the old one is away, the new one not there
            raise stop
        rename(*names)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(stop), replacing_folder(path) as folder:
        assert [*folder.iterdir()] == []
        if not between:
            raise stop
    assert [one.name for one in path.iterdir()] == ["old"] and [*tmp_path.iterdir()] == [path]


def test_a_folder_is_written_by_one_process(tmp_path):
    with replacing_folder(tmp_path / "page") as folder:
        (folder / "mine").touch()
        with pytest.raises(UserError, match="another process is at work there"), replacing_folder(tmp_path / "page"):
            pass
        assert (folder / "mine").exists()


@pytest.mark.parametrize("name", ["file/a.txt", "folder"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: cannot write \(.+\)$"):
        write_atomically(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_columns_are_read_by_name_and_errors_are_one_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffgroup,more,id\n"g, 1",x,a\u2028b\ng2,"two\nlines",c\ng3\n', encoding="utf-8")
    assert read_columns(path, "id", "group") == [("a\u2028b", "g, 1"), ("c", "g2"), ("", "g3")]
    assert read_columns(path, "id") == [("a\u2028b",), ("c",), ("",)]
    for text, columns, message in (("id\n", ("id", "group"), "['id']; expected a CSV with the columns id and group"),
                                   ("", ("id",), "[]; expected a CSV with the column id")):
        path.write_text(text)
        with pytest.raises(UserError) as told:
            read_columns(path, *columns)
        assert str(told.value) == f"{path}: the columns are {message}"


def test_text_is_read_with_or_without_a_mark_and_errors_are_one_line(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("é\n", encoding=encoding)
        assert read_text(path, "letters") == "é\n"
    path.write_bytes(b"\xff\xfe\x00")
    (tmp_path / "page.csv").write_text("\n<!DOCTYPE html>\n<title>Sign in</title>")
    for where, message in ((path, "not a UTF-8 text file"), (tmp_path / "b", "no such file; expected letters"),
                           (tmp_path, "cannot be read (Is a directory)"),
                           (tmp_path / "page.csv", "an HTML page; expected letters")):
        with pytest.raises(UserError) as told:
            read_text(where, "letters")
        assert str(told.value) == f"{where}: {message}"


def test_results_that_could_not_be_written_are_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file: .*file is a file; expected a folder"):
        prepare_results(tmp_path / "file")
    prepare_results(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()  # should the command fail
    row = {"task": "ave", "source": "video", "value": 1.5}
    write_results(tmp_path / "new" / "out", [row])
    assert read_results(tmp_path / "new" / "out") == [row] and read_results(tmp_path) == []
    for torn in ("[{", "[1]", "7"):
        (tmp_path / "results.json").write_text(torn)
        with pytest.raises(UserError, match="results.json: not a list of results"):
            prepare_results(tmp_path)


def measure(folder, task, start):
    start.wait(30)
    for seed in range(5):
        write_results(folder, [{"task": task, "seed": seed}])


def test_tasks_that_end_together_lose_no_row(tmp_path):
    context = multiprocessing.get_context("fork")
    start, folder = context.Event(), tmp_path / "new" / "out"
    tasks = [context.Process(target=measure, args=(folder, f"task{n}", start)) for n in range(8)]
    for task in tasks:
        task.start()
    start.set()
    for task in tasks:
        task.join()
    found = sorted((row["task"], row["seed"]) for row in read_results(folder))
    assert found == [(f"task{n}", seed) for n in range(8) for seed in range(5)]
    assert os.listdir(folder) == ["results.json"]


def test_a_turn_that_was_killed_is_over(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=take_a_turn, args=(tmp_path / "results.json", ready))
    other.start()
    assert ready.wait(30)
    other.kill()
    other.join()
    write_results(tmp_path, [{"task": "ave"}])
    assert read_results(tmp_path) == [{"task": "ave"}] and os.listdir(tmp_path) == ["results.json"]


def take_a_turn(path, ready):
    with in_turn(path):
        ready.set()
        time.sleep(60)


def test_a_checkpoint_that_is_none_is_told_apart(tmp_path):
    checkpoint.save(tmp_path / "whole.pt", {"weights": torch.ones(1000)})
    torch.save(os.mkdir, tmp_path / "call.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    call = (tmp_path / "call.pt").read_bytes()
    for content, words in ((whole[:2000], "truncated or damaged (File is not a zip file"),
                           (call, "damaged, or more than"),
                           (b"<html>Not found</html>", "an HTML page, not a file of torch.save"),
                           (b"x,y\n", "not a file of torch.save"), (b"", "empty, not a file of torch.save")):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(UserError) as told:
            checkpoint.load(tmp_path / "a.pt")
        assert str(told.value).startswith(f"{tmp_path / 'a.pt'}: not a readable checkpoint: {words}")
    with pytest.raises(UserError, match="gone.pt: no such checkpoint file"):
        checkpoint.load(tmp_path / "gone.pt")


def full_disk(path):
    """In a process of its own, whose files can be no larger than 1 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    try:
        checkpoint.save(path, {"weights": torch.zeros(1000)})
    except UserError as error:
        return str(error)


def test_a_checkpoint_that_finds_no_room_spares_the_old_one(tmp_path):
    path = tmp_path / "latest.pt"
    checkpoint.save(path, {"weights": torch.ones(3)})
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply(full_disk, [path])
    assert said == f"{path}: cannot write (File too large)"
    assert os.listdir(tmp_path) == ["latest.pt"] and torch.load(path)["weights"].tolist() == [1.0, 1.0, 1.0]


def hold(folder, ready, leave):
    with locked(folder):
        ready.set()
        leave.wait(30)


def test_a_folder_is_held_by_one_process_and_let_go_with_it(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, leave))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="another process is at work there"), locked(tmp_path):
        raise AssertionError("held twice")
    other.kill()
    other.join()
    with locked(tmp_path):
        assert os.listdir(tmp_path) == []


def test_a_child_that_outlives_its_parent_holds_no_folder(tmp_path):
    """A loader notices that its parent was killed some seconds later; the run is resumed before that."""
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    with locked(tmp_path):
        loader = context.Process(target=lambda: (ready.set(), leave.wait(30)))
        loader.start()
        assert ready.wait(30)
        with pytest.raises(UserError, match="another process"), locked(tmp_path):
            raise AssertionError("let go by the child")
    with locked(tmp_path):
        assert loader.is_alive()
    leave.set()
    loader.join()


# -- run folders -----------------------------------------------------------------------------------------------------


def test_two_runs_do_not_share_a_folder(clips, again, capsys):
    before = content_of(again)
    with locked(again):
        line = refused(capsys, "--data", clips, "--out", str(again), *SMALL, "--epochs", "3", "--resume", "auto")
    said = f"cmg.pretrain: error: {again}: another process is at work there; expected its end, or another folder"
    assert line == said
    assert content_of(again) == before


def test_a_finished_run_is_not_begun_anew(clips, again, finished, tmp_path, capsys):
    """Neither by an empty --resume, nor by the checkpoint of another run, nor where latest.pt was removed."""
    before = content_of(again)
    for resume in ([], ["--resume", ""], ["--resume", str(finished / "latest.pt")]):
        line = refused(capsys, "--data", clips, "--out", str(again), *SMALL, "--epochs", "3", *resume)
        assert f"--out {again}: the folder is not empty; expected a new one" in line
    assert content_of(again) == before
    (again / "latest.pt").unlink()
    line = refused(capsys, "--data", clips, "--out", str(again), *SMALL, "--resume", "auto")
    assert "not empty; expected a new one, or one that holds latest.pt" in line
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, "--data", clips, "--out", str(tmp_path / "file"), *SMALL)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(clips, again, finished, tmp_path):
    """What it had written: args.json, metrics, an epoch's file, a torn latest.pt."""
    (again / "epoch_001.pt").unlink()
    (again / "latest.pt").rename(again / "latest.pt.tmp-1")
    run(clips, again, "--resume", "auto")
    same_weights(again, finished)
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "args.json.tmp-1").touch()
    same_weights(run(clips, tmp_path / "early", "--resume", "auto"), finished)
    assert rows(again)[-1]["loss/total"] == rows(finished)[-1]["loss/total"] and not list(again.glob("*.tmp-*"))


def test_other_clips_do_not_continue_a_run(clips, again, tmp_path, capsys):
    """Its later checkpoints would no longer know all clips that they were trained on."""
    other = str(write_clips(tmp_path / "other.h5", n=12))
    line = refused(capsys, "--data", other, "--out", str(again), *SMALL, "--epochs", "3", "--resume", "auto")
    assert f"--data: 12 clips, not the 16 that {again / 'latest.pt'} was trained on" in line


def test_a_run_that_is_older_than_some_flags_goes_on(clips, again, finished, tmp_path):
    """What it was not asked for then has the value that is the default today."""
    content = torch.load(again / "latest.pt", weights_only=True)
    for name in ("cuda_graph", "input_dropout", "transformer", "accumulate", "synthetic_clips"):
        del content["args"][name]
    torch.save(content, again / "latest.pt")
    checkpoint.build_model(checkpoint.read(again / "latest.pt"))
    same = shutil.copytree(finished, tmp_path / "same")
    for folder in (again, same):
        run(clips, folder, "--epochs", "3", "--resume", "auto")
    same_weights(again, same)


@pytest.mark.parametrize("part, value, words", [
    ("shapes", None, "not a checkpoint of cmg.pretrain, 'shapes' is missing"),
    ("pretrain_ids", None, "not a checkpoint of cmg.pretrain, 'pretrain_ids' is missing"),
    ("method_of", 3, "not a checkpoint of cmg.pretrain, 'method_of' holds something else"),
    ("method_of", {"name": ["unicode"], "files": {}}, "not a checkpoint of cmg.pretrain, 'method_of' holds"),
    ("features", {"audio": {"encoder": "x"}}, "not a checkpoint of cmg.pretrain, 'features' holds something else"),
    ("features", torch.zeros(2), "not a checkpoint of cmg.pretrain, 'features' holds something else"),
    ("modalities", ["depth"], "not a checkpoint of cmg.pretrain, 'modalities' holds something else"),
    ("args", {"preset": []}, "not a checkpoint of cmg.pretrain, 'args' holds something else"),
    ("shapes", {"audio": 3}, "not a checkpoint of cmg.pretrain, 'shapes' holds something else"),
    ("streams", torch.zeros(2), "not a complete training state of these flags ("),
    ("inner", 3, "not a complete training state of these flags ("),
    ("format", torch.zeros(2), "not a checkpoint of this project (expected format 2)"),
    ("model", {}, "not a complete training state of these flags (Error(s) in loading state_dict"),
    ("optimizer", {}, "not a complete training state of these flags ('param_groups')"),
    ("position", {"epoch": 0}, "not a complete training state of these flags ('batch')"),
])
def test_a_checkpoint_that_lacks_a_part_is_one_line(clips, again, capsys, part, value, words):
    content = torch.load(again / "latest.pt", weights_only=True)
    torch.save({**content, part: value}, again / "latest.pt")
    line = refused(capsys, "--data", clips, "--out", str(again), *SMALL, "--epochs", "3", "--resume", "auto")
    assert f"{again / 'latest.pt'}: {words}" in line


def test_metrics_that_are_none_are_not_overwritten(clips, again, capsys):
    (again / "metrics.csv").write_text("my,notes\n1,2\n")
    before = content_of(again)
    line = refused(capsys, "--data", clips, "--out", str(again), *SMALL, "--epochs", "3", "--resume", "auto")
    assert f"{again / 'metrics.csv'}: not the metrics of a run" in line
    assert content_of(again) == before  # args.json as well


def test_weights_that_do_not_fit_or_are_not_finite_are_not_used(finished):
    content = checkpoint.read(finished / "latest.pt")
    name = next(name for name in content["model"] if name.startswith("semantic."))
    bad = content["model"] | {name: torch.full_like(content["model"][name], float("nan"))}
    with pytest.raises(UserError, match="epoch 1: its weights are not finite"):
        checkpoint.build_model({**content, "model": bad})
    with pytest.raises(UserError, match="epoch 1: its weights do not fit its flags .*Missing key"):
        checkpoint.build_model({**content, "model": {}})
    with pytest.raises(UserError, match="do not fit its flags .*Missing key"):
        checkpoint.build_model({**content, "args": {}})


def test_what_a_killed_task_left_of_a_file_is_removed_by_the_next_one(tmp_path):
    left = tmp_path / "results.json.tmp-99999"
    left.write_text("[")
    (tmp_path / "results.json.tmp-mine").touch()
    with in_turn(tmp_path / "results.json"):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json.tmp-mine"]


def test_json_that_is_nested_without_end_is_no_json():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, "{", ""):
        with pytest.raises(ValueError):
            parse_json(text)
