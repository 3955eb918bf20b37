"""Numbers that are none, and modalities that no clip has, are told before the first step."""

import time

from cmg.distributed import from_all, world
from cmg.errors import UserError
from cmg.progress import Progress

SECONDS = 60  # of looking; what is left of larger sets is looked at when its batch is read
ROWS = 64


def refuse_not_finite(features):
    """`UserError` names a clip of a `FeatureSet` whose features hold NaN or infinity, or a modality that is padding in
    all clips, from which a run would learn nothing and say so nowhere.

    All that a run may draw is read once, in every cache: each process reads its part, with a bar, for at most
    `SECONDS`. The processes of a run call this together, and all of them refuse.
    """
    rank, size = world()
    began, told, there, whole = time.monotonic(), None, set(), True
    blocks = range(ROWS * rank, len(features), ROWS * size)
    looking = Progress(len(blocks), "block", title="looking for NaN", quiet=rank > 0, leave=False)
    for start in looking.over(blocks):
        try:
            batch = features.stored(range(start, min(start + ROWS, len(features))))
        except UserError as error:
            told = str(error)
            break
        there |= {m for m in features.modalities if m not in there and batch[f"valid/{m}"].any()}
        if time.monotonic() - began > SECONDS:
            whole = False
            break
    found = from_all((told, there, whole))
    told = next(filter(None, (own for own, *_ in found)), None)
    if told:
        raise UserError(told)
    absent = [m for m in features.modalities if all(whole and m not in own for _, own, whole in found)]
    if absent:
        raise UserError(f"--data: {absent[0]} is padding in all {len(features)} clips; expected --modalities without "
                        "it")
