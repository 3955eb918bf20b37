"""Captions of clips, and how near they come to those that people wrote.  `python -m cmg.downstream.captioning`

    python -m cmg.downstream.captioning --checkpoint checkpoint/captions --data test.h5 --captions test.csv
    python -m cmg.downstream.captioning --checkpoint checkpoint/captions --data test.h5 --videos clips/
    python -m cmg.downstream.captioning --checkpoint checkpoint/captions --data synthetic
    python -m cmg.downstream.captioning --checkpoint checkpoint/captions --videos clip.mp4 another.mp4

Clips are told in a sentence each by a checkpoint that offers sentences, of all modalities that it and the data have, or
of some (`--modalities`). References are the captions of the CSV as they stand, with the columns id and caption, several
a clip as `cmg.data.captions` numbers them; or, without one, those of the feature file, turned back into words. Figures
are BLEU-1 to -4, ROUGE-L and CIDEr-D, times 100, by each tokenizer, which the figure's name begins with. METEOR and
SPICE are Java programs and not computed. `chance` is the same sentences dealt to other clips: what a model reads that
neither looks nor listens. `sentences.csv` holds every sentence, `captions.png` (and .pdf) shows a few clips: frames and
waveforms of the files in `--videos`, or how far features are from the clip's median at every second, a reference, and
what was written.

Protocols
---------
strict : clips whose videos the checkpoint was trained on are left out, and counted.
paper : nothing is left out.

`--nearest FILE` writes nothing: a clip gets the first caption of the clip in FILE that is nearest to it, by the cosines
of the model's vectors, mean over modalities. That is the baseline of a model that writes, and needs none that does.

Without --data, videos are extracted as the checkpoint's features were, with the weights that `--video-weights` and
`--audio-weights` name where there are any, and nothing is measured.
"""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import torch

from cmg.cli import Parser, command, whole
from cmg.configs import add_flags, with_values
from cmg.data.features import FeatureSet
from cmg.data.videos import clip_of
from cmg.downstream.collection import left
from cmg.downstream.results import markdown_table, result
from cmg.downstream.splits import tell_pretrained
from cmg.downstream.task import DATA, add_place_flags, open_run, synthetic_of, task_parser
from cmg.downstream.tokens import item_vectors
from cmg.errors import UserError
from cmg.extract.alike import Encoders, add_encoder_flags, encoder_flags
from cmg.extract.clips import Media, find_media
from cmg.extract.media import BadClip, audio_seconds, video_seconds
from cmg.figures.captions import CaptionedClip, draw
from cmg.figures.style import save
from cmg.files import read_columns, write_atomically
from cmg.metrics.captions import METRICS, score
from cmg.metrics.retrieval import unit
from cmg.metrics.words import TOKENIZERS
from cmg.modalities import modality, ordered
from cmg.models.uniq4cap.generation import WritingConfig

BATCH = 64
SHOWN = 4  # clips of the picture
SYNTHETIC_TEST = "syn_test_"


def parser() -> Parser:
    p = task_parser("captioning")
    p.add_argument("--data", nargs="+", help=DATA)
    p.add_argument("--captions", help="CSV with the columns id and caption: the references; default: those of --data")
    p.add_argument("--nearest", nargs="+", metavar="FILE", help="take captions of the nearest of these clips instead "
                   "of writing: feature files, or synthetic")
    p.add_argument("--videos", nargs="+", metavar="PATH", help="media files: those of --data, for the picture, or "
                   "without it those to caption")
    p.add_argument("--modalities", nargs="+", help="that are looked at; default: all of the checkpoint and the data")
    p.add_argument("--tokenizer", nargs="+", choices=tuple(TOKENIZERS), default=tuple(TOKENIZERS),
                   help="of the words that are compared")
    p.add_argument("--protocol", choices=("strict", "paper"), default="strict",
                   help="strict: clips that were trained on are left out; paper: nothing is")
    p.add_argument("--seed", type=whole(), default=0, help="of pieces that are drawn")
    add_flags(p, WritingConfig())
    add_encoder_flags(p)
    return add_place_flags(p, "results.json and sentences.csv")


def known_clips(paths, run, seen):
    """The feature set of --nearest."""
    synthetic = synthetic_of(paths, run.content, run.path, run.args.method)
    known = FeatureSet([synthetic.pretrain] if synthetic else paths, [*seen, "text"])
    run.model.check(known, "--nearest")
    if "text" not in known.vocabularies:
        raise UserError("--nearest: holds no captions that can be read as words; expected those of cmg.extract "
                        "--text-backbone wordpiece")
    return known


