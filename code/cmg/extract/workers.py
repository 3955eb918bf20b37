"""Turn clips into features in several processes, which may share a device.

Decoding and computing overlap. Each process takes clip after clip, so that one decodes while another computes. On a GPU
they also overlap within a process: a backbone only queues its work on a second, and the next second is decoded
meanwhile. Finished clips are written by the parent process while the others go on.
"""

import contextlib
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from cmg import processes
from cmg.distributed import choose_device
from cmg.errors import UserError, refusal
from cmg.extract.backbones import dtype_of, load_backbone, rate_of
from cmg.extract.media import FRAMES_PER_SECOND, BadClip, audio_seconds, video_seconds
from cmg.files import short_of_memory
from cmg.modalities import modality


class Job(NamedTuple):
    """One clip to extract."""

    id: str
    path: str  # media file; "" when only words are asked for
    words: tuple  # the caption's words; empty when none are asked for
    sound: str = ""  # media file of the sound, where it has one of its own
    captions: tuple = ()  # all captions as they stand, where a backbone reads them


class Recipe(NamedTuple):
    """What every clip is turned into; a run resumes only the shards of its own recipe."""

    backbones: tuple  # of Choice
    seconds: int
    words: int
    frames: int = FRAMES_PER_SECOND  # of a second of video, at most
    precision: str = "fp32"
    captions: int = 1  # of a clip, at most, for a backbone that reads them

    def steps(self, name):
        """Steps of a clip in a modality: seconds, or words."""
        return self.seconds if modality(name).timed else self.words

    def shape(self, backbone):
        """Shape of a clip's features."""
        if reads_captions(backbone):
            return self.captions, self.words
        return self.steps(backbone.modality) * rate_of(backbone), *backbone.shape


def reads_captions(backbone):
    """Whether a backbone, or the class of one, reads captions as they stand."""
    return getattr(backbone, "reads", "") == "captions"


class Spent(NamedTuple):
    """Seconds of a worker. On a GPU `forward` is what was left to wait for after decoding."""

    decode: float = 0.0
    forward: float = 0.0


class Outcome(NamedTuple):
    """A finished clip, or a bad one with the reason."""

    job: Job
    features: dict  # modality -> ndarray [T, *shape] as stored, or int32 [K, L] of captions
    valid: dict  # modality -> bool ndarray [T]
    reason: str  # "" when the clip is good
    spent: Spent = Spent()

    @property
    def id(self):
        return self.job.id


class Extractor:
    """Turn one clip into features; every worker process has its own. The backbones are loaded with the first clip."""

    def __init__(self, recipe, device="cpu"):
        self.recipe, self.device = recipe, device
        self.backbones, self.decoding = None, 0.0

    def __call__(self, job):
        try:
            if self.backbones is None:
                device, precision = choose_device(self.device), self.recipe.precision
                self.backbones = [load_backbone(choice, device, precision) for choice in self.recipe.backbones]
            return self._extract(job)
        except torch.OutOfMemoryError:
            raise UserError(f"--device {self.device}: out of memory; expected fewer processes (--workers)") from None

    def _extract(self, job):
        try:
            job.id.encode()
        except UnicodeEncodeError:  # no feature file could hold it
            return Outcome(job, {}, {}, "its name is not UTF-8")
        self.decoding, start = 0.0, time.perf_counter()
        features, valid, reason = {}, {}, ""
        for backbone in self.backbones:
            m = backbone.modality
            try:
                features[m], valid[m] = (self._captions(backbone, job) if reads_captions(backbone) else
                                         self._pad(backbone, backbone(self._steps(m, job))))
            except BadClip as bad:
                features, valid, reason = {}, {}, f"{m}: {bad}"
                break
            except (OSError, MemoryError, RuntimeError) as error:
                line = refusal(error)
                if line is None or type(error).__name__ == "OutOfMemoryError":  # of a card, which has its own words
                    raise
                raise UserError(line if job.path in line else f"{job.path or job.id}: {line}") from None
        spent = Spent(self.decoding, time.perf_counter() - start - self.decoding)
        return Outcome(job, features, valid, reason, spent)

    def _steps(self, name, job):
        source = modality(name).source
        if source == "frames":
            return self._clocked(video_seconds(job.path, self.recipe.seconds, self.recipe.frames))
        if source == "sound":
            with self._decodes():
                return audio_seconds(job.sound or job.path, self.recipe.seconds)
        if not job.words:
            raise BadClip("no caption")
        return list(job.words)

    def _captions(self, backbone, job):
        """All captions of a clip: numbers [K, L], zeros where it has fewer; which it has [K]."""
        if not job.captions:
            raise BadClip("no caption")
        most, length = self.recipe.captions, self.recipe.words
        x = np.zeros((most, length), backbone.dtype)
        ids = backbone(list(job.captions[:most]), length)
        x[: len(ids)] = ids
        return x, np.arange(most) < len(ids)

    def _clocked(self, steps):
        """The same steps; the time to make each counts as decoding."""
        while True:
            with self._decodes():
                step = next(steps, None)
            if step is None:
                return
            yield step

    @contextlib.contextmanager
    def _decodes(self):
        start = time.perf_counter()
        try:
            yield
        except (BadClip, UserError):
            raise
        except Exception as error:  # foreign bytes fail in more ways than a decoder knows; one clip must not end a run
            # but what the machine refuses says nothing of the clip, and a library that is not there neither
            if short_of_memory(error) if isinstance(error, MemoryError) else refusal(error):
                raise
            if isinstance(error, ImportError):
                raise
            raise BadClip(f"cannot be decoded ({type(error).__name__}: {str(error)[:100]})") from None
        finally:
            self.decoding += time.perf_counter() - start

    def _pad(self, backbone, x):
        """[n, *shape] -> [T, *shape] as stored, valid [T]: the last step is repeated, words are followed by zeros."""
        name = backbone.modality
        steps = self.recipe.steps(name) * rate_of(backbone)
        x = x[:steps]  # of words; they are cut only now because they change each other's meaning
        n = len(x)
        with np.errstate(over="ignore"):  # to inf, which is caught here
            x = x.astype(dtype_of(backbone))
        if not np.isfinite(x).all():
            raise BadClip("features are not finite")
        rest = np.repeat(x[-1:] * modality(name).timed, steps - n, axis=0)  # [T - n, *shape]
        return np.concatenate([x, rest]), np.arange(steps) < n


def extract_all(jobs, recipe, workers, devices=("cpu",), work=Extractor):
    """Yield the outcome of every job, in the order they finish.

    A clip on which the decoder takes its process down, twice, is a bad clip like any other. What is not the clip's
    fault ends the run: a disk, memory, a worker that somebody killed twice at the same clip.

    Parameters
    ----------
    jobs : list[Job]
    recipe : Recipe
    workers : number of processes; 0 runs in this one, on the first device.
    devices : names as `--device` takes them, dealt to the processes in turn.
    work : (recipe, device) -> what a worker does with a job; of a module, for it is sent by name.
    """
    if workers == 0:
        yield from map(work(recipe, devices[0]), jobs)
        return
    makes = [partial(_alone, work, recipe, devices[number % len(devices)]) for number in range(workers)]
    for job, outcome in processes.each(jobs, makes):
        if isinstance(outcome, processes.Died):
            outcome = Outcome(job, {}, {}, f"the process that decoded it died ({outcome.how})")
        yield outcome


def _alone(work, recipe, device):
    torch.set_num_threads(1)  # the run is parallel over clips
    return work(recipe, device)
