"""Does CMMixer separate what it mixed? Figures and pictures of a run's whole masked autoencoder.

    python -m cmg.downstream.separation --checkpoint checkpoint/cmmixer --data clips.h5
    python -m cmg.downstream.separation --checkpoint checkpoint/cmmixer --data synthetic --clips 6

On clips that it was not pretrained on, over the hidden patches alone, a modality is rebuilt

    own             from the mixture with its own clip's other modality
    other           the same where the other modality's pixels are those of another clip, at the same places, with the
                    same patches hidden
    mean picture    as the mean of all these clips' pictures, which is the best that knows nothing of the clip

and again where the other modality *alone* is seen. Figures are shares of the mean picture's squared error, in percent:

    explained, alone_explained    what is rebuilt of it, (mean picture - own) / mean picture
    gain, alone_gain              (other - own) / mean picture: what is read out of the other modality, and not guessed

with standard errors over clips (`test_error`). `results.json` holds them, from `source` to the `target` that is
rebuilt; `separation.png` (and .pdf) shows some clips: the mixture, what is seen of it, and both modalities rebuilt and
as they were. The decoder is needed, which latest.pt alone holds.
"""

from pathlib import Path

import torch
from matplotlib.colors import to_rgb

from cmg.cli import Parser, command, git_commit, whole
from cmg.data.features import FeatureSet
from cmg.distributed import choose_device, seed_shared
from cmg.downstream.results import markdown_table, prepare_results, printed, result, rounded, write_results
from cmg.downstream.task import DATA, STRICT, add_place_flags, synthetic_of, task_parser
from cmg.errors import UserError
from cmg.figures import mixtures
from cmg.figures.style import SKY, save
from cmg.methods.cmmixer.grid import fold, patchify, unfold, unpatchify
from cmg.methods.cmmixer.method import CMMixer
from cmg.methods.cmmixer.model import picture_kind
from cmg.training.checkpoint import numerics_of
from cmg.training.recorder import tell_run
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
def errors(method, pictures, alone, seed):
    """Errors of every clip over its hidden patches, rebuilt from its own and from another clip's other modality.

    pictures : dict modality -> Tensor[B, P, 3, S, S]. alone : whether the other modality alone is seen, or the mixture.
    Returns dict modality -> (own Tensor[B], another's Tensor[B], the mean picture's Tensor[B]).
    """
    (first, second), found = pictures, {}

    def rebuilt(m, partner):
        """Modality m of its own clip, the other of `partner`."""
        seen = {name: x if name == m else x[partner] for name, x in pictures.items()}
        seed_shared(seed, 0, x.device)  # the same places, the same patches hidden
        mask, predictions = method.reconstruct(seen[second if m == first else first] if alone
                                               else method.mixture(seen).pictures)
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
    """Rows of `results.json` less checkpoint and commit: modalities × figures."""
    first, second = method.model.modalities
    kinds = {"": False} if method.config.mix == "apart" else {"": False, "alone_": True}
    found = {(m, kind): [] for m in (first, second) for kind in kinds}
    for number, some in enumerate(torch.tensor(rows).split(AT_ONCE)):
        if len(some) < 2:
            break  # there is no other clip
        pictures = pictures_of(method, features, some.tolist(), device)
        for kind, alone in kinds.items():
            for m, values in errors(method, pictures, alone, seed + number).items():
                found[m, kind].append(torch.stack(values, 1).cpu())
    table = []
    for (m, kind), parts in found.items():
        own, other, mean = torch.cat(parts).double().unbind(1)
        known = {"mix": method.config.mix} | {name: rounded(x.mean().item()) for name, x in (
            ("own_error", own), ("other_error", other), ("mean_picture_error", mean))}
        for name, less in (("explained", mean - own), ("gain", other - own)):
            share = 100 * less / mean.mean()
            table.append(result("separation", second if m == first else first, m, STRICT._replace(seed=seed),
                                kind + name, share.mean().item(), None, None, 0.0, 0, len(own), **known,
                                test_error=rounded(standard_error(share))))
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
    model = method.model
    first, second = model.modalities
    seed_shared(seed, 0, next(iter(pictures.values())).device)
    mixed = method.mixture(pictures).pictures
    mask, predictions = method.reconstruct(mixed)
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

    def visible(x):
        """Of what is seen, in colours, what is not hidden."""
        seen = (undone(torch.where(mask[..., None], float("nan"), patchify(fold(x), patch))) + 2) / 4
        return list(beside(torch.where(seen.isnan(), torch.tensor(to_rgb(SKY)).to(seen).view(3, 1, 1), seen)))

    if method.config.mix == "apart":
        columns = {f"{m}, what is seen": visible(x) for m, x in mixed.items()}
    else:
        columns = {"mixture": list(beside((mixed + 2) / 4)), "what is seen": visible(mixed)}
    for m in (first, second):
        columns |= {f"{m}, rebuilt": coloured(m, filled(m)), m: coloured(m, undone(method.targets(pictures[m])))}
    return {name: [arrays[i] for arrays in columns.values()] for i, name in enumerate(names)}, list(columns)


