"""MultiSK as a method: towers to keep, the contrastive loss of all pairs, and the structure that it preserves.

    L = Σ_mn w_mn L_mn / Σ_mn w_mn + λ L_sspc
"""

from dataclasses import dataclass

import torch

from cmg.errors import UserError
from cmg.losses.pair_contrast import pair_contrast
from cmg.methods.contract import Method, detached
from cmg.methods.multisk.settings import RECIPES, MultiSKConfig
from cmg.methods.multisk.structure import Sides, Structure
from cmg.modalities import modality, pairs
from cmg.models.multisk import MultiSKModel


@dataclass
class State:
    """One batch: a dict modality -> Embedding; similarities to anchors and targets, Sides, None without anchors."""

    embeddings: dict
    similarities: Sides | None = None
    targets: Sides | None = None


class MultiSK(Method):
    """The towers, and unless --assignment is off a `Structure`."""

    name, Config, recipes = "multisk", MultiSKConfig, RECIPES
    kinds = ("vectors", "grids", "maps")
    least_modalities = least_clips = 2

    def __init__(self, shapes, config):
        super().__init__()
        self.config, self.model = config, MultiSKModel(shapes, config.towers)
        self.structure = None
        if config.structure.assignment != "off":
            self.structure = Structure(self.model.modalities, config)
        weights = {key: config.weight(a, b) for a, b, key in pairs(self.model.modalities)}
        self.pair_weights = {key: weight / sum(weights.values()) for key, weight in weights.items()}

    def encode(self, batch):
        model = self.model
        state = State({m: model.embed(m, batch[m], batch[f"valid/{m}"]) for m in model.modalities})
        if self.structure is not None:
            with torch.autocast(model.device.type, enabled=False):
                x, e, _ = map(torch.stack, zip(*state.embeddings.values()))
                state.similarities = self.structure.similarities(x, e)
                state.targets = self.structure.targets(state.similarities)
        return state

    def losses(self, state):
        found = {}
        for a, b, key in pairs(self.model.modalities):
            one, other = state.embeddings[a], state.embeddings[b]
            value = pair_contrast(one.joint, other.joint, one.present & other.present, self.config.contrast_temperature)
            found[f"contrast/{key}"] = self.pair_weights[key] * value
        if self.structure is not None:
            with torch.autocast(self.model.device.type, enabled=False):
                terms = self.config.w_sspc * self.structure.losses(state.similarities, state.targets)
            found["sspc/own"] = terms.diagonal().sum()  # m = n
            found["sspc/cross"] = terms.sum() - found["sspc/own"]
        return found

    def carry(self, state):
        if self.structure is None:
            return {}
        x, e, _ = (torch.stack(part, 1) for part in zip(*state.embeddings.values()))
        return detached({"input": x, "joint": e, "targets": {
            "input": state.targets.input.movedim(1, 0), "joint": state.targets.joint.movedim(2, 0)}})

    def update(self, carried):
        if self.structure is not None:
            self.structure.update(carried["input"], carried["joint"])

    def metrics(self, carried):
        if self.structure is None:
            return {}
        found = self.structure.metrics(Sides(**carried["targets"]))
        return {f"anchors/usage_{space}_{modality(m).key}": value for (space, m), value in found.items()}

    def parts(self):
        return {} if self.structure is None else {"assignments to anchors": (self.structure, "assign")}

    def kept(self):
        return self.model

    @classmethod
    def rebuild(cls, shapes, config):
        return MultiSKModel(shapes, config.towers)

    @classmethod
    def check_batch(cls, config, clips):
        queue, assignment = config.structure.queue, config.structure.assignment
        if assignment != "off" and clips > queue:
            raise UserError(f"--queue {queue}: holds less than the {clips} clips of a batch; expected at least {clips}")

    @classmethod
    def refuse(cls, config, features):
        super().refuse(config, features)
        with torch.device("meta"):
            cls.rebuild(features.shapes, config)  # refuses maps whose lengths do not divide
