"""The training loop: batches in, checkpoints out. It knows nothing of any method, only the four phases of `Method`."""

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from cmg.distributed import average_gradients, gather, mean_over_ranks, seed_shared, world
from cmg.errors import UserError
from cmg.metrics import codebook as codebook_metrics
from cmg.training import checkpoint
from cmg.training.compiler import compiled
from cmg.training.feed import BLOCKS, epoch_order, feed
from cmg.training.graph import StepGraph, load_optimizer, set_rate


def learning_rate(step, total, options):
    """Factor on the base rate at a step: linear warm-up, then constant or cosine to zero."""
    warm = options["warmup_steps"]
    if step < warm:
        return (step + 1) / warm
    if options["schedule"] == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """Everything a run carries from step to step, and how it is saved and restored.

    Parameters
    ----------
    method : Method on its device; features : FeatureSet; options : dict of all flags; folder : run folder (Path);
    device : torch.device.
    """

    def __init__(self, method, features, options, folder, device):
        self.method, self.features, self.options = method, features, options
        self.folder, self.device, (self.rank, self.size) = Path(folder), device, world()
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options["optimizer"]]
        self.parameters = method.trained_parameters()
        self.optimizer = kind(self.parameters, lr=options["lr"], weight_decay=options["weight_decay"], fused=True)
        self.encode, self.losses, self.update = method.encode, method.losses, method.update
        if options["compile"]:
            self.compile()
        self.epoch = self.batch = self.step = 0
        self.blocks = features.cache == "disk" and len(features) > BLOCKS * options["batch_size"]
        self.per_epoch = len(self.order())
        self.total = options["epochs"] * self.per_epoch
        if options["max_steps"] is not None:
            self.total = min(self.total, options["max_steps"])
        self.groups = method.clip_groups()
        if options["cuda_graph"]:
            optimizers = [self.optimizer, *method.inner_optimizers().values()]
            self.optimise = StepGraph(self.optimise, optimizers, device)

    def compile(self, backend="inductor"):
        """`torch.compile` the three phases of a step and the objectives of the terms' own steps, a graph each."""
        self.encode, self.losses, self.update = (
            compiled(phase, backend) for phase in (self.encode, self.losses, self.update)
        )
        for term in self.method.fitted():
            term.objective = compiled(term.objective, backend)

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, batch):
        """One optimiser step on this rank's clips of a batch. Returns (losses, state, gradient norm), the losses as
        means over ranks and parts; nothing is read back from the device.

        `--accumulate` N splits the batch into N parts whose gradients are averaged: clips are compared with those of
        their own part only, Ψ's vCLUB estimators take their steps on every part, and the codebook moves once, by the
        statistics of all parts together. With several ranks, each holds a slice of every part (`epoch_order`), and
        together they compute what one process computes with the same N.
        """
        seed_shared(self.options["seed"], self.step, self.device)
        if self.step == 0 and self.options["codebook_init"] != "uniform":
            self.initialise(batch)
        set_rate(self.optimizer, self.rate())
        return self.optimise(batch)

    def rate(self):
        """The learning rate of this step."""
        return self.options["lr"] * learning_rate(self.step, self.total, self.options)

    def optimise(self, batch):
        """What a step computes, without what the host decides for it: this part can be recorded as a CUDA graph."""
        options, parts = self.options, self.options["accumulate"]
        self.optimizer.zero_grad(set_to_none=True)
        found = [self.backward(part, 1 / parts) for part in split(batch, parts)]
        average_gradients(self.parameters)
        norms = [torch.nn.utils.clip_grad_norm_(g, options["clip_grad"] or math.inf) for g in self.groups]
        self.optimizer.step()
        state = joined([state for _, state in found])
        self.update(state)
        losses = {name: sum(values[name].detach() for values, _ in found) / parts for name in found[0][0]}
        return mean_over_ranks(losses), state, torch.stack(norms).norm()

    def backward(self, batch, weight):
        """Encode, fit, add the gradients of the weighted losses; returns (losses, state)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options["precision"] == "bf16"):
            state = self.encode(batch)
            self.method.fit(state)
            losses = self.losses(state)
        (weight * sum(losses.values())).backward()
        if weight < 1:  # one part of several: free what only the terms of this part needed
            state = replace(state, features={}, front={}, specific={}, pooled={})
        return losses, state

    @torch.no_grad()
    def initialise(self, batch):
        """Start the codebook from the first batch's semantic vectors."""
        was = self.method.training
        state = self.method.eval().encode(batch)
        self.method.train(was)
        semantic, valid = ({m: in_order(x.tensor_split(self.options["accumulate"])) for m, x in values.items()}
                           for values in (state.semantic, state.valid))
        self.method.model.codebook.initialise(semantic, valid, self.options["codebook_init"])

    # -- the run -------------------------------------------------------------------------------------------------

    def order(self):
        """This rank's batches of the current epoch."""
        return epoch_order(len(self.features), self.options["batch_size"], self.options["seed"], self.epoch,
                           self.rank, self.size, self.blocks, self.options["accumulate"])

    def loader(self):
        """What is left of the current epoch: batches on the device."""
        return feed(self.features, self.order()[self.batch :], self.device, self.options["workers"])

    def run(self, recorder, progress=True):
        """Train to the end, recording on rank 0 and writing checkpoints. `recorder` is None on other ranks."""
        self.method.train()
        quiet = None if progress else True  # None: only where stderr is a terminal
        with tqdm(total=self.total, initial=self.step, unit="step", disable=quiet, dynamic_ncols=True) as bar:
            while self.step < self.total:
                self.run_epoch(recorder, bar)
        if self.batch:  # --max-steps ended inside an epoch
            self.save(epoch_end=True)

    def run_epoch(self, recorder, bar):
        """The rest of the current epoch, or less if the run ends inside it."""
        options, begin, seen = self.options, time.monotonic(), 0
        for batch in self.loader():
            losses, state, norm = self.train_step(batch)
            seen += options["batch_size"]
            # On a CPU reading a loss costs nothing; on a GPU it would drain the queue, so there only when logging.
            log = self.step % options["log_every"] == 0 or self.step + 1 == self.total
            if log or self.device.type == "cpu":
                self.check(losses, norm)
            if log:
                self.log(recorder, losses, state, norm, seen / (time.monotonic() - begin), bar)
            self.step, self.batch = self.step + 1, self.batch + 1
            bar.update()
            if self.batch == self.per_epoch:
                self.epoch, self.batch = self.epoch + 1, 0
                self.check(losses, norm)
                self.save(epoch_end=True)
            elif options["save_every"] and self.step % options["save_every"] == 0:
                self.check(losses, norm)
                self.save(epoch_end=False)
            if self.step == self.total:
                break

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

    def log(self, recorder, losses, state, norm, rate, bar):
        values = {f"loss/{k}": v for k, v in losses.items()}
        values["loss/total"] = sum(values.values())
        values["train/grad_norm"] = norm
        values |= codebook_metrics.summary(self.method.model.codebook, state)  # a collective: all ranks come here
        if recorder is None:
            return
        numbers = torch.stack([v.float() for v in values.values()]).tolist()  # the one read-back
        values = dict(zip(values, numbers))
        values["train/lr"] = self.rate()
        values["train/clips_per_s"] = rate
        recorder.write(self.step, self.epoch, values)
        match = next((v for k, v in values.items() if k.startswith("codebook/match")), 0.0)
        bar.set_postfix_str(f"loss {values['loss/total']:.3f} match {match:.0f}% {rate:.0f} clips/s", refresh=False)

    # -- state ---------------------------------------------------------------------------------------------------

    def save(self, epoch_end):
        """Write `latest.pt`, and at the end of every `checkpoint_epochs`-th epoch and of the run `epoch_XXX.pt`."""
        streams = {"cpu": gather(torch.get_rng_state()[None].to(self.device)).cpu()}  # a row for every rank
        if self.device.type == "cuda":
            streams["cuda"] = gather(torch.cuda.get_rng_state(self.device)[None].to(self.device)).cpu()
        if self.rank:
            return
        number = self.epoch if self.batch else self.epoch - 1  # the epoch that these weights belong to
        part = checkpoint.inference_part(self.method, self.options, self.features.shapes, self.features.ids, number,
                                         self.step)
        due = (number + 1) % self.options["checkpoint_epochs"] == 0 or self.step == self.total
        if epoch_end and due:
            checkpoint.save(self.folder / f"epoch_{number:03d}.pt", part)
        rest = {k: v for k, v in self.method.state_dict().items() if not k.startswith("model.")}
        checkpoint.save(self.folder / "latest.pt", {
            **part,
            "method": rest,
            "optimizer": self.optimizer.state_dict(),
            "inner": {name: o.state_dict() for name, o in self.method.inner_optimizers().items()},
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step, "blocks": self.blocks},
            "streams": streams,
        })

    def restore(self, content, path):
        """Continue from the content of a `latest.pt`: to the same bits on as many processes as wrote it.

        On another number the batches, the weights and the draws that processes share are the same; only dropout
        starts on fresh streams.
        """
        if "optimizer" not in content:
            raise UserError(f"{path}: holds no training state to resume from (expected a latest.pt)")
        if {m: tuple(s) for m, s in content["shapes"].items()} != self.features.shapes:
            raise UserError(f"{path}: was trained on features of shapes {content['shapes']}, --data has "
                            f"{ {m: list(s) for m, s in self.features.shapes.items()} }")
        if content["pretrain_ids"] != self.features.ids:  # else the later checkpoints would deny the earlier clips
            raise UserError(f"--data: {len(self.features)} clips, not the {len(content['pretrain_ids'])} that {path} "
                            "was trained on; expected the same in the same order, or another --out")
        try:
            self.load(content, path)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a complete training state of these flags ({checkpoint.brief(error)})") \
                from None

    def load(self, content, path):
        """Take over a training state, whatever is in it."""
        state = {f"model.{k}": v for k, v in content["model"].items()} | content["method"]
        self.method.load_state_dict(state, strict=True)
        load_optimizer(self.optimizer, content["optimizer"])
        for name, optimizer in self.method.inner_optimizers().items():
            load_optimizer(optimizer, content["inner"][name])
        position = content["position"]
        if position["batch"] and position.get("blocks", False) != self.blocks:
            raise UserError(f"{path}: stopped inside an epoch that {'was' if not self.blocks else 'was not'} shuffled "
                            f"in blocks for --cache disk; expected --cache {'host' if self.blocks else 'disk'}")
        self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
        streams = content.get("streams", {"cpu": ()})
        if len(streams["cpu"]) == self.size:
            torch.set_rng_state(streams["cpu"][self.rank])
            if "cuda" in streams and self.device.type == "cuda":
                torch.cuda.set_rng_state(streams["cuda"][self.rank], self.device)
        else:
            torch.manual_seed(self.options["seed"] + 1_000_003 * self.step + self.rank)


def split(batch, parts):
    """A batch in equal parts along its clips."""
    pieces = {k: v.tensor_split(parts) for k, v in batch.items()}
    return [{k: v[i] for k, v in pieces.items()} for i in range(parts)]


def joined(states):
    """The states of a batch's parts as one, without gradients: what the codebook's update and the log read."""
    if len(states) == 1:
        return states[0]

    def join(name):
        return {m: in_order([getattr(s, name)[m] for s in states]) for m in states[0].valid}

    quantized = {m: q._make(in_order(parts) for parts in zip(*(s.quantized[m] for s in states)))
                 for m, q in states[0].quantized.items()}
    return replace(states[0], valid=join("valid"), semantic=join("semantic"), quantized=quantized)


def in_order(parts):
    """Tensors of a batch's parts, joined such that gathering the result over all ranks restores the batch's order.

    The codebook draws clips by their position in the gathered batch, so this position must not depend on the number
    of ranks.

    parts : list of Tensor[b, …], this rank's slice of every part. Returns this rank's Tensor[B, …], without gradient.
    """
    if len(parts) == 1:
        return parts[0]
    rank, size = world()
    return torch.cat([gather(part.detach()) for part in parts]).tensor_split(size)[rank]
