"""Does CMMixer separate what it mixed? Figures and pictures of a run's whole masked autoencoder.

    python -m cmg.downstream.separation --checkpoint checkpoint/cmmixer --data clips.h5
    python -m cmg.downstream.separation --checkpoint checkpoint/cmmixer --data synthetic --clips 6

On clips that it was not pretrained on, over the hidden patches alone, in units of the training clips' variance:

    rebuilt         error of a modality, rebuilt from the mixture with its own clip's other modality
    other clip      the same where the other modality's pixels are those of another clip, at the same places, with the
                    same patches hidden; a larger error shows that one modality is read out of the other
    alone, other    the other modality alone is seen, of the clip itself or of another clip
    mean picture    error of the mean of all these clips' pictures, which is the best that knows nothing of the clip

`separation.json` holds them with standard errors over clips, `separation.png` (and .pdf) shows some clips: the mixture,
what is seen of it, and both modalities rebuilt and as they were. The decoder is needed, which latest.pt alone holds.
"""

import json
from pathlib import Path

import torch
from matplotlib.colors import to_rgb

from cmg.cli import Parser, command, require_folder, whole
from cmg.data.features import FeatureSet
from cmg.distributed import choose_device, seed_shared
from cmg.downstream.results import markdown_table, printed
from cmg.downstream.task import DATA, add_place_flags, synthetic_of, task_parser
from cmg.errors import UserError
from cmg.figures import mixtures
from cmg.figures.style import SKY, save
from cmg.files import write_atomically
from cmg.methods.cmmixer.grid import fold, patchify, unfold, unpatchify
from cmg.methods.cmmixer.method import CMMixer
from cmg.methods.cmmixer.mixing import mix
from cmg.methods.cmmixer.model import picture_kind
from cmg.training.state import load_whole

AT_ONCE = 100  # clips


def held_out(features, content, where):
    """Rows of the clips that a checkpoint was not pretrained on, and that have both modalities."""
    known = set(content["pretrain_ids"])
    rows = []
    for some in torch.tensor([row for row, name in enumerate(features.ids) if name not in known]).split(AT_ONCE):
        batch = features.stored(some)
        there = torch.stack([batch[f"valid/{m}"].any(1) for m in features.modalities]).all(0)
        rows += some[there.cpu()].tolist()
    if len(rows) < 2:
        raise UserError(f"{where}: {len(rows)} clips that the checkpoint was not pretrained on, and that have both "
                        "modalities; expected two at least")
    return rows


@torch.no_grad()
def errors(method, pictures, mode, seed):
    """Errors of every clip over its hidden patches, rebuilt from its own and from another clip's other modality.

    pictures : dict modality -> Tensor[B, P, 3, S, S]. mode : of the mixer, or "alone": the other modality alone.
    Returns dict modality -> (own Tensor[B], another's Tensor[B], the mean picture's Tensor[B]).
    """
    config, (first, second), found = method.config, pictures, {}

    def rebuilt(m, partner):
        """Modality m of its own clip, the other of `partner`."""
        seen = {name: x if name == m else x[partner] for name, x in pictures.items()}
        seed_shared(seed, 0, x.device)  # the same places, the same patches hidden
        if mode == "alone":
            mixed = seen[second if m == first else first]
        else:
            mixed = mix(seen[first], seen[second], mode, config.pixel_rate, config.pixel_map == "exact").pictures
        mask, predictions = method.reconstruct(mixed)
        target = method.targets(pictures[m])
        return mask, of_hidden(predictions[m], target, mask), of_hidden(target.mean(0, keepdim=True), target, mask)

    for m, x in pictures.items():
        itself = torch.arange(len(x), device=x.device)
        _, own, mean = rebuilt(m, itself)
        found[m] = own, rebuilt(m, itself.roll(1))[1], mean
    return found


def of_hidden(prediction, target, mask):
    """Mean squared error of every clip over its hidden patches, Tensor[B]."""
    error = (prediction - target).square().mean(-1)
    return (error * mask).sum(1) / mask.sum(1)


def measured(method, features, rows, seed, device) -> list[dict]:
    """A row of figures for every modality."""
    mode = method.config.mix
    found = {m: {"mixed": [], "alone": []} for m in method.model.modalities}
    for number, some in enumerate(torch.tensor(rows).split(AT_ONCE)):
        if len(some) < 2:
            break  # there is no other clip
        pictures = pictures_of(method, features, some.tolist(), device)
        for kind, how in (("mixed", mode), ("alone", "alone")):
            for m, values in errors(method, pictures, how, seed + number).items():
                found[m][kind].append(torch.stack(values, 1).cpu())
    table = []
    for m, parts in found.items():
        row = {"modality": m, "mix": mode, "clips": len(torch.cat(parts["mixed"]))}
        for kind, values in parts.items():
            own, other, mean = torch.cat(values).double().unbind(1)
            row |= {f"{kind}_own": own.mean().item(), f"{kind}_other": other.mean().item(),
                    f"{kind}_gain": (other - own).mean().item(), f"{kind}_gain_error": standard_error(other - own)}
            if kind == "mixed":
                row |= {"mean_picture": mean.mean().item(), "over_mean": (mean - own).mean().item(),
                        "over_mean_error": standard_error(mean - own)}
        table.append(row)
    return table


