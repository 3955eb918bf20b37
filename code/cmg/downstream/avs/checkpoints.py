"""Networks in the run folder of the segmentation task: built by a run's options, read, and built again."""

from cmg.downstream.avs.networks import Segmenter
from cmg.errors import UserError
from cmg.training import checkpoint
from cmg.training.held import Bounded

BEST = {"strict": "best.pt", "paper": "best_paper.pt"}  # the epoch that each protocol tests
PARTS = {"args": dict, "net": dict, "query_width": int, "epoch": int, "best": dict}  # of every one of them


def build(options, query_width, weights="none"):
    """The network that a run's options ask for; `weights` are those of its image backbone."""
    return Segmenter(query_width, options["backbone"], options["channels"], tuple(options["dilations"]),
                     tuple(options["fusion"]), weights)


def read(path):
    """Content of a run's checkpoint; `UserError` if it is another kind of checkpoint."""
    content = checkpoint.load(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("task")) != (checkpoint.FORMAT, "avs"):
        raise UserError(f"{path}: not a segmentation network; expected a file written by cmg.downstream.avs")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: not a segmentation network, '{name}' is missing in it or holds something else")
    return content


def trained(content, device="cpu"):
    """The trained network of a checkpoint's content, in eval mode."""
    try:
        with Bounded(content["net"]):
            net = build(content["args"], content["query_width"])
        net.load_state_dict(content["net"])
    except checkpoint.UNBUILT as error:
        raise UserError(f"network of epoch {content['epoch']}: its weights do not fit its flags "
                        f"({checkpoint.brief(error)})") from None
    if not all(value.isfinite().all() for value in content["net"].values()):
        raise UserError(f"network of epoch {content['epoch']}: its weights are not finite; expected another run")
    return net.to(device).eval()
