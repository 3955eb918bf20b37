"""Methods by name: what `--method` stands for, in a command line, in Python and in a checkpoint.

    unicode, dcid+turn       the codebook family (methods/codebook), objectives joined by +
    multisk                  a system of its own (methods/multisk)
    path/to/mine.py          a method of one's own: a subclass of `cmg.methods.contract.Method`, or an OBJECTIVE, which
                             joins others as well: dcid+path/to/mine.py
    another                  what an installed package declares under the entry point group cmg.methods
"""

import importlib.metadata
import os
from pathlib import Path

from cmg import plugins
from cmg.configs import with_values
from cmg.errors import UserError
from cmg.methods.codebook.family import OBJECTIVES, family
from cmg.methods.codebook.objective import Objective
from cmg.methods.contract import Method
from cmg.modalities import modality

EXAMPLE = '{"audio": (10, 128)}'
SYSTEMS = {  # name -> "module:class" of the methods beside the codebook family
    "cmmixer": "cmg.methods.cmmixer.method:CMMixer",
    "cmmixer-pair": "cmg.methods.cmmixer.method:CMMixerPair",
    "multisk": "cmg.methods.multisk.method:MultiSK",
    "prealign": "cmg.methods.uniq4cap.prealign:Prealign",
    "uniq4cap": "cmg.methods.uniq4cap.uniq4cap:Uniq4Cap",
}


def available():
    """Names that `--method` takes."""
    return sorted([*SYSTEMS, *OBJECTIVES])


def is_method(thing):
    return isinstance(thing, Objective) or isinstance(thing, type) and issubclass(thing, Method)


def find(method) -> type[Method]:
    """The class of a method.

    Raises
    ------
    UserError : a name that nobody knows, or that makes no sense.
    """
    method = absolute(method)
    names = method.split("+")
    installed = {entry.name for entry in importlib.metadata.entry_points(group="cmg.methods")}
    for name in names:
        if name not in {*available(), *installed} and not plugins.is_file(name):
            raise UserError(f"--method {method}: expected one of {', '.join(available())}, several joined with +, or a "
                            "file of one's own (mine.py)")
    if len(names) == 1 and names[0] not in OBJECTIVES:
        thing = plugins.find(method, SYSTEMS, "methods", "--method", is_method)
        if not isinstance(thing, Objective):
            return thing
    return family(method, tuple(origin(method)["files"].values()))


def build(method, shapes, preset=None, **settings) -> Method:
    """A method, ready to be trained.

    Parameters
    ----------
    method : as in --method. shapes : dict modality -> shape of one clip's features.
    preset : as in --preset, by default the method's first; settings : replace the preset's, named as flags are.

    Raises
    ------
    UserError : no such method, preset, setting or modality; shapes that are none.

    Example
    -------
    >>> built = build("unicode", {"audio": (10, 128), "video": (10, 7, 7, 512)}, "small", dim=64)
    >>> built.kept().encode(audio=torch.zeros(2, 10, 128)).codes.shape     # doctest: +SKIP
    """
    cls = find(method)
    if not isinstance(shapes, dict) or not shapes:
        raise UserError(f"shapes: {shapes!r}; expected the shape of one clip of each modality, {EXAMPLE}")
    for m, shape in shapes.items():
        modality(m)
        if not isinstance(shape, (tuple, list)) or not shape or not all(type(n) is int and n > 0 for n in shape):
            raise UserError(f"shapes: {m}: {shape!r}; expected the shape of one clip, as in {EXAMPLE}")
    return cls(shapes, configured(cls, preset, settings))


def configured(cls, preset=None, settings=None):
    """The settings of a method class: the preset's, with others in their place; unknown names are refused."""
    recipe = recipe_of(cls, preset)
    return with_values(recipe.method, settings or {}, strict=True)


def recipe_of(cls, preset=None):
    """The recipe of a preset, by default the first."""
    recipes = cls.all_recipes()
    if preset is not None and preset not in recipes:
        raise UserError(f"--preset {preset}: expected {' or '.join(recipes)}")
    return recipes[preset or next(iter(recipes))]


# -- in checkpoints ----------------------------------------------------------------------------------------------


def origin(method) -> dict:
    """What a checkpoint says of its method: the name, and of files of one's own their paths and contents."""
    files = [Path(plugins.file_of(name)).resolve() for name in method.split("+") if plugins.is_file(name)]
    return {"name": absolute(method), "files": {str(path): plugins.digest(path, "--method") for path in files}}


def absolute(method) -> str:
    """The name of a method with the files of one's own spelled in full."""
    return "+".join(str(Path(name).resolve()) if plugins.is_file(name) else name for name in method.split("+"))


def same(one, other) -> bool:
    """Whether two origins are the same method: the same names, and files of the same contents, wherever they lie."""
    def parts(origin):
        for name in origin["name"].split("+"):
            path = str(plugins.file_of(name))
            yield origin["files"].get(path, path), name.removeprefix(path)

    return list(parts(one)) == list(parts(other))


def find_again(origin, where, method=None) -> type[Method]:
    """The class of the method that a checkpoint was trained with.

    A file of one's own is run only if it is what was trained with, byte by byte, and belongs to the user (or root):
    a checkpoint from elsewhere cannot choose what is run here. `method` : names it anew, where it was moved or changed.
    """
    if method is not None:
        return find(method)
    for path in (plugins.file_of(name) for name in origin["name"].split("+") if plugins.is_file(name)):
        if not path.is_file():
            state = "is not there"
        elif os.name != "nt" and path.stat().st_uid not in (0, os.getuid()):
            state = "is another user's, so it is not run"
        elif plugins.digest(path, where) != origin["files"].get(str(path)):
            state = "is not the file that it was trained with"
        else:
            continue
        raise UserError(f"{where}: was trained with --method {origin['name']}, and {path} {state}; give it by "
                        "--method FILE, or load_pretrained(…, method=…)")
    return find(origin["name"])
