"""What is built for AHA (arXiv 2602.03570, no code published): codes of one modality taught to another, within a window
of seconds, and gradient reversal (Ganin and Lempitsky 2015). The paper's abstract has both ideas; the formulas are
this project's."""

import torch

from cmg.losses.masked import masked_mean


def window_distillation(distances, valid, codes, exists, window, temperature):
    """Mean over steps t of min_{|s - t| ≤ R} -log p_t( c_s ), p_t = softmax( -‖z_t - e‖ / τ ); steps in whose window
    the teacher has nothing do not count.

    Parameters
    ----------
    distances : Tensor[B, T, M], squared ones of the student, with gradient; valid : BoolTensor[B, T], its steps.
    codes : LongTensor[B, S], the teacher's; exists : BoolTensor[B, S]. window : R, steps; None: the whole clip.
    """
    tiny = torch.finfo(distances.dtype).tiny  # the gradient of a root is infinite at 0
    log_p = (-distances.clamp_min(tiny).sqrt() / temperature).log_softmax(-1)  # (B, T, M)
    T, S = log_p.shape[1], codes.shape[1]
    cost = -log_p.gather(2, codes.unsqueeze(1).expand(-1, T, -1))  # (B, T, S)
    allowed = exists.unsqueeze(1)  # (B, 1, S)
    if window is not None:
        at, of = torch.arange(T, device=codes.device), torch.arange(S, device=codes.device)
        allowed = allowed & ((at.unsqueeze(1) - of).abs() <= window)  # (B, T, S)
    told = allowed.any(-1).expand(valid.shape)
    least = cost.masked_fill(~allowed, torch.finfo(cost.dtype).max).min(-1).values
    return masked_mean(torch.where(told, least, 0.0), valid & told)


def reversed_gradient(x, scale):
    """x itself, whose gradient is -scale times what comes back. scale : float or 0-d Tensor."""
    return (1 + scale) * x.detach() - scale * x
