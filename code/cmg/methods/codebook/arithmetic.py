"""Which class computes what: the paper's equations, or the released code's arithmetic in their place."""

import importlib

from cmg.models.unified import unchanged


def arithmetic_of(equations):
    """Function class -> class that takes its place, for a value of --equations.

    The released arithmetic is found by name: it builds on everything here, and nothing here on it.
    """
    if equations == "paper":
        return unchanged
    replaced = importlib.import_module("cmg.released.arithmetic").REPLACED
    return lambda cls: replaced.get(cls, cls)