def seen_modalities(model, present, asked):
    """What is looked at, in order."""
    known = [m for m in model.modalities if m != "text"]
    for m in asked or ():
        if m not in known or m not in present:
            owner = "--checkpoint" if m not in known else "--data"
            raise UserError(f"--modalities {m}: {owner} has only {', '.join(known if m not in known else present)}")
    seen = ordered(asked or [m for m in known if m in present])
    if not seen:
        raise UserError(f"--data has {', '.join(present)}; expected one of {', '.join(known)}")
    return seen


def describe(model, features, rows, seen, writing, seed, device):
    """A sentence of each of these rows of a feature set."""
    said = []
    for part in torch.as_tensor(rows).split(BATCH):
        batch = features.__getitems__(part.tolist())
        said += model.describe({m: batch[m].to(device) for m in seen},
                               {m: batch[f"valid/{m}"].to(device) for m in seen}, writing, seed)
    return said


def nearest(model, features, rows, seen, known, device):
    """The first caption of the nearest clip of `known`, a feature set with captions, for each of these rows."""
    tokens, exists = map(torch.as_tensor, known.tokens("text"))
    told = exists.any(1).nonzero()[:, 0]
    near = 0
    for m in seen:
        own, others = (item_vectors(model, held, m, rows=of, device=device)[0]["semantic"]
                       for held, of in ((features, torch.as_tensor(rows)), (known, told)))
        near = near + unit(own) @ unit(others).T  # (clips, known clips)
    best = told[near.argmax(1).cpu()]
    first = tokens[best, exists[best].long().argmax(1)]
    return known.vocabularies["text"].sentences(first.tolist())


def references(args, features, ids):
    """References of clips: list of lists of str.

    Raises
    ------
    UserError : a clip without a reference, by name.
    """
    found = {name: [] for name in ids}
    if args.captions:
        for name, caption in read_columns(args.captions, "id", "caption"):
            clip = clip_of(name, found)
            if clip in found and caption.strip():
                found[clip].append(caption)
        where = f"--captions {args.captions}"
    else:
        where = "--data"
        if "text" not in features.vocabularies:
            raise UserError("--data: holds no captions that can be read as words; expected --captions")
        tokens, exists = features.tokens("text")
        for row in features.rows_of(ids)[0].tolist():
            found[features.ids[row]] = features.vocabularies["text"].sentences(tokens[row][exists[row]].tolist())
    for name, captions in found.items():
        if not captions:
            raise UserError(f"{where}: no caption of '{name}'; expected one of every clip")
    return list(found.values())


