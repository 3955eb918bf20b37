"""CMG: cross-modal generalization through a multimodal unified representation.

What is where. A module imports only from its own line and from the lines above it:

    errors, modalities, configs, files, distributed, cli, plugins
    data, losses, models, metrics, optimisation    feature files and annotations; objectives; networks; measures
    methods                            what the loop needs of a method, and the methods: Uni-Code and its rivals
    training                           the loop and its checkpoints
    released                           the released code's arithmetic in the place of the paper's, and its checkpoints
    extract                            from media files to feature files
    figures                            every picture, drawn with Matplotlib
    downstream                         the tasks that a checkpoint is tested on
    pretrain, bench, gpu_check, tables
"""

__version__ = "0.1.0"


def load_pretrained(path, device="cpu", method=None):
    """See `cmg.training.checkpoint.load_pretrained`; imported late, so that `import cmg` stays light."""
    from cmg.training.checkpoint import load_pretrained

    return load_pretrained(path, device, method)


def build(method, shapes, preset=None, **settings):
    """See `cmg.methods.registry.build`."""
    from cmg.methods.registry import build

    return build(method, shapes, preset, **settings)
