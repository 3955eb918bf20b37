"""Checkpoints of the public implementation (`DCID-model-*.pt`): read as they are, and written.

    python -m cmg.released.checkpoints DCID-model-3.pt official.pt     # to ours
    python -m cmg.released.checkpoints latest.pt DCID-model-0.pt       # a run with `--preset official`, to theirs

`cmg.load_pretrained` takes the public file itself. A public checkpoint is a dict of state dicts; every tensor of it
falls into one of two kinds:

* It has a counterpart here, in the model (Φ and the codebook) or in the rest of the method (Ψ, decoders, vCLUB,
  Cross-CPC). These go both ways bit by bit, in float64. The public code counts for how many batches a code was used by
  *no* modality; here every modality has a count, which starts from that one, and their minimum is written.
* It influences no output, and is not modelled: the spatial attention's three linear layers (a softmax over an axis of
  length one), the transformer layer that was only a template to copy, class heads that no loss reads. Import checks
  their shapes and drops them; export writes zeros, so that a strict `load_state_dict` of the public code succeeds.

The `module.` that `DataParallel` puts before every key of what it saves is taken off. An unknown key, a missing one or
one of another shape is an error. Optimiser states are not read.
"""

import torch

import cmg
from cmg.cli import Parser, command
from cmg.configs import flat
from cmg.errors import UserError
from cmg.methods import registry
from cmg.training import checkpoint

GROUPS = ("Encoder_parameters", "CPC_parameters", "Video_mi_net_parameters", "Audio_mi_net_parameters",
          "Decoder_parameters")
TEXT_GROUPS = ("Text_ar_lstm_parameters", "Text_mi_net_parameters")
OTHERS = {"optimizer", "optimizer_video_mi_net", "optimizer_text_mi_net", "optimizer_audio_mi_net", "epoch",
          "total_step"}
COUNTER = "Encoder_parameters/Cross_quantizer.unactivated_count"
GRID, WORDS = (7, 7), 10  # VGG-19's pool5, and the words a caption is cut to: the file does not say them
EVENT_CLASSES = 141  # of the class heads, as published


def recognised(content):
    """Whether what `torch.load` gave is a checkpoint of the public implementation."""
    return isinstance(content, dict) and GROUPS[0] in content


def official_options():
    """The settings of `--preset official`, by the names of their flags."""
    config = registry.configured(registry.find("unicode"), "official")
    return {**flat(config), "method": "unicode", "preset": "official"}


def prefixes(modalities):
    """Prefixes of a method's parameter names -> prefixes of `group/key` in a public checkpoint."""
    encoder, decoder, cpc = "Encoder_parameters/", "Decoder_parameters/", "CPC_parameters/"
    video, block = f"{encoder}Video_encoder.", f"{decoder}Video_decoder.inverse_conv_block."
    names = {
        "model.semantic.video.grid.channel.": f"{encoder}video_semantic_encoder.se_layer.",
        "model.codebook.embedding": f"{encoder}Cross_quantizer.embedding",
        "model.codebook.weight": f"{encoder}Cross_quantizer.ema_weight",
        "model.codebook.count": f"{encoder}Cross_quantizer.ema_count",
        "model.semantic.text.words.lstm.": "Text_ar_lstm_parameters/",
        "specific.video.convs.": f"{video}conv_stack.",
        "specific.video.convs.5.conv3.": f"{video}conv_stack.5.stack.0.res_block.1.",
        "specific.video.convs.5.conv1.": f"{video}conv_stack.5.stack.0.res_block.3.",
        "specific.video.head.": f"{video}feed_forward.",
        "terms.rec.decoders.video.code.": f"{decoder}Video_decoder.video_linear.",
        "terms.rec.decoders.video.up1.": f"{block}0.",
        "terms.rec.decoders.video.residual.conv3.": f"{block}1.stack.0.res_block.1.",
        "terms.rec.decoders.video.residual.conv1.": f"{block}1.stack.0.res_block.3.",
        "terms.rec.decoders.video.up2.": f"{block}2.",
        "terms.rec.decoders.video.out.": f"{block}4.",
    }
    for m in modalities:
        temporal = f"model.semantic.{m}.temporal."
        names[f"{temporal}project."] = f"{encoder}{m}_self_att.affine_matrix."
        names[f"{temporal}encoder."] = f"{encoder}{m}_self_att.encoder."
        names[f"terms.cpc.context.{m}."] = f"{cpc}{m}_ar_lstm."
        names[f"terms.cpc.predict.{m}."] = f"{cpc}{m}_predictors."
        names[f"terms.club.estimators.{m}.mean."] = f"{m.title()}_mi_net_parameters/p_mu."
        names[f"terms.club.estimators.{m}.logvar."] = f"{m.title()}_mi_net_parameters/p_logvar."
        if m != "video":
            names[f"specific.{m}.linear."] = f"{encoder}{m.title()}_encoder.{m}_linear."
            names[f"terms.rec.decoders.{m}.code."] = f"{decoder}{m.title()}_decoder.{m}_linear."
            names[f"terms.rec.decoders.{m}.out."] = f"{decoder}{m.title()}_decoder.{m}_rec."
    return names


