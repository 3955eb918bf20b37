"""What features tell by themselves: a linear reader of single seconds, before any pretraining.

    python scripts/linear_reader.py data/digits/ave.h5 data/digits/new/ann

For each modality of a feature file of AVE-like clips, a logistic regression is fitted on the seconds of the train split
and scored on those of the val split: `segments` counts classes and background, `clips` asks which class has the
largest mean probability over a clip's seconds. The regularisation is the best of three, which flatters a little. So
backbones are chosen; the test split stays unread.
"""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmg.cli import Parser, command
from cmg.data.ave import clip_labels, read_ave, segment_labels
from cmg.data.features import FeatureSet
from cmg.downstream.results import markdown_table
from cmg.downstream.splits import match

STRENGTHS = (1e-3, 1e-2, 1e-1)  # sklearn's C


def read(features, modality, clips, classes):
    """x [N, T, C], of a grid the mean of its cells, labels of seconds [N, T] and of clips [N]."""
    found = match(features, [clip.id for clip in clips])
    clips = [clips[n] for n in found.found]
    x = features.stored(found.rows)[modality].float()
    x = (x.flatten(2, -2).mean(2) if x.dim() > 3 else x).numpy()
    return x, segment_labels(clips, classes, x.shape[1]).numpy(), clip_labels(clips, classes).numpy()


def scores(fit, val):
    """(segments, clips) in %, of the best strength."""
    (x, seconds, _), (x_val, seconds_val, clips_val) = fit, val
    background, best = max(seconds.max(), seconds_val.max()), (0.0, 0.0)
    for strength in STRENGTHS:
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        reader.fit(x.reshape(-1, x.shape[2]), seconds.ravel())
        p = reader.predict_proba(x_val.reshape(-1, x.shape[2])).reshape(*seconds_val.shape, -1)  # [N, T, classes]
        known = reader.classes_
        events = p[..., known < background].mean(1)
        best = max(best, (100 * (known[p.argmax(-1)] == seconds_val).mean(),
                          100 * (known[events.argmax(1)] == clips_val).mean()))
    return best


@command
def main(argv=None):
    p = Parser(prog="linear_reader.py", description=__doc__)
    p.add_argument("data", nargs="+", help="feature files of AVE-like clips")
    p.add_argument("annotations", help="folder of Annotations.txt and the splits")
    args = p.parse_args(argv)
    features, annotations = FeatureSet(args.data), read_ave(args.annotations)
    rows = []
    for m in features.modalities:
        splits = [read(features, m, annotations.splits[split], annotations.classes) for split in ("train", "val")]
        found = scores(*splits)
        rows.append([f"{m} ({features.provenance[m].backbone})", str(splits[0][0].shape[2]),
                     *(f"{value:.1f}" for value in found)])
    print(markdown_table(["features", "values a second", "segments", "clips"], rows))


if __name__ == "__main__":
    main()
