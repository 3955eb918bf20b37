"""What the figures of `results.json` are called in print, and their axes. Unknown names are shown as they are."""

from cmg.modalities import TABLE

TASKS = {
    "ave": "AVE", "labels": "own labels", "avvp": "AVVP", "ave_avvp": "AVE→AVVP",
    "ucf_vggsound": "UCF101↔VGGSound", "avs": "AVS-S4",
    "ave_open_set": "AVE, open set", "ucf_vggsound_open_set": "UCF101↔VGGSound, open set",
    "retrieval": "Retrieval", "retrieval_head": "Retrieval by a head",
    "neighbourhood": "Neighbourhoods", "separation": "Separation", "captioning": "Captions",
}
PROBED = {  # metrics of probes: name, label of the axis
    "accuracy": ("clip top-1", "accuracy, %"),
    "segment_accuracy": ("segment accuracy", "accuracy, %"),
    "micro_f1": ("micro F1", "F1, %"),
    "segment_f1": ("segment F1", "F1, %"),
    "event_f1": ("event F1", "F1, %"),
    "f1": ("F1", "F1, %"),
    "precision": ("precision", "precision, %"),
    "auroc": ("AUROC", "AUROC, %"),
    "h_score": ("H", "H, %"),
}
REPRESENTATIONS = {"codes": "codes", "semantic": "semantic vectors", "joint": "joint embeddings",
                   "mtc": "MTC", "mtm": "MTC, re-ranked by MTM"}
METRICS = {  # the same of all
    **PROBED,
    **{f"toc_{metric}": (f"{name}, TOC", axis) for metric, (name, axis) in PROBED.items()},
    **{f"adapted_{metric}": (f"{name}, adapted", axis) for metric, (name, axis) in PROBED.items()
       if metric != "f1"},  # of AVE→AVVP, which refuses --adapt
    "miou": ("mean IoU", "mean IoU, %"),
    "f_measure": ("F-measure", "F-measure, %"),
    **{f"{words}_{metric}": (f"{name} ({words} words)", f"{name}, %") for words in ("ptb", "simple")
       for metric, name in (*((f"bleu_{n}", f"BLEU-{n}") for n in (1, 2, 3, 4)), ("rouge_l", "ROUGE-L"),
                            ("cider_d", "CIDEr-D"))},
    **{f"{kind}_overlap": (f"nearest clips in common with {spoken}", "share, %") for kind, spoken in (
        ("features", "the features"), ("input", "the input space"))},
    **{f"{kind}_correlation": (f"ρ of similarities with {spoken}", "rank correlation, %") for kind, spoken in (
        ("features", "the features"), ("input", "the input space"))},
    **{f"{kind}{name}": (f"{said}{seen}", "of the mean picture's error, %") for kind, seen in (
        ("", ""), ("alone_", ", the other modality alone seen")) for name, said in (
        ("explained", "rebuilt"), ("gain", "by the clip's own other modality"))},
    **{f"r{k}": (f"R@{k}", "recall, %") for k in (1, 5, 10)},
    **{f"{kind}_r{k}{end}": (f"R@{k} of {spoken}{told}", "recall, %") for k in (1, 5, 10, 25, 50)
       for kind, spoken in REPRESENTATIONS.items() for end, told in (("", ""), ("_expected", ", lacking ones wrong"))},
    **{f"{kind}_{rank}_rank": (f"{rank} rank of {spoken}", "rank") for kind, spoken in REPRESENTATIONS.items()
       for rank in ("median", "mean")},
    "mtm_accuracy": ("pairs rightly judged by MTM", "accuracy, %"),
}


def letter(modality: str) -> str:
    """V for video or v; the name of a modality that has no letter of its own; of several as one, each.

    >>> [letter(m) for m in ("video", "a", "depth", "video+audio")]
    ['V', 'A', 'depth', 'V+A']
    """
    if "+" in modality:
        return "+".join(map(letter, modality.split("+")))
    row = TABLE.get(modality)
    known = row.letter if row else modality if modality in {one.letter for one in TABLE.values()} else ""
    return known.upper() or modality


def arrow(source: str, target: str) -> str:
    """A direction.

    >>> arrow("video", "audio"), arrow("depth", "video")
    ('V→A', 'depth→V')
    """
    return f"{letter(source)}→{letter(target)}"


def arrow_of(key: str) -> str:
    """A direction by its key in tables.

    >>> arrow_of("v2a"), arrow_of("other")
    ('V→A', 'other')
    """
    ends = key.split("2")
    return arrow(*ends) if len(ends) == 2 else key


def pair(key: str) -> str:
    """An unordered pair by its key.

    >>> pair("av"), pair("a_depth"), pair("all")
    ('A–V', 'A–depth', 'all')
    """
    ends = key.split("_") if "_" in key else [*key]
    return "–".join(map(letter, ends)) if len(ends) == 2 else key


def together(modalities) -> str:
    """Several modalities in one word.

    >>> together(["video", "audio"]), together(["depth", "video"])
    ('AV', 'V+depth')
    """
    printed = sorted(map(letter, modalities), key="AVT".find)
    return "+".join(filter(None, ["".join(x for x in printed if len(x) == 1), *(x for x in printed if len(x) > 1)]))


def figure_name(task: str, metric: str, direction: str = "", protocol: str = "strict") -> str:
    """The printed name of a figure; the direction by its key, the protocol only where it is not strict.

    >>> figure_name("ave", "accuracy", "v2a")
    'AVE clip top-1, V→A'
    >>> figure_name("avvp", "precision", protocol="paper")
    'AVVP precision (paper)'
    """
    metric, _ = METRICS.get(metric, (metric, ""))
    name = f"{TASKS.get(task, task)} {metric}" + (f" ({protocol})" if protocol != "strict" else "")
    return f"{name}, {arrow_of(direction)}" if direction else name


def axis_label(metric: str) -> str:
    """A metric as the label of an axis, with its unit.

    >>> axis_label("micro_f1"), axis_label("speed")
    ('F1, %', 'speed')
    """
    return METRICS.get(metric, ("", metric))[1]
