"""The settings of a run that are no method's: data, length, device, and what it leaves behind."""

from dataclasses import dataclass

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.data.features import CACHES
from cmg.models.scale import MODES
from cmg.training.recorder import TRACKERS


@dataclass(frozen=True)
class RunConfig(Config):
    """Run.

    Attributes
    ----------
    data : feature files, or: synthetic
    out : run folder; must be empty or absent unless --resume is given
    modalities : default: all that the data holds
    hold_out : share of the videos to keep out of pretraining, for tests: of the same names in every run
    epochs : passes over the data
    max_steps : stop after this many steps
    seed : of weights, order, dropout and negatives
    device : auto, cpu, cuda, cuda:N
    precision : arithmetic of the networks; a codebook stays in fp32
    compile : torch.compile the step
    cuda_graph : record the step once and replay it, on one card
    toom_cook : wide 3×3 convolutions on a CPU with a third of the products, for more memory; auto: if it is there
    init_from : run folder or .pt whose weights to begin with, for fine-tuning; the optimiser is new
    resume : auto: continue --out if it holds latest.pt; or the path of a latest.pt
    workers : loader processes with --cache disk
    standardise : bring features to mean 0 and deviation 1; auto: those whose root mean square lies outside 0.01 to 30
    cache : features on the card, in memory, or read in blocks; auto: the first that has room
    log_every : steps between rows of metrics.csv, and between lines where stderr is no terminal
    checkpoint_epochs : epochs between epoch_XXX.pt files
    save_every : minutes between writes of latest.pt inside an epoch; 0: at its end alone
    report_to : trackers that are told what metrics.csv holds, flags, and what tasks measure of the run; wandb is a
        package of its own
    timeout_minutes : of several processes, until one that does not answer is taken for lost
    """

    data: list = setting(None, several=True, required=True)
    out: str = setting(None, required=True)
    modalities: list | None = setting(None, several=True)
    hold_out: float = setting(0.0, number(least=0, below=1))
    epochs: int = setting(6, whole(1))
    max_steps: int | None = setting(None, whole(1))
    seed: int = setting(0, whole())
    device: str = setting("auto")
    precision: str = setting("fp32", choices=("fp32", "tf32", "bf16"))
    compile: bool = setting(False)
    cuda_graph: bool = setting(False)
    toom_cook: str = setting("auto", choices=("auto", "on", "off"))
    init_from: str | None = setting(None)
    resume: str | None = setting(None)
    workers: int = setting(2, whole())
    standardise: str = setting("auto", choices=MODES)
    cache: str = setting("auto", choices=CACHES)
    log_every: int = setting(20, whole(1))
    checkpoint_epochs: int = setting(1, whole(1))
    save_every: float = setting(15.0, number(least=0, below=1e6))
    report_to: list = setting(("tensorboard",), several=True, choices=tuple(TRACKERS))
    timeout_minutes: float = setting(10.0, number(above=0, below=1e6))
