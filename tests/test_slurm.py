"""Under Slurm, as far as a machine without it can tell: places of tasks, signals, turns of a job, the batch file."""

import json
import os
import subprocess
import sys

import pytest
import torch

from cmg import distributed, slurm
from cmg.errors import UserError
from cmg.training.pauses import GO_ON, LEAVE, SAVE, Pauses
from support import CODE, ROOT, SMALL, free_port, rows, run, same_weights, write_clips

STEP = {"SLURM_STEP_ID": "2", "SLURM_JOB_ID": "1000003", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "gpu[007-008,12]"}


def test_a_task_is_told_its_place():
    expected = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu007",
                "MASTER_PORT": str(10_000 + (31 * 1000003 + 2) % 20_000)}
    assert slurm.told(STEP) == expected
    assert slurm.told(STEP | {"SLURM_STEP_NUM_TASKS": "4"})["WORLD_SIZE"] == "4"  # a step of a larger job
    assert slurm.told(STEP | {"MASTER_PORT": "29500"}) == expected | {"MASTER_PORT": "29500"}
    bare = {name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"}
    assert slurm.told(bare | {"SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3"})["MASTER_ADDR"] == "10.1.2.3"


@pytest.mark.parametrize("environment", [
    {}, STEP | {"RANK": "0"}, STEP | {"SLURM_NTASKS": "1"}, {k: v for k, v in STEP.items() if k != "SLURM_STEP_ID"}])
def test_a_process_that_is_alone_or_launched_is_told_nothing(environment):
    """The batch script itself is no step, and torchrun under srun says its own."""
    assert slurm.told(environment) == {}
    assert slurm.told(slurm.alone(environment)) == {}


@pytest.mark.parametrize("nodes, first", [
    ("gpu[007-009,12],cpu3", "gpu007"), ("a1,a2", "a1"), ("rack[2-3]-[1,5],z", "rack2-1"), ("n-1.example.org",) * 2])
def test_the_first_node_of_a_list(nodes, first):
    assert slurm.first_node(nodes) == first


def test_a_place_that_is_taken_is_one_line(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match=r"\Aprocess 1 of 2: the processes do not meet at 127\.0\.0\.1:\? \(.*\)"):
        distributed.start("cpu", 0.01)


def test_pauses_of_one_process(monkeypatch):
    """Saved by the clock, counted from the last save; a signal says the same until the run has left."""
    clock = [100.0]
    monkeypatch.setattr("cmg.training.pauses.time.monotonic", lambda: clock[0])
    with Pauses(2, 10) as pauses:
        said = []
        for now in (219, 220, 221, 339, 340):
            clock[0] = now
            said.append(pauses())
        assert said == [GO_ON, SAVE, GO_ON, GO_ON, SAVE]
        os.kill(os.getpid(), 10)
        assert [pauses(), pauses(), pauses.heard] == [LEAVE, LEAVE, "SIGUSR1"]
    with Pauses(0, 10) as pauses:
        clock[0] = 1e9
        assert pauses() == GO_ON and pauses.heard is None


@pytest.mark.slow
def test_a_job_that_is_requeued_three_times_ends_with_the_same_bits(tmp_path):
    """Two tasks on two nodes. Once all hear SIGTERM, once a single one USR1, and once again."""
    clips = str(write_clips(tmp_path / "clips.h5", n=36))
    flags = ["--data", clips, *SMALL, "--batch-size", "12", "--epochs", "8", "--save-every", "0", "--resume", "auto"]

    def job(number, out, *stops):
        call = [sys.executable, str(ROOT / "tests" / "support_slurm.py"), str(number), *map(str, stops), "--", *flags,
                "--out", str(out)]
        done = subprocess.run(call, env={**os.environ, "PYTHONPATH": str(CODE)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    whole, _ = job(free_port(), tmp_path / "whole")
    assert whole == [{"statuses": [0, 0], "step": 23}]
    turns, told = job(free_port(), tmp_path / "requeued", 2, 7, 13)
    assert [turn["statuses"] for turn in turns] == [[75, 75]] * 3 + [[0, 0]], told
    steps = [turn["step"] for turn in turns]
    assert 2 <= steps[0] < steps[1] < steps[2] < 23 == steps[3]
    assert [line.split(";")[0] for line in told.splitlines() if line.startswith("left on")] == [
        f"left on {name} at step {step + 1} of 24"
        for name, step in zip(("SIGTERM", "a signal", "SIGTERM"), steps)]
    same_weights(tmp_path / "whole", tmp_path / "requeued")
    streams = [torch.load(tmp_path / name / "latest.pt", weights_only=True)["streams"]["cpu"]
               for name in ("whole", "requeued")]
    assert torch.equal(*streams) and len(streams[0]) == 2
    kept = [[{k: v for k, v in row.items() if k != "train/clips_per_s"} for row in rows(tmp_path / name)]
            for name in ("whole", "requeued")]
    assert kept[0] == kept[1] and len(kept[0]) == 24


@pytest.mark.slow
def test_a_run_that_a_signal_ends_goes_on_to_the_same_bits(tmp_path):
    """One process, in the middle of an epoch; and nothing is written twice where the signal comes at its end."""
    clips = str(write_clips(tmp_path / "clips.h5"))
    whole = run(clips, tmp_path / "whole")
    original = Pauses.__call__

    def ask(self):
        ask.number += 1
        if ask.number in (3, 6):  # of five steps an epoch: within the first, and after one of the second
            os.kill(os.getpid(), 15)
        return original(self)

    ask.number, Pauses.__call__ = 0, ask
    try:
        for stopped in (3, 6):
            with pytest.raises(SystemExit) as stop:
                run(clips, tmp_path / "part", "--resume", "auto")
            content = torch.load(tmp_path / "part" / "latest.pt", weights_only=True)
            assert stop.value.code == 75 and content["position"]["step"] == stopped
            assert (tmp_path / "part" / "epoch_000.pt").exists() == (stopped > 4)
    finally:
        Pauses.__call__ = original
    run(clips, tmp_path / "part", "--resume", "auto")
    same_weights(whole, tmp_path / "part")


@pytest.mark.slow
def test_torchrun_on_two_nodes(tmp_path):
    """Two agents of one process each, that meet on the loopback interface."""
    clips, port = str(write_clips(tmp_path / "clips.h5", n=16)), free_port()
    flags = ["--data", clips, "--out", str(tmp_path / "run"), *SMALL, "--epochs", "1"]
    nodes = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node",
         "1", "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "cmg.pretrain", *flags],
        env={**os.environ, "PYTHONPATH": str(CODE)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for node in (0, 1)]
    said = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    content = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    assert content["position"]["step"] == 2 and len(content["streams"]["cpu"]) == 2


@pytest.mark.parametrize("status, state", [(0, "RUNNING"), (2, "RUNNING"), (75, "RUNNING"), (75, "COMPLETING")])
def test_the_batch_file_queues_again_what_left_to_go_on(tmp_path, status, state):
    """Not what failed, and not what is being cancelled."""
    for name, end in (("srun", f"exit {status}"), ("scontrol", ""), ("squeue", f"echo {state}")):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/usr/bin/env bash\n(IFS=$\'\\t\'; echo "{name}\t$*") >>"{tmp_path}/log"\n{end}\n')
        stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CMG_PYTHON": sys.executable,
                   "SLURM_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(ROOT)}
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / "scripts" / "slurm" / "pretrain.sbatch").read_text())
    done = subprocess.run(["bash", str(copy), "--data", "a b.h5", "--out", "x"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    call, *more = [line.split("\t") for line in (tmp_path / "log").read_text().splitlines()]
    assert call[0] == "srun" and call[-7:] == ["cmg.pretrain", "--resume", "auto", "--data", "a b.h5", "--out", "x"]
    asked = [["squeue", "--noheader", "--jobs", "77", "--format", "%T"]] if status == 75 else []
    assert more == asked + ([["scontrol", "requeue", "77"]] if (status, state) == (75, "RUNNING") else [])
    options = [line.split()[1] for line in copy.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= {*options}
