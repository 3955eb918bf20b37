"""How a run of MultiSK uses its anchors; `cmg.downstream.neighbourhood` draws it of a run folder.

`anchors.png` shows for each anchor the share of clips that have it among the r nearest of their own, by features
("input") and by joint embedding ("joint"), largest first. Assignments are balanced by construction, and
`anchors/usage` in metrics.csv, the entropy of their mean, stays next to 1. Nearness is not: shares of r / K, which is
marked as chance, say that the anchors divide the clips among them, a steep curve that few do all the work, and one at 0
that no clip is near to the anchor. `anchors.csv` holds the shares by the anchors' numbers.
"""

import csv
import io
from pathlib import Path

import torch

from cmg.downstream.tokens import item_vectors
from cmg.figures import lines
from cmg.figures.names import letter
from cmg.figures.style import save
from cmg.files import write_atomically
from cmg.losses.multi_assignment import nearest_anchors
from cmg.methods.multisk.method import MultiSK
from cmg.models.multisk import unit
from cmg.training.checkpoint import method_of
from cmg.training.state import load_whole

SPACES = {"input": "input space", "joint": "joint space"}


class Embeddings:
    """Both embeddings of clips, read as the vectors of retrieval are."""

    def __init__(self, model):
        self.model = model

    def items(self, modality, features, valid):
        found = self.model.embed(modality, self.model.feature_scale(modality, features, valid), valid)
        return {"input": found.input, "joint": found.joint}


def shares(method, features, device="cpu") -> dict[tuple[str, str], torch.Tensor]:
    """(space, modality) -> share of the clips that have each anchor among their r nearest, Tensor[K]."""
    structure, found = method.structure, {}
    for m in features.modalities:
        vectors, there = item_vectors(Embeddings(method.model), features, m, device=device)
        for space, x in vectors.items():
            anchors = unit(structure.anchors[space][structure.modalities.index(m)])
            near = nearest_anchors(x[there] @ anchors.t(), structure.config.picks)  # (clips, K)
            found[space, m] = near.mean(0).cpu()
    return found


@torch.no_grad()
def draw(run, features) -> list[Path]:
    """Table and picture of a run folder; of another checkpoint, and of a method without anchors, none."""
    latest = Path(run.args.checkpoint) / "latest.pt"
    if not latest.is_file() or not issubclass(method_of(run.content, run.path, run.args.method)[0], MultiSK):
        return []
    method, _ = load_whole(latest, MultiSK, run.device, run.args.method)
    if method.structure is None:
        return []
    found = shares(method, features, run.device)
    K, r = method.structure.config.anchors, method.structure.config.picks
    panels = [lines.Panel(spoken, "clips that are near to it, %", {
        letter(m): [(k, 100 * share, None) for k, share in enumerate(own.sort(descending=True).values.tolist(), 1)]
        for (where, m), own in found.items() if where == space}, [100 * r / K]) for space, spoken in SPACES.items()]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["anchor", *(f"{space}_{m}" for space, m in found)])
    writer.writerows([k, *(f"{own[k]:.4f}" for own in found.values())] for k in range(K))
    write_atomically(run.out / "anchors.csv", table.getvalue())
    picture = save(lines.draw(panels, f"{K} anchors, those of most clips first"), run.out / "anchors.png")
    return [run.out / "anchors.csv", picture]
