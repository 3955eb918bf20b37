"""A page of a small model, with media, captions and labels, some of which are hostile to HTML."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmg.explore.__main__ import main
from support import untrained
from support_explore import CODES, HOSTILE, SHAPES, caption, write_features, write_table
from support_media import tone, write_video


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A checkpoint, features of nine clips, media of most of them, captions and labels."""
    at = tmp_path_factory.mktemp("explore")
    model = untrained(at / "best.pt", SHAPES, dim=8, codes=CODES)
    ids = [*(f"clip{n}" for n in range(8)), HOSTILE]
    write_features(at / "f.h5", ids)
    (at / "media").mkdir()
    for n, name in enumerate(ids[:6]):
        write_video(at / "media" / f"{name}.mkv", np.full((8, 24, 32, 3), 30 * n, np.uint8), 2,
                    sound=20000 * tone(300 + 100 * n, 4, 16000))
    (at / "media" / "clip6.mp4").write_bytes(b"no media")
    write_table(at / "captions.csv", ["id", "caption"], [(name, caption(n)) for n, name in enumerate(ids)])
    write_table(at / "labels.csv", ["id", "label"], [(name, ["bell", HOSTILE][n % 2]) for n, name in enumerate(ids)])
    return SimpleNamespace(at=at, model=model, ids=ids)


@pytest.fixture(scope="session")
def page(small):
    """The folder of a page of all of these."""
    at = small.at
    main([str(word) for word in (
        "--checkpoint", at / "best.pt", "--data", at / "f.h5", "--videos", at / "media", "--captions",
        at / "captions.csv", "--labels", at / "labels.csv", "--typical", 3, "--device", "cpu", "--workers", 0, "--out",
        at / "page")])
    return at / "page"
