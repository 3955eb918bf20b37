"""The training loop: batches in, checkpoints out. Of a method it knows what `cmg.methods.contract` says, no more."""

import math
import sys
import time
from pathlib import Path

import torch

import cmg
from cmg.data.numbers import measure, sample
from cmg.distributed import average_gradients, from_all, gather, mean_over_ranks, seed_shared, world
from cmg.errors import UserError
from cmg.methods import registry
from cmg.optimisation import set_rate
from cmg.progress import Progress
from cmg.training import checkpoint
from cmg.training.batches import BLOCKS, epoch_order, on_device
from cmg.training.compiler import compiled
from cmg.training.graph import StepGraph
from cmg.training.pauses import LEAVE, Pauses
from cmg.training.state import kept_prefix


class Trainer:
    """Everything a run carries from step to step, and how it is saved; `cmg.training.state` goes on from it.

    Parameters
    ----------
    method : Method on its device
    features : FeatureSet
    run, optimiser : RunConfig and OptimiserConfig
    folder : run folder
    device : torch.device
    settings : dict of all flags, as checkpoints hold them
    """

    def __init__(self, method, features, run, optimiser, folder, device, settings=None):
        self.method, self.features, self.config, self.optimising = method, features, run, optimiser
        self.folder, self.device, (self.rank, self.size) = Path(folder), device, world()
        self.settings = settings or {}
        self.origin = registry.origin(self.settings.get("method", "unicode"))
        self.parameters = method.trained_parameters()
        self.optimizer = optimiser.build(method.parameter_groups(optimiser))
        self.groups = method.clip_groups()
        self.encode, self.losses, self.update = method.encode, method.losses, method.update
        if run.compile:
            self.compile()
        self.epoch = self.batch = self.step = 0
        self.numerics, self.earlier_ids, self.started = cmg.NUMERICS, [], False
        self.blocks = features.cache == "disk" and len(features) > BLOCKS * optimiser.batch_size
        self.per_epoch = len(self.order())
        self.total = run.epochs * self.per_epoch
        if run.max_steps is not None:
            self.total = min(self.total, run.max_steps)
        if run.cuda_graph:
            optimizers = [self.optimizer, *method.inner_optimizers().values()]
            self.optimise = StepGraph(self.optimise, optimizers, device)

    def compile(self, backend="inductor"):
        """`torch.compile` the three phases of a step and what the method's own steps lower, a graph each."""
        self.encode, self.losses, self.update = (
            compiled(phase, backend) for phase in (self.encode, self.losses, self.update)
        )
        for owner, name in self.method.compiled_functions():
            setattr(owner, name, compiled(getattr(owner, name), backend))

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, batch):
        """One optimiser step on this rank's clips of a batch. Returns (losses, carried, gradient norm): the losses as
        means over ranks and micro-batches, and what the method carries from the step; nothing is read back from the
        device.

        `--accumulate` N splits the batch into N micro-batches whose gradients are averaged: clips are compared with
        those of their own alone, the method's own steps are taken on every one, and its update comes once, of what all
        carry together. With several ranks, each holds a slice of every micro-batch (`epoch_order`), and together they
        compute what one process computes with the same N.
        """
        seed_shared(self.config.seed, self.step, self.device)
        batch = self.method.kept().feature_scale.batch(batch)
        if self.step == 0 and self.method.starts_from_data and not self.started:
            self.begin(batch)
        set_rate(self.optimizer, self.rate())
        return self.optimise(batch)

    def rate(self):
        """The learning rate of this step."""
        return self.optimising.rate(self.step, self.total, self.per_epoch)

    def optimise(self, batch):
        """What a step computes, without what the host decides for it: this part can be recorded as a CUDA graph."""
        number = self.optimising.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        found = [self.backward(micro, 1 / number) for micro in split(batch, number)]
        average_gradients(self.parameters)
        norms = [torch.nn.utils.clip_grad_norm_(g, self.optimising.clip_grad or math.inf) for g in self.groups]
        self.optimizer.step()
        carried = joined([carried for _, carried in found])
        self.update(carried)
        losses = {name: sum(values[name].detach() for values, _ in found) / number for name in found[0][0]}
        return mean_over_ranks(losses), carried, torch.stack(norms).norm()

    def backward(self, batch, weight):
        """Encode, take the method's own steps, add the gradients of the losses; returns (losses, carried)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            state = self.encode(batch)
            self.method.fit(state)
            losses = self.losses(state)
        (weight * sum(losses.values())).backward()
        return losses, self.method.carry(state)

    @torch.no_grad()
    def begin(self, batch):
        """Let the method start from the first batch."""
        was = self.method.training
        carried = self.method.carry(self.method.eval().encode(batch))
        self.method.train(was)
        number = self.optimising.accumulate
        self.method.begin(mapped(lambda x: in_order(x.tensor_split(number)), carried))

    def measure(self):
        """See what the numbers of the features are like, and whether they are to be standardised: of the same clips,
        whatever the batches and the number of processes."""
        kept = self.method.kept()
        clips, scale, mode = sample(self.features), kept.feature_scale, self.config.standardise
        for m in self.features.modalities:
            if m in scale.known:  # of the run whose weights this one begins with
                continue
            # the first rank's for all, or the last bit might differ between machines
            found = from_all(measure(clips[m], clips[f"valid/{m}"]))[0]
            if found and scale.learn(m, found, "off" if kept.scales_itself else mode) and not self.rank:
                print(f"{m} features have mean {found.mean:.3g} and deviation {found.deviation:.3g}; they are brought "
                      f"to 0 and 1 (--standardise {mode})", file=sys.stderr)
        scale.to(self.device)

    # -- the run -------------------------------------------------------------------------------------------------

    def order(self):
        """This rank's batches of the current epoch."""
        return epoch_order(len(self.features), self.optimising.batch_size, self.config.seed, self.epoch, self.rank,
                           self.size, self.blocks, self.optimising.accumulate)

    def loader(self):
        """What is left of the current epoch: batches on the device."""
        self.features.draw(self.config.seed, self.epoch)
        return on_device(self.features, self.order()[self.batch :], self.device, self.config.workers)

    def run(self, recorder, progress=True):
        """Train to the end, recording on rank 0 and writing checkpoints. `recorder` is None on other ranks.

        Returns None, or the signal that ended the run before its end, at a step that `latest.pt` goes on from ("a
        signal" where another process heard it).
        """
        if self.step == 0:
            self.measure()
        self.method.train()
        bar = Progress(self.total, "step", self.step, every=None, quiet=not progress)
        with bar, Pauses(self.config.save_every, self.config.timeout_minutes) as pauses:
            while self.step < self.total:
                if self.run_epoch(recorder, bar, pauses) == LEAVE and self.step < self.total:
                    return pauses.heard or "a signal"
        if self.batch:  # --max-steps ended inside an epoch
            self.save(epoch_end=True)

    def run_epoch(self, recorder, bar, pauses):
        """The rest of the current epoch, or less if the run ends inside it; returns what `pauses` said last."""
        config, began, seen = self.config, time.monotonic(), 0
        self.method.begin_epoch(self.epoch, config.epochs)
        for batch in self.loader():
            losses, carried, norm = self.train_step(batch)
            seen += self.optimising.batch_size
            # On a CPU reading a loss costs nothing; on a GPU it would drain the queue, so there only when logging.
            log = self.step % config.log_every == 0 or self.step + 1 == self.total
            if log or self.device.type == "cpu":
                self.check(losses, norm)
            if log:
                self.log(recorder, losses, carried, norm, seen / (time.monotonic() - began), bar)
            self.step, self.batch = self.step + 1, self.batch + 1
            bar.advance()
            asked = pauses()
            if self.batch == self.per_epoch:
                self.epoch, self.batch = self.epoch + 1, 0
                self.check(losses, norm)
                self.save(epoch_end=True)
                pauses.saved()
            elif asked:
                self.check(losses, norm)
                self.save(epoch_end=False)
            if asked == LEAVE or self.step == self.total:
                break
        return asked

    def check(self, losses, norm):
        """Stop on a loss or a gradient that is not finite, naming the term; what is on disk is still good."""
        values = losses | {"(gradient norm)": norm}
        finite = torch.stack(list(values.values())).isfinite().tolist()
        if not all(finite):
            bad = ", ".join(n for n, ok in zip(values, finite) if not ok)
            raise UserError(f"loss term {bad} is not finite at step {self.step}; {self.last_good()}")

    def last_good(self):
        kept = self.folder / "latest.pt"
        return f"last good state: {kept}" if kept.exists() else "no checkpoint was written yet"

    def log(self, recorder, losses, carried, norm, rate, bar):
        values = {f"loss/{k}": v for k, v in losses.items()}
        values["loss/total"] = sum(values.values())
        values["train/grad_norm"] = norm
        values |= self.method.metrics(carried)  # a collective: all ranks come here
        if recorder is None:
            return
        numbers = torch.stack([v.float() for v in values.values()]).tolist()  # the one read-back
        values = dict(zip(values, numbers))
        values["train/lr"] = self.rate()
        values["train/clips_per_s"] = rate
        recorder.write(self.step, self.epoch, values)
        told = [f"epoch {self.epoch}", f"loss {values['loss/total']:.3f}"]
        told += [f"match {v:.0f}%" for k, v in values.items() if k.startswith("codebook/match")][:1]
        bar.tell(", ".join([*told, f"{rate:.0f} clips/s"]))

    # -- state ---------------------------------------------------------------------------------------------------

    def save(self, epoch_end):
        """Write `latest.pt`, and at the end of every `checkpoint_epochs`-th epoch and of the run `epoch_XXX.pt`."""
        streams = {"cpu": gather(torch.get_rng_state()[None].to(self.device)).cpu()}  # a row for every rank
        if self.device.type == "cuda":
            streams["cuda"] = gather(torch.cuda.get_rng_state(self.device)[None].to(self.device)).cpu()
        if self.rank:
            return
        number = self.epoch if self.batch else self.epoch - 1  # the epoch that these weights belong to
        content = checkpoint.inference_part(self.method.kept(), self.settings, self.origin, self.features, number,
                                            self.step, self.numerics, self.earlier_ids)
        due = (number + 1) % self.config.checkpoint_epochs == 0 or self.step == self.total
        if epoch_end and due:
            checkpoint.save(self.folder / f"epoch_{number:03d}.pt", content)
        prefix = kept_prefix(self.method)
        checkpoint.save(self.folder / "latest.pt", {
            **content,
            "method": {k: v for k, v in self.method.state_dict().items() if not k.startswith(prefix)},
            "optimizer": self.optimizer.state_dict(),
            "inner": {name: o.state_dict() for name, o in self.method.inner_optimizers().items()},
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step, "blocks": self.blocks},
            "streams": streams,
        })


def split(batch, number):
    """A batch in equal micro-batches along its clips."""
    pieces = {k: v.tensor_split(number) for k, v in batch.items()}
    return [{k: v[i] for k, v in pieces.items()} for i in range(number)]


def mapped(function, *trees):
    """Nested dicts of the same form, tensor by tensor."""
    return {k: mapped(function, *(tree[k] for tree in trees)) if isinstance(v, dict)
            else function(*(tree[k] for tree in trees)) for k, v in trees[0].items()}


def joined(carried):
    """What the micro-batches of a batch carry, as one."""
    return carried[0] if len(carried) == 1 else mapped(lambda *pieces: in_order(pieces), *carried)


def in_order(pieces):
    """Tensors of a batch's micro-batches, joined such that gathering the result over all ranks restores the batch's
    order.

    A codebook picks clips by their position in the gathered batch, so this position must not depend on the number of
    ranks.

    pieces : list of Tensor[b, …], this rank's slice of every micro-batch. Returns this rank's Tensor[B, …].
    """
    if len(pieces) == 1:
        return pieces[0]
    rank, size = world()
    return torch.cat([gather(piece) for piece in pieces]).tensor_split(size)[rank]
