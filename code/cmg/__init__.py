"""CMG: cross-modal generalization through a multimodal unified representation.

What is where. A module imports only from its own line and from the lines above it:

    errors, modalities, configs, files
    distributed, processes, slurm, progress, cli, launch, plugins
    data, losses, models, metrics, optimisation
    methods
    training
    released
    extract, figures
    downstream
    pretrain, bench, gpu_check, tables, explore, encode, search, export
    __main__

Every package says in its docstring what it is for; figs/house.svg shows all rooms and the walk of a batch through them.
"""

__version__ = "0.1.0"

# What changed numbers that the same flags and data give; whoever changes them adds a line. args.json, checkpoints and
# results.json say which version they are of, and tables tell versions apart. What says nothing is of version 0.
CHANGES = {
    1: "2026-11-21 under bf16 the scores of Cross-CPC and L_cmcm and vCLUB's bound are taken in float32",
    2: "2026-11-21 text's biLSTM does not read the padding of short captions",
    3: "2026-11-26 official resets the vector of a code alone, as released; --mm-ema aligned leaves out padded steps",
    4: "2026-11-26 strict knows a video by every form of its name and leaves out those learnt from; ties in R@K give "
       "their expectation; AVE -> AVVP counts missing clips",
    5: "2026-11-26 R@k under paper count a tie by its mean rank as released, to half a place beyond k, none for R@1, "
       "and the median rank under paper leaves out what is missing; features whose root mean square lies outside 0.01 "
       "to 30 are standardised (--standardise)",
    6: "2026-11-26 uniq4cap and prealign start with weights as wide as the model asks, take no clip of the same "
       "caption for a rival and tell at the scale of training; the built-in raw clips and captions are others",
}
NUMERICS = max(CHANGES)


def load_pretrained(path, device="cpu", method=None):
    """See `cmg.training.checkpoint.load_pretrained`; imported late, so that `import cmg` stays light."""
    from cmg.training.checkpoint import load_pretrained

    return load_pretrained(path, device, method)


def build(method, shapes, preset=None, **settings):
    """See `cmg.methods.registry.build`."""
    from cmg.methods.registry import build

    return build(method, shapes, preset, **settings)
