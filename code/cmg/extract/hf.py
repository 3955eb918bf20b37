"""`hf`: any encoder that the transformers library reads, and `bert`, the paper's text backbone.

Pictures, sound and words are prepared as the checkpoint's own processor says (size, mean, resampling, features), and
turned into features per second or word by one rule for all checkpoints of a modality, which each class states.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torchvision.transforms.v2.functional import InterpolationMode
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from cmg.data.pickles import BadPickle, numbers_in
from cmg.errors import UserError
from cmg.extract.checkpoints import identity, open_model, part_of
from cmg.extract.media import SAMPLE_RATE, BadClip
from cmg.extract.pictures import NetworkInput
from cmg.extract.weights import sha256

GRID = 7
REMEMBERED = 4096  # captions; prompts repeat for every clip of a class
CHECKPOINT = "a folder with a transformers checkpoint, or its name on the hub"


class Encoder:
    """What the three have in common: the model on its device, its name and its identity."""

    expects = (CHECKPOINT,)
    tower = ""
    unused = ()

    def __init__(self, weights, device="cpu", precision="fp32"):
        self.where, self.device, self.precision = weights[0], torch.device(device), precision
        self.model, self.config = open_model(self.where, self.tower, self.unused)
        self.model.to(self.device)
        self.name = f"hf:{self.config.model_type}"

    @property
    def sha256(self):
        return identity(self.where)

    def tried(self, steps):
        """Shape of the features of a step, from a first try; a checkpoint of another kind fails here."""
        return part_of(self.where, lambda: self(steps)).shape[1:]

    def run(self, **inputs):
        """The model's output, in the precision asked for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(**{name: x.to(self.device) for name, x in inputs.items()})


