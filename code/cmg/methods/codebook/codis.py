"""CODIS (Duan et al., CVPR 2022, arXiv 2203.00048): prototypes by optimal transport, taught by a momentum teacher.

Per pair of modalities, with the teacher's vectors assigned to prototypes C by a transport plan T, and the student's
code distribution P = softmax(cos(z, C) / τ):

    L = L_recon + L_commit + [<T_a, 1 - cos_a> + <T_b, 1 - cos_b>] + [H(T_b, P_a) + H(T_a, P_b)] + L_inter + L_intra

L_inter and L_intra are InfoNCE of the student's clips with the teacher's clips of the other and of the own modality.
Choices of this project: C are parameters of their own, as many as there are codes, because the shared codebook is
moved by EMA; points are steps, step t of one modality with step t of the other, where both are timed, else clips; 50
Sinkhorn iterations at ε = 0.05, teacher momentum 0.995, τ = 0.07 throughout, no queue of negatives at this batch size,
no masked language model and no matching head; directions of InfoNCE and pairs of modalities are averaged.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.distributed import first_row, gather
from cmg.losses.info_nce import contrast
from cmg.losses.masked import seconds_or_clip
from cmg.losses.transport import code_prediction, sinkhorn, transport_cost
from cmg.methods.codebook.objective import Objective
from cmg.modalities import pairs


@dataclass(frozen=True)
class CodisConfig(Config):
    """Method codis (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_codis : transport, code prediction and InfoNCE with the teacher
    codis_temperature : of both
    """

    w_codis: float = setting(1.0, number(least=0))
    codis_temperature: float = setting(0.07, number(above=0))


class TaughtPrototypes(nn.Module):
    """The three terms, the prototypes and the teacher: a copy of every Φ that follows with momentum, without dropout.

    Parameters
    ----------
    model : UnifiedModel to copy Φ from.
    size, dim : of the prototypes. timed : modalities whose step t is second t.
    """

    momentum = 0.995

    def __init__(self, model, size, dim, timed, temperature):
        super().__init__()
        self.timed, self.temperature = tuple(timed), temperature
        self.prototypes = nn.Parameter(F.normalize(torch.randn(size, dim), dim=-1))
        self.teacher = copy.deepcopy(model.semantic).requires_grad_(False).eval()

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def update(self, model):
        for slow, fast in zip(self.teacher.parameters(), model.semantic.parameters()):
            slow.lerp_(fast, 1 - self.momentum)

    def forward(self, state):
        with torch.no_grad():
            valid = state.valid
            taught = {m: f(f.inputs(state.features[m], valid[m]), valid[m]) for m, f in self.teacher.items()}
            taught = {m: z.to(state.semantic[m].dtype) for m, z in taught.items()}
        plans, losses, both = {}, {}, pairs(state.semantic)
        for a, b, key in both:
            timed = a in self.timed and b in self.timed
            for m in (a, b):
                if (m, timed) not in plans:
                    plans[m, timed] = self.assign(state.semantic[m], taught[m], state.valid[m], timed)
            losses |= {f"{name}_{key}": loss / len(both) for name, loss in
                       {**self.code(*plans[a, timed], *plans[b, timed]), **self.clips(state, taught, a, b)}.items()}
        return losses

    def assign(self, z, taught, valid, timed):
        """(student's cosines, Tensor[n, K]; their part of the plan, [n, K]; which points are real, BoolTensor[n]; the
        transport cost). The plan is one of the points of all processes."""
        with torch.autocast(z.device.type, enabled=False):
            prototypes = F.normalize(self.prototypes, dim=-1)
            points, real = seconds_or_clip(z, valid, timed)
            student = F.normalize(points.flatten(0, 1), dim=-1) @ prototypes.t()
            teacher = F.normalize(seconds_or_clip(taught, valid, timed)[0].flatten(0, 1), dim=-1) @ prototypes.t()
            everyone, real, first = gather(teacher), real.flatten(), first_row(teacher)
            plan = sinkhorn(1 - everyone.detach(), gather(real))
            return student, plan[first : first + len(student)], real, transport_cost(plan, everyone)

    def code(self, student_a, plan_a, real_a, cost_a, student_b, plan_b, real_b, cost_b):
        """The transport costs and both code predictions of a pair."""
        real = real_a & real_b
        return {
            "ot": cost_a + cost_b,
            "code": code_prediction(student_a / self.temperature, plan_b, real)
            + code_prediction(student_b / self.temperature, plan_a, real),
        }

    def clips(self, state, taught, a, b):
        """InfoNCE of the student's clips with the teacher's, across modalities and within."""
        students = {m: seconds_or_clip(state.semantic[m], state.valid[m], timed=False) for m in (a, b)}
        teachers = {m: seconds_or_clip(taught[m], state.valid[m], timed=False) for m in (a, b)}

        def mean(*directions):
            return sum(contrast(*students[x], *teachers[y], self.temperature) for x, y in directions) / 2

        return {"inter": mean((a, b), (b, a)), "intra": mean((a, a), (b, b))}


def prototypes(blueprint):
    config = blueprint.config
    return TaughtPrototypes(blueprint.model, config.codebook.codes, config.encoder.dim, blueprint.timed,
                            config.objectives["codis"].codis_temperature)


OBJECTIVE = Objective("codis", CodisConfig(), {"codis": prototypes}, paired=True)
