"""Extract a feature file from media files and captions, one step per second.

    python -m cmg.extract --videos clips/ --captions captions.csv --modalities video audio text --out clips.h5
    python -m cmg.extract --videos clips/ --video-backbone vgg19 --video-weights vgg19-dcbb9e9d.pth \\
        --audio-backbone vggish --audio-weights vggish-10086976.pth --device cuda --workers 8 --out paper.h5

A clip's id is its file's name without suffix; pictures and sound may be in files and folders of their own (`--videos
pictures/ sound/`). Captions are a CSV with the columns id and caption; of several of a clip the first is taken, with
`--text-backbone wordpiece`, which turns captions into numbers of pieces of words, all of them. Clips longer than
--seconds are cut, shorter ones padded and marked so. A killed run goes on where it was when started again. Bad files
are listed in OUT.failed.csv and do not stop the run. Several machines take a share each (--shard 1/8 to 8/8); the same
command without --shard then does what is left and makes one file. Backbones without weights need no download; weights
of the others come from the file, folder or hub name given, and their sha256 is kept with the features. A backbone of
one's own is a file: `--audio-backbone path/to/mine.py` (cmg/extract/backbones.py says what is in it).
"""

import contextlib
import fnmatch
import os
import sys
from itertools import chain
from pathlib import Path

from cmg import modalities
from cmg.cli import Parser, command, most_are_good, of_shard, shard, whole
from cmg.data.progress import Progress
from cmg.data.shards import Bad, require_free
from cmg.data.videos import clip_of
from cmg.distributed import choose_device
from cmg.errors import UserError
from cmg.extract.backbones import BACKBONES, Choice
from cmg.extract.captions import of_each, read_captions, unique
from cmg.extract.clips import Media, find_media
from cmg.extract.hashed import UNSPACED, words_of
from cmg.extract.media import FRAMES_PER_SECOND
from cmg.extract.shards import parts_of
from cmg.extract.workers import Job, Outcome, Recipe, extract_all
from cmg.files import gone, write_atomically

WORDS, PIECES, VOCABULARY = 10, 32, 4000


def parse(argv):
    """The command line, checked."""
    parser = Parser(prog="cmg.extract", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", nargs="+", metavar="PATH",
                        help="folders of media files (searched recursively), or text files that list them")
    parser.add_argument("--captions", help="CSV with the columns id and caption; needed for text")
    parser.add_argument("--prompts", help="CSV with the columns label and prompt; --captions then has id and category")
    readable = [m for m, row in modalities.TABLE.items() if row.source]
    parser.add_argument("--modalities", nargs="+", choices=readable, default=["video", "audio"], help="to extract")
    for m in readable:
        known, called = BACKBONES.get(m, {}), modalities.modality(m).called
        parser.add_argument(f"--{m}-backbone", default=next(iter(known), None), metavar="NAME|mine.py",
                            help=f"encoder of {called}: {', '.join([*known, 'or a file of your own'])}")
        parser.add_argument(f"--{m}-weights", nargs="+", default=(), metavar="PATH|NAME|random:SEED",
                            help="of the encoder: a file, a transformers folder or hub name, or a random start")
    parser.add_argument("--device", nargs="+", default=["auto"], metavar="DEVICE",
                        help="auto, cpu, cuda, cuda:N; processes are dealt to several in turn")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of the encoders with weights")
    parser.add_argument("--frames", type=whole(1), default=FRAMES_PER_SECOND, help="of each second of video, at most")
    parser.add_argument("--side", type=whole(8), help="of the pictures that backbones such as frames and melimage make "
                        "(default: 224)")
    parser.add_argument("--rate", type=whole(1), help="of such pictures, a second (default: 1)")
    parser.add_argument("--seconds", type=whole(1), default=10, help="steps of video and audio per clip (T)")
    parser.add_argument("--words", type=whole(1), help="steps of text per clip (L), of wordpiece pieces of a caption, "
                        f"marks included; default: {WORDS}, {PIECES} with wordpiece")
    parser.add_argument("--captions-per-clip", type=whole(1), metavar="K", help="with wordpiece: captions of a clip "
                        "that are kept; default: as many as one has")
    parser.add_argument("--vocabulary-size", type=whole(1), metavar="V", help="with wordpiece and without "
                        f"--text-weights: pieces that are learnt of the captions; default: {VOCABULARY}")
    parser.add_argument("--select", nargs="+", default=["*"], metavar="GLOB", help="only clips whose id matches one")
    parser.add_argument("--out", required=True, help="feature file to write (.h5)")
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--workers", type=whole(0), default=workers, help="processes; 0: work in this one")
    parser.add_argument("--shard", type=shard, metavar="I/N", help="extract only every N-th clip, into "
                        "OUT.parts-I-of-N: for several machines, or an array of jobs; without it the same command puts "
                        "all together")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, and an unfinished run of other settings")
    args = parser.parse_args(argv)
    args.modalities = modalities.ordered(args.modalities)
    args.captioned = [m for m in args.modalities if modalities.modality(m).source == "words"]
    args.played = [m for m in args.modalities if m not in args.captioned]
    if args.captioned and args.captions is None:
        parser.error(f"--captions is needed to extract {args.captioned[0]}: a CSV with the columns id and caption")
    for m in readable:
        if getattr(args, f"{m}_weights") and m not in args.modalities:
            parser.error(f"--{m}-weights: {m} is not in --modalities")
        if m in args.modalities and getattr(args, f"{m}_backbone") is None:
            parser.error(f"--{m}-backbone is needed to extract {m}: a file of one's own (mine.py), for there is none")
    args.whole = "text" in args.captioned and args.text_backbone == "wordpiece"
    args.words = args.words or (PIECES if args.whole else WORDS)
    if args.whole and args.words < 3:
        parser.error(f"--words {args.words}: a caption has two marks and a piece; expected 3 at least")
    if args.captions_per_clip and not args.whole:
        parser.error("--captions-per-clip: goes with --text-backbone wordpiece; others read one caption a clip")
    if args.vocabulary_size and (not args.whole or args.text_weights):
        parser.error("--vocabulary-size: goes with --text-backbone wordpiece without --text-weights")
    if args.prompts and not args.captioned:
        parser.error("--prompts: text is not in --modalities")
    if args.played and args.videos is None:
        parser.error(f"--videos is needed to extract {' or '.join(args.played)}: a folder, or a text file that lists "
                     "media files")
    return args


