"""Numbers that are none are told before the first step, with the file, the modality and the clip."""

import time

from tqdm import tqdm

from cmg.distributed import from_all, world
from cmg.errors import UserError

SECONDS = 60  # of looking; what is left of larger sets is looked at when its batch is read
ROWS = 64


def refuse_not_finite(features):
    """`UserError` names a clip of a `FeatureSet` whose features hold NaN or infinity.

    All that a run may draw is read once, in every cache: each process reads its part, with a bar, for at most
    `SECONDS`. The processes of a run call this together, and all of them refuse.
    """
    rank, size = world()
    began, told = time.monotonic(), None
    for start in tqdm(range(ROWS * rank, len(features), ROWS * size), desc="looking for NaN", unit="block",
                      disable=True if rank else None, leave=False, delay=2):
        try:
            features.stored(range(start, min(start + ROWS, len(features))))
        except UserError as error:
            told = str(error)
            break
        if time.monotonic() - began > SECONDS:
            break
    told = next(filter(None, from_all(told)), None)
    if told:
        raise UserError(told)
