"""The training loop: batches in, checkpoints out. It knows nothing of any method, only the four phases of `Method`."""

import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from cmg.errors import UserError
from cmg.metrics import codebook as codebook_metrics
from cmg.training import checkpoint
from cmg.training.distributed import average_gradients


def epoch_order(n, batch_size, seed, epoch, rank=0, size=1):
    """Batches of one epoch, a list of lists of rows: a pure function of (seed, epoch), so that a resumed run sees
    the same batches. Every process takes its slice of every batch; the last incomplete batch is left out, unless it
    is the only one."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(n, generator=generator)
    full = max(1, n // batch_size)
    share = math.ceil(min(batch_size, n) / size)
    batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(full)]
    return [b[rank * share : (rank + 1) * share].tolist() for b in batches]


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
    device : torch.device; rank, size : of the process group.
    """

    def __init__(self, method, features, options, folder, device, rank=0, size=1):
        self.method, self.features, self.options = method, features, options
        self.folder, self.device, self.rank, self.size = Path(folder), device, rank, size
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options["optimizer"]]
        self.parameters = method.trained_parameters()
        self.optimizer = kind(
            self.parameters, lr=options["lr"], weight_decay=options["weight_decay"],
            fused=device.type == "cuda",
        )
        if options["compile"]:
            method.compile_parts()
        self.epoch = self.batch = self.step = 0
        self.per_epoch = len(epoch_order(len(features), options["batch_size"], 0, 0))
        self.total = options["epochs"] * self.per_epoch
        if options["max_steps"] is not None:
            self.total = min(self.total, options["max_steps"])
        self.groups = method.clip_groups()

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, batch):
        """Run the four phases on one batch. Returns (losses, state); nothing is read back from the device."""
        method, options = self.method, self.options
        if self.step == 0 and options["codebook_init"] != "uniform":
            self.initialise(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = options["lr"] * learning_rate(self.step, self.total, options)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=options["precision"] == "bf16"):
            state = method.encode(batch)
            method.fit(state)
            losses = method.losses(state)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        average_gradients(self.parameters)
        norms = [torch.nn.utils.clip_grad_norm_(g, options["clip_grad"] or math.inf) for g in self.groups]
        self.optimizer.step()
        method.update(state)
        return losses, state, torch.stack(norms).norm()

    @torch.no_grad()
    def initialise(self, batch):
        """Start the codebook from the first batch's semantic vectors."""
        was = self.method.training
        state = self.method.eval().encode(batch)
        self.method.train(was)
        self.method.model.codebook.initialise(state.semantic, state.valid, self.options["codebook_init"])

    # -- the run -------------------------------------------------------------------------------------------------

    def loader(self):
        batches = epoch_order(len(self.features), self.options["batch_size"], self.options["seed"], self.epoch,
                              self.rank, self.size)[self.batch :]
        workers = self.options["workers"] if self.features.cache == "disk" else 0
        return torch.utils.data.DataLoader(
            self.features, batch_sampler=batches, collate_fn=keep, num_workers=workers,
            pin_memory=self.device.type == "cuda", prefetch_factor=4 if workers else None,
            # A loader draws a seed when it is opened; from the global stream, a resumed run would draw once more.
            generator=torch.Generator(),
        )

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
            batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items() if k != "index"}
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
        finite = torch.stack([value.detach() for value in values.values()]).isfinite().tolist()
        if not all(finite):
            bad = ", ".join(n for n, ok in zip(values, finite) if not ok)
            kept = self.folder / "latest.pt"
            where = f"last good state: {kept}" if kept.exists() else "no checkpoint was written yet"
            raise UserError(f"loss term {bad} is not finite at step {self.step}; {where}")

    def log(self, recorder, losses, state, norm, rate, bar):
        if recorder is None:
            return
        values = {f"loss/{k}": v.detach() for k, v in losses.items()}
        values["loss/total"] = sum(values.values())
        values["train/grad_norm"] = norm
        values |= codebook_metrics.summary(self.method.model.codebook, state)
        numbers = torch.stack([v.float() for v in values.values()]).tolist()  # the one read-back
        values = dict(zip(values, numbers))
        values["train/lr"] = self.optimizer.param_groups[0]["lr"]
        values["train/clips_per_s"] = rate
        recorder.write(self.step, self.epoch, values)
        match = next((v for k, v in values.items() if k.startswith("codebook/match")), 0.0)
        bar.set_postfix_str(f"loss {values['loss/total']:.3f} match {match:.0f}% {rate:.0f} clips/s", refresh=False)

    # -- state ---------------------------------------------------------------------------------------------------

    def save(self, epoch_end):
        """Write `latest.pt`, and at the end of every `checkpoint_epochs`-th epoch and of the run `epoch_XXX.pt`."""
        if self.rank:
            return
        number = self.epoch if self.batch else self.epoch - 1  # the epoch that these weights belong to
        part = checkpoint.inference_part(self.method, self.options, self.features.shapes, self.features.ids, number,
                                         self.step)
        due = (number + 1) % self.options["checkpoint_epochs"] == 0 or self.step == self.total
        if epoch_end and due:
            checkpoint.save(self.folder / f"epoch_{number:03d}.pt", part)
        rest = {k: v for k, v in self.method.state_dict().items() if not k.startswith("model.")}
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(self.folder / "latest.pt", {
            **part,
            "method": rest,
            "optimizer": self.optimizer.state_dict(),
            "inner": {name: o.state_dict() for name, o in self.method.inner_optimizers().items()},
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "rng": rng,
        })

    def restore(self, content, path):
        """Continue from the content of a `latest.pt`."""
        if "optimizer" not in content:
            raise UserError(f"{path}: holds no training state to resume from (expected a latest.pt)")
        if {m: tuple(s) for m, s in content["shapes"].items()} != self.features.shapes:
            raise UserError(f"{path}: was trained on features of shapes {content['shapes']}, --data has "
                            f"{ {m: list(s) for m, s in self.features.shapes.items()} }")
        state = {f"model.{k}": v for k, v in content["model"].items()} | content["method"]
        self.method.load_state_dict(state, strict=True)
        self.optimizer.load_state_dict(content["optimizer"])
        for name, optimizer in self.method.inner_optimizers().items():
            optimizer.load_state_dict(content["inner"][name])
        position = content["position"]
        self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
        torch.set_rng_state(content["rng"]["cpu"])
        if "cuda" in content["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["rng"]["cuda"], self.device)


def keep(batch):
    """The feature set hands out whole batches: nothing to collate."""
    return batch
