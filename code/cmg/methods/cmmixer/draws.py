"""Random numbers of clips that do not depend on how many processes the clips are spread over."""

import math

from cmg.distributed import shared_rand, world


def own_draws(clips, *shape, device):
    """Uniform numbers in [0, 1) for this rank's clips, float64 Tensor[clips, *shape].

    Every rank draws for the clips of all ranks, from the stream that they share, and keeps its own rows.
    """
    rank, size = world()
    everyone = shared_rand(size * clips * math.prod(shape), device).view(size * clips, *shape)
    return everyone[rank * clips : (rank + 1) * clips]
