"""What features tell by themselves: a linear reader of single seconds, before any pretraining.

    python scripts/linear_reader.py data/digits/ave.h5 data/digits/new/ann
    python scripts/linear_reader.py ave.h5 AVE/ --avvp avvp.h5 AVVP/

For each modality of a feature file of AVE-like clips, a logistic regression is fitted on the seconds of the train split
and scored on those of the val split: `segments` counts classes and background, `clips` asks which class has the
largest mean probability over a clip's seconds. With --avvp the same reader names what is heard or seen in the seconds
of AVVP's val split, of which it has read nothing: average precision over all pairs of second and class that both sets
have. The regularisation is the best of three, which flatters a little. So backbones are chosen; the test splits stay
unread.
"""

from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmg.cli import Parser, command
from cmg.data.ave import clip_labels, read_ave, segment_labels
from cmg.data.avvp import event_labels, read_avvp
from cmg.data.features import FeatureSet
from cmg.downstream.results import markdown_table
from cmg.downstream.splits import match

STRENGTHS = (1e-3, 1e-2, 1e-1)  # sklearn's C


def read(features, modality, names):
    """(positions of the names that have features, their x [N, T, C], of a grid the mean of its cells)."""
    found = match(features, names)
    x = features.stored(found.rows)[modality].float()
    return found.found, (x.flatten(2, -2).mean(2) if x.dim() > 3 else x).numpy()


def read_split(features, annotations, split, modality):
    """x [N, T, C] of an AVE split, labels of seconds [N, T] and of clips [N]."""
    clips = annotations.splits[split]
    found, x = read(features, modality, [clip.id for clip in clips])
    clips = [clips[n] for n in found]
    return (x, segment_labels(clips, annotations.classes, x.shape[1]).numpy(),
            clip_labels(clips, annotations.classes).numpy())


def read_events(path, folder, modality, classes):
    """x [N, T, C] of AVVP's val split and what is heard or seen there of AVE's classes, [N, T, K]."""
    annotations, features = read_avvp(folder), FeatureSet(path)
    names = annotations.splits["val"]
    found, x = read(features, modality, names)
    shared = [name for name in classes if name in annotations.classes]
    labels = event_labels([names[n] for n in found], annotations.events[modality], annotations.classes, x.shape[1])
    labels = labels.numpy()[..., [annotations.classes.index(name) for name in shared]]
    return x, labels, [classes.index(name) for name in shared]


def scores(fit, val, events):
    """(segments, clips, average precision of `events` if there are any) in %, of the best strength."""
    (x, seconds, _), (x_val, seconds_val, clips_val) = fit, val
    background, best = max(seconds.max(), seconds_val.max()), ()
    for strength in STRENGTHS:
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        reader.fit(x.reshape(-1, x.shape[2]), seconds.ravel())
        p, known = probabilities(reader, x_val), reader.classes_
        clips = p[..., known < background].mean(1).argmax(1)
        found = [(known[p.argmax(-1)] == seconds_val).mean(), (known[clips] == clips_val).mean()]
        if events:
            x_new, labels, classes = events
            found.append(average_precision_score(labels.ravel(), probabilities(reader, x_new)[..., classes].ravel()))
        best = max(best, tuple(100 * np.array(found)))
    return best


def probabilities(reader, x):
    """Of classes and background, [N, T, K + 1]."""
    return reader.predict_proba(x.reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1)


@command
def main(argv=None):
    p = Parser(prog="linear_reader.py", description=__doc__)
    p.add_argument("data", nargs="+", help="feature files of AVE-like clips")
    p.add_argument("annotations", help="folder of Annotations.txt and the splits")
    p.add_argument("--avvp", nargs=2, metavar=("FILE", "FOLDER"), help="features of AVVP-like clips, and their "
                   "annotations")
    args = p.parse_args(argv)
    features, annotations = FeatureSet(args.data), read_ave(args.annotations)
    rows = []
    for m in features.modalities:
        split = partial(read_split, features, annotations, modality=m)
        fit = split("train")
        events = read_events(*args.avvp, m, annotations.classes) if args.avvp else ()
        rows.append([f"{m} ({features.provenance[m].backbone})", str(fit[0].shape[2]),
                     *(f"{value:.1f}" for value in scores(fit, split("val"), events))])
    print(markdown_table(["features", "values a second", "segments", "clips", "AVVP"][: len(rows[0])], rows))


if __name__ == "__main__":
    main()
