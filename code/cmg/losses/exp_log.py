"""The log loss with a learnable weight per class that the public AVVP script adds to its binary cross entropy."""

import torch


def exp_log_loss(logits, positives, alpha, seconds=None):
    """−1/n Σ_n Σ_c y_nc · log softmax(x_n)_c · exp(−α_c); K = 26 weights for AVVP, 13 for AVE→AVVP.

    α starts at 0.1 and is trained along with the probe. Nothing holds it back, so the optimum lies at α → ∞ where
    the term is gone; at a probe's rate and length it only drifts there.

    Parameters
    ----------
    logits : Tensor[…, n, K]
    positives : Tensor[n, K]
        Multi-hot labels, or, where equal rows of logits are listed once, how many seconds have each label.
    alpha : Tensor[K], or Tensor[…, 1, K] for several probes
    seconds : number of seconds, n by default

    Returns
    -------
    Tensor[…]
    """
    weighted = positives.to(logits.dtype) * logits.log_softmax(-1) * torch.exp(-alpha).to(logits.dtype)
    return -weighted.sum((-2, -1)) / (logits.shape[-2] if seconds is None else seconds)