def measured(said, wanted, settings, seen, tokenizers, **more):
    """Rows of `results.json` less checkpoint and commit. said : list of str. wanted : list of lists of str."""
    rows = []
    dealt = [said[(k + max(1, len(said) // 2)) % len(said)] for k in range(len(said))]
    for tokenizer in tokenizers:
        found, chance = (score(sentences, wanted, tokenizer).corpus for sentences in (said, dealt))
        rows += [result("captioning", "+".join(seen), "text", settings, f"{tokenizer}_{name}", 100 * found[name], None,
                        None, 100 * chance[name], 0, len(said), tokenizer=tokenizer,
                        n_references=sum(map(len, wanted)), **more) for name in METRICS]
    return rows


def table(rows) -> str:
    """A line a tokenizer, and what chance reads."""
    lines = []
    for tokenizer in dict.fromkeys(row["tokenizer"] for row in rows):
        own = [row for row in rows if row["tokenizer"] == tokenizer]
        for name, kind in ((f"{own[0]['source']} → text", "value"), ("dealt to other clips", "chance")):
            lines.append([name, tokenizer, *(f"{row[kind]:.1f}" for row in own), str(own[0]["n_test"])])
    return markdown_table(["captions of", "words", *(name.replace("_", "-") for name in METRICS), "clips"], lines)


def write_sentences(path, ids, said):
    """`id,caption` as a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "caption"])
    writer.writerows(zip(ids, said))
    write_atomically(path, text.getvalue())


def media_of(paths):
    """The clips that --videos names, files and folders: dict id -> Media."""
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"--videos {path}: no such file")
        for name, media in (find_media([path])[0] if path.is_dir() else {path.stem: Media(str(path))}).items():
            if found.setdefault(name, media) != media:
                raise UserError(f"--videos: id '{name}' occurs twice: {found[name].path} and {media.path}")
    return found


def picture(path, features, rows, seen, said, wanted, media):
    """Draw SHOWN clips, evenly spaced among `rows`, with what was said of them and a reference.

    media : dict id -> Media, of clips whose files are drawn and not their features.
    """
    places = sorted({k * len(rows) // SHOWN for k in range(SHOWN)})
    batch = features.__getitems__([int(rows[k]) for k in places])
    clips = []
    for n, k in enumerate(places):
        name = features.ids[rows[k]]
        streams = {m: batch[m][n].numpy() for m in seen}
        if name in media:
            streams |= recorded(media[name], {m: len(streams[m]) for m in seen})
        clips.append(CaptionedClip(name, streams, {"reference": wanted[k][0], "written": said[k] or "(nothing)"}))
    return save(draw(clips, "Captions"), path)


def recorded(files, seconds):
    """What a clip's files show, uint8 [T, H, W, 3], and the wave that they play, float32 [T · 16000].

    seconds : dict modality -> how many of them.
    """
    streams = {}
    for m, most in seconds.items():
        try:
            if modality(m).source == "frames":
                streams[m] = np.stack([frames[0] for frames in video_seconds(files.path, most, most=1)])
            elif modality(m).source == "sound":
                streams[m] = audio_seconds(files.sound or files.path, most).flatten().numpy()
        except BadClip as bad:
            print(f"note: {files.path}: {bad}; its {m} features are drawn", file=sys.stderr)
    return streams


def caption_videos(args, model, writing):
    """Print a sentence of each video."""
    seen = seen_modalities(model, model.modalities, args.modalities)
    media = media_of(args.videos)
    encoders = Encoders(model, seen, **encoder_flags(args, seen))
    read = {one.name: one for one in encoders.media(media)}
    good = [read[name] for name in media if not read[name].reason]
    for one in read.values():
        if one.reason:
            print(f"bad clip {one.name}: {one.reason}", file=sys.stderr)
    if not good:
        raise UserError(f"--videos: none of the {len(media)} clips could be read")
    for start in range(0, len(good), BATCH):
        part = good[start : start + BATCH]
        x, valid = zip(*(encoders.tensors(m, part) for m in seen))
        said = model.describe(dict(zip(seen, x)), dict(zip(seen, valid)), writing, args.seed)
        for one, sentence in zip(part, said):
            print(f"{one.name}: {sentence}")


@command
def main(argv=None):
    args = parser().parse_args(argv)
    if not args.data and not args.videos:
        raise UserError("--data: the clips; expected it, or --videos")
    writing = with_values(WritingConfig(), vars(args))
    if args.nearest and not args.data:
        raise UserError("--nearest: goes with --data, whose clips have captions to compare with; expected it")
    run = open_run(args, needs=("vectors",) if args.nearest else ("sentences",))
    model = run.model
    if not args.data:
        return caption_videos(args, model, writing)
    media = media_of(args.videos) if args.videos else {}
    features, synthetic = FeatureSet(run.data), run.synthetic
    model.check(features, without="text" if args.captions else None)
    seen = seen_modalities(model, features.modalities, args.modalities)
    ids = [name for name in features.ids if not synthetic or name.startswith(SYNTHETIC_TEST)]
    fresh = left(ids, run.pretrain_ids) if args.protocol == "strict" else ids
    if not fresh:
        raise UserError(f"--checkpoint: all {len(ids)} clips were trained on; nothing to caption, but with --protocol "
                        "paper")
    tell_pretrained(len(ids) - len(fresh), "clips")
    wanted = references(args, features, fresh)
    places, how = features.rows_of(fresh)[0], "drawn" if writing.draw else f"{writing.beams} beams"
    if args.nearest:
        known = known_clips(args.nearest, run, seen)
        said, how = nearest(model, features, places, seen, known, run.device), "nearest"
    else:
        said = describe(model, features, places, seen, writing, args.seed, run.device)
    rows = measured(said, wanted, run.settings, seen, args.tokenizer, n_excluded=len(ids) - len(fresh),
                    references=Path(args.captions).name if args.captions else "of the feature file",
                    writing=how)
    if len(fresh) == 1:
        print("note: CIDEr-D of a single clip is 0 by definition, and chance is its own sentence", file=sys.stderr)
    rows = run.write("Captioning", rows, table)
    write_sentences(run.out / "sentences.csv", fresh, said)
    print(run.out / "sentences.csv")
    run.tell({}, [picture(run.out / "captions.png", features, places, seen, said, wanted, media)])
    return rows


if __name__ == "__main__":
    main()
