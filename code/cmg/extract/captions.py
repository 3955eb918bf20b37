"""What clips say: a CSV of captions, or one of classes and another with a prompt for each class."""

import csv
import unicodedata

from cmg.data.videos import SUFFIXES, clip_of
from cmg.errors import UserError


def read_captions(path, prompts=None):
    """Captions of a CSV file: list of (line, id, caption), as the file has them.

    Parameters
    ----------
    path : CSV with the columns id and caption; with `prompts` the columns id (or video_id) and category.
    prompts : CSV with the columns label and prompt, as the public lists of class prompts. A clip's caption is then the
        prompt of its category.

    Raises
    ------
    UserError : cannot be read, other columns, a label twice, a category without a prompt.
    """
    if prompts is None:
        return _columns("--captions", path, ("id",), "caption")
    rows = _columns("--captions", path, ("id", "video_id"), "category")
    sentences = unique("--prompts", prompts, _columns("--prompts", prompts, ("label",), "prompt"))
    for _, name, category in rows:
        if category not in sentences:
            raise UserError(f"--prompts {prompts}: no prompt for '{category}', the category of '{name}' in {path}")
    return [(line, name, sentences[category]) for line, name, category in rows]


def unique(flag, path, rows):
    """(line, key, value) as key -> value. `UserError` where a key occurs twice."""
    found = {}
    for line, key, value in rows:
        if key in found:
            raise UserError(f"{flag} {path}: '{key}' occurs twice (line {line})")
        found[key] = value
    return found


def of_each(path, rows, names):
    """The captions of each clip that has any, in the order of the file.

    A caption's id is its clip's name. Where there is no such clip it may end as a file's name does, or in the number
    `#<k>` that `cmg.data.captions` gives to several captions of a clip. Composed and decomposed letters are the same.

    Parameters
    ----------
    rows : what `read_captions` gives.
    names : the clips.

    Returns
    -------
    dict name -> list of captions

    Raises
    ------
    UserError : no id is the name of a clip.
    """
    known = {unicodedata.normalize("NFC", name): name for name in names}
    found = {}
    for _, wanted, caption in rows:
        plain = unicodedata.normalize("NFC", wanted)
        meant = (plain, _without_suffix(plain), clip_of(plain), _without_suffix(clip_of(plain)))
        name = next((known[one] for one in meant if one in known), None)
        if name is not None and caption.strip():
            found.setdefault(name, []).append(caption)
    if not found:
        told = f"captions have '{rows[0][1]}', files '{next(iter(names))}'" if rows else "it has no rows"
        raise UserError(f"--captions {path}: none of its {len(rows)} ids is the name of a file, with a caption: {told}")
    return found


def _without_suffix(name):
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in SUFFIXES else name


def _columns(flag, path, keys, value):
    """Two columns of a CSV file as (line, key, value); the first of `keys` that the file has is its column of keys."""
    found = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            names = rows.fieldnames or ()
            key = next((key for key in keys if key in names), keys[0])
            if not {key, value} <= set(names):
                wanted = f"{' or '.join(keys)} and {value}"
                raise UserError(f"{flag} {path}: expected the columns {wanted}, found {rows.fieldnames}")
            for row in rows:
                if None in row or not row[key]:
                    wrong = f"more than {len(names)} fields" if None in row else f"no {key}"
                    raise UserError(f"{flag} {path}: line {rows.line_num} has {wrong}; expected {','.join(names)}, and "
                                    "commas of a caption within quotes")
                found.append((rows.line_num, row[key], row[value] or ""))
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{flag} {path}: not a UTF-8 CSV file ({error})") from None
    return found
