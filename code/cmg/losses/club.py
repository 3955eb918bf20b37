"""vCLUB: an upper bound on the mutual information between what Φ and Ψ say of the same second (eq. 5).

A small network q(y | x) is fitted by maximum likelihood on detached vectors (`log_likelihood`, alternating steps with
an optimiser of its own); with q frozen, `upper_bound` is what the encoders minimise.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import total
from cmg.losses.masked import masked_mean


def mlp(in_dim, hidden, out_dim, last=None):
    layers = [nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out_dim)]
    return nn.Sequential(*layers, last) if last else nn.Sequential(*layers)


class CLUB(nn.Module):
    """q(y | x) = N(mu(x), diag exp logvar(x)), and the vCLUB bound it gives (Cheng et al., ICML 2020).

    Parameters
    ----------
    x_dim, y_dim : widths of x (semantic) and y (specific).
    """

    def __init__(self, x_dim, y_dim, hidden=128):
        super().__init__()
        self.mean = mlp(x_dim, hidden, y_dim)
        self.logvar = mlp(x_dim, hidden, y_dim, nn.Tanh())

    def log_likelihood(self, x, y, valid):
        """Mean over valid steps of log q(y | x), up to its constant; sum over y's dims. x [B, T, X], y [B, T, Y]."""
        mean, logvar = self.mean(x), self.logvar(x)
        return masked_mean((F.mse_loss(mean, y, reduction="none") * (-logvar).exp() + logvar).sum(-1), valid) / -2

    def upper_bound(self, x, y, valid):
        """The bound, a scalar, in nats per dimension of y; about 0 where x and y are independent.

        Every other clip of the batch is a negative. Their expectation is exact and costs O(B), since a diagonal
        Gaussian needs only the first two moments of y over the batch. The bound is per dimension of y, as squared norms
        are elsewhere: summed over the 2048 dimensions of a video map it outweighs every other term together, and the
        encoders escape by collapsing.
        """
        mean, logvar = self.mean(x), self.logvar(x)
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # moments in half precision cancel to nothing
        weight = valid.to(y.dtype).unsqueeze(-1)  # (B, T, 1)
        # over all clips of all processes, of the same second: how many, Σ_j y_j and Σ_j y_j²
        count, first, second = total(torch.stack([weight.sum(0).expand_as(y[0]), (weight * y).sum(0),
                                                  (weight * y**2).sum(0)]))  # (T, Y) each
        first, second = first / count.clamp_min(1), second / count.clamp_min(1)
        # E_j (mu - y_j)² - (mu - y)² = E y² - y² - 2 mu (E y - y): mu² cancels exactly
        gap = (second - y**2 - 2 * mean * (first - y)) / logvar.exp()  # (B, T, Y)
        return masked_mean(gap, valid) / 2
