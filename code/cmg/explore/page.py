"""Write the page: a folder that appears complete or not at all, of files that stand beside this module and `data.js`.

data.js sets `CMG`, an object of what the scripts show. Codes [N, T] are base64 of whole numbers, row by row:
little-endian, of as few bytes as hold the size of the codebook, which itself stands for a step that does not exist.
"""

import base64
import json
from importlib import resources
from pathlib import Path

import numpy as np

from cmg.cli import require_folder
from cmg.errors import UserError

MARK = "// A page of cmg.explore, format 1\n"  # begins data.js, by which a folder of ours is known
FILES = ("index.html", "page.css", "model.js", "map.js", "views.js", "page.js")
FOLDERS = ("pictures", "sounds")


def require_ours(out):
    """`UserError` unless a page can be written there: to a new place, an empty folder, or over an earlier page."""
    require_folder(out)
    out = Path(out)
    if not out.exists():
        return
    inside = {path.name for path in out.iterdir()}
    data = out / "data.js"
    ours = data.is_file() and data.read_bytes()[: len(MARK)] == MARK.encode()
    strange = inside - {*FILES, *FOLDERS, "data.js"} if ours else inside
    if strange:
        raise UserError(f"--out {out}: holds '{min(strange)}'; expected a new or empty folder, or an earlier "
                        "page alone")


def packed(steps, size) -> str:
    """Codes [N, T] as text.

    steps : `cmg.explore.vocabulary.Steps`
    """
    codes = np.where(steps.valid, steps.codes, size).astype(np.min_scalar_type(size))
    return base64.b64encode(codes.astype(codes.dtype.newbyteorder("<")).tobytes()).decode()


def write(folder: Path, content: dict):
    """The files of a page but for pictures and sounds.

    content : what `data.js` says, of numbers, texts, lists and dicts
    """
    here = resources.files("cmg.explore")
    for name in FILES:
        source = "template.html" if name == "index.html" else name
        (folder / name).write_bytes((here / source).read_bytes())
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (folder / "data.js").write_text(f"{MARK}const CMG = {text};\n", encoding="utf-8")
