"""Training and evaluation of a query-based segmentation network on given frames and queries."""

import math
from pathlib import Path

import torch
from torch.nn import functional as F

from cmg.downstream.avs.checkpoints import BEST, build
from cmg.downstream.avs.losses import contrast, first_frame_bce, matching
from cmg.errors import UserError
from cmg.metrics.segmentation import Scores
from cmg.optimisation import rate_factor
from cmg.progress import Progress
from cmg.training import checkpoint
from cmg.training.batches import epoch_order
from cmg.training.recorder import Recorder


def batches(dataset, order, workers):
    """Loader over a list of lists of positions."""
    return torch.utils.data.DataLoader(dataset, batch_sampler=order, num_workers=workers)


def to_frames(pictures, device):
    """uint8 [B, T, h, w, 3] -> float [B, T, 3, h, w] in 0..1, on the device."""
    return pictures.to(device).permute(0, 1, 4, 2, 3).float() / 255


def distorted(frames, masks, most):
    """Move, turn and scale each clip at random; its frames and its mask alike, what comes in is black.

    frames : Tensor[B, T, 3, h, w]; masks : BoolTensor[B, n, h, w]; most : a clip is moved by up to this share of its
    side, scaled by a factor of up to 1 ± this and turned by up to this share of a right angle.
    """
    down, right, scale, turn = (most * (2 * torch.rand(4, len(frames)) - 1)).to(frames.device)
    scale, turn = 1 + scale, turn * math.pi / 2
    cos, sin = scale * turn.cos(), scale * turn.sin()
    affine = torch.stack([cos, -sin, 2 * right, sin, cos, 2 * down], 1).view(-1, 2, 3)  # sides run from -1 to 1
    grid = F.affine_grid(affine, [len(frames), 1, *frames.shape[-2:]], align_corners=False)  # (B, h, w, 2)
    moved = F.grid_sample(frames.flatten(1, 2), grid, align_corners=False).view_as(frames)  # channels are T·3
    return moved, F.grid_sample(masks.float(), grid, mode="nearest", align_corners=False) > 0.5


class Training:
    """A run from its first epoch to its last, which can stop after any and go on.

    Every epoch's order and distortions are a function of (seed, epoch), so that a resumed run repeats the same numbers.

    Parameters
    ----------
    options : dict of all flags
    folder : run folder
    train, val : S4Set
    queries : dict split -> dict modality -> Tensor[N, 5, Q]
    digest : number of the codebook
    """

    def __init__(self, options, folder, train, val, queries, digest, device):
        self.options, self.folder, self.device = options, Path(folder), device
        self.train_set, self.val_set, self.queries, self.digest = train, val, queries, digest
        classes = train.folder.classes
        self.labels = torch.tensor([classes.index(clip.category) for clip in train.clips], device=device)
        torch.manual_seed(options["seed"])
        self.source, self.target = options["source"], options["target"]
        self.width = queries["train"][self.source].shape[-1]
        self.net = build(options, self.width, options["backbone_weights"]).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=options["lr"], fused=device.type == "cuda")
        self.epoch, self.best = 0, dict.fromkeys(BEST, -1.0)

    def restore(self, content):
        """Go on from the content of a `latest.pt`."""
        self.net.load_state_dict(content["net"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.best = content["epoch"], content["best"]

    def run(self):
        """Train the epochs that are left."""
        options = self.options
        recorder = Recorder(self.folder, self.epoch + 1)
        recorder.settings(options)
        while self.epoch < options["epochs"]:
            values = self._train_epoch()
            val = {m: self.queries["val"][m] for m in {self.source, self.target}}
            scores = evaluate(self.net, self.val_set, val, options, self.device)
            deciding = {"strict": scores[self.source].strict().miou, "paper": scores[self.target].paper().miou}
            values |= {"val/miou_source": deciding["strict"], "val/miou_target": scores[self.target].strict().miou}
            self.epoch += 1
            recorder.write(self.epoch, self.epoch - 1, values)
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"epoch {self.epoch}/{options['epochs']}: {text}", flush=True)
            for protocol, value in deciding.items():
                if value > self.best[protocol]:  # the earlier one of equals
                    self.best[protocol] = value
                    checkpoint.save(self.folder / BEST[protocol], self._content())
            checkpoint.save(self.folder / "latest.pt", self._content() | {"optimizer": self.optimizer.state_dict()})
        recorder.close()

    def _content(self):
        return {"format": checkpoint.FORMAT, "task": "avs", "args": self.options, "net": self.net.state_dict(),
                "query_width": self.width, "digest": self.digest, "epoch": self.epoch, "best": dict(self.best)}

    def _train_epoch(self):
        options, net = self.options, self.net
        net.train()
        torch.manual_seed((options["seed"] * 1_000_003 + self.epoch) % 2**63)
        order = epoch_order(len(self.train_set), options["batch_size"], options["seed"], self.epoch)
        total, step = options["epochs"] * len(order), self.epoch * len(order)
        contrasts = options["w_contrast"] and options["query"] != "none"  # there is nothing to contrast with
        sums = torch.zeros(3, device=self.device)
        loader = batches(self.train_set, order, options["workers"])
        bar = Progress(len(order), "step", title=f"epoch {self.epoch + 1}", leave=False)
        for pictures, masks, index in bar.over(loader):
            for group in self.optimizer.param_groups:
                group["lr"] = options["lr"] * rate_factor(step, total, options["schedule"], options["warmup_steps"])
            n_frames = options["train_frames"]
            frames, masks = to_frames(pictures[:, :n_frames], self.device), masks.to(self.device)
            if options["distort"]:
                frames, masks = distorted(frames, masks, options["distort"])
            query = self.queries["train"][self.source][index, :n_frames].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=options["precision"] == "bf16"):
                maps = net.encode(frames)
                out = net.segment(maps, query, frames.shape[-2:])
                projections = net.projections(maps, query) if contrasts else []
            bce = first_frame_bce(out.logits, masks)
            match = matching(out.logits, out.maps, out.queries) if options["w_matching"] else bce.new_zeros(())
            against = contrast(projections, masks, self.labels[index]) if projections else bce.new_zeros(())
            loss = bce + options["w_matching"] * match + options["w_contrast"] * against
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            sums += torch.stack([bce.detach(), match.detach(), against.detach()])
            step += 1
        bce, match, against = (sums / len(order)).tolist()
        if not math.isfinite(bce + match + against):
            raise UserError(f"epoch {self.epoch + 1}: the loss is not finite; try a smaller --lr or --precision fp32")
        rate = self.optimizer.param_groups[0]["lr"]
        return {"loss/bce": bce, "loss/matching": match, "loss/contrast": against, "lr": rate}


@torch.no_grad()
def evaluate(net, dataset, queries, options, device):
    """Score one network under several queries; what does not depend on the query is computed once.

    queries : dict name -> Tensor[N, 5, Q]. Returns dict name -> Scores.
    """
    net.eval()
    scores = {name: Scores() for name in queries}
    order = torch.arange(len(dataset)).split(options["batch_size"])
    for pictures, masks, index in batches(dataset, [positions.tolist() for positions in order], options["workers"]):
        frames, masks = to_frames(pictures, device), masks.to(device).flatten(0, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=options["precision"] == "bf16"):
            maps = net.encode(frames)
            for name, vectors in queries.items():
                logits = net.segment(maps, vectors[index].to(device), frames.shape[-2:]).logits
                scores[name].add(logits.float().flatten(0, 1), masks)
    return scores
