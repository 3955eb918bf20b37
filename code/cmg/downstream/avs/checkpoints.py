"""Networks in the run folder of the segmentation task: built by a run's options, read, and built again."""

from cmg.downstream.avs.networks import Segmenter
from cmg.errors import UserError
from cmg.training import checkpoint

BEST = {"strict": "best.pt", "paper": "best_paper.pt"}  # the epoch that each protocol tests


def build(options, query_width, weights="none"):
    """The network that a run's options ask for; `weights` are those of its image backbone."""
    return Segmenter(query_width, options["backbone"], options["channels"], tuple(options["dilations"]),
                     tuple(options["fusion"]), weights)


def read(path):
    """Content of a run's checkpoint; `UserError` if it is another kind of checkpoint."""
    content = checkpoint.load(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("task")) != (checkpoint.FORMAT, "avs"):
        raise UserError(f"{path}: not a segmentation network; expected a file written by cmg.downstream.avs")
    return content


def trained(content, device="cpu"):
    """The trained network of a checkpoint's content, in eval mode."""
    net = build(content["args"], content["query_width"])
    net.load_state_dict(content["net"])
    return net.to(device).eval()
