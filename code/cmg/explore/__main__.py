"""Write a page that shows what the codes stand for, and opens from disk in any browser.

    python -m cmg.explore --checkpoint checkpoint/mine --data data/mine.h5 --videos clips/ --captions captions.csv \\
        --out page

and open page/index.html. The page is a map of the codes in use, the seconds that are most typical of each code in every
modality, and the time line of codes of every clip; docs/explore.md says how to read it. --videos adds pictures and
sounds, --captions the words of text, --labels labels of clips to search by. The folder needs nothing beside itself.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import cmg
from cmg import modalities
from cmg.cli import Parser, command, whole
from cmg.data.features import FeatureSet
from cmg.data.joining import held
from cmg.distributed import choose_device
from cmg.downstream.codebook import SHARED, shares
from cmg.downstream.task import require
from cmg.errors import UserError
from cmg.explore import page, vocabulary
from cmg.explore.snippets import COLUMNS, Cut, cut_all
from cmg.extract.clips import Media, find_media
from cmg.figures.style import COLOURS
from cmg.files import replacing_folder


def parser() -> Parser:
    p = Parser(prog="cmg.explore", description=__doc__.splitlines()[0])
    p.add_argument("--checkpoint", required=True, help="a .pt file, a run folder (its best.pt), or an exported one")
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
    p.add_argument("--data", nargs="+", required=True, help="feature files")
    p.add_argument("--modalities", nargs="+", help="default: all that data and checkpoint share")
    p.add_argument("--videos", nargs="+", metavar="PATH",
                   help="folders of the media files, or text files that list them: adds pictures and sounds")
    p.add_argument("--captions", help="CSV with the columns id and caption, of which the text features were made")
    p.add_argument("--labels", help="CSV with the columns id and label: labels of clips, to search and compare by")
    p.add_argument("--typical", type=whole(1), default=8, help="seconds of a code that are shown, in each modality")
    p.add_argument("--pictures", type=whole(), default=5000, metavar="N",
                   help="clips that have pictures, at most; those with a typical second come first")
    p.add_argument("--out", required=True, help="folder to write; an earlier page there is replaced")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    p.add_argument("--workers", type=whole(0), default=workers, help="processes that read media; 0: this one")
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    page.require_ours(args.out)
    device = choose_device(args.device)
    model = cmg.load_pretrained(args.checkpoint, device, args.method)
    require(model, ("codes",), args.checkpoint)
    features = open_features(args, model)
    media = find_clips(args.videos, features.ids) if args.videos else {}
    labels = vocabulary.read_labels(args.labels, features.ids) if args.labels else None
    steps = vocabulary.encode(model, features, device)
    captions, words = read_words(args.captions, features, steps)
    content = describe(args, model, features, steps, captions, words, labels)
    with replacing_folder(args.out) as folder:
        cut_media(folder, content, wanted(content, media, args.pictures), args.workers)
        page.write(folder, content)
    size = sum(path.stat().st_size for path in Path(args.out).rglob("*") if path.is_file())
    print(f"{Path(args.out) / 'index.html'}: {len(content['used'])} of {content['size']} codes in use, "
          f"{len(features)} clips, {size / 1e6:.1f} MB")


def open_features(args, model) -> FeatureSet:
    """--data, of the modalities that are asked for, such as the checkpoint was pretrained on."""
    present = held(args.data)
    for m in args.modalities or ():
        if m not in model.modalities:
            raise UserError(f"--modalities {m}: --checkpoint has only {', '.join(model.modalities)}")
    wanted = modalities.ordered(args.modalities or {*present} & {*model.modalities})
    if not wanted:
        raise UserError(f"--data has {', '.join(present)} and --checkpoint {', '.join(model.modalities)}; expected a "
                        "modality in common")
    features = FeatureSet(args.data, wanted, "disk")
    model.check(features)
    return features


def find_clips(places, ids) -> dict[int, Media]:
    """The media files of clips by their numbers; what is missing is told."""
    found, notes = find_media(places)
    media = {number: found[name] for number, name in enumerate(ids) if name in found}
    for line in notes:
        note(line)
    if not media:
        raise UserError(f"--videos {' '.join(places)}: no file has the name of a clip of --data; files have "
                        f"'{next(iter(found))}', clips '{ids[0]}'")
    if len(media) < len(ids):
        absent = next(name for name in ids if name not in found)
        note(f"--videos: {len(ids) - len(media)} of {len(ids)} clips, such as '{absent}', have no file")
    return media


def read_words(path, features, steps):
    """What clips say, see `vocabulary.caption_words`; without --captions nobody knows."""
    ids, text = features.ids, steps.get("text")
    if path is None:
        if text:
            note("without --captions the page says of text which word of a clip it is, but not the word")
        return None, None
    if text is None:
        raise UserError(f"--captions {path}: --data and --checkpoint share no text, only {', '.join(steps)}")
    captions, words = vocabulary.caption_words(path, ids, text, features.provenance["text"].backbone)
    unknown = sum(own is None for own in words)
    if unknown:
        note(f"--captions {path}: of {unknown} of {len(ids)} clips, such as '{ids[words.index(None)]}', the words are "
             "not those of the features")
    return captions, words


def describe(args, model, features, steps, captions, words, labels) -> dict:
    """All that the page says, see `cmg.explore.page`."""
    size, ids, path = model.codebook.size, features.ids, Path(args.checkpoint).resolve()
    counts = {m: s.codes[s.valid].bincount(minlength=size) for m, s in steps.items()}
    share = shares(counts)
    used = (share.sum(0) > 0).nonzero()[:, 0].tolist()
    tables = getattr(model, "parts", [model.codebook.embedding])  # each in columns of its own: far from the others
    vectors = torch.block_diag(*tables)[used].detach().cpu().double().numpy()
    timed = [m for m in steps if modalities.modality(m).timed]
    pairs = [(a, b, steps[a].sharing(steps[b])) for a, b, _ in modalities.pairs(timed)]
    names = sorted({label for own in labels or () for label in own})
    number = {name: n for n, name in enumerate(names)}
    said = np.unique(captions, return_inverse=True)[1] if captions else None
    rows = []
    for m, colour in zip(steps, COLOURS):
        row = modalities.modality(m)
        owners = said if m == "text" and captions else np.arange(len(ids))
        typical = vocabulary.typical(steps[m], size, args.typical, owners)
        rows.append({
            "name": m, "timed": row.timed, "source": row.source, "colour": colour, "length": steps[m].codes.shape[1],
            "seconds": (features.provenance[m].seconds_per_step or 1.0) / steps[m].pieces,
            "codes": page.packed(steps[m], size), "typical": [typical[k] for k in used]})
    frequent = vocabulary.frequent_words(steps["text"], size, words) if words else None
    return {
        "title": path.name if path.is_dir() else f"{path.parent.name}/{path.stem}",
        "method": model.method, "data": [Path(path).name for path in args.data], "version": cmg.__version__,
        "size": size, "bytes": np.min_scalar_type(size).itemsize, "used": used,
        "shared": ((share > SHARED).sum(0) > 1)[used].int().tolist(),
        "places": np.rint(vocabulary.layout(vectors) * 10_000).astype(int).flatten().tolist(),
        "alike": [[used[j] for j in row] for row in vocabulary.alike(vectors)],
        "modalities": rows,
        "pairs": [[a, b, found["match_rate"], found["match_chance"]] for a, b, found in pairs],
        "ids": ids, "captions": captions, "words": words, "frequent": frequent and [frequent[k] for k in used],
        "labels": names, "labelled": labels and [[number[label] for label in own] for own in labels],
        "pictures": {}, "sounds": {}, "columns": COLUMNS,
    }


def wanted(content, media, most) -> list[Cut]:
    """What of the media files the page shows: the sounds of typical seconds, and pictures of at most so many clips,
    those with a typical second first."""
    seen, heard = {}, {}  # clips with a typical step, of pictures first; clip -> seconds
    rows = sorted(content["modalities"], key=lambda row: row["source"] != "frames")
    for row in rows:
        for own in row["typical"]:
            for clip, step in zip(own[::2], own[1::2]):
                seen[clip] = None
                if row["source"] == "sound":
                    heard.setdefault(clip, set()).add(int(step * row["seconds"]))
    longest = int(np.ceil(rows[0]["length"] * rows[0]["seconds"])) if rows[0]["source"] == "frames" else 0
    pictured = set([clip for clip in dict.fromkeys([*seen, *media]) if clip in media][:most] if longest else ())
    if longest and len(bare := {*seen} & {*media} - pictured):
        note(f"--pictures {most}: {len(bare)} clips with a typical second have no pictures")
    return [Cut(clip, *media[clip], longest if clip in pictured else 0, tuple(sorted(heard.get(clip, ()))))
            for clip in sorted(({*heard} | pictured) & {*media})]


def cut_media(folder: Path, content, cuts: list[Cut], workers):
    """Write pictures and sounds, and say in `content` which there are."""
    for name in page.FOLDERS if cuts else ():
        (folder / name).mkdir()
    failed = []
    for one, found in tqdm(cut_all(cuts, workers) if cuts else (), total=len(cuts), unit="clip", disable=None):
        if found.reasons:
            failed.append(f"'{content['ids'][one.clip]}': {'; '.join(found.reasons)}")
        if found.strip:
            (folder / "pictures" / f"{one.clip}.webp").write_bytes(found.strip)
            content["pictures"][one.clip] = [found.number, round(found.width, 3)]
        for second, (sound, wave) in found.sounds.items():
            (folder / "sounds" / f"{one.clip}_{second}.mp3").write_bytes(sound)
            content["sounds"][f"{one.clip}_{second}"] = wave
    if failed:
        note(f"{len(failed)} of {len(cuts)} clips could not be shown in full, such as {min(failed)}")


def note(line):
    print(f"explore: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
