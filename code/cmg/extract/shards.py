"""Shards of finished clips, resume, one feature file in the end."""

import contextlib
import glob
import json
import shutil
import time
from pathlib import Path

import numpy as np

from cmg import plugins
from cmg.data.features import FeatureFile, FeatureWriter
from cmg.errors import UserError
from cmg.extract.backbones import dtype_of, load_backbone, rate_of
from cmg.extract.workers import reads_captions
from cmg.files import locked, replacing
from cmg.modalities import modality

SHARD = 64  # finished clips per shard, and
PATIENCE = 60  # seconds until a smaller one is written: no more than these is lost when the run is killed


class Parts:
    """The folder `<out>.parts` of shards, each a valid feature file of up to `SHARD` clips, and the recipe.

    Raises
    ------
    UserError : the folder holds the shards of another recipe (unless `overwrite`), is not ours, or another process is
        at work in it (until that one's `close`, or end).
    """

    def __init__(self, out, recipe, attrs, overwrite):
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".parts")
        backbones = [load_backbone(choice, precision=recipe.precision) for choice in recipe.backbones]
        self.shapes = {b.modality: recipe.shape(b) for b in backbones}
        self.dtypes = {b.modality: dtype_of(b) for b in backbones}
        self.vocabularies = {b.modality: b.vocabulary for b in backbones if reads_captions(b)}
        for name in ("side", "rate"):
            if any(getattr(choice, name) is not None for choice in recipe.backbones) and not any(
                    name in getattr(b, "options", ()) for b in backbones):
                raise UserError(f"--{name}: {', '.join(b.name for b in backbones)} have none; expected a backbone that "
                                "makes pictures, such as frames or melimage")
        rates = {b.modality: rate_of(b) for b in backbones if modality(b.modality).timed}
        if len(set(rates.values())) > 1:
            raise UserError(f"--rate: {', '.join(f'{rate} steps a second of {m}' for m, rate in rates.items())}; "
                            "expected the same number")
        self.attrs = {name: value for b in backbones for name, value in origin(b, recipe).items()} | attrs
        self.own = {c.name: plugins.digest(plugins.file_of(c.name), f"--{c.modality}-backbone")
                    for c in recipe.backbones if plugins.is_file(c.name)}
        with contextlib.ExitStack() as stack:
            self._settle(overwrite, stack)
            self._hold = stack.pop_all()
        self.files = [FeatureFile(path) for path in sorted(self.folder.glob("shard-*.h5"))]
        self._next = 1 + max((int(file.path.stem.partition("-")[2]) for file in self.files), default=-1)
        self._held, self._written = [], time.monotonic()

    def _settle(self, overwrite, stack):
        """Make the folder, or make sure that what is in it was made with the same settings; hold it."""
        settings = self.folder / "settings.json"
        wanted = {"shapes": self.shapes, "attrs": self.attrs} | ({"files": self.own} if self.own else {})
        wanted = json.dumps(wanted, indent=1) + "\n"
        # a run that was killed at its very start leaves a settings.json that is half written, under another name
        if self.folder.exists() and any(".tmp-" not in path.name for path in self.folder.iterdir()):
            if not settings.is_file():
                raise UserError(f"{self.folder}: in the way, it was not made by cmg.extract; remove it")
            stack.enter_context(locked(self.folder))
            if settings.read_text() == wanted:
                others = self.out.parent.glob(f"{glob.escape(self.out.name)}.tmp-*")
                for stale in (*self.folder.glob("*.tmp-*"), *others):
                    stale.unlink()
                return
            if not overwrite:
                raise UserError(
                    f"{self.folder}: unfinished extraction with other settings; "
                    "repeat those to resume it, remove the folder, or pass --overwrite"
                )
            shutil.rmtree(self.folder)
        with replacing(settings) as unfinished:
            stack.enter_context(locked(self.folder))
            unfinished.write_text(wanted)

    def close(self):
        """Let others at the folder."""
        self._hold.close()

    def ids(self):
        """Ids of the clips in the shards on disk."""
        return {name for file in self.files for name in file.ids}

    def add(self, outcome):
        """Take a finished clip; each `SHARD` of them become a shard, or those of `PATIENCE` seconds."""
        self._held.append(outcome)
        if len(self._held) == SHARD or time.monotonic() - self._written > PATIENCE:
            self.flush()

    def flush(self):
        """Write what is held as a shard."""
        self._written = time.monotonic()
        if not self._held:
            return
        path = self.folder / f"shard-{self._next:06d}.h5"
        with FeatureWriter(path, self.shapes, self.attrs, self.dtypes) as writer:
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
        row_of = {name: (file, row) for file in self.files for row, name in enumerate(file.ids)}
        ids = sorted(ids)
        with FeatureWriter(self.out, self.shapes, self.attrs, self.dtypes, self.vocabularies) as writer:
            for start in range(0, len(ids), SHARD):
                block = ids[start : start + SHARD]
                features = {m: np.empty((len(block), *shape), self.dtypes[m]) for m, shape in self.shapes.items()}
                valid = {m: np.empty((len(block), shape[0]), bool) for m, shape in self.shapes.items()}
                for file in {row_of[name][0] for name in block}:
                    here = [i for i, name in enumerate(block) if row_of[name][0] is file]
                    rows = [row_of[block[i]][1] for i in here]
                    for m in self.shapes:
                        features[m][here], valid[m][here] = file.read(m, rows)
                    file.close()  # a large set has more shards than a process may have open files
                writer.append(block, features, valid)
        self.discard()

    def discard(self):
        """Remove the folder."""
        shutil.rmtree(self.folder)


def origin(backbone, recipe):
    """What a feature file says of where a modality comes from, see `cmg.data.provenance`; what has no say is not
    said."""
    row = modality(backbone.modality)
    said = {"backbone": backbone.name, "sha256": backbone.sha256}
    said |= {"seconds_per_step": 1.0 / rate_of(backbone)} if row.timed else {}
    said |= {"frames_per_second": recipe.frames} if row.source == "frames" else {}
    said |= {"precision": recipe.precision} if backbone.expects else {}
    return {f"{name}/{row.name}": value for name, value in said.items()}
