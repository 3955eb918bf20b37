"""The backbones that `cmg.extract` can use, and what a backbone is.

A backbone is a class in a module of its own and a line in `BACKBONES`. It is constructed without arguments, once in
each worker process, and called once a clip:

    name      str, as on the command line and in the feature file
    modality  "video", "audio" or "text"
    sha256    str, of the file of its weights; "" if it has none
    shape     tuple, features of one step: a second of video or audio, a word of text
    __call__(steps) -> float ndarray [n, *shape]

where `steps` are the n steps that the clip really has (padding is not the backbone's business):

    video     iterable over seconds: uint8 ndarray [frames, H, W, 3], RGB, 1 to 16 frames, all of one size
    audio     float32 Tensor[n, 16000], mono at 16 kHz
    text      list of n words, lower case, without punctuation
"""

import importlib

BACKBONES = {
    "video": {"pixels": "cmg.extract.pixels:Pixels"},
    "audio": {"logmel": "cmg.extract.logmel:LogMel"},
    "text": {"hash": "cmg.extract.hashed:HashedWords"},
}


def load_backbone(modality, name):
    """The backbone of that name; its module, with what it depends on, is imported only now."""
    module, _, kind = BACKBONES[modality][name].partition(":")
    return getattr(importlib.import_module(module), kind)()
