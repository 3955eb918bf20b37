"""Turn clips into features in several processes, which may share a device.

Decoding and computing overlap. Each process takes clip after clip, so that one decodes while another computes. On a GPU
they also overlap within a process: a backbone only queues its work on a second, and the next second is decoded
meanwhile. Finished clips are written by the parent process while the others go on.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
import torch

from cmg.distributed import choose_device
from cmg.errors import UserError
from cmg.extract.backbones import dtype_of, load_backbone, rate_of
from cmg.extract.media import FRAMES_PER_SECOND, BadClip, audio_seconds, video_seconds
from cmg.modalities import modality


class Job(NamedTuple):
    """One clip to extract."""

    id: str
    path: str  # media file; "" when only words are asked for
    words: tuple  # the caption's words; empty when none are asked for
    sound: str = ""  # media file of the sound, where it has one of its own


class Recipe(NamedTuple):
    """What every clip is turned into; a run resumes only the shards of its own recipe."""

    backbones: tuple  # of Choice
    seconds: int
    words: int
    frames: int = FRAMES_PER_SECOND  # of a second of video, at most
    precision: str = "fp32"

    def steps(self, name):
        """Steps of a clip in a modality: seconds, or words."""
        return self.seconds if modality(name).timed else self.words


class Spent(NamedTuple):
    """Seconds of a worker. On a GPU `forward` is what was left to wait for after decoding."""

    decode: float = 0.0
    forward: float = 0.0


class Outcome(NamedTuple):
    """A finished clip, or a bad one with the reason."""

    job: Job
    features: dict  # modality -> ndarray [T, *shape], as stored
    valid: dict  # modality -> bool ndarray [T]
    reason: str  # "" when the clip is good
    spent: Spent = Spent()


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
                features[m], valid[m] = self._pad(backbone, backbone(self._steps(m, job)))
            except BadClip as bad:
                features, valid, reason = {}, {}, f"{m}: {bad}"
                break
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


_extractor = None  # this worker's


def _start_worker(recipe, devices, started):
    global _extractor
    torch.set_num_threads(1)  # the run is parallel over clips
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent alone answers it
    # A worker waits for work on a pipe that its siblings hold open too, so it would outlive a killed parent for good.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    _extractor = Extractor(recipe, devices[number % len(devices)])


def _extract_one(job):
    return _extractor(job)


def extract_all(jobs, recipe, workers, devices=("cpu",), work=_extract_one):
    """Yield the outcome of every job, in the order they finish.

    A clip on which the decoder takes its process down is a bad clip like any other: the clips that were under way
    are tried again one by one, each in a process of its own, and the run goes on.

    Parameters
    ----------
    jobs : list[Job]
    recipe : Recipe
    workers : number of processes; 0 runs in this one, on the first device.
    devices : names as `--device` takes them, dealt to the processes in turn.
    work : what a worker does with a job, a function of a module (it is sent by name).
    """
    if workers == 0:
        yield from map(Extractor(recipe, devices[0]), jobs)
        return
    waiting, running = list(reversed(jobs)), {}
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch and av
    while waiting:
        start = (_start_worker, (recipe, devices, context.Value("i", 0)))
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, *start)
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(work, waiting[-1])] = waiting[-1]
                    waiting.pop()  # only now: a pool that broke in the meantime refuses the job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    del running[future]
                    yield outcome
        except BrokenProcessPool:
            if len(jobs) == 1:
                yield Outcome(jobs[0], {}, {}, "the process that decoded it died")
                return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        suspects, running = list(running.values()), {}
        for job in suspects:
            yield from extract_all([job], recipe, 1, devices, work)
