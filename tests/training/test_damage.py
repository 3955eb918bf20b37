"""A checkpoint in which one bit has turned is refused, wherever the bit is."""

import numpy as np
import pytest
import torch

from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.training import checkpoint
from cmg.training.recorder import Recorder
from support import SMALL, refused, run, write_clips


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
