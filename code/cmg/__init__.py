"""CMG: cross-modal generalization through a multimodal unified representation.

What is where. A module imports only from its own line and from the lines above it:

    errors, modalities, files, distributed, cli, presets
    data, losses, models, metrics      feature files and annotations; objectives; networks and codebook; figures
    methods                            networks and losses put together: Uni-Code and what it is compared with
    training                           the loop and its checkpoints
    extract                            from media files to feature files
    figures                            every picture, drawn with Matplotlib
    downstream                         the tasks that a checkpoint is tested on
    pretrain, bench, gpu_check, tables
"""

__version__ = "0.1.0"


def load_pretrained(path, device="cpu"):
    """See `cmg.training.checkpoint.load_pretrained`; imported late, so that `import cmg` stays light."""
    from cmg.training.checkpoint import load_pretrained

    return load_pretrained(path, device)
