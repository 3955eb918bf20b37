"""All commands by one name: `cmg pretrain …`, the same as `python -m cmg pretrain …` and `python -m cmg.pretrain …`.

Without a command it lists them, a line each, without importing what they need.
"""

import importlib
import sys

import cmg
from cmg.cli import command
from cmg.configs import nearest
from cmg.downstream.registry import MODULES, TASKS
from cmg.errors import UserError

COMMANDS = {  # name -> its module and what it is for
    "extract": ("cmg.extract.__main__", "media files and captions to a feature file"),
    "convert": ("cmg.data.convert", "released features of other projects to a feature file"),
    "captions": ("cmg.data.captions", "captions of public data sets as one CSV"),
    "pool": ("cmg.data.pool", "a feature file with the mean over video's grid in the place of the grid"),
    "compose": ("cmg.data.compose.__main__", "clips composed of public recordings and pictures"),
    "render": ("cmg.data.compose.render", "a folder of clips as media files"),
    "pretrain": ("cmg.pretrain", "pretrain a method on feature files"),
    "launch": ("cmg.launch", "the same in several processes: cmg launch 4 cmg.pretrain …"),
    **{module: (f"cmg.downstream.{module}", next(one.title for one in TASKS.values() if one.module == module))
       for module in MODULES},
    "tables": ("cmg.tables.__main__", "tables of many runs: mean ± std over seeds"),
    "compare": ("cmg.tables.compare", "finished runs side by side"),
    "released": ("cmg.released.checkpoints", "checkpoints of the public implementation, to ours and back"),
    "bench": ("cmg.bench", "what a step costs here: FLOPs, time, memory"),
    "bench_loading": ("cmg.bench_loading", "what reading a clip costs"),
    "bench_captions": ("cmg.bench_captions", "how many captions UniQ4Cap writes a second"),
    "gpu_check": ("cmg.gpu_check", "all evidence that needs a card, in one go"),
    "explore": ("cmg.explore.__main__", "a page that shows what the codes stand for"),
    "encode": ("cmg.encode", "codes and vectors of media files and sentences"),
    "search": ("cmg.search", "what a folder holds that is like a sentence, a picture, a sound or a video"),
    "export": ("cmg.export", "a run as a folder to hand on: safetensors, JSON and a model card"),
    "method": ("cmg.figures.method", "the picture of the method and of the data's way through it"),
    "house": ("cmg.figures.house", "the picture of the modules of this project"),
}


def listing() -> str:
    """A line a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(["usage: cmg COMMAND …, cmg COMMAND --help, cmg --version", "", *lines])


@command
def main(argv=None):
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
    elif name == "--version":
        print(f"cmg {cmg.__version__}, numerics {cmg.NUMERICS}")
    elif name.replace("-", "_") in COMMANDS:
        importlib.import_module(COMMANDS[name.replace("-", "_")][0]).main(rest)
    else:
        raise UserError(f"there is no command {name!r}{nearest(name, list(COMMANDS))} (cmg alone lists them)")


if __name__ == "__main__":
    main()
