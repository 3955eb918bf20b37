"""Queries of the segmentation task: one vector per frame of a five-second clip, from sound or from the class's name.

How clips of five seconds meet encoders of ten: a clip is encoded as a clip of five steps. Φ has no positional code
and takes any T, so nothing is repeated, cut or padded, and the query of frame t is the code vector of second t. A
sound shorter than five seconds is filled up with its last second, which is masked inside Φ.

Text: the class's name is put into a prompt and split into words; each word becomes a code vector; their mean is the
query of all five frames.
"""

import zlib

import torch

from cmg.data import provenance
from cmg.data.avs import SECONDS, read_log_mel
from cmg.data.provenance import of_attributes
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.extract.backbones import load_backbone
from cmg.extract.hashed import words_of
from cmg.extract.shards import origin
from cmg.extract.workers import Extractor, Job, Recipe

MEL_BINS = 12  # time bins of a second into which the public log-mel's 96 frames are averaged


class QueryReader:
    """Makes the queries of a set of clips.

    Parameters
    ----------
    folder : S4Folder
    kind : "codes" (the frozen model's code vectors), "raw" (the features that go into it, the benchmark's own
        audio-to-audio setting) or "none" (always zero: what can be segmented without being told what).
    model : UnifiedModel in eval mode, needed for codes
    features : FeatureSet with the audio of every clip by its name; None reads `audio_wav`
    backbones : dict modality -> Choice of the extraction backbone
    prompt : text with one {} for the class's words
    """

    def __init__(self, folder, kind, model=None, features=None, backbones=None, prompt="{}", device="cpu"):
        self.folder, self.kind, self.model, self.features = folder, kind, model, features
        self.backbones, self.prompt, self.device = backbones or {}, prompt, device

    def recipe(self, modality, words=1):
        """How features are made, in the precision of those that the model was pretrained on."""
        recipe = Recipe((self.backbones[modality],), SECONDS, words)
        known = self.model and self.model.features[modality].precision
        return recipe._replace(precision=known) if known else recipe

    def check(self, modality):
        """`UserError` if the features that are made come from another encoder than the model was pretrained on."""
        recipe, flag = self.recipe(modality), f"--{modality}-backbone"
        made = of_attributes(origin(load_backbone(recipe.backbones[0], precision=recipe.precision), recipe), modality)
        provenance.check(self.model.features, {modality: made}, flag)

    def digest(self) -> int:
        """A number that tells codebooks apart, so that a network is not tested on another one's codes."""
        if self.kind != "codes":
            return 0
        return zlib.crc32(self.model.codebook.embedding.detach().cpu().float().numpy().tobytes())

    @torch.no_grad()
    def __call__(self, modality, clips):
        """-> float32 Tensor[N, 5, Q] on the CPU."""
        if self.kind == "none":
            return torch.zeros(len(clips), SECONDS, 1)
        if modality == "text":
            return self._text(clips)
        if self.kind == "raw":
            return self._raw(clips)
        if self.features is not None:
            return self._stored(clips)
        x, valid = self._sound(clips)
        return self._quantized("audio", x, valid)

    def _text(self, clips):
        extract, queries = Extractor(self.recipe("text", self.model.shapes["text"][0])), {}
        for category in dict.fromkeys(clip.category for clip in clips):
            words = words_of(self.prompt.format(category.replace("_", " ")))
            outcome = extract(Job(category, "", tuple(words)))
            if outcome.reason:
                raise UserError(f"--prompt {self.prompt!r}: class {category!r} gives no words")
            x, valid = torch.from_numpy(outcome.features["text"])[None], torch.from_numpy(outcome.valid["text"])[None]
            words = self._quantized("text", x, valid)[valid]  # (L, D), of the words that exist
            queries[category] = words.mean(0)
        return torch.stack([queries[clip.category] for clip in clips])[:, None].repeat(1, SECONDS, 1)  # (N, 5, D)

    def _sound(self, clips):
        """Features of the waveforms, [N, 5, A], and which seconds exist, [N, 5]."""
        extract = Extractor(self.recipe("audio"))
        features, valid = [], []
        for clip in clips:
            path = self.folder.sound(clip)
            if not path.is_file():
                hint = ""
                if self.folder.log_mel(clip).is_file():
                    hint = "; audio_log_mel serves --query raw alone, for codes pass --data with extracted features"
                raise UserError(f"{path}: no such file{hint}")
            outcome = extract(Job(clip.name, str(path), ()))
            if outcome.reason:
                raise UserError(f"{path}: {outcome.reason}")
            features.append(torch.from_numpy(outcome.features["audio"]))
            valid.append(torch.from_numpy(outcome.valid["audio"]))
        return torch.stack(features), torch.stack(valid)

    def _raw(self, clips):
        if self.features is not None:
            rows = self._rows(clips)
            return self.features.__getitems__(rows.tolist())["audio"][:, :SECONDS]
        if self.folder.sound(clips[0]).is_file():
            return self._sound(clips)[0].float()
        mel = torch.stack([read_log_mel(self.folder.log_mel(clip)) for clip in clips])  # (N, 5, 1, 96, 64)
        return mel.view(len(clips), SECONDS, MEL_BINS, -1, 64).mean(3).flatten(2)  # (N, 5, 12·64)

    def _stored(self, clips):
        """Tokens from a feature file, of the first five steps, whatever it holds."""
        return encode_set(self.model, _FirstSteps(self.features), "audio", rows=self._rows(clips),
                          device=self.device).vectors.cpu()

    def _rows(self, clips):
        rows, missing = self.features.rows_of([clip.name for clip in clips])
        if missing:
            raise UserError(f"--data: {len(missing)} of {len(clips)} clips have no features, the first is {missing[0]}")
        step = self.features.provenance["audio"].seconds_per_step
        if step not in (None, 1):
            raise UserError(f"--data: {step} s a step; expected 1, because there is a frame a second")
        if self.features.shapes["audio"][0] < SECONDS:
            raise UserError(f"--data: audio of {self.features.shapes['audio'][0]} steps; expected at least {SECONDS}")
        return rows

    def _quantized(self, modality, x, valid):
        return torch.cat([
            self.model.tokens(modality, a.to(self.device).float(), v.to(self.device)).quantized.cpu()
            for a, v in zip(x.split(256), valid.split(256))]).float()


class _FirstSteps:
    """A feature set that is cut to the first five steps of every clip."""

    def __init__(self, features):
        self.features = features

    def __getitems__(self, indices):
        read = self.features.__getitems__(indices)
        return {name: read[name][:, :SECONDS] for name in ("audio", "valid/audio")}


def mismatched(clips, queries):
    """Every clip gets the query of the next clip of another class; a network that ignores its query loses nothing.

    Unchanged where there is only one class.

    >>> from cmg.data.avs import S4Clip
    >>> clips = [S4Clip(str(i), "0", category, "test") for i, category in enumerate("aabc")]
    >>> mismatched(clips, torch.arange(4.)).tolist()
    [2.0, 2.0, 3.0, 0.0]
    """
    n = len(clips)
    order = [next((j % n for j in range(i + 1, i + n) if clips[j % n].category != clips[i].category), i)
             for i in range(n)]
    return queries[order]