def list_jobs(args):
    """The clips to extract, sorted by id, and lines on what was left out or put together."""
    rows = read_captions(args.captions, args.prompts) if args.captioned else []
    if args.played:
        media, notes = find_media(args.videos)
        captions = of_each(args.captions, rows, media) if args.captioned else {}
        count = sum(map(len, captions.values()))
        if count > len(captions) and not args.whole:
            notes.append(f"--captions {args.captions}: {count} captions of {len(captions)} clips, the first of each "
                         "is taken")
    else:
        unique("--captions", args.captions, rows)
        captions, notes = {}, []
        for _, name, caption in rows:
            if not args.whole or caption.strip():
                captions.setdefault(clip_of(name) if args.whole else name, []).append(caption)
        media = dict.fromkeys(captions, Media(""))
    names = [name for name in sorted(media) if any(fnmatch.fnmatchcase(name, glob) for glob in args.select)]
    if not names:
        raise UserError(f"--select {' '.join(args.select)}: matches none of the {len(media)} clips")
    jobs = [Job(name, media[name].path, () if args.whole else tuple(words_of(captions.get(name, [""])[0])),
                media[name].sound, tuple(captions.get(name, ())) if args.whole else ()) for name in names]
    unspaced = [job.id for job in jobs if any(map(UNSPACED.search, job.words))]
    if unspaced:
        notes.append(f"--captions {args.captions}: {len(unspaced)} captions, such as that of '{unspaced[0]}', have no "
                     "spaces between words, so that a clause is one word; expected spaces")
    return jobs, notes


def absent_from(job, played):
    """Why a clip cannot be read for it has no file, as a bad clip's reason; "" where it has."""
    for m in played:
        sound = modalities.modality(m).source == "sound" and job.sound
        reason = gone(sound or job.path)
        if reason:
            return f"{m}: {reason}"
    return ""


def learnt_vocabulary(args, jobs):
    """Learn a vocabulary of all captions and write it beside OUT, for the processes that read it; returns its path."""
    from cmg.extract.wordpiece import learn_vocabulary  # needs a package of the extra [extract]

    path = Path(f"{args.out}.vocabulary.txt")
    captions = [caption for job in jobs for caption in job.captions]
    if not captions:
        raise UserError(f"--captions {args.captions}: no captions of these clips to learn a vocabulary of")
    write_atomically(path, "\n".join(learn_vocabulary(captions, args.vocabulary_size or VOCABULARY).pieces) + "\n")
    return str(path)


@command
def main(argv=None):
    args = parse(argv)
    require_free(args.out, args.overwrite)
    for device in args.device:
        choose_device(device)  # or a worker would say it
    jobs, notes = list_jobs(args)
    if args.whole and not args.text_weights:
        args.text_weights = [learnt_vocabulary(args, jobs)]
    backbones = tuple(
        Choice(m, getattr(args, f"{m}_backbone"), tuple(getattr(args, f"{m}_weights")), args.side, args.rate)
        for m in args.modalities
    )
    most = max(len(job.captions) for job in jobs) or 1
    recipe = Recipe(backbones, args.seconds, args.words, args.frames, args.precision,
                    min(most, args.captions_per_clip or most))
    texts = (args.captions, args.prompts) if args.captioned else ()
    source = " ".join(str(path) for path in (*(args.videos or ()), *texts) if path)
    source = source.encode(errors="backslashreplace").decode()  # names need not be UTF-8
    with contextlib.closing(parts_of(args.out, recipe, {"source": source}, args.overwrite, args.shard)) as parts:
        for line in notes:
            print(f"extract: {line}", file=sys.stderr)
        done, jobs = parts.ids(), of_shard(jobs, args.shard)
        pending = [job for job in jobs if job.id not in done]
        progress = Progress(len(jobs), len(jobs) - len(pending), args.workers)
        failed = parts.collect(extracted(pending, recipe, args), progress)
        if args.shard:
            parts.leave(failed, progress)
            return
        good = sorted({job.id for job in jobs} - {one.id for one in failed})
        parts.finish(good, failed, progress)
    most_are_good(args.out, len(good), len(jobs), f"reasons in {parts.failed_csv}")


def extracted(jobs, recipe, args):
    """The outcome of every job as `Parts.collect` takes it, those without a file first."""
    absent = [Outcome(job, {}, {}, reason) for job in jobs if (reason := absent_from(job, args.played))]
    without = {outcome.id for outcome in absent}  # of what is there now, the end is no fault of the clip's
    there = [job for job in jobs if job.id not in without]
    for outcome in chain(absent, extract_all(there, recipe, args.workers, args.device)):
        where = " and ".join(filter(None, (outcome.job.path, outcome.job.sound)))
        bad = [Bad(outcome.id, where, outcome.reason)] if outcome.reason else []
        yield [] if bad else [outcome], bad, outcome.spent._asdict()


if __name__ == "__main__":
    main()