def parser() -> Parser:
    p = task_parser("separation", checkpoint="a run folder, or its latest.pt")
    p.add_argument("--data", nargs="+", required=True, help=f"{DATA}; raw clips")
    p.add_argument("--clips", type=whole(1), default=4, help="that are drawn")
    p.add_argument("--seed", type=whole(), default=0, help="of the mixtures and of what is hidden")
    return add_place_flags(p, "results.json and the picture")


def table(rows: list[dict]) -> str:
    """A line for every modality."""
    lines = {}
    for row in rows:
        lines.setdefault((row["source"], row["target"]), {})[row["metric"]] = row
    names = list(dict.fromkeys(row["metric"] for row in rows))

    def figure(row):
        return f"{row['value']:.1f} ± {row['test_error']:.1f}"

    return markdown_table(
        ["rebuilt", *(f"{name.replace('_', ', ')}, %" for name in names), "error", "of the mean picture", "clips"],
        [[f"{target}, beside {source}", *(figure(found[name]) for name in names),
          *(f"{found['explained'][name]:.3f}" for name in ("own_error", "mean_picture_error")),
          str(found["explained"]["n_test"])] for (source, target), found in lines.items()])


@command
def main(argv=None):
    args = parser().parse_args(argv)
    place = Path(args.checkpoint)
    folder = place if place.is_dir() else place.parent
    out = Path(args.out or folder)
    device = choose_device(args.device)
    method, content = load_whole(args.checkpoint, CMMixer, device, args.method)
    prepare_results(out)
    files = synthetic_of(args.data, content, args.checkpoint, args.method)
    features = FeatureSet([files.ave] if files else args.data, method.model.modalities, "disk")
    method.model.check(features)
    rows = held_out(features, content, "--data")
    origin = {"checkpoint": str(args.checkpoint), "epoch": content["epoch"],
              "pretrain_seed": content["args"].get("seed"), "commit": git_commit(),
              "numerics": numerics_of(content)}
    found = [row | origin for row in measured(method, features, rows, args.seed, device)]
    written = write_results(out, found)
    print(f"Separation, {args.checkpoint}\n\n{printed(table(found))}\n\n{written}")
    few = rows[: args.clips]
    pictures = pictures_of(method, features, few, device)
    names = [features.ids[row] for row in few]
    picture = save(mixtures.draw(*shown(method, pictures, names, args.seed)), out / "separation.png")
    print(picture)
    tell_run(folder, content["args"], content["step"], {
        f"test/separation/{row['target']} beside {row['source']} {row['metric']}": row["value"] for row in found},
        [picture])
    return found


if __name__ == "__main__":
    main()
