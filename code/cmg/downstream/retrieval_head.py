"""The head of the paper's Table 5: from one modality's pooled codes to another modality's features, contrastively."""

import zlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cmg.data.features import FeatureSet
from cmg.data.videos import from_videos, video_of
from cmg.downstream.results import result
from cmg.downstream.task import Settings
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.losses.masked import clip_vectors
from cmg.metrics.retrieval import EXPECTED, RELEASED, places

WIDTH = 128  # of the space in which queries and gallery meet
TEMPERATURE = 0.07
TENTHS = {"fit": range(6), "val": range(6, 8), "test": range(8, 10)}  # of the groups, by a checksum of their names
RECALLS = (1, 5, 10)
RULES = {"strict": EXPECTED, "paper": RELEASED}


class HeadData(NamedTuple):
    """Clips of a split: queries Tensor[N, D] and the gallery's features Tensor[N, A], row by row the same clip."""

    queries: torch.Tensor
    gallery: torch.Tensor


class Head(nn.Module):
    """Two linear maps into one space, trained with the symmetric InfoNCE of cosines."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.query, self.gallery = nn.Linear(dim, WIDTH), nn.Linear(width, WIDTH)

    def loss(self, data: HeadData):
        q, g = F.normalize(self.query(data.queries), dim=1), F.normalize(self.gallery(data.gallery), dim=1)
        logits = q @ g.T / TEMPERATURE  # (B, B)
        right = torch.arange(len(q), device=q.device)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2

    @torch.no_grad()
    def recalls(self, data: HeadData, ks, rule=EXPECTED) -> torch.Tensor:
        """R@k in % of all queries in a gallery of all clips, Tensor[len(ks)]."""
        clips = torch.arange(len(data.queries), device=data.queries.device)
        found = places(self.query(data.queries), self.gallery(data.gallery), clips, clips)
        return torch.tensor([rule.recall_at(k, found) for k in ks])


def tenth(group: str) -> int:
    """Which tenth of the clips one is in, 0..9, by a checksum of what it shares with others: its video, or its group.

    >>> [tenth(name) for name in ("a", "b", "clip_7")]
    [7, 1, 2]
    """
    return zlib.crc32(group.encode()) % 10


def fit_head(data: dict[tuple[str, str], HeadData], source: str, targets: list[str], settings: Settings, ks):
    """Fit heads on `data["fit", source]`, one a seed -> target -> modality -> recalls on test, Tensor[seeds, len(ks)].

    Epoch and learning rate are those with the best mean recall on val in the source modality (strict), or on test in
    the target's (paper). For each target, of which the source may be one, there are its own recalls and, with the same
    head, the source's.
    """
    arguments, strict, rule = settings.fit_arguments(), settings.protocol == "strict", RULES[settings.protocol]
    train = data["fit", source]
    found = {target: [] for target in targets}
    for seed in arguments["seeds"]:
        best, kept = dict.fromkeys(targets, -1.0), {}
        for lr in arguments["lrs"]:
            generator = torch.Generator().manual_seed(seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                head = Head(train.queries.shape[1], train.gallery.shape[1])
            head = head.to(train.queries)
            optimiser = torch.optim.Adam(head.parameters(), lr=lr)
            for _ in range(settings.epochs):
                order = torch.randperm(len(train.queries), generator=generator).to(train.queries.device)
                for batch in order.split(settings.batch_size):
                    optimiser.zero_grad()
                    head.loss(HeadData(*(x[batch] for x in train))).backward()
                    optimiser.step()
                if strict:
                    scores = dict.fromkeys(targets, head.recalls(data["val", source], ks, rule).mean().item())
                else:
                    scores = {target: head.recalls(data["test", target], ks, rule).mean().item() for target in targets}
                better = [target for target in targets if scores[target] > best[target]]
                best |= {target: scores[target] for target in better}
                recalls = {m: head.recalls(data["test", m], ks, rule) for m in ([source, *better] if better else ())}
                kept |= {target: (recalls[source], recalls[target]) for target in better}
        for target, (own, other) in kept.items():
            found[target].append({source: own, target: other})
    return {target: {m: torch.stack([one[m] for one in recalls]) for m in (source, target)}
            for target, recalls in found.items()}


def with_head(model, features: FeatureSet, pairs, gallery: str, settings: Settings, pretrain_ids=(),
              device="cpu", groups=None) -> list[dict]:
    """Fit a head from each source's codes to the gallery modality's features, query it with every modality's.

    groups : dict clip -> group, clips that must not be divided between fit, val and test; by default those of a video

    Rows are R@1, R@5 and R@10, means over head seeds; a clip that lacks a modality is wrong, it does not go away.
    """
    modalities = dict.fromkeys(m for pair in pairs for m in pair)
    pooled = {}
    for m in modalities:
        tokens = encode_set(model, features, m, device=device)
        pooled[m] = clip_vectors(tokens.vectors, tokens.valid)  # (N, D), (N,)
    batches = (features.__getitems__(rows.tolist()) for rows in torch.arange(len(features)).split(256))
    raw = [clip_vectors(batch[gallery].flatten(2), batch[f"valid/{gallery}"]) for batch in batches]
    raw, exists = (torch.cat(columns) for columns in zip(*raw))  # (N, A), (N,)
    exists = torch.stack([exists, *(there.cpu() for _, there in pooled.values())]).all(0)
    own = [video_of(name) if groups is None else groups.get(name) for name in features.ids]
    if None in own:
        raise UserError(f"--groups: none of clip {features.ids[own.index(None)]}; expected one of every clip in --data")
    seen = from_videos(features.ids, pretrain_ids if settings.protocol == "strict" else ())
    splits = {}
    for role, tenths in TENTHS.items():
        numbers = [n for n, group in enumerate(own) if tenth(group) in tenths]
        asked = [n for n in numbers if not (role == "test" and seen[n])]
        n_test, n_excluded = len(asked), len(numbers) - len(asked)  # of the last, test
        splits[role] = torch.tensor([n for n in asked if exists[n]], dtype=torch.int64)
        if not len(splits[role]):
            raise UserError(f"--data: no clip is left in the {role} split of the head"
                            + (f"; {n_excluded} were pretrained on" if n_excluded else ""))
    shown, known = len(splits["test"]), raw[splits["fit"]]
    raw = (raw - known.mean(0)) / known.std(0).clamp(min=1e-6)
    data = {(role, m): HeadData(x.cpu()[rows].to(device), raw[rows].to(device))
            for role, rows in splits.items() for m, (x, _) in pooled.items()}
    # source -> target -> modality -> Tensor[seeds, 3]
    values = {m: fit_head(data, m, [*(target for source, target in pairs if source == m), m], settings, RECALLS)
              for m in modalities}
    found = []
    for source, target in pairs:
        of_probe = values[source][target]
        of_k = (shown / n_test * x.T for x in (of_probe[target], of_probe[source], values[target][target][target]))
        found += [result("retrieval_head", source, target, settings, f"r{k}", value, own, bound,
                         100 * min(k, shown) / n_test, len(splits["fit"]), n_test, gallery=gallery,
                         n_excluded=n_excluded, n_missing=n_test - shown, probe_seeds=settings.probe_seeds)
                  for k, value, own, bound in zip(RECALLS, *of_k)]
    return found
