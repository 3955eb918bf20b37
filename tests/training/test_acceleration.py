"""Flags that make a step faster leave what it computes alone, in every combination, or are refused.

Way of running × processes × `--accumulate` × precision, each over one epoch from memory and one from disk: losses,
gradient norms and weights are those of plain steps from memory on one process.
"""

import itertools
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.utils import parameters_to_vector

from cmg import pretrain
from cmg.data.features import FeatureSet
from cmg.distributed import finish
from support import SMALL, environment, free_port, refused, trainer_of, write_clips

FLAGS = ["--preset", "paper", "--modalities", "video", "audio", "--layers", "1", "--w-rec", "0", "--workers",
         "0", "--club-steps", "1", "--reset-after", "1"]
WAYS = {"eager": [], "compile": ["--compile"], "cuda-graph": ["--cuda-graph"]}
SETTINGS = {(micro, precision): ["--accumulate", str(micro), "--precision", precision]
            for micro in (1, 2) for precision in ("fp32", "bf16")}
NEAR = {"fp32": {"rtol": 1e-3, "atol": 1e-4}, "bf16": {"rtol": 0.03, "atol": 0.01}}
FAR = {"fp32": 1e-3, "bf16": 0.2}


def trained(path, flags, caches=("host", "disk")):
    """Losses and gradient norms of two epochs of three steps, Tensor[6, terms + 1], and how far they moved the
    weights, Tensor[parameters].

    caches : of the first and of the second epoch.
    """
    asked = [flag for flag in flags if flag != "--compile"]
    trainer, found = trainer_of(path, *FLAGS, *asked, "--cache", caches[0]), []
    epochs = [FeatureSet(path, ["video", "audio"], cache) for cache in caches]
    method = trainer.method
    before = parameters_to_vector(method.parameters()).detach().clone()
    if asked != flags:  # with a backend that runs what was traced: code for a CPU takes minutes to generate
        torch.compiler.reset()
        trainer.compile("eager")
    for trainer.epoch, trainer.features in enumerate(epochs):
        for batch in trainer.loader():
            losses, _, norm = trainer.train_step(batch)
            found.append(torch.stack([*losses.values(), norm]).clone())
            trainer.step += 1
    return torch.stack(found), parameters_to_vector(method.parameters()).detach() - before


def rank_of_two(rank, path, port, out):
    os.environ.update(environment(rank, 2, port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {(way, *setting): trained(path, [*WAYS[way], *SETTINGS[setting]])
             for way, setting in itertools.product(("eager", "compile"), SETTINGS)}
    torch.save(found, f"{out}.{rank}")
    finish()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    yield str(write_clips(tmp_path_factory.mktemp("acceleration") / "clips.h5", n=24))
    torch._dynamo.config.allow_rnn = False
    torch.compiler.reset()


@pytest.fixture(scope="module")
def plain(clips):
    return {setting: trained(clips, flags, ("host", "host")) for setting, flags in SETTINGS.items()}


@pytest.fixture(scope="module")
def two(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "found"
    mp.spawn(rank_of_two, (clips, free_port(), out), nprocs=2)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("micro", "precision"), SETTINGS)
@pytest.mark.parametrize("way", WAYS)
def test_one_process(clips, plain, way, micro, precision, request):
    if way == "cuda-graph":
        request.getfixturevalue("card")
    setting = micro, precision
    same(trained(clips, [*WAYS[way], *SETTINGS[setting]]), plain[setting], precision)


@pytest.mark.slow
@pytest.mark.parametrize(("micro", "precision"), SETTINGS)
@pytest.mark.parametrize("way", ["eager", "compile"])
def test_two_processes(plain, two, way, micro, precision):
    for found in two:
        same(found[way, micro, precision], plain[micro, precision], precision)


@pytest.mark.parametrize(("micro", "precision"), SETTINGS)
@pytest.mark.parametrize("cache", ["host", "disk"])
def test_a_graph_of_two_processes_is_refused(tmp_path, monkeypatch, capsys, cache, micro, precision):
    monkeypatch.setattr(pretrain.distributed, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(pretrain.distributed, "start", lambda device, minutes: (0, 2))
    line = refused(capsys, "--data", "x.h5", "--out", str(tmp_path / "run"), *SMALL, *FLAGS, "--cuda-graph",
                   "--cache", cache, *SETTINGS[micro, precision])
    assert line == "cmg.pretrain: error: --cuda-graph: on cuda, 2 processes; expected a card and one process"


def same(found, expected, precision):
    (found, moved), (expected, wanted) = found, expected
    torch.testing.assert_close(found, expected, **NEAR[precision])
    # Adam turns a gradient that is nothing but rounding into a whole step: weights agree as a whole, not each.
    assert (moved - wanted).norm() < FAR[precision] * wanted.norm()
