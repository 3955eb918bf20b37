"""How the synthetic set looks and sounds: the random maps of its modalities, and what they make of events.

`cmg.data.synthetic` says what a clip is made of; here are the formulas. Nothing is written.
"""

import zlib
from typing import NamedTuple

import numpy as np

LATENT, NUISANCE_RANK, FILLERS = 32, 12, 40
# Standard deviations in the latent space at difficulty 1, chosen so that a linear probe with labels reads the class
# from a second of raw audio or of raw pooled video about nine times in ten. Video's is high as it fills few cells.
SIGNAL = {"video": 3.5, "audio": 1.1, "text": 3.0}
NUISANCE, NOISE = 2.0, 0.7
DETAIL = 0.3  # of a class's variance within its family
OWN_SCENE = 0.3  # deviation, in nuisance, of clips of one scene from each other


class World(NamedTuple):
    """One modality's fixed random maps."""

    classes: np.ndarray  # [K, LATENT], c_k
    fillers: np.ndarray  # [FILLERS, LATENT], words that name no class
    nuisance: np.ndarray  # [NUISANCE_RANK, LATENT], spans the nuisance's subspace
    map: np.ndarray  # [LATENT, d], A
    bias: np.ndarray  # [d], b
    scenes: np.ndarray  # [scenes, NUISANCE_RANK], none where every clip has its own


def rng_of(spec, *names):
    """A random stream of its own for each purpose, so that asking for more of one thing changes no other."""
    return np.random.default_rng([spec.seed, zlib.crc32("/".join(names).encode())])


def make_world(spec):
    """The fixed random maps of every modality: dict modality -> World, float32."""
    world = {}
    widths = {"video": spec.video_shape[-1], "audio": spec.audio_dim, "text": spec.text_dim}
    for m, dim in (widths | {m: spec.video_shape[-1] for m in spec.grids}).items():
        rng = rng_of(spec, "world", m)
        parts = (
            rng.standard_normal((spec.classes, LATENT)),
            rng.standard_normal((FILLERS, LATENT)),
            rng.standard_normal((NUISANCE_RANK, LATENT)) / np.sqrt(NUISANCE_RANK),
            rng.standard_normal((LATENT, dim)) / np.sqrt(LATENT),
            rng.standard_normal(dim) / 2,
            rng_of(spec, "scenes", m).standard_normal((spec.scenes, NUISANCE_RANK)),
        )
        classes, *rest = parts
        if spec.families > 1:
            common = rng_of(spec, "families", m).standard_normal((spec.classes, LATENT))  # a row for each family
            classes = np.sqrt(1 - DETAIL) * common[np.arange(spec.classes) // spec.families] + np.sqrt(DETAIL) * classes
        world[m] = World(*(part.astype(np.float32) for part in (classes, *rest)))
    return world


def render_audio(world, label, spans, spec, rng):
    """Audio features float32 [n, T, A] of events `label` int [n, E] with `spans` int [n, E, 2]."""
    n, T = len(label), spec.seconds
    h = SIGNAL["audio"] * presence(label, spans, T) @ world.classes[label]  # [n, T, E] @ [n, E, LATENT]
    h += _scene(world, spec, rng, (n, 1)) + _noise(spec, rng, (n, T))
    return _features(world, h)


def render_grid(world, label, spans, spec, rng):
    """Features of video, or of another grid, float32 [n, T, H, W, C] of `label` int [n, E], `spans` int [n, E, 2]."""
    (n, E), T, (H, W, C) = label.shape, spec.seconds, spec.video_shape
    # The event lights up the cells around its own place, one cell wide (standard deviation).
    place = rng.random((n, E, 2)) * (H - 1, W - 1)
    cells = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), axis=-1).reshape(-1, 2)  # [H·W, 2]
    far = ((cells - place[:, :, None]) ** 2).sum(axis=-1)  # [n, E, H·W]
    shown = (np.exp(-far / 2)[..., None] * world.classes[label][:, :, None]).astype(np.float32)
    on = presence(label, spans, T)  # [n, T, E]
    h = SIGNAL["video"] * on @ shown.reshape(n, E, H * W * LATENT)
    h = h.reshape(n, T, H * W, LATENT)
    h += _scene(world, spec, rng, (n, 1, 1)) / np.sqrt(2)  # the scene
    h += _nuisance(world, spec, rng, (n, 1, H * W)) / np.sqrt(2)  # what stands in each cell of it
    h += _noise(spec, rng, (n, T, H * W))
    return _features(world, h).reshape(n, T, H, W, C)


def render_text(world, label, spec, rng):
    """Captions of events `label` int [n, 2]: features float32 [n, L, X] and valid bool [n, L].

    Fillers throughout, then one or two words that name the first event and one that names the second.
    """
    n, L = len(label), spec.words
    length = rng.integers(min(6, L), L + 1, n)
    valid = np.arange(L) < length[:, None]
    h = world.fillers[rng.integers(0, FILLERS, (n, L))]  # [n, L, LATENT]
    order = np.argsort(np.where(valid, rng.random((n, L)), 2.0), axis=1)  # real positions of a clip, shuffled
    # The first event's word, half the time once more, and the second event's.
    told = np.random.default_rng([spec.seed, zlib.crc32(label.tobytes())]).random((n, 2)) < spec.told
    for position, event, said in ((0, 0, label[:, 0] >= 0), (1, 0, rng.random(n) < 0.5), (2, 1, label[:, 1] >= 0)):
        rows = np.flatnonzero(said & told[:, event])
        h[rows, order[rows, position]] = world.classes[label[rows, event]]
    h = SIGNAL["text"] * h + _scene(world, spec, rng, (n, 1)) + _noise(spec, rng, (n, L))
    return _features(world, h) * valid[..., None], valid


def presence(label, spans, T):
    """1 where an event is on: float32 [n, T, E]."""
    t = np.arange(T)[None, :, None]
    return ((spans[:, None, :, 0] <= t) & (t < spans[:, None, :, 1]) & (label[:, None] >= 0)).astype(np.float32)


def _scene(world, spec, rng, shape):
    """The nuisance of whole clips, shape (n, 1, …): one of the world's scenes and a little of the clip's own, or all of
    its own."""
    if not spec.scenes:
        return _nuisance(world, spec, rng, shape)
    known = world.scenes[rng.integers(0, spec.scenes, shape)] @ world.nuisance  # [*shape, LATENT]
    return np.float32(spec.difficulty * NUISANCE) * known + np.float32(OWN_SCENE) * _nuisance(world, spec, rng, shape)


def _nuisance(world, spec, rng, shape):
    draw = rng.standard_normal((*shape, NUISANCE_RANK), dtype=np.float32)
    return np.float32(spec.difficulty * NUISANCE) * draw @ world.nuisance  # [*shape, LATENT]


def _noise(spec, rng, shape):
    return np.float32(spec.difficulty * NOISE) * rng.standard_normal((*shape, LATENT), dtype=np.float32)


def _features(world, h):
    """relu(h A + b): [..., LATENT] -> [..., d]."""
    return np.maximum(h @ world.map + world.bias, 0)
