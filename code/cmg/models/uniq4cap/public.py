"""Weights of others to start from: BERT's, or those of BLIP-2's query transformer, in a file of torch.save.

Of BERT all is taken that it has, and the queries' feed-forwards start as the words'; its vocabulary must be that of the
captions. Of a query transformer embeddings and output layer are left out, as UniQ4Cap does, whose words are others; its
queries are repeated until there are enough.
"""

import torch

from cmg.data.tensors import load
from cmg.errors import UserError

HEADS = {  # ours -> theirs, outside the layers
    "word": "bert.embeddings.word_embeddings", "position": "bert.embeddings.position_embeddings",
    "norm": "bert.embeddings.LayerNorm", "head": "cls.predictions.transform.dense",
    "head_norm": "cls.predictions.transform.LayerNorm",
}
LAYER = {  # in layer N: layers.N -> bert.encoder.layer.N
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.out": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm", "cross.query": "crossattention.self.query",
    "cross.key": "crossattention.self.key", "cross.value": "crossattention.self.value",
    "cross.out": "crossattention.output.dense", "cross.norm": "crossattention.output.LayerNorm",
    "words.into": "intermediate.dense", "words.out": "output.dense", "words.norm": "output.LayerNorm",
    "queries.into": "intermediate_query.dense", "queries.out": "output_query.dense",
    "queries.norm": "output_query.LayerNorm",
}
OF_WORDS = ("word.", "position.", "norm.", "head.", "head_norm.", "head_bias")


def public_name(name) -> str:
    """What BERT calls a tensor of `QueryTransformer`.

    >>> public_name("layers.3.words.into.weight"), public_name("head_bias")
    ('bert.encoder.layer.3.intermediate.dense.weight', 'cls.predictions.bias')
    """
    if name in ("query_tokens", "head_bias"):
        return {"query_tokens": "query_tokens", "head_bias": "cls.predictions.bias"}[name]
    module, _, leaf = name.rpartition(".")
    if module.startswith("layers."):
        _, number, part = module.split(".", 2)
        return f"bert.encoder.layer.{number}.{LAYER[part]}.{leaf}"
    return f"{HEADS[module]}.{leaf}"


@torch.no_grad()
def start_from(transformer, path):
    """Copy the weights of a file into a `QueryTransformer`.

    Raises
    ------
    UserError : no such file, none of BERT or BLIP-2, other sizes, another vocabulary.
    """
    state = load(path)
    state = state.get("model", state) if isinstance(state, dict) else {}
    theirs = {str(name).removeprefix("Qformer."): value for name, value in state.items()
              if isinstance(value, torch.Tensor)}
    if not any(name.startswith("bert.") for name in theirs):  # a BERT without its heads
        theirs = {name if name.startswith("cls.") else f"bert.{name}": value for name, value in theirs.items()}
    theirs = {name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): value
              for name, value in theirs.items()}
    asks = any(".crossattention." in name for name in theirs)
    if "bert.encoder.layer.0.attention.self.query.weight" not in theirs:
        raise UserError(f"--start-from {path}: neither BERT nor a query transformer; expected a file of torch.save "
                        "with layers as bert.encoder.layer.0.attention.self.query.weight")
    for name, own in transformer.named_parameters():
        if asks and name.startswith(OF_WORDS):
            continue
        their_name = public_name(name)
        if not asks and ".queries." in name:
            their_name = public_name(name.replace(".queries.", ".words."))
        found = theirs.get(their_name)
        if found is None:
            if name == "query_tokens" or ".cross." in name and not asks or name.startswith("head"):
                continue  # BERT has none, or was kept without its output layer
            raise UserError(f"--start-from {path}: missing key '{their_name}'")
        own.copy_(fitted(found, own.shape, name, path))


def fitted(found, shape, name, path):
    """Their tensor in our shape: queries repeated, positions cut, the start mark added to the vocabulary."""
    if name == "query_tokens":
        found = found.reshape(1, -1, found.shape[-1]).repeat(1, -(-shape[1] // found.numel() * found.shape[-1]), 1)
        found = found[:, : shape[1]]
    if name == "position.weight":
        found = found[: shape[0]]
    if name in ("word.weight", "head_bias"):
        if len(found) + 1 != shape[0]:
            raise UserError(f"--start-from {path}: a vocabulary of {len(found)} pieces, that of the captions has "
                            f"{shape[0] - 1}; expected captions that were extracted with its own vocabulary")
        found = torch.cat([found, found.mean(0, keepdim=True)])
    if found.shape != shape:
        raise UserError(f"--start-from {path}: '{public_name(name)}' has shape {list(found.shape)}, the model's is "
                        f"{list(shape)}; expected the sizes of --preset paper")
    return found
