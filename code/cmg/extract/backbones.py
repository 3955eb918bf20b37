"""The backbones that `cmg.extract` can use, and what a backbone is.

A backbone is a class in a module of its own and a line in `BACKBONES`, or in a file of one's own, or what an installed
package declares under the entry point group cmg.backbones. One is constructed in each worker process, and called once a
clip:

    expects   tuple of str, what its weights are, one for each value of `--<modality>-weights`; () if it has none
    name      str, as in the feature file
    modality  str, a row of `cmg.modalities.TABLE`
    sha256    str, of the file of its weights; "" if it has none
    shape     tuple, features of one step: a second of video or audio, a word of text
    __init__(weights, device, precision), where weights are as many str as it expects and precision is "fp32" or "bf16";
        without arguments if it has no weights (those run in float32 on the CPU)
    __call__(steps) -> float ndarray [n, *shape]

and may have, if it makes pictures,

    options   tuple of "side" and "rate", which __init__ then takes by name: --side and --rate
    rate      int, pictures of a step: __call__ gives [n · rate, *shape]
    dtype     str, as stored, "float16" without it

where `steps` are the n steps that the clip really has (padding is not the backbone's business), by the modality's
source:

    frames    iterable over seconds: uint8 ndarray [frames, H, W, 3], RGB, 1 to 16 frames, all of one size
    sound     float32 Tensor[n, 16000], mono at 16 kHz
    words     list of n words, lower case, without punctuation; of a long caption, the result may have fewer rows

One that `reads` captions is called with all captions of a clip as they stand and a number L: __call__(captions, L) ->
int ndarray [captions, L] of its `dtype`, numbers of its `vocabulary` (`cmg.data.vocabulary`), kept in the feature file.
"""

from typing import NamedTuple

from cmg import plugins
from cmg.errors import UserError

BACKBONES = {
    "video": {
        "things": "cmg.extract.things:Things",
        "pixels": "cmg.extract.pixels:Pixels",
        "frames": "cmg.extract.frames:Frames",
        "vgg19": "cmg.extract.vgg19:VGG19",
        "hf": "cmg.extract.hf:ImageEncoder",
    },
    "audio": {
        "cepstra": "cmg.extract.cepstra:Cepstra",
        "logmel": "cmg.extract.logmel:LogMel",
        "melimage": "cmg.extract.melimage:MelImage",
        "melimage-22k": "cmg.extract.melimage:MelImage22k",
        "melimage-44k": "cmg.extract.melimage:MelImage44k",
        "vggish": "cmg.extract.vggish:VGGish",
        "vggish-pca": "cmg.extract.vggish:VGGishPCA",
        "hf": "cmg.extract.hf:SoundEncoder",
    },
    "text": {
        "hash": "cmg.extract.hashed:HashedWords",
        "bert": "cmg.extract.hf:Bert",
        "bert-released": "cmg.extract.hf:ReleasedBert",
        "word2vec": "cmg.extract.word2vec:Word2Vec",
        "hf": "cmg.extract.hf:TextEncoder",
        "wordpiece": "cmg.extract.wordpiece:WordPiece",
    },
}


class Choice(NamedTuple):
    """A backbone as the command line names it; a name may be a file of one's own.

    side, rate : of the pictures that it makes, None for its own.
    """

    modality: str
    name: str
    weights: tuple = ()
    side: int | None = None
    rate: int | None = None


def kind_of(choice):
    """The class of a backbone; its module, with what it depends on, is imported only now.

    Raises
    ------
    UserError : no such backbone; a package is missing.
    """
    table, flag = BACKBONES.get(choice.modality, {}), f"--{choice.modality}-backbone"
    try:
        return plugins.find(choice.name, table, "backbones", flag, lambda thing: encodes(thing, choice.modality))
    except ImportError as error:
        if choice.name not in table:
            raise  # of a file of one's own: its author sees where
        raise UserError(f"{flag} {choice.name} needs {error.name}: install this project with its extra [extract]") \
            from None


def load_backbone(choice, device="cpu", precision="fp32"):
    """The backbone of that choice.

    Raises
    ------
    UserError : those of `kind_of`; too few or too many weights; what the backbone says of them.
    """
    kind = kind_of(choice)
    if len(choice.weights) != len(kind.expects):
        wanted = " and ".join(kind.expects) or "none: it has no weights"
        raise UserError(f"--{choice.modality}-weights: {len(choice.weights)} given, {choice.name} expects {wanted}")
    options = {name: getattr(choice, name) for name in getattr(kind, "options", ())
               if getattr(choice, name) is not None}
    return kind(choice.weights, device, precision, **options) if kind.expects else kind(**options)


def rate_of(backbone):
    """Rows of a clip that a backbone makes of a second, or of a word."""
    return getattr(backbone, "rate", 1)


def dtype_of(backbone):
    """The dtype that a backbone's features are stored in."""
    return getattr(backbone, "dtype", "float16")


def encodes(thing, modality):
    """Whether something is a backbone of a modality."""
    return isinstance(thing, type) and getattr(thing, "modality", None) == modality