def standard_error(values):
    return (values.std() / len(values) ** 0.5).item()


@torch.no_grad()
def pictures_of(method, features, rows, device):
    """The pictures of clips as a step reads them, dict modality -> Tensor[B, P, 3, S, S]; not augmented."""
    batch = {k: v.to(device) for k, v in features.__getitems__(rows).items()}
    state = method.read(batch)
    return {m: x[state.exists] for m, x in state.pictures.items()}


@torch.no_grad()
def shown(method, pictures, names, seed):
    """What `cmg.figures.mixtures.draw` draws: the clips' folded pictures side by side, and the columns' titles."""
    model, config = method.model, method.config
    first, second = model.modalities
    seed_shared(seed, 0, next(iter(pictures.values())).device)
    mixed = mix(*pictures.values(), config.mix, config.pixel_rate, config.pixel_map == "exact")
    mask, predictions = method.reconstruct(mixed.pictures)
    patch, rows, positions = model.config.patch, model.config.grid[0], model.config.positions

    def beside(x):
        """[B, P, 3, S, S] as arrays [S, P · S, 3]."""
        return x.permute(0, 3, 1, 4, 2).flatten(2, 3).cpu().numpy()

    def undone(patches):
        return unfold(unpatchify(patches, patch, rows), positions)

    def filled(m):
        """A modality's own visible patches, and what is rebuilt of the others."""
        target, predicted = method.targets(pictures[m]), predictions[m]
        return undone(torch.where(mask[..., None], predicted, target))

    def coloured(m, x):
        """In colours between 0 and 1 if these are frames, else one channel."""
        if picture_kind(model.shapes[m]) == "maps":
            return [picture[..., 0] for picture in beside(x)]
        if model.config.targets == "patch":  # a patch's own mean and spread are not known of it
            return list(beside((x + 2) / 4))
        mean, spread = (getattr(part, m).view(3, 1, 1) for part in (model.mean, model.spread))
        return list(beside(x * spread + mean))

    both = torch.where(mask[..., None], float("nan"), patchify(fold(mixed.pictures), patch))
    seen = (undone(both) + 2) / 4
    hidden = torch.tensor(to_rgb(SKY)).to(seen).view(3, 1, 1)
    columns = {"mixture": list(beside((mixed.pictures + 2) / 4)),
               "what is seen": list(beside(torch.where(seen.isnan(), hidden, seen)))}
    for m in (first, second):
        columns |= {f"{m}, rebuilt": coloured(m, filled(m)), m: coloured(m, undone(method.targets(pictures[m])))}
    return {name: [arrays[i] for arrays in columns.values()] for i, name in enumerate(names)}, list(columns)


def parser() -> Parser:
    p = task_parser("cmg.downstream.separation", "Does CMMixer separate what it mixed?", "a run folder, or its "
                    "latest.pt")
    p.add_argument("--data", nargs="+", required=True, help=f"{DATA}; raw clips")
    p.add_argument("--clips", type=whole(1), default=4, help="that are drawn")
    p.add_argument("--seed", type=whole(), default=0, help="of the mixtures and of what is hidden")
    return add_place_flags(p, "separation.json and the picture")


@command
def main(argv=None):
    args = parser().parse_args(argv)
    if args.out:
        require_folder(args.out)
    device = choose_device(args.device)
    method, content = load_whole(args.checkpoint, CMMixer, device, args.method)
    files = synthetic_of(args.data, content, args.checkpoint, args.method)
    features = FeatureSet([files.ave] if files else args.data, method.model.modalities, "disk")
    method.model.check(features)
    rows = held_out(features, content, "--data")
    table = measured(method, features, rows, args.seed, device)
    place = Path(args.checkpoint)
    out = Path(args.out) if args.out else place if place.is_dir() else place.parent
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "separation.json", json.dumps(table, indent=1) + "\n")
    print(printed(markdown_table(
        ["modality", "rebuilt", "other clip", "gain", "alone, own", "alone, other", "gain", "mean picture", "clips"],
        [[row["modality"], *(f"{row[name]:.3f}" for name in ("mixed_own", "mixed_other")),
          f"{row['mixed_gain']:.4f} ± {row['mixed_gain_error']:.4f}",
          *(f"{row[name]:.3f}" for name in ("alone_own", "alone_other")),
          f"{row['alone_gain']:.4f} ± {row['alone_gain_error']:.4f}", f"{row['mean_picture']:.3f}", str(row["clips"])]
         for row in table])) + "\n")
    print(out / "separation.json")
    few = rows[: args.clips]
    pictures = pictures_of(method, features, few, device)
    names = [features.ids[row] for row in few]
    print(save(mixtures.draw(*shown(method, pictures, names, args.seed)), out / "separation.png"))
    return table


if __name__ == "__main__":
    main()
