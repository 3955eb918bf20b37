"""How far work is, with and without a terminal."""

import os
import pty
import sys
import termios
from contextlib import suppress

from cmg.progress import Progress, duration


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    """One a minute with speed and time left, one for each `tell`; what was done before says nothing of the speed."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    clips = iter(Progress(8, "clip", done=3, title="reading").over("abcde"))
    for clock[0] in (10.0, 50.0, 60.0, 90.0, 130.0):
        next(clips)
    assert list(clips) == []
    assert capsys.readouterr().err == "reading: clip 5 of 8, 0.03 clips/s, 2 min left\n" \
                                      "reading: clip 7 of 8, 0.03 clips/s, 32 s left\n"
    with Progress(400, "step", every=None) as bar:
        bar.tell("loss 3.1")
        clock[0] += 600
        bar.advance()
        bar.tell("loss 2.9")
        bar.say("a line")
    assert capsys.readouterr().err == "step 0 of 400, loss 3.1\nstep 1 of 400, loss 2.9, 2 d 18 h left\na line\n"
    Progress(2, "step", quiet=True).tell("x")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 90))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(2, "step", every=None) as bar:
            bar.tell("loss 3.1")
            bar.advance()
        monkeypatch.undo()
    said = b""
    with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # which tells the end of what was written
        while True:
            said += screen.read(1 << 16)
    said = said.decode()
    assert "\r" in said and "50%" in said and "loss 3.1" in said and "1 of 2" not in said


def test_durations():
    assert [duration(s) for s in (0.4, 89.4, 119, 5399, 3600 * 26.5, 86400 * 3.5)] == [
        "0 s", "89 s", "2 min", "1 h 30 min", "26 h 30 min", "3 d 12 h"]
