"""Queries from sound, words and feature files."""

import numpy as np
import pytest
import torch

from cmg.data.avs import read_s4
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.provenance import Provenance
from cmg.downstream.avs.queries import QueryReader
from cmg.errors import UserError
from cmg.extract.backbones import Choice
from cmg.training import checkpoint
from support import hashed_words


def test_queries_are_codes_of_five_steps_and_means_of_words(s4, pretrained, tmp_path):
    model, folder = checkpoint.load_pretrained(pretrained), read_s4(s4)
    clips = folder.splits["test"]
    backbones = {"audio": Choice("audio", "cepstra"), "text": Choice("text", "hash")}
    reader = QueryReader(folder, "codes", model, backbones=backbones)
    sound, text = reader("audio", clips), reader("text", clips)
    assert sound.shape == text.shape == (4, 5, 16)
    raw = QueryReader(folder, "raw", backbones={"audio": Choice("audio", "cepstra")})("audio", clips)
    torch.testing.assert_close(sound, model.encode(audio=raw).quantized)
    expected = model.encode_modality("text", *hashed_words(["blue", "box"])).quantized[0, :2].mean(0)
    torch.testing.assert_close(text[1], expected.expand(5, -1))
    # the fitted checkpoint: both modalities say the class's code
    assert torch.equal(model.encode(audio=raw).codes, torch.tensor([0, 1, 0, 1])[:, None].expand(4, 5))
    torch.testing.assert_close(text, sound)
    assert QueryReader(folder, "none")("audio", clips).shape == (4, 5, 1)

    # the same from a feature file of ten steps: its first five
    path = tmp_path / "sound.h5"
    with FeatureWriter(path, {"audio": (10, 260)}, {"source": "test"}) as writer:
        ten = np.concatenate([raw.numpy(), np.full((4, 5, 260), 7)], 1).astype(np.float16)
        writer.append([clip.name for clip in clips], {"audio": ten}, {"audio": np.arange(10)[None].repeat(4, 0) < 5})
    stored = QueryReader(folder, "codes", model, FeatureSet(path))
    torch.testing.assert_close(stored("audio", clips), sound)
    with pytest.raises(UserError, match="--data: 4 of 4 clips have no features, the first is val_0"):
        stored("audio", folder.splits["val"])


def test_features_of_another_encoder_are_not_made_for_a_checkpoint(s4, pretrained):
    """It is asked with what it was pretrained on, in the same precision; one that does not know takes what is given."""
    model, folder = checkpoint.load_pretrained(pretrained), read_s4(s4)
    backbones = {"audio": Choice("audio", "cepstra"), "text": Choice("text", "hash")}
    reader = QueryReader(folder, "codes", model, backbones=backbones)
    reader.check("audio")
    model.features = {"audio": Provenance("cepstra", seconds_per_step=1.0, precision="bf16"),
                      "text": Provenance("bert")}
    assert reader.recipe("audio").precision == "bf16" and reader.recipe("text").precision == "fp32"
    reader.check("audio")  # cepstra have no weights, and so no precision
    with pytest.raises(UserError, match="^--text-backbone: text features have backbone hash; the checkpoint was"):
        reader.check("text")
