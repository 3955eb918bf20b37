"""Tokens of a feature set under one checkpoint: computed once, then shared by all probes and metrics."""

from itertools import permutations
from typing import NamedTuple

import torch

from cmg.errors import UserError
from cmg.metrics.codebook import overlap
from cmg.modalities import ordered


class TokenSet(NamedTuple):
    """What a frozen model says about N clips of one modality.

    codes : int64 Tensor[N, T], or [N, T, P] of steps with P codes each; None of a model without a codebook
    vectors : Tensor[N, T, D]
        The codes' vectors, or the model's own where it has no codebook: the only thing a probe sees.
    semantic : Tensor[N, T, D]
        The encoder's output before quantisation.
    valid : bool Tensor[N, T]
        Steps that exist in the clip's media.
    """

    codes: torch.Tensor | None
    vectors: torch.Tensor
    semantic: torch.Tensor
    valid: torch.Tensor

    def take(self, positions) -> "TokenSet":
        """The clips at `positions`, repeats allowed."""
        return TokenSet(*(None if part is None else part[positions] for part in self))


@torch.no_grad()
def encode_set(model, features, modality: str, batch_size: int = 256, rows=None, device="cpu", move=None) -> TokenSet:
    """Encode and quantise one modality of a feature set.

    Parameters
    ----------
    model
        Frozen model in eval mode with `tokens(modality, x, valid) -> Tokens`.
    features : FeatureSet
    rows : LongTensor[n], optional
        Rows of the feature set to encode, in this order; all by default.
    move : function (features [B, T, …], valid [B, T]) -> features, optional
        What is done to them first.

    Raises
    ------
    UserError : not one step of these clips exists in the modality.
    """
    rows = torch.arange(len(features)) if rows is None else rows
    parts = []
    for batch in rows.split(batch_size):
        read = features.__getitems__(batch.tolist())
        x, valid = read[modality].to(device), read[f"valid/{modality}"].to(device)
        tokens = model.tokens(modality, move(x, valid) if move else x, valid)
        parts.append(TokenSet(tokens.codes, tokens.vectors.float(), tokens.semantic.float(), valid))
    tokens = TokenSet(*(None if column[0] is None else torch.cat(column) for column in zip(*parts)))
    if not tokens.valid.any():
        raise UserError(f"--data: none of {len(tokens.valid)} clips has any {modality}")
    return tokens


class Encoded:
    """One model's tokens of the `cmg.downstream.splits.Splits`, each encoded when it is first asked for."""

    def __init__(self, model, splits, device="cpu"):
        self.model, self.splits, self.device, self._cache = model, splits, device, {}

    def tokens(self, role: str, modality: str) -> TokenSet:
        split = self.splits[role, modality]
        if id(split) not in self._cache:
            self._cache[id(split)] = encode_set(self.model, split.features, split.modality, rows=split.rows,
                                                device=self.device, move=self.move(split))
        return self._cache[id(split)]

    def move(self, split):
        """What is done to the split's features first, see `encode_set`."""
        return None


@torch.no_grad()
def item_vectors(model, features, modality: str, batch_size: int = 256, rows=None, device="cpu"):
    """The vectors by which clips are retrieved, see `cmg.models.pretrained.Pretrained.items`.

    Parameters
    ----------
    model, features, rows : as of `encode_set`

    Returns
    -------
    dict name -> Tensor[n, D], of all rows, and bool Tensor[n]: which of these clips have a single step to speak of.

    Raises
    ------
    UserError : not one step of these clips exists in the modality.
    """
    rows = torch.arange(len(features)) if rows is None else rows
    parts, there = [], []
    for batch in rows.split(batch_size):
        read = features.__getitems__(batch.tolist())
        x, valid = read[modality].to(device), read[f"valid/{modality}"].to(device)
        parts.append(model.items(modality, x, valid))
        there.append(valid.any(1))
    there = torch.cat(there)
    if not there.any():
        raise UserError(f"--data: none of {len(there)} clips has any {modality}")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, there


def codebook_sharing(a: TokenSet, b: TokenSet) -> dict[str, float | int | None]:
    """How far two modalities of the same clips speak the same code.

    match_rate : % of the seconds that exist in both modalities at which both pick the same code; of seconds with
        several codes, each of which counts, % of these. None where the steps do not line up (words are no seconds).
    match_chance : the rate that two draws from the two histograms of these seconds would have, 100 · Σ p_a(k) p_b(k);
        of n codes used evenly 100 / n, so a match rate compares at equal size, or against its chance.
    code_overlap : intersection of the two histograms of code use, see `cmg.metrics.codebook.overlap`. It does not look
        at pairs: shuffled clips have the same.
    shared_codes, used_codes : codes used by both modalities, and by at least one.

    All are None of a model without a codebook.
    """
    if a.codes is None or b.codes is None:
        return dict.fromkeys(("match_rate", "match_chance", "code_overlap", "shared_codes", "used_codes"))
    size = int(max(a.codes.max(), b.codes.max())) + 1
    use_a, use_b = (x.codes[x.valid].flatten().bincount(minlength=size).double() for x in (a, b))  # (M,)
    match_rate = match_chance = None
    if a.codes.shape == b.codes.shape and (both := a.valid & b.valid).any():
        match_rate = 100.0 * (a.codes == b.codes)[both].double().mean().item()
        pieces = a.codes[0, 0].numel()
        p_a, p_b = (x.codes[both].flatten().bincount(minlength=size).double() / both.sum() for x in (a, b))  # (M,)
        match_chance = 100.0 * (p_a @ p_b).item() / pieces
    return {
        "match_rate": match_rate,
        "match_chance": match_chance,
        "code_overlap": overlap(use_a, use_b).item(),
        "shared_codes": int(((use_a > 0) & (use_b > 0)).sum()),
        "used_codes": int(((use_a > 0) | (use_b > 0)).sum()),
    }


def directions(of_checkpoint, of_data, source=None, target=None) -> list[tuple[str, str]]:
    """Every ordered pair of the modalities that both have, or those with the given source or target."""
    for flag, m in (("--source", source), ("--target", target)):
        for owner, present in (("--checkpoint", of_checkpoint), ("--data", of_data)):
            if m is not None and m not in present:
                raise UserError(f"{flag} {m}: {owner} has only {', '.join(present)}")
    if source is not None and source == target:
        raise UserError(f"--target {target}: the same as --source; expected another (source_value reports this one)")
    shared = ordered({*of_checkpoint} & {*of_data})
    pairs = [(s, t) for s, t in permutations(shared, 2) if source in (None, s) and target in (None, t)]
    if not pairs:
        raise UserError(f"--data has {', '.join(of_data)} and --checkpoint {', '.join(of_checkpoint)}; expected two "
                        "modalities in common")
    return pairs
