"""`--compile`: the phases of a step trace into one graph each, are traced once, and give the losses of eager mode."""

import pytest
import torch

from cmg.training.loop import Trainer
from support import DEVICE, trainer_of, write_clips


def losses_of(clips, flags, prepare):
    """The losses of one epoch's five steps; `prepare(trainer)` may compile."""
    trainer, found = trainer_of(clips, *flags, device=DEVICE), []
    prepare(trainer)
    for batch in trainer.loader():
        torch._dynamo.config.error_on_recompile = trainer.step > 1
        losses, *_ = trainer.train_step(batch)
        found.append(torch.stack(list(losses.values())))
        trainer.step += 1
    return torch.stack(found)


@pytest.fixture
def clips(tmp_path):
    yield str(write_clips(tmp_path / "clips.h5"))
    torch._dynamo.config.error_on_recompile = torch._dynamo.config.allow_rnn = False
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["official", "small"])  # every branch of the three
def test_no_graph_breaks_and_no_recompiles(clips, preset):
    """As on a card, but with a backend that runs what was traced: nothing has to be generated. Draws of equal length
    stay apart."""
    flags = ["--preset", preset]
    traced = losses_of(clips, flags, lambda trainer: trainer.compile("aot_eager"))
    torch.testing.assert_close(traced, losses_of(clips, flags, lambda trainer: None), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cpu", reason="code for a CPU takes minutes to generate; scripts/gpu_check.sh runs it")
def test_compiled_equals_eager(clips):
    flags = ["--modalities", "video", "audio"]
    compiled = losses_of(clips, flags, Trainer.compile)
    torch.testing.assert_close(compiled, losses_of(clips, flags, lambda trainer: None), rtol=1e-3, atol=1e-4)
