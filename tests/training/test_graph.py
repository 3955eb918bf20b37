"""`--cuda-graph`: a recorded step, replayed, computes what the step itself would have computed.

On a CPU a tape stands in for the card's graph (`conftest.Tape`).
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmg.pretrain import main
from cmg.training import graph, loop, state
from cmg.training.loop import Trainer
from support import DEVICE, SHAPES, SMALL, make_method, settings_of, steps_of, trainer_of, write_clips


def trained(clips, *flags):
    """A trainer after two epochs of five steps without dropout, and the losses of its steps."""
    trainer = trainer_of(clips, *flags, device=DEVICE)
    found = [torch.stack([*losses.values(), norm]).clone() for losses, _, norm in steps_of(trainer)]
    return trainer, torch.stack(found)


@pytest.fixture
def clips(tmp_path):
    return str(write_clips(tmp_path / "clips.h5"))


@pytest.mark.parametrize("flags", [
    ["--preset", "small", "--w-club", "1", "--warmup-steps", "7", "--reset-after", "2"],  # a rate that moves, resets
    ["--preset", "paper", "--accumulate", "2", "--modalities", "video", "audio"],
    ["--preset", "official", "--reset-after", "2", "--lr", "1e-3"],  # a random second and permutation each step
    ["--preset", "paper", "--specific-steps", "2", "--precision", "bf16"],  # random seconds
], ids=["small", "accumulate", "official", "bf16"])
def test_replayed_steps_are_the_steps(card, clips, flags, monkeypatch):
    (_, plain), (recorded, found) = trained(clips, *flags), trained(clips, *flags, "--cuda-graph")
    torch.testing.assert_close(found[:6], plain[:6], rtol=0.01, atol=1e-3)  # a rate in float32 rounds otherwise
    monkeypatch.setattr(graph, "WARM_UP", 10)
    eager, wanted = trained(clips, *flags, "--cuda-graph")
    assert recorded.optimise.graph is not None and eager.optimise.graph is None
    exact = {"rtol": 0, "atol": 0} if DEVICE == "cpu" else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(found, wanted, **exact)
    torch.testing.assert_close(recorded.method.state_dict(), eager.method.state_dict(), **exact)
    assert {state["step"].item() for state in recorded.optimizer.state.values()} == {10.0}


def test_a_value_that_python_decides_is_repeated(card):
    """What the tape is for: it must notice a step that reads something beside its tensors."""
    number = iter(range(100))
    step = graph.StepGraph(lambda batch: batch["x"] + next(number), [], torch.device(DEVICE))
    found = [step({"x": torch.zeros(1, device=DEVICE)}).item() for _ in range(7)]
    assert found == [0, 1, 2, 3, 3, 3, 3]


def test_state_goes_to_a_run_without_graph_and_back(card, clips, tmp_path):
    """The optimiser's state does not carry along whether it was in a graph."""
    recorded, _ = trained(clips, "--cuda-graph")
    recorded.folder, recorded.epoch, recorded.batch = tmp_path, 2, 0
    recorded.save(epoch_end=True)
    content = torch.load(tmp_path / "latest.pt", map_location="cpu", weights_only=True)
    eager, _ = trained(clips, "--max-steps", "1")
    state.restore(eager, content, tmp_path / "latest.pt")
    (group,) = eager.optimizer.param_groups
    assert not torch.is_tensor(group["lr"]) and not group["capturable"]
    for ours, theirs in zip(eager.optimizer.state.values(), recorded.optimizer.state.values()):
        torch.testing.assert_close(ours["exp_avg"], theirs["exp_avg"])
    again, _ = trained(clips, "--cuda-graph", "--max-steps", "1")
    state.restore(again, content, tmp_path / "latest.pt")
    (group,) = again.optimizer.param_groups
    assert torch.is_tensor(group["lr"]) and group["capturable"]


def test_only_on_one_card(clips, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--data", clips, "--out", str(tmp_path / "run"), *SMALL, "--cuda-graph"])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ("cmg.pretrain: error: --cuda-graph: on cpu, 1 process; expected a card and one "
                                       "process\n")


class Crossings(TorchDispatchMode):
    """Names of the operators that have tensors on the host and on the card."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors}) > 1 and any(x.device.type == "cpu" and x.dim() for x in tensors):
            self.found.append(str(func))
        return out


class NoFeatures:
    cache = "device"

    def __len__(self):
        return 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card shows it by itself")
@pytest.mark.parametrize("preset", ["paper", "official", "small"])
def test_a_step_on_a_card_leaves_the_host_alone(preset, monkeypatch):
    """Shapes and devices of a step on a card, without one: nothing is read back (a tensor without content would have
    to be), nothing is sent, and no operator mixes devices. Backward passes are left out: they need a card."""
    def backward(loss):
        for p in method.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *args: module)  # fake parameters cannot be moved
    monkeypatch.setattr(loop, "seed_shared", lambda seed, step, device: None)
    settings = settings_of("--preset", preset, "--w-club", "1", "--specific-steps", "2", "--codebook-init", "uniform",
                           "--precision", "bf16")
    card = torch.device("cuda", 0)
    fake = FakeTensorMode()
    with fake, card, torch.backends.cudnn.flags(enabled=False):
        method = make_method(settings).train()
        batch = {m: torch.randn(8, *shape) for m, shape in SHAPES.items()}
        batch |= {f"valid/{m}": torch.ones(8, shape[0], dtype=torch.bool) for m, shape in SHAPES.items()}
    trainer = Trainer(method, NoFeatures(), settings.run, settings.optimiser, ".", card)
    with fake, torch.backends.cudnn.flags(enabled=False), Crossings() as crossings:
        losses, state, norm = trainer.train_step(batch)
    assert norm.device == card and {x.device for x in losses.values()} == {card} and crossings.found == []
