"""The released code's arithmetic as a table: which class takes the place of which of the paper's.

`--equations released` builds every method through this table (`cmg.methods.codebook.arithmetic`). tests/released holds
the numbers of the public implementation that each class reproduces.
"""

from cmg.losses.club import CLUB
from cmg.methods.codebook.baseline import Commitment, Reconstruction
from cmg.methods.codebook.cmcm import Matching
from cmg.methods.codebook.dcid import Disentangling, Prediction
from cmg.methods.codebook.method import clip_together
from cmg.models.codebook import Codebook
from cmg.models.semantic import GridPooling
from cmg.models.specific import GridSpecific
from cmg.models.unified import UnifiedModel
from cmg.released.losses import (
    ReleasedCLUB,
    ReleasedCommitment,
    ReleasedDisentangling,
    ReleasedMatching,
    ReleasedPrediction,
    ReleasedReconstruction,
    clip_by_module,
)
from cmg.released.networks import ReleasedCodebook, ReleasedGridSpecific, ReleasedModel, SummedGrid

REPLACED = {
    GridPooling: SummedGrid,
    GridSpecific: ReleasedGridSpecific,
    UnifiedModel: ReleasedModel,
    Codebook: ReleasedCodebook,
    CLUB: ReleasedCLUB,
    Disentangling: ReleasedDisentangling,
    Prediction: ReleasedPrediction,
    Matching: ReleasedMatching,
    Reconstruction: ReleasedReconstruction,
    Commitment: ReleasedCommitment,
    clip_together: clip_by_module,
}
