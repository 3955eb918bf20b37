"""What a run leaves to read: `metrics.csv`, the record, and trackers that show it: TensorBoard, Weights & Biases.

The same names in all of them. Tasks tell the trackers of a run folder what they measured of its checkpoints.
"""

import csv
import math
import os
from pathlib import Path
from uuid import uuid4

from cmg.errors import UserError
from cmg.files import replacing, write_atomically


class Tracker:
    """What is told in the course of a run; one that has no use for something leaves it.

    Made of (run folder, step): what it holds of this step and later ones a resumed run tells again. Step None: it is
    only added to.
    """

    place = ""  # in the run folder

    @staticmethod
    def package():
        """`UserError` where a package is absent that it needs."""

    def settings(self, flags: dict):
        """The flags of the run."""

    def scalars(self, step: int, values: dict):
        """Figures by name."""

    def picture(self, step: int, name: str, path):
        """A picture, a .png file."""

    def close(self):
        """Nothing more comes."""


class Metrics(Tracker):
    """`metrics.csv`: a row for each step that is told, its columns in the order in which they came up."""

    place = "metrics.csv"

    def __init__(self, folder, step):
        self.path, self.columns = Path(folder) / self.place, []
        if self.path.exists():
            try:
                with open(self.path, newline="") as file:
                    reader = csv.DictReader(file)
                    self.columns = list(reader.fieldnames or [])
                    rows = [row for row in reader if None not in row.values() and int(row["step"]) < step]
            except (KeyError, ValueError, csv.Error):
                raise UserError(f"{self.path}: not the metrics of a run; expected a column step, or no such file") \
                    from None
            self.rewrite(rows)

    def rewrite(self, rows):
        with replacing(self.path) as unfinished, open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def scalars(self, step, values):
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        more = [name for name in row if name not in self.columns]
        if more:  # at the beginning, and where a run goes on that another version began
            rows = []
            if self.columns:
                with open(self.path, newline="") as file:
                    rows = list(csv.DictReader(file))
            self.columns += more
            self.rewrite(rows)
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)


class TensorBoard(Tracker):
    """Event files in `tb/`."""

    place = "tb"

    def __init__(self, folder, step):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.board = SummaryWriter(str(Path(folder) / self.place), purge_step=step)

    def settings(self, flags):
        lines = [f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in flags.items()]
        self.board.add_text("flags", "\n".join(["| flag | value |", "|:--|:--|", *lines]))

    def scalars(self, step, values):
        for name, value in values.items():
            if math.isfinite(value):
                self.board.add_scalar(name, value, step)

    def picture(self, step, name, path):
        from matplotlib.image import imread

        self.board.add_image(name, imread(path)[..., :3], step, dataformats="HWC")

    def close(self):
        self.board.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, which keeps its files in `wandb/`, and its number in `wandb/run`, by which a resumed
    run and the tasks find it again. WANDB_MODE, WANDB_PROJECT and its other variables hold."""

    place = "wandb"

    def __init__(self, folder, step):
        wandb = self.package()
        folder = Path(folder).resolve()
        number = folder / self.place / "run"
        if not number.exists():
            write_atomically(number, uuid4().hex[:8])
        try:
            self.run = wandb.init(dir=str(folder), id=number.read_text(), name=folder.name, resume="allow",
                                  project=os.environ.get("WANDB_PROJECT", "cmg"))
        except wandb.Error as error:
            raise UserError(f"--report-to wandb: {str(error).splitlines()[0]}; expected `wandb login`, or "
                            "WANDB_MODE=offline in the environment") from None
        self.run.define_metric("*", step_metric="step")  # its own count would refuse what is told of an earlier step
        self.image = wandb.Image

    @staticmethod
    def package():
        """The module; `UserError` where it is absent."""
        try:
            import wandb
        except ImportError:
            raise UserError("--report-to wandb: the package wandb is not installed; expected `pip install "
                            "cmg-unicode[wandb]`, or --report-to tensorboard") from None
        return wandb

    def settings(self, flags):
        self.run.config.update(flags, allow_val_change=True)

    def scalars(self, step, values):
        self.run.log({"step": step, **values})

    def picture(self, step, name, path):
        self.run.log({"step": step, name: self.image(str(path))})

    def close(self):
        self.run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Recorder(Tracker):
    """`metrics.csv` and the trackers of a run, told together.

    Parameters
    ----------
    folder : the run folder.
    step : rows at or after this step are dropped from an existing file, because a resumed run writes them again.
    report_to : names of trackers.

    Raises
    ------
    UserError : one leads out of the run folder, is not what it should be, or its package is absent.
    """

    def __init__(self, folder, step=0, report_to=("tensorboard",)):
        self.kept = [kind(folder, step) for kind in _places(folder, [Metrics, *map(TRACKERS.get, report_to)])]

    def settings(self, flags):
        for one in self.kept:
            one.settings(flags)

    def write(self, step, epoch, values):
        """Figures of a step. values : dict name -> float."""
        self.scalars(step, {"epoch": epoch, **values})

    def scalars(self, step, values):
        for one in self.kept:
            one.scalars(step, values)

    def close(self):
        for one in self.kept:
            one.close()


def tell_run(folder, flags, step, values, pictures=()):
    """Tell the trackers of a run folder what was measured of its checkpoint of a step; nothing where that is none.

    flags : the run's own, which name its trackers. values : dict name -> figure, or None. pictures : of .png files.
    """
    folder = Path(folder)
    if not (folder / Metrics.place).is_file():
        return
    kinds = [TRACKERS[name] for name in flags.get("report_to", ["tensorboard"])]
    for tracker in (kind(folder, None) for kind in _places(folder, kinds)):
        tracker.scalars(step, {name: value for name, value in values.items() if value is not None})
        for path in pictures:
            tracker.picture(step, Path(path).stem, path)
        tracker.close()


def _places(folder, kinds):
    """The same kinds of trackers; `UserError` where one would write elsewhere."""
    folder = Path(folder)
    for path in (folder / kind.place for kind in kinds):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: leads to {path.resolve()}; expected nothing, or what lies in the run folder")
    return kinds
