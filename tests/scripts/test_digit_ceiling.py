"""Perfect codes on clips that leave no doubt, and on clips that do."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from support import ROOT

SCRIPT = ROOT / "scripts" / "digit_ceiling.py"


@pytest.fixture(params=["clear", "doubled"])
def folder(request, digits, tmp_path):
    """The clips without distractors; then every test clip with a second digit, heard and seen as long as the first."""
    rows = [row for row in map(json.loads, open(digits / "compositions.jsonl")) if row["kind"] == "ave"]
    for row in rows:
        for side in ("audio", "visual"):
            row[side] = [{**event, "frames": [], "segments": []} for event in row[side]
                         if event["label"] == row["audio"][0]["label"]]
            if request.param == "doubled" and row["split"] == "test":
                # before or after the event where there is room, else at the same time
                start, end = row["start"], row["end"]
                at = (0, start) if start >= 10 - end and start else (end, 10) if end < 10 else (start, end)
                row[side].append({**row[side][0], "label": (row[side][0]["label"] + 5) % 10, "onset": at[0],
                                  "offset": at[1]})
    (tmp_path / "compositions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(digits / "ann", tmp_path / "ann")
    return request.param, tmp_path


@pytest.mark.slow
def test_clips_without_doubt_are_read_without_error(folder):
    kind, path = folder
    said = subprocess.run([sys.executable, SCRIPT, path, "--probe-seeds", "1"], check=True, capture_output=True,
                          text=True).stdout
    values = [[float(v) for v in re.findall(r"([\d.]+) ± 0.0", line)] for line in said.splitlines()[2:]]
    assert len(values) == 2
    if kind == "clear":
        assert values == [[100.0, 100.0]] * 2
    else:  # two digits, of which one is meant: half of the clips, give or take
        assert all(20 < clip < 80 and second < 90 for clip, second in values)
