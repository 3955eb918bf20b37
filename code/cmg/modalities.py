"""The modalities: one table of what each is, and how pairs and directions of them are called in every figure.

A new modality is one more row of `TABLE`, or comes with a feature file that declares it (`cmg.data.feature_file`), or
with the checkpoint that was pretrained on such a file. All other modules ask here; none knows a modality by its name
unless it is about that one (a benchmark that is labelled in audio and video, say).
"""

import re
from dataclasses import asdict, dataclass
from itertools import combinations

from cmg.errors import UserError

# What an array of clips may be, by its axes and dtypes: N clips, T steps, H×W cells, C channels, F×M a spectrogram,
# K captions of L tokens.
KINDS = {
    "vectors": ("N,T,C", ("float16", "float32")),
    "grids": ("N,T,H,W,C", ("float16", "float32")),
    "maps": ("N,T,F,M", ("float16", "float32")),
    "frames": ("N,T,H,W,C", ("uint8",)),
    "tokens": ("N,K,L", ("int32", "int64")),
}


@dataclass(frozen=True)
class Modality:
    """A row of the table.

    Attributes
    ----------
    name : lower-case letters, as in files, flags and checkpoints
    called : its name in plain language
    kinds : of `KINDS`, what its arrays may be
    step : what a step of it is: "second", the same as the other modalities' step, or "word", which belongs to the clip
    source : what an extraction backbone reads for it: "frames", "sound" or "words"; "" if none does
    letter : how keys spell it; the whole name by default
    """

    name: str
    called: str
    kinds: tuple[str, ...] = ("vectors", "grids")
    step: str = "second"
    source: str = ""
    letter: str = ""

    @property
    def key(self):
        return self.letter or self.name

    @property
    def timed(self):
        """Whether step t is second t."""
        return self.step == "second"


# A row a modality. The order is that of every listing.
TABLE = {row.name: row for row in (
    Modality("video", "video", ("grids", "vectors", "frames"), source="frames", letter="v"),
    Modality("audio", "audio", ("vectors", "maps"), source="sound", letter="a"),
    Modality("text", "text", ("vectors", "tokens"), step="word", source="words", letter="t"),
)}
BUILT_IN = tuple(TABLE)


def modality(name):
    """The row of a modality; `UserError` if no row and no file declares it."""
    if name not in TABLE:
        raise UserError(f"modality {name!r}: unknown; expected {', '.join(TABLE)}, or one that a feature file declares")
    return TABLE[name]


def declare(row: Modality, where):
    """Add a row that a file at `where` brings along; the same row may come any number of times.

    Raises
    ------
    UserError : a name that keys could not tell apart, a row that says nothing known, or one that says something else
        than an earlier one of its name.
    """
    known = {"kinds": KINDS, "step": ("second", "word"), "source": ("", "frames", "sound", "words")}
    if not re.fullmatch("[a-z]{2,}", row.name):
        raise UserError(f"{where}: modality {row.name!r}; expected a name of two or more lower-case letters")
    for name, allowed in known.items():
        for value in row.kinds if name == "kinds" else (getattr(row, name),):
            if value not in allowed:
                raise UserError(f"{where}: {name} {value!r} of modality {row.name}; expected {', '.join(allowed)}")
    if not row.kinds or TABLE.setdefault(row.name, row) != row:
        raise UserError(f"{where}: modality {row.name} is declared as {asdict(row)}; elsewhere it is "
                        f"{asdict(TABLE[row.name])}")


def declared(names) -> dict:
    """What a file has to say of modalities that every copy of this project does not know: name -> plain values."""
    return {name: asdict(modality(name)) for name in names if name not in BUILT_IN}


def declare_all(rows: dict, where):
    """The other way round: take over what `declared` gave."""
    for name, row in rows.items():
        try:
            row = Modality(**{**row, "kinds": tuple(row["kinds"])})
        except (TypeError, KeyError):
            raise UserError(f"{where}: modality {name!r} is not declared in full; expected {asdict(TABLE['video'])}") \
                from None
        declare(row, where)


def ordered(names) -> tuple[str, ...]:
    """Names in the table's order, each once."""
    rows = list(TABLE)
    return tuple(sorted({modality(name).name for name in names}, key=rows.index))


def kind_of(ndim, dtype):
    """Which of `KINDS` an array [N, …] is, None if none."""
    for kind, (axes, dtypes) in KINDS.items():
        if ndim == axes.count(",") + 1 and str(dtype) in dtypes:
            return kind
    return None


def expected(name) -> str:
    """What the arrays of a modality may be, for messages.

    >>> expected("audio")
    'float16 or float32 [N,T,C], float16 or float32 [N,T,F,M]'
    """
    return ", ".join(f"{' or '.join(dtypes)} [{axes}]" for axes, dtypes in map(KINDS.get, modality(name).kinds))


def pair(a, b) -> str:
    """Key of an unordered pair. Letters stand side by side; a longer name is kept apart.

    >>> pair("audio", "video"), pair("audio", "depth")
    ('av', 'a_depth')
    """
    a, b = modality(a).key, modality(b).key
    return a + b if len(a + b) == 2 else f"{a}_{b}"


def pairs(names):
    """Unordered pairs of names, each with the key that its figures carry.

    >>> pairs(["audio", "video", "text"])
    [('audio', 'video', 'av'), ('audio', 'text', 'at'), ('video', 'text', 'vt')]
    """
    return [(a, b, pair(a, b)) for a, b in combinations(names, 2)]


def direction(source, target) -> str:
    """Key of an ordered pair.

    >>> direction("video", "audio"), direction("depth", "audio")
    ('v2a', 'depth2a')
    """
    return f"{modality(source).key}2{modality(target).key}"
