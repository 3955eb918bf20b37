"""A checkpoint in which one bit has turned is refused, wherever the bit is."""

import time

import h5py
import numpy as np
import pytest
import torch

from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.pretrain import main
from cmg.training import checkpoint, held
from cmg.training.recorder import Recorder
from support import SHAPES, SMALL, refused, run, untrained, write_clips


def turned(path, place):
    """Turn one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_no_turned_bit_becomes_another_weight(tmp_path):
    """Of 200 single bits every one is refused or, between the entries, changes nothing."""
    content = {name: torch.randn(16, 16) for name in ("a", "b", "c")}
    checkpoint.save(tmp_path / "whole.pt", content)
    raw, refused = (tmp_path / "whole.pt").read_bytes(), 0
    assert equal(checkpoint.load(tmp_path / "whole.pt"), content)
    for place in np.random.default_rng(0).integers(0, 8 * len(raw), 200):
        (tmp_path / "a.pt").write_bytes(raw)
        turned(tmp_path / "a.pt", int(place))
        try:
            assert equal(checkpoint.load(tmp_path / "a.pt"), content), place
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / "a.pt") in str(error)
            refused += 1
    assert refused >= 130  # the weights are two thirds of this file


def test_the_entry_is_named(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"weight": torch.ones(64)})
    turned(path, 8 * path.read_bytes().index(torch.ones(64).numpy().tobytes()) + 20)
    with pytest.raises(UserError, match=r"a.pt: .*damaged \(entry a.*/data/0 does not have the checksum it was"):
        checkpoint.load(path)


def test_weights_of_another_kind_and_a_place_past_the_epoch_are_refused(tmp_path):
    run(str(write_clips(tmp_path / "a.h5")), tmp_path / "out", "--epochs", "1", "--modalities", "audio", "text")
    whole = checkpoint.load(tmp_path / "out" / "latest.pt")
    name = next(name for name, value in whole["model"].items() if value.is_floating_point())
    for change in (torch.Tensor.cfloat, torch.Tensor.long):
        with pytest.raises(UserError, match=rf"its weights do not fit its flags \({name} is torch\."):
            checkpoint.build_model(whole | {"model": whole["model"] | {name: change(whole["model"][name])}})
    for name, value in (("numerics", None), ("step", "1"), ("earlier_ids", "a")):
        checkpoint.save(tmp_path / "other.pt", whole | {name: value})
        with pytest.raises(UserError, match=f"'{name}' holds something else$"):
            checkpoint.read(tmp_path / "other.pt")
    checkpoint.save(tmp_path / "out" / "latest.pt", whole | {"position": whole["position"] | {"batch": 999}})
    with pytest.raises(SystemExit) as stop:
        run(str(tmp_path / "a.h5"), tmp_path / "out", "--epochs", "2", "--modalities", "audio", "text", "--resume",
            "auto")
    assert stop.value.code == 2


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_no_number_is_told_before_the_first_step(tmp_path, capsys, cache):
    clips = write_clips(tmp_path / "a.h5", poison=17)
    line = refused(capsys, "--data", str(clips), "--out", str(tmp_path / "out"), *SMALL, "--cache", cache)
    assert line == f"cmg.pretrain: error: {clips}: 'audio' features of 'clip17' are not finite"
    assert not (tmp_path / "out").exists()


def test_a_run_s_files_do_not_lead_out_of_it_and_other_columns_are_added(tmp_path):
    recorder = Recorder(tmp_path / "a")
    for step, values in ((0, {"x": 1.0}), (1, {"y": 2.0, "x": 3.0})):
        recorder.write(step, 0, values)
    recorder.close()
    assert (tmp_path / "a" / "metrics.csv").read_text().split() == ["step,epoch,x,y", "0,0,1,", "1,0,3,2"]
    for name in ("tb", "metrics.csv"):
        folder = tmp_path / f"run-{name}"
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=f"{name}: leads to {tmp_path}/elsewhere; expected"):
            Recorder(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_names_are_text_in_tables():
    assert markdown_table(["a"], [["x|y\n`z` <b>"]]).splitlines()[2] == r"| x\|y \`z\` &lt;b> |"


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_a_modality_that_no_clip_has_is_told_before_the_first_step(tmp_path, capsys, cache):
    path = write_clips(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["valid/audio"][:-1] = False
    call = ["--data", str(path), "--out", str(tmp_path / "out"), *SMALL, "--cache", cache, "--max-steps", "1"]
    main([*call[:3], str(tmp_path / "one"), *call[4:]])  # one clip has it
    capsys.readouterr()
    with h5py.File(path, "a") as file:
        file["valid/audio"][:] = False
    assert refused(capsys, *call) == ("cmg.pretrain: error: --data: audio is padding in all 40 clips; expected "
                                      "--modalities without it")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("layers", 10**6), ("layers", 2000), ("dim", 2**20), ("dim", 4096)])
def test_a_checkpoint_is_not_built_larger_than_what_it_holds(tmp_path, name, value):
    """Neither a depth of a million layers, which would take hours, nor a width that takes gigabytes."""
    untrained(tmp_path / "a.pt", SHAPES)
    content = checkpoint.read(tmp_path / "a.pt")
    start = time.process_time()
    with pytest.raises(UserError, match="its weights do not fit its flags .they ask for far more than the .* values"):
        checkpoint.build_model(content | {"args": content["args"] | {name: value}})
    assert time.process_time() - start < 10
    checkpoint.build_model(content | {"args": content["args"] | {"reset_after": 10**6}})  # which builds nothing


@pytest.mark.parametrize("shape", [[6, 0], [0], [], [6], [-1, 3]])
def test_shapes_that_no_clip_has(tmp_path, shape):
    untrained(tmp_path / "a.pt", SHAPES)
    content = checkpoint.read(tmp_path / "a.pt")
    with pytest.raises(UserError, match="its weights do not fit its flags"):
        checkpoint.build_model(content | {"shapes": content["shapes"] | {"text": shape}})


def test_what_is_made_within_a_bound_counts_and_what_is_changed_or_seen_otherwise_does_not():
    for size, many in ((held.ROOM + 80, 1), (1, held.MORE + 32)):  # of a state of ten values in one tensor
        with held.Bounded({"a": torch.ones(10)}):
            for _ in range(many):
                x = torch.empty(size)
        with pytest.raises(RuntimeError, match="far more than the 10 values"), held.Bounded({"a": torch.ones(10)}):
            for _ in range(many + 1):
                torch.empty(size)
    with held.Bounded({}):
        x = torch.empty(held.ROOM // 2 + 1)
        for _ in range(3):
            x.zero_().view(-1)
        with pytest.raises(RuntimeError):
            x.clone()
    with pytest.raises(RuntimeError), held.Bounded({}):
        torch.empty(1 << 45)  # before the allocator is asked
