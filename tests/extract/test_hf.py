"""Encoders of the transformers library, each as a tiny one with random weights that is saved to a folder first."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import torchaudio.functional

os.environ["HF_HUB_OFFLINE"] = "1"  # before the library is imported: nothing here may wait for a network
transformers = pytest.importorskip("transformers")

from cmg.data.features import FeatureFile  # noqa: E402
from cmg.errors import UserError  # noqa: E402
from cmg.extract.__main__ import main  # noqa: E402
from cmg.extract.backbones import Choice, load_backbone  # noqa: E402
from cmg.extract.checkpoints import open_model  # noqa: E402
from cmg.extract.hf import Bert, ImageEncoder, SoundEncoder, TextEncoder  # noqa: E402
from cmg.extract.shards import parts_of  # noqa: E402
from cmg.extract.weights import sha256  # noqa: E402
from cmg.extract.workers import Extractor, Job, Recipe, extract_all  # noqa: E402

RNG = np.random.default_rng(0)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2, **SIZES}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "bark", "##s", "##ing", "loud"]


def saved(folder, model, *others):
    for part in (model.eval(), *others):
        part.save_pretrained(folder)
    return str(folder)


def pictures(n, size):
    return RNG.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def image_models():
    """name -> (configuration and class of a tiny tower, processor, tokens before the patches, side of the grid)."""
    t = transformers
    whole = {"image_size": 28, "patch_size": 4, **SIZES}
    square = {"height": 28, "width": 28}
    crop = {"size": {"shortest_edge": 28}, "crop_size": square}
    pair = {"vision_config": whole, "text_config": TEXT}
    return {
        "clip": (t.CLIPVisionModel(t.CLIPVisionConfig(**whole)), t.CLIPImageProcessor(**crop), 1, 7),
        "clip with its text": (t.CLIPModel(t.CLIPConfig(**pair)), t.CLIPImageProcessor(**crop), 1, 7),
        "siglip": (t.SiglipModel(t.SiglipConfig(**pair)), t.SiglipImageProcessor(size=square), 0, 7),
        "dinov2": (t.Dinov2Model(t.Dinov2Config(**{**whole, "patch_size": 2})), t.BitImageProcessor(**crop), 1, 14),
        "dinov3": (t.DINOv3ViTModel(t.DINOv3ViTConfig(num_register_tokens=4, **whole)),
                   t.DINOv3ViTImageProcessor(size=square), 5, 7),
    }


@pytest.mark.parametrize("name", ["clip", "clip with its text", "siglip", "dinov2", "dinov3"])
def test_image_towers(tmp_path, name):
    model, processor, before, side = image_models()[name]
    where = saved(tmp_path / "checkpoint", model, processor)
    backbone = load_backbone(Choice("video", "hf", (where,)))
    frames = pictures(2, 28)
    x = backbone(iter([frames, frames[1:]]))
    assert backbone.shape == (7, 7, 16) and x.shape == (2, 7, 7, 16)
    tower = getattr(model, "vision_model", model)
    inputs = processor(list(frames), return_tensors="pt")  # of the network's size already: scaled and normalised only
    with torch.no_grad():
        tokens = tower(**inputs).last_hidden_state.numpy()
    assert tokens.shape == (2, before + side**2, 16)
    maps = tokens[:, before:].reshape(2, 7, side // 7, 7, side // 7, 16).mean(axis=(2, 4))
    np.testing.assert_allclose(x[0], maps.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(x[1], maps[1], atol=1e-4)
    half = load_backbone(Choice("video", "hf", (where,)), precision="bf16")(iter([frames]))
    assert half.dtype == np.float32 and 0 < np.abs(half[0] - x[0]).max() < 0.1
    assert backbone.name == f"hf:{tower.config.model_type}"
    assert backbone.sha256 == sha256(tmp_path / "checkpoint" / "model.safetensors")


def test_convolutional_tower_and_grids_that_seven_does_not_divide(tmp_path):
    t = transformers
    net = t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
    processor = t.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0, image_mean=[0.5] * 3,
                                         image_std=[0.5] * 3)
    backbone = ImageEncoder((saved(tmp_path / "resnet", net, processor),))
    frames = pictures(1, 64)
    with torch.no_grad():
        plain = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
        (maps,) = net(plain).last_hidden_state  # [12, 8, 8]
    x = backbone([frames])
    assert maps.shape == (12, 8, 8) and x.shape == (1, 7, 7, 12)
    np.testing.assert_allclose(x[0, 0, 0], maps[:, :2, :2].mean(dim=(1, 2)), atol=1e-4)  # windows of 2, 1 apart
    np.testing.assert_allclose(x[0, 6, 3], maps[:, 6:, 3:5].mean(dim=(1, 2)), atol=1e-4)


def sound_models():
    t = transformers
    ast = {"num_mel_bins": 16, "max_length": 64}
    wave = {"conv_dim": (8, 8), "conv_stride": (5, 64), "conv_kernel": (10, 64), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    clap = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
            "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4}
    return {
        "ast": (t.ASTModel(t.ASTConfig(patch_size=8, **ast, **SIZES)), t.ASTFeatureExtractor(**ast)),
        "wav2vec2": (t.Wav2Vec2Model(t.Wav2Vec2Config(**wave, **SIZES)), t.Wav2Vec2FeatureExtractor()),
        "hubert": (t.HubertModel(t.HubertConfig(**wave, **SIZES)), t.Wav2Vec2FeatureExtractor()),
        "clap": (t.ClapModel(t.ClapConfig(audio_config=clap, text_config=TEXT, projection_dim=8)),
                 t.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="rand_trunc")),
        "fused clap": (t.ClapModel(t.ClapConfig(audio_config={**clap, "enable_fusion": True}, text_config=TEXT,
                                                projection_dim=8)),
                       t.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="fusion")),
    }


@pytest.mark.parametrize("name", ["ast", "wav2vec2", "hubert", "clap", "fused clap"])
def test_sound_encoders(tmp_path, name):
    model, extractor = sound_models()[name]
    backbone = load_backbone(Choice("audio", "hf", (saved(tmp_path / "checkpoint", model, extractor),)))
    sound = torch.from_numpy(RNG.normal(scale=0.1, size=(2, 16000))).float()
    x = backbone(sound)
    assert backbone.shape == (16,) and x.shape == (2, 16)
    for k in (0, 1):
        np.testing.assert_allclose(backbone(sound[k : k + 1])[0], x[k], atol=1e-4)  # every second by itself
    rate = extractor.sampling_rate
    assert rate == (48000 if "clap" in name else 16000)
    second = torchaudio.functional.resample(sound[0], 16000, rate).numpy()
    inputs = extractor(second, sampling_rate=rate, return_tensors="pt")
    if "clap" in name:
        inputs["is_longer"] = torch.tensor([[False]])
    with torch.no_grad():
        output = getattr(model, "audio_model", model)(**inputs)
    if name in ("wav2vec2", "hubert"):
        wanted = output.last_hidden_state[0].mean(dim=0)
    else:
        wanted = output.pooler_output[0]
    np.testing.assert_allclose(x[0], wanted, atol=1e-4)


@pytest.fixture
def bert(tmp_path):
    """A tiny BERT with a vocabulary of ten pieces."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=12)
    model = transformers.BertModel(transformers.BertConfig(**{**TEXT, "vocab_size": 10}, max_position_embeddings=12))
    return saved(tmp_path / "bert", model, tokenizer), model


