"""Captions of public data sets as one CSV with the columns id and caption.  `python -m cmg.data.captions`

    python -m cmg.data.captions clotho_captions_evaluation.csv --out captions.csv
    python -m cmg.extract --captions captions.csv --modalities text --out clotho_text.h5

The form of a file is known by its first line:

* Clotho: file_name, caption_1 … caption_5; the clip is the file name without its ending;
* AudioCaps: audiocap_id, youtube_id, start_time, caption; the clip is `<youtube_id>_<start, six digits>`, VGGSound's
  way to name a cut;
* MSR-VTT: key, vid_key, video_id, sentence; separated by commas or semicolons;
* YouCook2: end, start, task, text, video_id; the clip is `<video_id>_<start>_<end>`, in seconds;
* MSCOCO: a json object with `images` (id, file_name) and `annotations` (image_id, caption);
* MVAT, of UniQ4Cap: a json list of objects with `id`, or an object of such by id; the caption is the field
  `sound_mplug`, of sight and sound, or where no clip has it `mplug`, of sight, or `caption`; other fields may be there;
* VGGSound: no header, `<youtube_id>_<start>.mp4, label`, or youtube_id, start, label, split; the label is the caption.

The k-th of several captions of a clip has the id `<clip>#<k>`, a single one the clip's own, so that its features can
share a file with the clip's; of a clip whose own id ends so (`drone #3`) it is numbered, too. Rows without a caption
are left out and told.
"""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import NamedTuple

from cmg.cli import Parser, command
from cmg.data.videos import clip_of
from cmg.errors import UserError
from cmg.files import parse_json, read_text, write_atomically

MVAT = ("sound_mplug", "mplug", "caption")  # fields of its captions, the first that there is


class Caption(NamedTuple):
    """One caption; `id` is its own, `clip` that of what it describes."""

    id: str
    clip: str
    text: str


def read_captions(path) -> tuple[list[Caption], list[str]]:
    """Captions of a file in any of the forms above, and a line for every row that was left out.

    Raises
    ------
    UserError
        No such file, a form that is not known, or a broken row; the line names file and row.
    """
    path = Path(path)
    text = read_text(path, "captions")
    rows = _json(path, text) if text.lstrip()[:1] in ("{", "[") else _table(path, text)
    pairs, skipped, number = [], [], {}
    for place, clip, caption in rows:
        if caption.strip():
            pairs.append((clip, caption.strip()))
            number[clip] = number.get(clip, 0) + 1
        else:
            skipped.append(f"{place}: {clip} has an empty caption, left out")
    if not pairs:
        raise UserError(f"{path}: no captions in it")
    ids = {clip: iter(ids_of(clip, count)) for clip, count in number.items()}
    return [Caption(next(ids[clip]), clip, caption) for clip, caption in pairs], skipped


def ids_of(clip: str, number: int) -> list[str]:
    """The ids of so many captions of a clip.

    >>> ids_of("rain", 1), ids_of("rain", 2), ids_of("drone #3", 1)
    (['rain'], ['rain#0', 'rain#1'], ['drone #3#0'])
    """
    return [clip] if number == 1 and clip_of(clip) == clip else [f"{clip}#{k}" for k in range(number)]


def _table(path: Path, text: str):
    """(place, clip, caption) of a CSV."""
    first = text.split("\n", 1)[0].strip()
    delimiter = ";" if first.startswith("key;") else ","
    try:
        rows = [(f"{path}, row {n}", row) for n, row in enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), 1)
                if row]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    header = [name.strip() for name in rows[0][1]] if rows else []
    if header[:2] == ["file_name", "caption_1"]:
        width, form = len(header), lambda row: [(Path(row[0]).stem, caption) for caption in row[1:]]
    elif header == ["audiocap_id", "youtube_id", "start_time", "caption"]:
        width, form = 4, lambda row: [(f"{row[1]}_{int(row[2]):06d}", row[3])]
    elif header == ["key", "vid_key", "video_id", "sentence"]:
        width, form = 4, lambda row: [(row[2], row[3])]
    elif header == ["end", "start", "task", "text", "video_id"]:
        width, form = 5, lambda row: [(f"{row[4]}_{int(row[1])}_{int(row[0])}", row[3])]
    elif len(header) == 2 and header[0].endswith(".mp4"):
        width, form, rows = 2, lambda row: [(Path(row[0]).stem, row[1])], [("", []), *rows]
    elif len(header) == 4 and header[1].isdigit() and header[3] in ("train", "test"):
        width, form, rows = 4, lambda row: [(f"{row[0]}_{int(row[1]):06d}", row[2])], [("", []), *rows]
    else:
        raise UserError(f"{path}: its first line is {first[:60]!r}; expected captions of Clotho, AudioCaps, MSR-VTT, "
                        "YouCook2, MSCOCO or VGGSound")
    found = []
    for place, row in rows[1:]:
        if len(row) != width:
            raise UserError(f"{place}: {len(row)} fields; expected {width}")
        if any("\n" in field for field in row):  # a quote too many, and what follows it would be lost
            raise UserError(f"{place}: a field of several lines; expected quotes in pairs")
        try:
            found += [(place, clip, caption) for clip, caption in form(row)]
        except ValueError:
            raise UserError(f"{place}: expected times in whole seconds") from None
    return found


def _json(path: Path, text: str):
    """(place, clip, caption) of a json file."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not a json object of MSCOCO's form ({str(error)[:60]})") from None
    by_id = isinstance(content, dict) and content and all(isinstance(one, dict) for one in content.values())
    if isinstance(content, list) or by_id:
        return _mvat(path, [{"id": name} | one for name, one in content.items()] if by_id else content)
    return _coco(path, content)


def _mvat(path: Path, clips: list):
    """(place, clip, caption) of MVAT's list."""
    for n, one in enumerate(clips):
        if not isinstance(one, dict) or not isinstance(one.get("id"), str | int):
            raise UserError(f"{path}, entry {n}: no id; expected objects with id and {' or '.join(MVAT)}")
    field = next((name for name in MVAT if any(one.get(name) for one in clips)), None)
    if field is None:
        raise UserError(f"{path}: no captions in it; expected objects with id and {' or '.join(MVAT)}")
    return [(f"{path}, entry {n}", str(one["id"]), str(one.get(field) or "")) for n, one in enumerate(clips)]


def _coco(path: Path, content):
    """(place, clip, caption) of a MSCOCO-style json."""
    try:
        clips = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        return [(f"{path}, annotation {n}", clips[one["image_id"]], str(one["caption"]))
                for n, one in enumerate(content["annotations"])]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a json object of MSCOCO's form ({str(error)[:60]})") from None
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing; expected images (id, file_name) and annotations (image_id, "
                        "caption)") from None


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.data.captions", description=__doc__.split("\n")[0])
    p.add_argument("file", help="captions of Clotho, AudioCaps, MSR-VTT, YouCook2, MSCOCO, MVAT or VGGSound")
    p.add_argument("--out", required=True, help="CSV to write, with the columns id and caption")
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    captions, skipped = read_captions(args.file)
    for line in skipped:
        print(f"captions: {line}", file=sys.stderr)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "caption"])
    writer.writerows((caption.id, caption.text) for caption in captions)
    write_atomically(args.out, table.getvalue())
    print(f"{args.out}: {len(captions)} captions of {len({caption.clip for caption in captions})} clips, "
          f"{len(skipped)} rows left out")


if __name__ == "__main__":
    main()