def public_names(ours, modalities):
    """Our parameter names -> `group/key`, without those that have no counterpart (the codebook's own statistics)."""
    names, found = prefixes(modalities), {}
    for key in ours:
        if prefix := max((p for p in names if key.startswith(p)), key=len, default=None):
            found[key] = names[prefix] + key.removeprefix(prefix)
    return found


def expected(shapes, options):
    """What a public checkpoint of these dimensions holds.

    options : dict of the method's settings.

    Returns
    -------
    ours : dict our name -> shape, of everything in the method.
    names : dict our name -> `group/key`.
    unmodelled : dict `group/key` -> shape, of what influences no output.
    """
    with torch.device("meta"):  # shapes only: the published sizes are 0.9 GB
        cls, config = checkpoint.method_of({"args": options, "format": checkpoint.FORMAT})
        method = cls(shapes, config)
    ours = {key: tuple(value.shape) for key, value in method.state_dict().items()}
    names = public_names(ours, shapes)
    D, C = options["dim"], shapes["video"][-1]
    pool = "Encoder_parameters/video_semantic_encoder."
    unmodelled = {f"{pool}affine_video_{name}.weight": (D, C) for name in ("ave", "self")}
    unmodelled |= {f"{pool}affine_video_{name}.bias": (D,) for name in ("ave", "self")}
    unmodelled |= {f"{pool}ave_v_att.weight": (1, D), f"{pool}ave_v_att.bias": (1,)}
    for m in shapes:
        first = f"model.semantic.{m}.temporal.encoder.layers.0."
        for key, shape in ours.items():
            if key.startswith(first):
                template = f"Encoder_parameters/{m}_self_att.encoder_layer."
                unmodelled[template + key.removeprefix(first)] = shape
        head = f"Decoder_parameters/{m}_semantic_decoder."
        unmodelled |= {f"{head}linear.weight": (D, D), f"{head}linear.bias": (D,)}
        unmodelled |= {f"{head}event_classifier.weight": (EVENT_CLASSES, D)}
        unmodelled |= {f"{head}event_classifier.bias": (EVENT_CLASSES,)}
    return ours, names, unmodelled