def test_bert_gives_one_vector_a_word(bert):
    where, model = bert
    backbone = load_backbone(Choice("text", "bert", (where,)))
    assert (backbone.name, backbone.shape) == ("bert", (16,))
    x = backbone(["dogs", "barking", "a", "zebra"])
    with torch.no_grad():  # [CLS] dog ##s bark ##ing a [UNK] [SEP]
        pieces = model(torch.tensor([[2, 5, 7, 6, 8, 4, 1, 3]])).last_hidden_state[0]
    wanted = torch.stack([pieces[1:3].mean(0), pieces[3:5].mean(0), pieces[5], pieces[6]])
    np.testing.assert_allclose(x, wanted, atol=1e-5)
    assert np.abs(backbone(["a"]) - x[2]).max() > 1e-3  # a word's vector depends on its neighbours
    assert len(backbone(["dog"] * 30)) == 10  # twelve positions, two of them special
    assert backbone(["dogs", "barking", "a", "zebra"]) is x  # prompts repeat: they are encoded once


def test_released_bert_drops_words_of_several_pieces_and_unlisted_ones(bert, tmp_path):
    """The caption is encoded whole, then only "a" and "loud" are left: "dogs" is two pieces, "bark" not in the list,
    "zebra" unknown, though the list has [UNK]'s number."""
    (tmp_path / "cnt.pkl").write_bytes(pickle.dumps({0: 0, 1: 1, 4: 2, 5: 3, 9: 4}))
    backbone = load_backbone(Choice("text", "bert-released", (bert[0], str(tmp_path / "cnt.pkl"))))
    assert (backbone.name, backbone.shape) == ("bert-released", (16,))
    words = ["a", "dogs", "bark", "loud", "zebra"]
    np.testing.assert_array_equal(backbone(words), Bert((bert[0],))(words)[[0, 3]])
    assert backbone.sha256 != Bert((bert[0],)).sha256
    extract = Extractor(Recipe((Choice("text", "bert-released", (bert[0], str(tmp_path / "cnt.pkl"))),), 1, 4))
    assert extract(Job("x", "", ("dogs", "loud", "dog"))).valid["text"].tolist() == [True, True, False, False]
    outcome = extract(Job("x", "", ("dogs", "bark")))
    assert outcome.reason == "text: none of its words is a single piece of the public list"


