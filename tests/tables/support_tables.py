"""What the tests of tables share: table files, and processes that only note that they were called."""

import json
from pathlib import Path

from cmg.tables.__main__ import main

AVE = 'evaluations.ave = {task = "ave", flags = "--probe-epochs 2 --data {ave} --annotations {annotations}"}\n'
AVVP = 'evaluations.avvp = {task = "avvp", flags = "--data {avvp} --annotations {annotations}"}\n'


def rows(**flags):
    """The rows of a table file: their flags, by name."""
    return "rows = [" + ", ".join(f'{{name = "{name}", flags = "{own}"}}' for name, own in flags.items()) + "]\n"


def row(metric, value, target="audio", protocol="strict", source="video"):
    return {"metric": metric, "source": source, "target": target, "value": value, "source_value": value + 1,
            "protocol": protocol, "chance": 10.0, "match_rate": 40.0, "code_overlap": None, "n_test": 60,
            "commit": "abc"}


class Finished:
    """A cell whose results are given."""

    def __init__(self, name, seed, results, clip_scores=None):
        self.name, self.seed, self._results, self._clip_scores = name, seed, results, clip_scores or {}

    def results(self):
        return self._results

    def clip_scores(self):
        return self._clip_scores

    def account(self):
        return {"name": self.name, "minutes": 1.5, "commit": "abc"}


class Processes:
    """Stands in for the processes of a table: notes who was called and leaves behind what they would."""

    def __init__(self):
        self.calls, self.arguments, self.fails = [], [], set()

    def __call__(self, workers, log, module, *arguments):
        task = module.rpartition(".")[2]
        self.calls.append(task)
        self.arguments.append(arguments)
        given = {flag: value for flag, value in zip(arguments, arguments[1:]) if flag.startswith("--")}
        if self.fails & {task, *arguments}:
            log.write(f"{task} says why\n")
            log.flush()
            return 2
        folder = Path(given["--out"])
        folder.mkdir(parents=True, exist_ok=True)
        if task == "pretrain":
            (folder / "args.json").write_text(json.dumps({"commit": "c0", "flags": {"batch_size": 10, **given}}))
            # 20 steps of 10 clips at 10 clips a second, 20 at 20
            (folder / "metrics.csv").write_text("step,train/clips_per_s\n0,1\n20,10\n40,20\n")
        elif "--choose-only" in arguments:  # the score is what --lr says
            lr = float(json.loads((Path(given["--checkpoint"]) / "args.json").read_text())["flags"]["--lr"])
            (folder / "ave_sweep_strict.json").write_text(json.dumps([
                {"checkpoint": f"epoch_00{n}.pt", "epoch": n, "score": lr - n, "video → audio": 2 * lr,
                 "audio → video": 0} for n in range(2)]))
        else:
            (folder / "results.json").write_text(json.dumps([row("accuracy", 50.0 + float(given.get("--seed", 0)))]))
        return 0


def run(tmp_path, text, *flags):
    file = tmp_path / "t.toml"
    file.write_text(text)
    main([str(file), "--data", "x.h5", "--set", "ave=a.h5", "avvp=v.h5", "annotations=some/where", "--seeds", "0",
          "--out", str(tmp_path / "o"), *flags])
    return json.loads((tmp_path / "o" / "table.json").read_text())
