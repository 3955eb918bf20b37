"""The log loss with a learnable weight per class that the public AVVP script adds to its binary cross entropy."""

import torch


def exp_log_loss(logits, positives, alpha, seconds=None):
    """−1/n Σ_n Σ_c y_nc · log softmax(x_n)_c · exp(−α_c); K = 26 weights for AVVP, 13 for AVE→AVVP.

    α starts at 0.1 and is trained along with the probe. Nothing holds it back, so the optimum lies at α → ∞ where
    the term is gone; at a probe's rate and length it only drifts there.

    Parameters
    ----------
    logits : Tensor[…, K, n]
        Classes first: a CPU's softmax over a short last dimension takes twenty times as long.
    positives : Tensor[K, n]
        Multi-hot labels, or, where equal columns of logits are listed once, how many seconds have each label.
    alpha : Tensor[K], or Tensor[…, K] for several probes
    seconds : number of seconds, n by default

    Returns
    -------
    Tensor[…]
    """
    terms = (positives.to(logits.dtype) * logits.log_softmax(-2)).sum(-1)  # (…, K)
    return -(terms * torch.exp(-alpha).to(logits.dtype)).sum(-1) / (logits.shape[-1] if seconds is None else seconds)
