"""What a run leaves to read: `metrics.csv` (the record) and TensorBoard (the view), same names in both."""

import csv
import math
from pathlib import Path

from cmg.errors import UserError
from cmg.files import replacing


class Recorder:
    """Append rows of scalars to `metrics.csv` and TensorBoard.

    Parameters
    ----------
    folder : the run folder.
    step : rows at or after this step are dropped from an existing file, because a resumed run writes them again.
    """

    def __init__(self, folder, step=0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.path = Path(folder) / "metrics.csv"
        for path in (self.path, Path(folder) / "tb"):
            if not path.resolve().is_relative_to(Path(folder).resolve()):
                raise UserError(f"{path}: leads to {path.resolve()}; expected nothing, or what lies in the run folder")
        self.columns, rows = [], []
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
        self.board = SummaryWriter(str(Path(folder) / "tb"), purge_step=step)

    def rewrite(self, rows):
        with replacing(self.path) as unfinished, open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step, epoch, values):
        """One row. values : dict name -> float."""
        row = {"step": step, "epoch": epoch, **{name: f"{value:.6g}" for name, value in values.items()}}
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
        for name, value in values.items():
            if math.isfinite(value):
                self.board.add_scalar(name, value, step)

    def close(self):
        self.board.close()