@pytest.mark.parametrize("content,told", [
    (pickle.dumps([1, 2]), "holds a list"), (pickle.dumps({1: "a"}), "expected a dict of whole numbers"),
    (b"nothing", "damaged pickle"), (pickle.dumps(os.system), "names posix.system"), (None, "cannot be read"),
], ids=["list", "text", "damaged", "program", "missing"])
def test_a_list_of_words_that_is_none_is_one_line(bert, tmp_path, content, told):
    if content is not None:
        (tmp_path / "cnt.pkl").write_bytes(content)
    with pytest.raises(UserError, match=f"cnt.pkl: not the public code's list of words .*{told}"):
        load_backbone(Choice("text", "bert-released", (bert[0], str(tmp_path / "cnt.pkl"))))


def test_caption_is_read_whole_and_cut_afterwards(bert):
    words = ("a", "loud", "dog", "barking")
    extract = Extractor(Recipe((Choice("text", "bert", (bert[0],)),), 1, 2))
    outcome = extract(Job("x", "", words))
    whole = Bert((bert[0],))(list(words))
    np.testing.assert_array_equal(outcome.features["text"], whole[:2].astype(np.float16))
    assert outcome.valid["text"].tolist() == [True, True]


def test_other_text_encoders(tmp_path, bert):
    """The text tower of CLIP, and an encoder-decoder, of which the encoder is taken."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert[0])
    clip = transformers.CLIPModel(transformers.CLIPConfig(vision_config={"image_size": 8, "patch_size": 4, **SIZES},
                                                          text_config={**TEXT, "max_position_embeddings": 12}))
    t5 = transformers.T5Model(transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                                    vocab_size=10, decoder_start_token_id=0))
    for name, model in (("clip", clip), ("t5", t5)):
        backbone = TextEncoder((saved(tmp_path / name, model, tokenizer),))
        encoder = model.text_model if name == "clip" else model.encoder
        with torch.no_grad():
            pieces = encoder(input_ids=torch.tensor([[2, 4, 5, 7, 3]])).last_hidden_state[0]
        wanted = torch.stack([pieces[1], pieces[2:4].mean(0)])
        np.testing.assert_allclose(backbone(["a", "dogs"]), wanted, atol=1e-5)
        assert backbone.name.startswith("hf:" + name)
        with pytest.raises(UserError, match="expected a BERT"):
            Bert((str(tmp_path / name),))


def test_words_of_byte_level_tokenizers_are_spelt_as_in_a_sentence(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    pieces = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces.train_from_iterator(["a loud dog barks at loud dogs"] * 20, vocab_size=300, special_tokens=special)
    pieces.save_model(str(tmp_path))
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(str(tmp_path))
    model = transformers.RobertaModel(transformers.RobertaConfig(**{**TEXT, "vocab_size": 300}))
    x = TextEncoder((saved(tmp_path, model, tokenizer),))(["at", "loud", "dogs"])
    sentence = tokenizer(" at loud dogs", return_tensors="pt")
    assert sentence["input_ids"].shape == (1, 5)  # each word is one piece
    with torch.no_grad():
        np.testing.assert_allclose(x, model(**sentence).last_hidden_state[0, 1:4], atol=1e-5)


# --- checkpoints that cannot be used ------------------------------------------------------------------------------


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_old_weight_files_are_read_without_running_them(bert, tmp_path):
    where, model = bert
    state = model.state_dict()
    os.remove(f"{where}/model.safetensors")
    torch.save(state, f"{where}/pytorch_model.bin")
    backbone = Bert((where,))
    assert backbone.sha256 == sha256(f"{where}/pytorch_model.bin")
    torch.save({"embeddings.word_embeddings.weight": Attack(tmp_path / "mark")}, f"{where}/pytorch_model.bin")
    with pytest.raises(UserError, match="not a usable transformers checkpoint") as error:
        Bert((where,))
    assert not (tmp_path / "mark").exists() and "\n" not in str(error.value)


def test_sharded_weights_have_one_identity(bert, tmp_path):
    where, model = bert
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    for name in os.listdir(where):
        if name != "model.safetensors" and not (tmp_path / "shards" / name).exists():
            shutil.copy(f"{where}/{name}", tmp_path / "shards" / name)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    backbone = Bert((str(tmp_path / "shards"),))
    assert len(names) > 1 and backbone.sha256 == sha256(*(tmp_path / "shards" / name for name in names))
    np.testing.assert_allclose(backbone(["a", "dog"]), Bert((where,))(["a", "dog"]), atol=1e-6)


def test_weights_that_are_missing_are_not_made_up(bert):
    where, model = bert
    state = {key: value for key, value in model.state_dict().items() if "layer.0.output.dense.weight" not in key}
    os.remove(f"{where}/model.safetensors")
    torch.save(state, f"{where}/pytorch_model.bin")
    with pytest.raises(UserError, match="missing key 'encoder.layer.0.output.dense.weight'"):
        Bert((where,))
    state = {key: value for key, value in model.state_dict().items() if "pooler" not in key}  # which nothing reads
    torch.save(state, f"{where}/pytorch_model.bin")
    Bert((where,))


@pytest.mark.parametrize("where, message", [
    ("random:0", "the checkpoint says what the network is"),
    ("./gone", "no such folder"),
    ("nobody/nothing", "not a usable transformers checkpoint"),
])
def test_no_checkpoint(where, message):
    with pytest.raises(UserError, match=message) as error:
        open_model(where, "vision_model")
    assert "\n" not in str(error.value) and where in str(error.value)


def test_checkpoint_of_another_modality(bert, tmp_path):
    for kind in (ImageEncoder, SoundEncoder):
        with pytest.raises(UserError, match="not a usable transformers checkpoint|no square grid"):
            kind((bert[0],))
    model, processor, *_ = image_models()["clip"]
    with pytest.raises(UserError, match="not a usable"):
        TextEncoder((saved(tmp_path / "clip", model, processor),))


def test_encoder_of_another_kind_with_the_right_processor(bert, tmp_path):
    """What only a first try tells: a text encoder takes no pictures."""
    image_models()["clip"][1].save_pretrained(bert[0])
    with pytest.raises(UserError, match="not a usable transformers checkpoint") as error:
        ImageEncoder((bert[0],))
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_not_run(bert, tmp_path):
    where = bert[0]
    (tmp_path / "bert" / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not a usable transformers checkpoint"):
        TextEncoder((where,))
    assert not (tmp_path / "mark").exists()


# --- the command --------------------------------------------------------------------------------------------------


def text_features(where, tmp_path, *flags):
    main(["--modalities", "text", "--text-backbone", "bert", "--text-weights", where, "--device", "cpu", "--words", "3",
          "--workers", "0", "--out", str(tmp_path / "text.h5"), *map(str, flags)])
    file = FeatureFile(tmp_path / "text.h5")
    return file, dict(zip(file.ids, zip(*file.read("text", range(len(file.ids))))))


def test_a_prompt_for_each_class(bert, tmp_path, capsys):
    """As the public lists have it: clips with their class, and a sentence for every class."""
    clips, prompts = tmp_path / "clips.csv", tmp_path / "prompts.csv"
    clips.write_text("category,video_id,split\nbarking,x,train\nnoise,y,test\nbarking,z,train\n")
    prompts.write_text("label,prompt\nbarking,A loud dog barking.\nnoise,loud\n")
    file, rows = text_features(bert[0], tmp_path, "--captions", clips, "--prompts", prompts)
    encode = Bert((bert[0],))
    assert file.ids == ["x", "y", "z"] and file.attrs["backbone/text"] == "bert"
    assert file.attrs["sha256/text"] == sha256(f"{bert[0]}/model.safetensors")
    for name in "xz":
        np.testing.assert_array_equal(rows[name][0], encode(["a", "loud", "dog", "barking"])[:3].astype(np.float16))
    np.testing.assert_array_equal(rows["y"][0][0], encode(["loud"])[0].astype(np.float16))
    assert rows["y"][1].tolist() == [True, False, False]
    for content, message in (("label,prompt\nnoise,loud\n", "no prompt for 'barking', the category of 'x' in"),
                             ("name,prompt\n", "expected the columns label and prompt, found")):
        prompts.write_text(content)
        with pytest.raises(SystemExit):
            text_features(bert[0], tmp_path, "--captions", clips, "--prompts", prompts, "--overwrite")
        assert message in capsys.readouterr().err


def test_other_weights_do_not_resume_a_run(bert, tmp_path, capsys):
    where, model = bert
    captions = tmp_path / "captions.csv"
    captions.write_text("id,caption\na,a dog\n")
    parts_of(tmp_path / "text.h5", Recipe((Choice("text", "bert", (where,)),), 10, 3), {"source": str(captions)})
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 1
    model.save_pretrained(where)
    with pytest.raises(SystemExit):
        text_features(where, tmp_path, "--captions", captions)
    assert "unfinished extraction with other settings" in capsys.readouterr().err
    _, rows = text_features(where, tmp_path, "--captions", captions, "--overwrite")
    np.testing.assert_array_equal(rows["a"][0][:2], Bert((where,))(["a", "dog"]).astype(np.float16))


@pytest.mark.slow
def test_processes_share_devices(bert):
    """Two processes, each with its own encoder on its device: the same features as from one."""
    recipe = Recipe((Choice("text", "bert", (bert[0],)),), 10, 3)
    jobs = [Job(name, "", ("a", "dog", name)) for name in ("a", "bark", "loud", "dog")]
    alone = {outcome.job.id: outcome for outcome in extract_all(jobs, recipe, 0)}
    shared = {outcome.job.id: outcome for outcome in extract_all(jobs, recipe, 2, ("cpu", "cpu"))}
    for name, outcome in alone.items():
        np.testing.assert_array_equal(shared[name].features["text"], outcome.features["text"])
        assert shared[name].spent.forward > 0


def test_weights_that_vanish_after_the_start_end_the_run(bert):
    """It is no fault of the clips: they are not all listed as bad."""
    recipe = Recipe((Choice("text", "bert", (bert[0] + "/gone",)),), 10, 3)
    with pytest.raises(UserError, match="no such folder"):
        list(extract_all([Job("a", "", ("a",))], recipe, 0))
