"""A run as a folder to hand on, which explains itself.  `cmg export checkpoint/mine shared/mine`

    cmg export checkpoint/mine shared/mine --licence cc-by-4.0

Writes model.safetensors, config.json, pretrain_ids.json and README.md (`cmg.training.exported` says what is in them),
and a method of one's own as its file. README.md is a model card: what the model is, how to use it, the scores of
results.json with their protocol, and what they do not say. `cmg.load_pretrained`, and --checkpoint of every command,
take the folder, or its name on a hub after it was uploaded there (`hf upload OWNER/NAME shared/mine`), and give the
same codes bit for bit.
"""

import os
import shlex
import shutil
from pathlib import Path

import cmg
from cmg.cli import Parser, command, require_folder
from cmg.configs import flag_of, flat
from cmg.downstream.registry import TASKS
from cmg.downstream.results import chosen_by, markdown_table, read_results
from cmg.errors import UserError
from cmg.files import replacing, write_atomically
from cmg.methods import registry
from cmg.training import exported
from cmg.training.checkpoint import build_model, file_of, method_of, numerics_of, origin_of, read
from cmg.training.run_config import RunConfig

FIGURES = ("task", "protocol", "source", "target", "metric", "value", "std", "chance", "n_test", "seed")
OF_THE_MACHINE = {"out", "data", "device", "workers", "cache", "resume", "toom_cook", "log_every", "timeout_minutes",
                  "checkpoint_epochs", "save_every", "init_from", "preset", "method"}


def parser() -> Parser:
    p = Parser(prog="cmg.export", description=__doc__)
    p.add_argument("checkpoint", help="a run folder (its best.pt, else latest.pt), or a .pt file")
    p.add_argument("out", help="folder to write; must be empty or absent")
    p.add_argument("--name", help="of the model, in its card; default: that of OUT")
    p.add_argument("--licence", help="of the model, as hubs call it, such as cc-by-4.0; default: not stated")
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
    return p


def command_of(content, cls) -> str:
    """The `cmg pretrain` call that gives these settings: what differs from the preset's, less what is the machine's."""
    origin, flags = exported.named(content)
    preset = flags.get("preset")
    recipe = registry.recipe_of(cls, preset if preset in cls.all_recipes() else None)
    usual = flat(RunConfig(epochs=recipe.epochs)) | flat(recipe.optimiser) | flat(recipe.method)
    words = ["cmg", "pretrain", "--data", *(flags.get("data") or ["FEATURES.h5"]), "--method", origin["name"]]
    words += ["--preset", preset] if preset else []
    for name, value in usual.items():
        own = flags.get(name, value)
        if name in OF_THE_MACHINE or own == value or own is None:
            continue
        if isinstance(own, bool):
            words.append(flag_of(name) if own else f"--no-{flag_of(name)[2:]}")
        else:
            words += [flag_of(name), *map(str, own if isinstance(own, list) else [own])]
    return shlex.join(words)


def scores(rows) -> str:
    """The rows of results.json as a table, and the command of each task."""
    if not rows:
        return "None: no task has been run on this checkpoint."

    def cell(value):
        return "–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)

    lines = [[cell(row.get(name)) for name in FIGURES] for row in rows]
    modules = {name: entry.module for name, entry in TASKS.items()}
    calls = dict.fromkeys(f"cmg {modules.get(row['task'], row['task'])} --checkpoint MODEL --data FEATURES.h5 "
                          f"--protocol {row['protocol']} --seed {row['seed']}" for row in rows)
    return "\n".join([markdown_table([*FIGURES[:6], "±", *FIGURES[7:]], lines), "",
                      "Percentages are 0 to 100, *chance* is what knows nothing, *seed* that of the first probe. Made",
                      "by, with the data set's own annotations where a task reads any:", "", "```bash", *calls, "```"])


