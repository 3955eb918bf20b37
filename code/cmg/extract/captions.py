"""What clips say: a CSV of captions, or one of classes and another with a prompt for each class."""

import csv

from cmg.errors import UserError


def read_captions(path, prompts=None):
    """Captions of a CSV file: id -> caption.

    Parameters
    ----------
    path : CSV with the columns id and caption; with `prompts` the columns id (or video_id) and category.
    prompts : CSV with the columns label and prompt, as the public lists of class prompts. A clip's caption is then the
        prompt of its category.

    Raises
    ------
    UserError : cannot be read, other columns, an id or label twice, a category without a prompt.
    """
    if prompts is None:
        return _columns("--captions", path, ("id",), "caption")
    categories = _columns("--captions", path, ("id", "video_id"), "category")
    sentences = _columns("--prompts", prompts, ("label",), "prompt")
    for name, category in categories.items():
        if category not in sentences:
            raise UserError(f"--prompts {prompts}: no prompt for '{category}', the category of '{name}' in {path}")
    return {name: sentences[category] for name, category in categories.items()}


def _columns(flag, path, keys, value):
    """Two columns of a CSV file as key -> value; the first of `keys` that the file has is its column of keys."""
    found = {}
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
                if row[key] in found:
                    raise UserError(f"{flag} {path}: {key} '{row[key]}' occurs twice (line {rows.line_num})")
                found[row[key]] = row[value] or ""
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{flag} {path}: not a UTF-8 CSV file ({error})") from None
    return found
