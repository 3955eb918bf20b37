"""What the shards of an extraction are made of: the backbones' shapes, and what a file says of where it comes from."""

from cmg import plugins
from cmg.data.shards import Parts
from cmg.errors import UserError
from cmg.extract.backbones import dtype_of, load_backbone, rate_of
from cmg.extract.workers import reads_captions
from cmg.modalities import modality


def parts_of(out, recipe, attrs, overwrite=False, share=None) -> Parts:
    """The shards of a recipe's clips, which go on with those of the same weights and settings alone; of a share of
    them, as `Parts` has it."""
    backbones = [load_backbone(choice, precision=recipe.precision) for choice in recipe.backbones]
    for name in ("side", "rate"):
        if any(getattr(choice, name) is not None for choice in recipe.backbones) and not any(
                name in getattr(b, "options", ()) for b in backbones):
            raise UserError(f"--{name}: {', '.join(b.name for b in backbones)} have none; expected a backbone that "
                            "makes pictures, such as frames or melimage")
    rates = {b.modality: rate_of(b) for b in backbones if modality(b.modality).timed}
    if len(set(rates.values())) > 1:
        raise UserError(f"--rate: {', '.join(f'{rate} steps a second of {m}' for m, rate in rates.items())}; "
                        "expected the same number")
    attrs = {name: value for b in backbones for name, value in origin(b, recipe).items()} | attrs
    own = {c.name: plugins.digest(plugins.file_of(c.name), f"--{c.modality}-backbone")
           for c in recipe.backbones if plugins.is_file(c.name)}
    settings = {"shapes": {b.modality: recipe.shape(b) for b in backbones}, "attrs": attrs}
    return Parts(out, settings | ({"files": own} if own else {}), attrs, {b.modality: dtype_of(b) for b in backbones},
                 {b.modality: b.vocabulary for b in backbones if reads_captions(b)}, overwrite, share=share)


def origin(backbone, recipe):
    """What a feature file says of where a modality comes from, see `cmg.data.provenance`; what has no say is not
    said."""
    row = modality(backbone.modality)
    said = {"backbone": backbone.name, "sha256": backbone.sha256}
    said |= {"seconds_per_step": 1.0 / rate_of(backbone)} if row.timed else {}
    said |= {"frames_per_second": recipe.frames} if row.source == "frames" else {}
    said |= {"precision": recipe.precision} if backbone.expects else {}
    return {f"{name}/{row.name}": value for name, value in said.items()}
