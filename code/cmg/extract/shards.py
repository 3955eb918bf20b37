"""Run the backbones over many clips: several processes, shards of finished clips, resume, one file in the end."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cmg.data.features import FeatureFile, FeatureWriter
from cmg.errors import UserError
from cmg.extract.backbones import load_backbone
from cmg.extract.media import BadClip, audio_seconds, video_seconds

SHARD = 64  # finished clips per shard: at most so many are lost when the run is killed


class Job(NamedTuple):
    """One clip to extract."""

    id: str
    path: str  # media file; "" when only text is asked for
    words: tuple  # the caption's words; empty when text is not asked for


class Recipe(NamedTuple):
    """What every clip is turned into; a run resumes only the shards of its own recipe."""

    backbones: tuple  # (modality, name) pairs
    seconds: int
    words: int

    def steps(self, modality):
        """Steps of a clip: words of text, seconds of the others."""
        return self.words if modality == "text" else self.seconds


class Outcome(NamedTuple):
    """A finished clip, or a bad one with the reason."""

    job: Job
    features: dict  # modality -> float16 ndarray [T, *shape]
    valid: dict  # modality -> bool ndarray [T]
    reason: str  # "" when the clip is good


class Extractor:
    """Turn one clip into features; every worker process has its own."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.backbones = [load_backbone(modality, name) for modality, name in recipe.backbones]

    def __call__(self, job):
        features, valid = {}, {}
        for backbone in self.backbones:
            m = backbone.modality
            try:
                features[m], valid[m] = self._pad(m, backbone(self._steps(m, job)))
            except BadClip as bad:
                return Outcome(job, {}, {}, f"{m}: {bad}")
        return Outcome(job, features, valid, "")

    def _steps(self, modality, job):
        if modality == "video":
            return video_seconds(job.path, self.recipe.seconds)
        if modality == "audio":
            return audio_seconds(job.path, self.recipe.seconds)
        if not job.words:
            raise BadClip("no caption")
        return list(job.words[: self.recipe.words])

    def _pad(self, modality, x):
        """[n, *shape] -> [T, *shape] float16, valid [T]: the last second is repeated, words are followed by zeros."""
        n, steps = len(x), self.recipe.steps(modality)
        with np.errstate(over="ignore"):  # to inf, which is caught here
            x = x.astype(np.float16)
        if not np.isfinite(x).all():
            raise BadClip("features are not finite")
        rest = np.repeat(x[-1:] * (modality != "text"), steps - n, axis=0)  # [T - n, *shape]
        return np.concatenate([x, rest]), np.arange(steps) < n


_extractor = None  # this worker's


def _start_worker(recipe):
    global _extractor
    torch.set_num_threads(1)  # the run is parallel over clips
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent alone answers it
    # A worker waits for work on a pipe that its siblings hold open too, so it would outlive a killed parent for good.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _extractor = Extractor(recipe)


def _extract_one(job):
    return _extractor(job)


def extract_all(jobs, recipe, workers, work=_extract_one):
    """Yield the outcome of every job, in the order they finish.

    A clip on which the decoder takes its process down is a bad clip like any other: the clips that were under way
    are tried again one by one, each in a process of its own, and the run goes on.

    Parameters
    ----------
    jobs : list[Job]
    recipe : Recipe
    workers : number of processes; 0 runs in this one.
    work : what a worker does with a job, a function of a module (it is sent by name).
    """
    if workers == 0:
        yield from map(Extractor(recipe), jobs)
        return
    waiting, running = list(reversed(jobs)), {}
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch and av
    while waiting:
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (recipe,))
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
            yield from extract_all([job], recipe, 1, work)


class Parts:
    """The folder `<out>.parts` of shards, each a valid feature file of up to `SHARD` clips, and the recipe.

    Raises
    ------
    UserError : the folder holds the shards of another recipe (unless `overwrite`), or is not ours.
    """

    def __init__(self, out, recipe, attrs, overwrite):
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".parts")
        backbones = [load_backbone(modality, name) for modality, name in recipe.backbones]
        self.shapes = {b.modality: (recipe.steps(b.modality), *b.shape) for b in backbones}
        self.attrs = {
            **{f"backbone/{b.modality}": b.name for b in backbones},
            **{f"sha256/{b.modality}": b.sha256 for b in backbones},
            "seconds_per_step": 1.0,
            **attrs,
        }
        self._settle(overwrite)
        self.files = [FeatureFile(path) for path in sorted(self.folder.glob("shard-*.h5"))]
        self._next = 1 + max((int(file.path.stem.partition("-")[2]) for file in self.files), default=-1)
        self._held = []

    def _settle(self, overwrite):
        """Make the folder, or make sure that what is in it was made with the same settings."""
        settings = self.folder / "settings.json"
        wanted = json.dumps({"shapes": self.shapes, "attrs": self.attrs}, indent=1) + "\n"
        if self.folder.exists() and any(self.folder.iterdir()):
            if not settings.is_file():
                raise UserError(f"{self.folder}: in the way, it was not made by cmg.extract; remove it")
            if settings.read_text() == wanted:
                for stale in self.folder.glob("*.tmp-*"):
                    stale.unlink()
                return
            if not overwrite:
                raise UserError(
                    f"{self.folder}: unfinished extraction with other settings; "
                    "repeat those to resume it, remove the folder, or pass --overwrite"
                )
            shutil.rmtree(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temp = self.folder / f"settings.json.tmp-{os.getpid()}"
            temp.write_text(wanted)
            os.replace(temp, settings)
        except OSError as error:
            raise UserError(f"{self.out}: cannot write here ({error.strerror})") from None

    def ids(self):
        """Ids of the clips in the shards on disk."""
        return {name for file in self.files for name in file.ids}

    def add(self, outcome):
        """Take a finished clip; each `SHARD` of them become a shard."""
        self._held.append(outcome)
        if len(self._held) == SHARD:
            self.flush()

    def flush(self):
        """Write what is held as a shard."""
        if not self._held:
            return
        path = self.folder / f"shard-{self._next:06d}.h5"
        with FeatureWriter(path, self.shapes, self.attrs) as writer:
            writer.append(
                [outcome.job.id for outcome in self._held],
                {m: np.stack([outcome.features[m] for outcome in self._held]) for m in self.shapes},
                {m: np.stack([outcome.valid[m] for outcome in self._held]) for m in self.shapes},
            )
        self.files.append(FeatureFile(path))
        self._next += 1
        self._held = []

    def merge(self, ids):
        """Write the clips of these ids, sorted, as the final file, and remove the folder."""
        place = {name: (file, row) for file in self.files for row, name in enumerate(file.ids)}
        ids = sorted(ids)
        with FeatureWriter(self.out, self.shapes, self.attrs) as writer:
            for start in range(0, len(ids), SHARD):
                block = ids[start : start + SHARD]
                features = {m: np.empty((len(block), *shape), np.float16) for m, shape in self.shapes.items()}
                valid = {m: np.empty((len(block), shape[0]), bool) for m, shape in self.shapes.items()}
                for file in {place[name][0] for name in block}:
                    here = [i for i, name in enumerate(block) if place[name][0] is file]
                    rows = [place[block[i]][1] for i in here]
                    for m in self.shapes:
                        features[m][here], valid[m][here] = file.read(m, rows)
                    file.close()  # a large set has more shards than a process may have open files
                writer.append(block, features, valid)
        self.discard()

    def discard(self):
        """Remove the folder."""
        shutil.rmtree(self.folder)
