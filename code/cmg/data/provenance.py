"""Where features come from: what a feature file says of the encoder that made each modality.

Shapes that agree say little: two encoders may have the same width, and half-second steps look like seconds. So a
checkpoint keeps what its features were, and whoever gives it others is told.
"""

from typing import NamedTuple

from cmg.errors import UserError


class Provenance(NamedTuple):
    """None stands for what nobody knows.

    backbone : name of the encoder. sha256 : of the file of its weights; None where it has none.
    seconds_per_step : of media. frames_per_second : that the encoder saw of it, at most.
    precision : in which the encoder ran, "fp32" or "bf16".
    """

    backbone: str | None = None
    sha256: str | None = None
    seconds_per_step: float | None = None
    frames_per_second: float | None = None
    precision: str | None = None

    def __str__(self):
        if self == Provenance():
            return "not known"
        said = [self.backbone or "backbone not known"]
        said += [f"sha256 {self.sha256[:12]}…"] if self.sha256 else []
        said += [f"{self.seconds_per_step:g} s a step"] if self.seconds_per_step else []
        said += [f"{self.frames_per_second:g} frames a second"] if self.frames_per_second else []
        return ", ".join(said + ([self.precision] if self.precision else []))


def of_attributes(attrs, modality) -> Provenance:
    """What a feature file's attributes say of a modality; `<name>/<modality>` counts before `<name>`."""
    found = {name: attrs.get(f"{name}/{modality}", attrs.get(name)) for name in Provenance._fields}
    return Provenance(**{name: None if value in ("", None) else value for name, value in found.items()})


def of_checkpoint(content) -> dict[str, Provenance]:
    """What a checkpoint says of its features; one of before this was written knows nothing."""
    known = content.get("features", {})
    return {m: Provenance(**known.get(m, {})) for m in content["shapes"]}


def differing(ours: Provenance, theirs: Provenance):
    """(name, our value, their value) of the first field that both know and that differs, else None."""
    for name, mine, other in zip(Provenance._fields, ours, theirs):
        if None not in (mine, other) and mine != other:
            return name, mine, other
    return None


def check(trained: dict[str, Provenance], given: dict[str, Provenance], where, owner="the checkpoint"):
    """`UserError` if features of the same modality come from elsewhere than those of a checkpoint.

    trained, given : of the checkpoint, and of the features at `where`.
    """
    for m in given:
        found = differing(trained[m], given[m]) if m in trained else None
        if found:
            name, ours, theirs = found
            raise UserError(f"{where}: {m} features have {name} {theirs}; {owner} was pretrained on {ours}")