class ImageEncoder(Encoder):
    """Image towers with patches or a convolutional map (CLIP, SigLIP, DINOv2, DINOv3, ResNet …) as [T, 7, 7, C].

    The last hidden state's patches in their grid, averaged to 7×7 (windows overlap where 7 does not divide the grid)
    and over a second's frames. Tokens before the patches (class, registers) are left out.
    """

    modality = "video"
    tower = "vision_model"
    unused = ("pooler", "head.")  # over a single token, or CLIP-style attention: not in the last hidden state

    def __init__(self, weights, device="cpu", precision="fp32"):
        super().__init__(weights, device, precision)
        processor = part_of(self.where, lambda: AutoImageProcessor.from_pretrained(self.where, trust_remote_code=False))
        size = getattr(processor, "crop_size", None) or processor.size
        self.size = size.get("height") or size.get("shortest_edge")
        mode = InterpolationMode.BICUBIC if processor.resample == 3 else InterpolationMode.BILINEAR  # Pillow's 3
        self.prepare = NetworkInput(self.size, processor.image_mean, processor.image_std, self.device, mode)
        self.shape = self.tried([np.zeros((1, self.size, self.size, 3), np.uint8)])

    @torch.inference_mode()
    def __call__(self, steps):
        maps = []
        for frames in steps:  # nothing is read back before the end, as in VGG19
            tokens = self.run(pixel_values=self.prepare(frames)).last_hidden_state
            x = F.adaptive_avg_pool2d(self._grid(tokens.float()), GRID)  # (n, C, 7, 7)
            maps.append(x.mean(dim=0).permute(1, 2, 0))
        return torch.stack(maps).cpu().numpy()

    def _grid(self, x):
        """[n, tokens, C] -> [n, C, h, w]; a convolutional map is one already."""
        if x.dim() == 4:
            return x
        patch = getattr(self.config, "patch_size", None)
        side = self.size // patch if isinstance(patch, int) else 0
        if not 0 < side * side <= x.shape[1]:
            raise UserError(f"weights {self.where}: '{self.config.model_type}' has no square grid of patches")
        return x[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


class SoundEncoder(Encoder):
    """Audio encoders (CLAP, AST, wav2vec 2.0, HuBERT …) as [T, C], every second by itself.

    The model's pooled output where it has one, else the mean of its last hidden state over time. Sound is resampled to
    what the checkpoint's feature extractor asks for.
    """

    modality = "audio"
    tower = "audio_model"
    unused = ("masked_spec_embed",)  # of training

    def __init__(self, weights, device="cpu", precision="fp32"):
        super().__init__(weights, device, precision)
        self.prepare = part_of(
            self.where, lambda: AutoFeatureExtractor.from_pretrained(self.where, trust_remote_code=False)
        )
        self.shape = self.tried(torch.zeros(1, SAMPLE_RATE))

    @torch.inference_mode()
    def __call__(self, steps):
        rate = self.prepare.sampling_rate
        sound = torchaudio.functional.resample(steps, SAMPLE_RATE, rate).numpy()
        inputs = self.prepare(list(sound), sampling_rate=rate, return_tensors="pt")
        if "is_longer" in inputs:  # if none is longer than it reads, CLAP's extractor says so of one at random
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        output = self.run(**inputs)
        pooled = getattr(output, "pooler_output", None)
        x = output.last_hidden_state.mean(dim=1) if pooled is None else pooled
        return x.float().cpu().numpy()


class TextEncoder(Encoder):
    """Text encoders (BERT, RoBERTa, CLIP, T5 …) as [L, C]: a word is the mean of its pieces in the last hidden state.

    The whole caption is read, in lower case and without punctuation as the front end gives it, and its special tokens
    are left out afterwards. Words beyond what the model reads at once are lost.
    """

    modality = "text"
    tower = "text_model"
    unused = ("pooler",)

    def __init__(self, weights, device="cpu", precision="fp32"):
        super().__init__(weights, device, precision)
        # Byte-level tokenizers spell a word after a space otherwise than one at the start; words here come one by one.
        self.tokenizer = part_of(self.where, lambda: AutoTokenizer.from_pretrained(
            self.where, trust_remote_code=False, use_fast=True, add_prefix_space=True
        ))
        if not self.tokenizer.is_fast:
            raise UserError(f"weights {self.where}: its tokenizer does not say which word a piece belongs to")
        most = getattr(self.config, "max_position_embeddings", None) or 512
        self.most = min(self.tokenizer.model_max_length, most)
        self._remembered = functools.lru_cache(REMEMBERED)(self._encode)
        self.shape = self.tried(["a"])

    def __call__(self, steps):
        return self._remembered(tuple(steps))

    @torch.inference_mode()
    def _encode(self, words):
        pieces = self.tokenizer(
            list(words), is_split_into_words=True, truncation=True, max_length=self.most, return_tensors="pt"
        )
        x = self.run(**pieces).last_hidden_state[0].float().cpu()  # (pieces, C)
        word = torch.tensor([-1 if w is None else w for w in pieces.word_ids()])
        n = int(word.max()) + 1
        total = torch.zeros(n, x.shape[1]).index_add_(0, word[word >= 0], x[word >= 0])
        count = torch.bincount(word[word >= 0], minlength=n)
        return (total / count.clamp_min(1)[:, None]).numpy()


class Bert(TextEncoder):
    """BERT-base token embeddings (Devlin et al. 2019), [L, 768]: `TextEncoder` that takes nothing but a BERT."""

    def __init__(self, weights, device="cpu", precision="fp32"):
        super().__init__(weights, device, precision)
        if self.config.model_type != "bert":
            raise UserError(f"weights {self.where}: is a '{self.config.model_type}', expected a BERT (or backbone hf)")
        self.name = "bert"


class ReleasedBert(Bert):
    """`Bert` as the released code reads it: of a caption that is encoded whole, only the words that are a single piece
    of the vocabulary and whose number is in the public list `cnt.pkl` are kept.

    Example
    -------
    >>> ReleasedBert(("google-bert/bert-base-uncased", "cnt.pkl"))(["a", "dog", "barking"]).shape    # doctest: +SKIP
    (3, 768)
    """

    expects = (CHECKPOINT, "the public code's cnt.pkl")

    def __init__(self, weights, device="cpu", precision="fp32"):
        try:
            self.listed = frozenset(numbers_in(weights[1]))
        except BadPickle as bad:
            raise UserError(f"weights {weights[1]}: not the public code's list of words ({bad})") from None
        super().__init__(weights, device, precision)
        self.weights, self.name = weights, "bert-released"

    @property
    def sha256(self):
        return f"{identity(self.where)}+{sha256(self.weights[1])}"

    def tried(self, steps):
        return part_of(self.where, lambda: super(ReleasedBert, self)._encode(tuple(steps))).shape[1:]

    def _encode(self, words):
        x = super()._encode(words)
        # [CLS] and [SEP] aside: a word of one piece has one number, which is [UNK]'s where nobody knows it
        numbers = self.tokenizer([[word] for word in words[: len(x)]], is_split_into_words=True,
                                 add_special_tokens=False)["input_ids"]
        kept = [len(own) == 1 and own[0] in self.listed and own[0] != self.tokenizer.unk_token_id for own in numbers]
        if not any(kept):
            raise BadClip("none of its words is a single piece of the public list")
        return x[np.array(kept)]