def from_public(content, path):
    """A checkpoint of this project from the content of a public one.

    Returns
    -------
    dict as `checkpoint.inference_part` makes it, all tensors float64, and under "rest" the remaining parts of the
    method (Ψ, decoders, estimators), which only export needs. `pretrain_ids` is empty: the file does not say.

    Raises
    ------
    UserError : a key is unknown, missing or of another shape; the counter is not whole numbers.
    """
    modalities = ["video", "audio"] + ["text"] * (TEXT_GROUPS[0] in content)
    groups = GROUPS + TEXT_GROUPS * ("text" in modalities)
    known = {*groups, *OTHERS}
    for name in [*(set(content) - known), *(set(groups) - set(content))]:
        raise UserError(f"{path}: public checkpoint with {'unknown' if name in content else 'missing'} entry '{name}'")
    for group in groups:
        if not isinstance(content[group], dict):
            raise UserError(f"{path}: '{group}' is not a dict of tensors")
    tensors = {f"{group}/{key}": value for group in groups for key, value in unwrapped(content[group]).items()}
    for key, value in tensors.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            raise UserError(f"{path}: '{key}' is not a tensor of floating-point numbers")

    shapes, options = _dimensions(tensors, modalities, path)
    ours, names, unmodelled = expected(shapes, options)
    wanted = {public: ours[own] for own, public in names.items()} | unmodelled | {COUNTER: (options["codes"],)}
    for key in [*sorted(tensors.keys() - wanted.keys()), *sorted(wanted.keys() - tensors.keys())]:
        raise UserError(f"{path}: public checkpoint with {'unknown' if key in tensors else 'missing'} key '{key}'")
    for key, shape in wanted.items():
        if tuple(tensors[key].shape) != shape:
            raise UserError(f"{path}: '{key}' has shape {tuple(tensors[key].shape)}, expected {shape}")
    counter = tensors[COUNTER]
    if not bool(((counter == counter.round()) & (counter >= -1)).all()):
        raise UserError(f"{path}: '{COUNTER}' is not whole numbers of at least -1")

    state = {own: tensors[public] for own, public in names.items()}
    book = "model.codebook."
    state[f"{book}idle"] = counter.long().expand(len(modalities), -1).clone()
    state[f"{book}usage"] = torch.zeros(ours[f"{book}usage"])
    for name in ("skipped", "revived"):
        state[book + name] = torch.zeros((), dtype=torch.int64)
    return {
        "format": checkpoint.FORMAT,
        "method_of": registry.origin("unicode"),
        "numerics": cmg.NUMERICS,
        "args": {**options, "modalities": modalities},
        "features": {},
        "modalities": {},
        "shapes": {m: list(shape) for m, shape in shapes.items()},
        "model": {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")},
        "rest": {k: v for k, v in state.items() if not k.startswith("model.")},
        "pretrain_ids": [],
        "epoch": int(content.get("epoch", 0)),
        "step": int(content.get("total_step", 0)),
    }


def unwrapped(state):
    """A state dict without the `module.` that `DataParallel`, once or several times, puts before every key."""
    while state and all(str(key).startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _dimensions(tensors, modalities, path):
    """Shapes of the features and options of the method, read off a few tensors."""
    def size(key, axis):
        if key not in tensors or tensors[key].dim() <= axis:
            raise UserError(f"{path}: public checkpoint with missing key '{key}'")
        return tensors[key].shape[axis]

    encoder = "Encoder_parameters/"
    codes, dim = (size(f"{encoder}Cross_quantizer.embedding", axis) for axis in (0, 1))
    shapes = {"video": (10, *GRID, size(f"{encoder}video_semantic_encoder.se_layer.0.weight", 1)),
              "audio": (10, size(f"{encoder}audio_self_att.affine_matrix.weight", 1))}
    if "text" in modalities:
        shapes["text"] = (WORDS, size("Text_ar_lstm_parameters/weight_ih_l0", 1))
    if dim % 4:  # heads
        raise UserError(f"{path}: code vectors of width {dim}, expected a multiple of 4")
    specific = size(f"{encoder}Video_encoder.conv_stack.2.weight", 0)
    layers = {key.split(".")[3] for key in tensors if key.startswith(f"{encoder}video_self_att.encoder.layers.")}
    return shapes, {**official_options(), "dim": dim, "codes": codes, "layers": len(layers),
                    "specific_dim": 0 if specific == 4 * shapes["video"][-1] else specific}


def to_public(content, path):
    """A public checkpoint's content from ours: from a `latest.pt`, or from what `from_public` gave.

    Raises
    ------
    UserError : not the released architecture, or only the inference part (a public checkpoint holds all of it).
    """
    rest = content.get("rest", content.get("method"))
    if rest is None:
        raise UserError(f"{path}: holds only Φ and the codebook; expected a latest.pt, which holds Ψ and the decoders")
    shapes = {m: tuple(shape) for m, shape in content["shapes"].items()}
    options = content["args"]
    if options.get("equations") != "released" or not {"video", "audio"} <= shapes.keys() or len(shapes["video"]) != 4:
        raise UserError(f"{path}: expected a run with --equations released on grid video and audio")
    if rows := [m for m, row in content.get("scale", {}).items() if "offset" in row]:
        raise UserError(f"{path}: {', '.join(rows)} features are standardised, which the public code does not do; "
                        "expected a run with --standardise off")
    ours, names, unmodelled = expected(shapes, options)
    state = {f"model.{key}": value for key, value in content["model"].items()} | dict(rest)
    public = {group: {} for group in GROUPS + TEXT_GROUPS * ("text" in shapes)}
    for own, name in names.items():
        if own not in state or tuple(state[own].shape) != ours[own]:
            raise UserError(f"{path}: '{own}' is missing or of another shape than {ours[own]}")
        _put(public, name, state[own].double())
    for own, prefix in prefixes(shapes).items():
        if not any(key.startswith(own) for key in names) and ("text" in shapes or ".text." not in own):
            raise UserError(f"{path}: nothing for '{prefix}'; expected a run with every term of --preset official")
    _put(public, COUNTER, state["model.codebook.idle"].amin(0).double())
    for name, shape in unmodelled.items():
        _put(public, name, torch.zeros(shape, dtype=torch.float64))
    return {**public, "epoch": content["epoch"], "total_step": content["step"]}


def _put(public, name, value):
    group, _, key = name.partition("/")
    public[group][key] = value


@command
def main(argv=None):
    parser = Parser(prog="cmg.released.checkpoints", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="IN", help="public checkpoint, or a latest.pt of a run")
    parser.add_argument("target", metavar="OUT", help="checkpoint to write, of the other kind")
    args = parser.parse_args(argv)
    content = checkpoint.load(args.source)
    if recognised(content):
        checkpoint.save(args.target, from_public(content, args.source))
    else:
        checkpoint.save(args.target, to_public(checkpoint.read(args.source), args.source))


if __name__ == "__main__":
    main()
