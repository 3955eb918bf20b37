"""Methods by name: which there are, what `--method a+b` holds, its flags and defaults, and the method itself.

A method is one file in this folder, and `--method NAME` takes it. `--method a+b` takes the terms of both. It declares

    PARTS     other methods that it includes; every method includes `baseline`
    TERMS     dict term -> `make(frame)`, which returns a module, or None where the data leave it nothing to do
    FLAGS     dict flag -> Flag, the flags of its own; the weight of term `x` is the flag `w_x`
    DEFAULTS  dict flag -> value, which replaces the preset's
    KEEPS     flags whose value is the preset's although `baseline` replaces it
    PAIRED    True if it needs two modalities or more

all of which are optional.
"""

import importlib
import pkgutil

from cmg.errors import UserError
from cmg.methods.base import Method
from cmg.presets import PRESETS


def available():
    """Names that `--method` takes, and joins with +."""
    here = importlib.import_module("cmg.methods")
    return sorted(m.name for m in pkgutil.iter_modules(here.__path__) if m.name not in ("base", "registry"))


def load(name):
    return importlib.import_module(f"cmg.methods.{name}")


def parts(method):
    """dict name -> module of all that a method holds, `baseline` first; `UserError` where the name makes no sense."""
    held = {"baseline": load("baseline")}

    def add(name):
        if name not in available():
            raise UserError(f"--method {method}: expected one of {', '.join(available())}, or several joined with +")
        if name in held:
            raise UserError(f"--method {method}: {name} is part of it already; expected every part once")
        module = load(name)
        for part in getattr(module, "PARTS", ()):
            add(part)
        held[name] = module

    for name in method.split("+") if method != "baseline" else ():
        add(name)
    return held


def flags():
    """dict name of a method -> its dict flag -> Flag."""
    return {name: getattr(load(name), "FLAGS", {}) for name in available()}


def defaults(preset, method):
    """Every option that a preset or a method sets. The weight of a term that the method does not hold is 0."""
    held = parts(method)
    values = {flag: spec.default for own in flags().values() for flag, spec in own.items()} | PRESETS[preset]
    for name, own in flags().items():
        values |= {flag: 0.0 for flag in own if flag.startswith("w_") and name not in held}
    for module in held.values():
        values |= getattr(module, "DEFAULTS", {})
        values |= {flag: PRESETS[preset][flag] for flag in getattr(module, "KEEPS", ())}
    return values


def refuse_foreign(options):
    """`UserError` for a flag that differs from its default although the method does not have it."""
    method = options["method"]
    held, values = parts(method), defaults(options["preset"], method)
    for name, own in flags().items():
        for flag in own if name not in held else ():
            if options[flag] != values[flag]:
                raise UserError(f"--{flag.replace('_', '-')} {options[flag]}: belongs to {name}, which is not part of "
                                f"--method {method}")


def build(shapes, options):
    """The method that `options["method"]` names, for features of these shapes."""
    held = parts(options["method"])
    for name in options["method"].split("+"):
        if getattr(held[name], "PAIRED", False) and len(shapes) < 2:
            raise UserError(f"--method {options['method']}: {name} aligns modalities; expected two or three, not only "
                            f"{', '.join(shapes)}")
    frame = held["baseline"].frame(shapes, options)
    makers = {name: make for module in held.values() for name, make in getattr(module, "TERMS", {}).items()}
    weights = {name: options[f"w_{name}"] for name in makers}
    terms = {name: make(frame) for name, make in makers.items() if weights[name]}
    terms = {name: term for name, term in terms.items() if term is not None}
    return Method(frame.model, frame.specific, terms, weights, options["specific_steps"],
                  clip_by_module=options["equations"] == "released")
