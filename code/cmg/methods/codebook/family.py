"""The codebook family: which objectives there are, and the method that a name such as `dcid+turn` stands for."""

import functools
from dataclasses import replace

from cmg import plugins
from cmg.configs import flat, with_values
from cmg.errors import UserError
from cmg.methods.codebook.method import CodebookMethod
from cmg.methods.codebook.objective import Objective
from cmg.methods.codebook.recipes import recipes_of
from cmg.models.unified import UnifiedModel

OBJECTIVES = {name: f"cmg.methods.codebook.{name}:OBJECTIVE" for name in (
    "aha", "baseline", "cmcm", "codaar", "codebind", "codis", "dcid", "fcid", "micu", "mst", "onecode", "simmmdg",
    "smit", "srcid", "turn", "unicode")}


def objective(name) -> Objective:
    """One of ours by name, of an installed package, or of a file of one's own."""
    return plugins.find(name, OBJECTIVES, "methods", "--method", lambda thing: isinstance(thing, Objective))


@functools.lru_cache
def family(method, contents=()) -> type[CodebookMethod]:
    """The class of a method of the family.

    contents : digests of the files of one's own in it: with another text it is another class.

    Raises
    ------
    UserError : an objective that does not exist, or occurs twice.
    """
    joined = {"baseline": objective("baseline")}

    def add(name):
        found = objective(name)
        if found.name in joined:
            raise UserError(f"--method {method}: {found.name} is part of it already; expected every part once")
        for other in found.includes:
            add(other)
        joined[found.name] = found
        return found.name

    names = [add(name) for name in method.split("+")] if method != "baseline" else ["baseline"]
    models = {one.name: one.model for one in joined.values() if one.model}
    if models and len(names) > 1:
        raise UserError(f"--method {method}: {next(iter(models))} has a codebook of its own kind; expected it alone")
    known = {name: objective(name) for name in OBJECTIVES} | joined
    cls = type("CodebookMethod", (CodebookMethod,), {
        "__doc__": CodebookMethod.__doc__, "__module__": CodebookMethod.__module__,
        "name": "+".join(names), "objectives": joined, "model_class": next(iter(models.values()), UnifiedModel),
        "owned": {name: one.owns for name, one in known.items()},
        "recipes": {preset: _fitted(recipe, joined, known) for preset, recipe in recipes_of(known).items()},
    })
    return cls


def _fitted(recipe, joined, known):
    """A preset for a method: terms that it does not hold weigh nothing, and its objectives set what they set."""
    preset = flat(recipe.method)
    values = {f"w_{term}": 0.0 for name, one in known.items() if name not in joined for term in one.terms}
    for one in joined.values():
        values |= one.sets | {name: preset[name] for name in one.keeps}
    return replace(recipe, method=with_values(recipe.method, values))
