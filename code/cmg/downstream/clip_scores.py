"""What every test clip adds to a figure, and the error that the figure has because the clips are these and no others.

A figure is the mean of its clips' scores. Of accuracy over clips a score is 0 or 100. Of a figure that pools, 100 · Σ
hits / Σ counts (seconds, or cells of classes and seconds), it is the figure plus the clip's own hits less those that
the figure expects of its counts: linear in the clip, so that means and differences of scores are those of the figures.

Clips that share something, the video that they are cut from or the pattern that they are composed by, are a cluster:
they tell less than as many clips that share nothing, and the standard error counts clusters. The scores of an
evaluation lie beside its `results.json`, in `<task>_<protocol>_clips.npz`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cmg.data.videos import video_of
from cmg.errors import UserError
from cmg.files import in_turn, read_columns, replacing

MOVE = "move it away, or evaluate again into another --out"


class ClipScores(NamedTuple):
    """Of one figure.

    names : str array [N], all different
    clusters : str array [N]
    scores : float64 array [N], in %, means over probe seeds
    """

    names: np.ndarray
    clusters: np.ndarray
    scores: np.ndarray

    @property
    def n_clusters(self) -> int:
        return len(set(self.clusters.tolist()))

    @property
    def error(self) -> float | None:
        """Standard error of the mean score, by clusters; None of a single one."""
        n, left = self.n_clusters, cluster_sums(self.scores - self.scores.mean(), self.clusters)
        return None if n < 2 else float(np.sqrt(n / (n - 1) * (left**2).sum()) / len(self.scores))


def cluster_sums(x, clusters):
    """Sums of x [.., N] over the clips of each of G clusters -> [.., G], clusters in alphabetical order."""
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.zeros((*x.shape[:-1], number.max() + 1))
    np.add.at(sums, (..., number), x)
    return sums


def pooled(hits, counts):
    """Scores of the figure 100 · Σ hits / Σ counts over N clips; its own value where nothing counts is 0.

    hits, counts : Tensor[.., N] -> float64 Tensor[.., N]
    """
    hits, counts = hits.double(), counts.double()
    total = counts.sum(-1, keepdim=True).clamp(min=1)
    figure = hits.sum(-1, keepdim=True) / total
    return 100 * (figure + (hits - figure * counts) * hits.shape[-1] / total)


def read_clusters(path, column="cluster") -> dict[str, str]:
    """Clip -> its cluster, from a CSV with the columns id and `column`.

    Raises
    ------
    UserError : no such file, other columns, or a clip in two clusters.
    """
    found = {}
    for name, cluster in read_columns(path, "id", column):
        if found.setdefault(name, cluster) != cluster:
            raise UserError(f"{path}: {name} is in {found[name]} and in {cluster}; expected one {column} a clip")
    return found


def clustered(names: list[str], scores: torch.Tensor, clusters: dict[str, str] | None = None) -> ClipScores:
    """Scores [N] of the clips with these names; clusters are those that are given, by default a clip's video.

    A name that comes again, as a video that AVE has under two classes does, is numbered.
    """
    lacking = [name for name in names if clusters is not None and name not in clusters]
    if lacking:
        raise UserError(f"--clusters: {len(lacking)} of {len(names)} test clips have none, the first is {lacking[0]}; "
                        "expected a line for each")
    times, different = {}, []
    for name in names:
        times[name] = times.get(name, 0) + 1
        different.append(name if times[name] == 1 else f"{name} ({times[name]})")
    own = [video_of(name) if clusters is None else clusters[name] for name in names]
    return ClipScores(np.array(different), np.array(own), scores.double().cpu().numpy())


def write_clip_scores(folder, task: str, protocol: str, found: dict[tuple[str, str, str], ClipScores]) -> Path:
    """Merge scores by (source, target, metric) into the evaluation's file; those of the same figures are replaced."""
    path = Path(folder) / f"{task}_{protocol}_clips.npz"
    with in_turn(path):  # tasks may end together
        kept = _arrays(path) if path.is_file() else {}
        kept |= {"/".join((*key, name)): column for key, scores in found.items()
                 for name, column in scores._asdict().items()}
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, **kept)
    return path


def read_clip_scores(folder, row: dict) -> ClipScores | None:
    """Scores of a row of the folder's `results.json`; None where there are none."""
    path = Path(folder) / f"{row.get('task')}_{row['protocol']}_clips.npz"
    if not path.is_file():
        return None
    key = "/".join((row["source"], row["target"], row["metric"]))
    found = _arrays(path, key + "/")
    if f"{key}/scores" not in found:
        return None
    columns = [found.get(f"{key}/{name}", np.zeros(())) for name in ClipScores._fields]
    if any(x.ndim != 1 or len(x) != len(columns[0]) or x.dtype.kind != kind for x, kind in zip(columns, "UUf")):
        raise UserError(f"{path}: {key}: names, clusters and scores are not columns of one length; {MOVE}")
    return ClipScores(*columns)


def _arrays(path, beginning="") -> dict[str, np.ndarray]:
    """The arrays of a file of scores whose names begin like this; numpy and zipfile report damage in many types."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name.startswith(beginning)}
    except Exception as error:
        told = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable file of clips' scores ({told}); {MOVE}") from None
