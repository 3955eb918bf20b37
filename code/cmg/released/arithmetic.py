"""The released code's arithmetic as a table: which class takes the place of which of the paper's.

`--equations released` builds every method through this table (`cmg.methods.codebook.arithmetic`). tests/released holds
the numbers of the public implementation that each class reproduces.
"""

from cmg.losses.club import CLUB
from cmg.methods.codebook.baseline import Commitment, Reconstruction
from cmg.methods.codebook.cmcm import Matching
from cmg.methods.codebook.dcid import Disentangling, Prediction
from cmg.methods.codebook.fcid import ClipCLUB
from cmg.methods.codebook.method import clip_together
from cmg.models.block_codebook import BlockCodebook, BlockModel
from cmg.models.clip_path import ClipModel
from cmg.models.codebook import Codebook
from cmg.models.residual import ResidualModel
from cmg.models.semantic import GridPooling
from cmg.models.specific import GridSpecific
from cmg.models.unified import UnifiedModel
from cmg.released.losses import (
    ReleasedClipCLUB,
    ReleasedCLUB,
    ReleasedCommitment,
    ReleasedDisentangling,
    ReleasedMatching,
    ReleasedPrediction,
    ReleasedReconstruction,
    clip_by_module,
)
from cmg.released.networks import (
    ReleasedBlockCodebook,
    ReleasedBlockModel,
    ReleasedClipModel,
    ReleasedCodebook,
    ReleasedGridSpecific,
    ReleasedModel,
    ReleasedResidualModel,
    SummedGrid,
)

REPLACED = {
    GridPooling: SummedGrid,
    GridSpecific: ReleasedGridSpecific,
    UnifiedModel: ReleasedModel,
    Codebook: ReleasedCodebook,
    BlockModel: ReleasedBlockModel,
    BlockCodebook: ReleasedBlockCodebook,
    CLUB: ReleasedCLUB,
    ClipCLUB: ReleasedClipCLUB,
    ClipModel: ReleasedClipModel,
    ResidualModel: ReleasedResidualModel,
    Disentangling: ReleasedDisentangling,
    Prediction: ReleasedPrediction,
    Matching: ReleasedMatching,
    Reconstruction: ReleasedReconstruction,
    Commitment: ReleasedCommitment,
    clip_together: clip_by_module,
}
