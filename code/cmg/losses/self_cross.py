"""Self-cross reconstruction (TURN, Zhao et al., NeurIPS 2022): rebuild what is hidden of one modality from another.

L_rec = 1/|H| Σ_{(i,t) in H} ‖ f_it - D(visible f_i, codes of the other modality) ‖₁ / C, H the hidden steps.
"""

from torch.nn import functional as F

from cmg.distributed import first_row, shared_rand, world
from cmg.losses.masked import masked_mean


def sample_hidden(valid, share):
    """BoolTensor[B, T]: each valid step is hidden with probability `share`."""
    B, T = valid.shape
    draws = shared_rand(world()[1] * B * T, valid.device).view(-1, T)  # of the whole batch, whoever holds which clips
    return valid & (draws[first_row(valid) :][:B] < share)


def hidden_l1(prediction, target, hidden):
    """Mean absolute error per element over the hidden steps; 0 if none is. prediction, target : Tensor[B, T, C]."""
    return masked_mean(F.l1_loss(prediction, target, reduction="none"), hidden)