def limits(content, rows, model, by) -> list[str]:
    """What must not be inferred, of what is known."""
    found = ["Nobody has looked for bias, for what the model reveals of the clips it was trained on, or for misuse."]
    if rows:
        seed = content["args"].get("seed", "not known")
        found += ["The scores are of these test clips, and say nothing of other classes, languages, recordings or "
                  "people.", f"This is one pretraining, seed {seed}: ± is the spread of probes on it, and says nothing "
                  "of how far another pretraining would be from it."]
    if "codes" in model.offers:
        found.append("That two modalities share a code does not make them mean the same: compare match rates with "
                     "their chance, and at an equal number of codes.")
    if by and "target" in by:
        found.append(f"This epoch was chosen by {by} labels of a validation split: the transfer is not one without any "
                     "labels of the target.")
    if any(row.get("protocol") == "paper" for row in rows):
        found.append("Protocol `paper` measures what public scripts measure; it does not compare with `strict`.")
    if len({row.get("commit") for row in rows}) > 1:
        found.append("The scores are of several commits of the code; results.json says which.")
    return found


def card(content, model, rows, left_out, args, by, cls) -> str:
    """The text of README.md."""
    name, licence = args.name or Path(args.out).resolve().name, args.licence
    gives = " and ".join({"codes": "discrete codes", "vectors": "vectors", "sentences": "sentences"}.get(one, one)
                         for one in model.offers)
    m, parameters = model.modalities[0], sum(x.numel() for x in model.parameters())
    encoders = markdown_table(["modality", "shape of a clip", "features", "sha256 of the weights"], [
        [one, "×".join(map(str, model.shapes[one])), str(model.features[one]), model.features[one].sha256 or "–"]
        for one in model.modalities])
    spare = f"{left_out} rows of results.json are of other checkpoints of the run and left out.\n\n" if left_out else ""
    said = "\n".join(f"- {one}" for one in limits(content, rows, model, by))
    tags = "\n".join(f"- {one}" for one in ("cross-modal", *model.modalities))
    return f"""---
license: {licence or "other"}
library_name: cmg
tags:
{tags}
---

# {name}

A model of `{exported.named(content)[0]["name"]}` that gives {gives} of {", ".join(model.modalities)}:
{parameters / 1e6:.2f} M parameters, pretrained on {len(content["pretrain_ids"])} clips without labels, epoch
{content["epoch"]}, numerics {numerics_of(content)}, written by cmg {cmg.__version__}.

## Use

```python
import cmg

model = cmg.load_pretrained("{name}")  # the path of this folder, or its name on a hub
tokens = model.encode({m}=features)  # features [{", ".join(map(str, ("B", *model.shapes[m])))}]
tokens = model.encode_files("a.mp4")  # with the extra [extract], and the weights below where there are any
```

## Encoders

The model reads features of these encoders alone; features of others are refused.

{encoders}

## Pretraining

```bash
{command_of(content, cls)}
```

`{exported.IDS}` lists its clips, which protocol `strict` leaves out of every test.

## Scores

{spare}{scores(rows)}

## What must not be inferred

{said}

## Licence

{f"{licence}." if licence else "Not stated by whoever exported it."}
The clips and the encoders that it was trained with may bind it as well.
"""


@command
def main(argv=None):
    args = parser().parse_args(argv)
    out = Path(args.out)
    require_folder(out, "OUT")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"OUT {out}: the folder is not empty; expected a new one")
    path = file_of(args.checkpoint)
    content = read(path)
    if args.method:
        content |= {"method_of": registry.origin(args.method)}
    model, by = build_model(content, path=path), chosen_by(path)
    rows = read_results(path.parent)
    own = [row for row in rows if row.get("epoch", content["epoch"]) == content["epoch"]]
    text = card(content, model, own, len(rows) - len(own), args, by, method_of(content, path)[0])
    with replacing(out) as unfinished:
        try:
            unfinished.mkdir()
            exported.write(unfinished, content, model, by)
            write_atomically(unfinished / exported.CARD, text)
            for file in origin_of(content)["files"]:
                shutil.copyfile(file, unfinished / Path(file).name)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {', '.join(sorted(os.listdir(out)))}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
