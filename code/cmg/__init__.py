"""CMG: cross-modal generalization through a multimodal unified representation."""

__version__ = "0.1.0"


def load_pretrained(path, device="cpu"):
    """See `cmg.training.checkpoint.load_pretrained`; imported late, so that `import cmg` stays light."""
    from cmg.training.checkpoint import load_pretrained

    return load_pretrained(path, device)
