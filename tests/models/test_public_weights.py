"""Starting from BERT's weights and from those of BLIP-2's query transformer, made here under their public names."""

import pytest
import torch

from cmg.errors import UserError
from cmg.models.uniq4cap.public import public_name, start_from
from cmg.models.uniq4cap.transformer import QueryTransformer, TransformerConfig

SIZES = {"caption_width": 8, "caption_layers": 2, "caption_heads": 2, "caption_hidden": 12, "queries": 5,
         "source_width": 6, "caption_words": 7}


def made(vocabulary=20, **changed):
    torch.manual_seed(sum(changed.values()))
    return QueryTransformer(vocabulary, TransformerConfig(**{**SIZES, **changed}))


def public_state(model):
    """A transformer's tensors under their public names."""
    return {public_name(name): x.detach().clone() for name, x in model.named_parameters()}


def test_names_are_bert_s():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=19, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=12, max_position_embeddings=9)
    theirs = transformers.BertForMaskedLM(config).state_dict()
    model = made()
    names = {public_name(name) for name, _ in model.named_parameters() if ".cross." not in name
             and ".queries." not in name and name != "query_tokens"}
    assert names <= theirs.keys()
    lacking = {name for name in theirs if "token_type" not in name and "decoder" not in name and "position_ids"
               not in name} - names
    assert not lacking


def test_bert(tmp_path):
    theirs, model = public_state(made(19, caption_words=9)), made()
    theirs = {name: x for name, x in theirs.items() if "cross" not in name and "_query" not in name
              and name != "query_tokens"}
    torch.save(theirs, tmp_path / "bert.bin")
    before = model.query_tokens.detach().clone(), model.layers[0].cross.out.weight.detach().clone()
    start_from(model, tmp_path / "bert.bin")
    words = theirs["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(model.word.weight[:19], words) and torch.equal(model.word.weight[19], words.mean(0))
    assert torch.equal(model.position.weight, theirs["bert.embeddings.position_embeddings.weight"][:7])
    for part in (model.layers[1].words, model.layers[1].queries):
        assert torch.equal(part.into.weight, theirs["bert.encoder.layer.1.intermediate.dense.weight"])
    assert torch.equal(model.head.weight, theirs["cls.predictions.transform.dense.weight"])
    assert torch.equal(model.query_tokens, before[0]) and torch.equal(model.layers[0].cross.out.weight, before[1])
    old = {name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma"): x for name, x in theirs.items()
           if name.startswith("bert.")}
    torch.save(old, tmp_path / "old.bin")  # an old file, of a BERT without heads
    start_from(again := made(caption_dropout=0.1), tmp_path / "old.bin")
    assert torch.equal(again.layers[0].attention.norm.weight, model.layers[0].attention.norm.weight)
    assert torch.equal(again.word.weight, model.word.weight)


def test_a_query_transformer(tmp_path):
    theirs = public_state(made(30, queries=2))
    theirs = {name if name == "query_tokens" else f"Qformer.{name}": x for name, x in theirs.items()}
    torch.save({"model": theirs}, tmp_path / "blip2.pth")
    model = made()
    before = model.word.weight.detach().clone()
    start_from(model, tmp_path / "blip2.pth")
    assert torch.equal(model.word.weight, before)  # its words are others
    two = theirs["query_tokens"]
    assert torch.equal(model.query_tokens, torch.cat([two, two, two[:, :1]], 1))
    assert torch.equal(model.layers[0].cross.key.weight,
                       theirs["Qformer.bert.encoder.layer.0.crossattention.self.key.weight"])
    assert torch.equal(model.layers[1].queries.out.bias,
                       theirs["Qformer.bert.encoder.layer.1.output_query.dense.bias"])


@pytest.mark.parametrize(("state", "said"), [
    ({"x": torch.zeros(2)}, "neither BERT nor a query transformer"),
    (public_state(made(25)) | {"bert.encoder.layer.0.crossattention.self.key.weight": torch.zeros(8, 9)},
     r"'bert.encoder.layer.0.crossattention.self.key.weight' has shape \[8, 9\], the model's is \[8, 6\]"),
    ({name: x for name, x in public_state(made(25)).items() if "cross" not in name},
     "a vocabulary of 25 pieces, that of the captions has 19"),
    ({name: x for name, x in public_state(made(19)).items() if "layer.1.output.dense" not in name},
     "missing key 'bert.encoder.layer.1.output.dense.weight'"),
])
def test_what_does_not_fit_is_told_in_one_line(tmp_path, state, said):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=f"--start-from .*{said}"):
        start_from(made(), tmp_path / "weights.pth")
