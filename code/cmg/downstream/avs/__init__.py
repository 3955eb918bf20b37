"""AVS-S4: a network trained to segment by one modality's codes, asked with another's.  `python -m cmg.downstream.avs`

    python -m cmg.downstream.avs --annotations Single-source/ --checkpoint checkpoint/run --out checkpoint/avs_a2t
    python -m cmg.downstream.avs --stage test --out checkpoint/avs_a2t --protocol paper
    python -m cmg.downstream.avs --annotations Single-source/ --query raw --out checkpoint/avs_a2a     # the reference

Encoder and codebook are frozen; a second's code vector is the query of its frame (`queries.py` says how five seconds
and words become queries). The network (`networks.py`) is trained with the source modality's queries and the first
frame's mask of each clip, then tested with the target's: A2T and T2A. Its masks are drawn over frames of test clips
(`masks_<protocol>.png` and `.pdf`).

Protocols
---------
strict : the epoch is chosen by mean IoU on val *with the source's queries*; metrics are over all frames of the test
    split at once; test clips whose video the checkpoint was pretrained on are left out and counted.
paper : what the public scripts measure: the epoch chosen on val with the *target's* queries, metrics averaged over
    batches, so that F depends on the batch size.

One training run keeps both epochs (`best.pt`, `best_paper.pt`). In results.json `value` is with the target's queries,
`source_value` with the source's, `chance` with the target's query of a clip of another class: a network that ignores
its query loses nothing by that. `--query raw` is the benchmark's own audio-to-audio setting without codes, `--query
none` a network that is never told what to segment.
"""

from cmg.cli import command
from cmg.downstream.avs.options import parser, settle

__all__ = ["main", "parser"]


@command
def main(argv=None):
    """Train, test or both -> the rows of results.json, None after training alone."""
    args = parser().parse_args(argv)
    from cmg.downstream.avs.task import Task  # with what training and pictures need, which --help does not

    task = Task(settle(args))
    if args.stage != "test":
        task.train()
    return task.test() if args.stage != "train" else None
