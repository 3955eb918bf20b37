"""3×3 convolutions over the small grids of video features on a CPU, with a third of the multiplications.

A convolution along a row multiplies two polynomials: one with m coefficients, the row, and one with 3, the kernel. The
product has n = m + 2 coefficients, so its values at n points determine it (Toom and Cook; Winograd 1980 for the
transposed form). Row and kernel are evaluated at these points and multiplied point by point, then the product's
coefficients are found by interpolation. On a grid, rows and columns give n² points, and each of them is one matrix
product over the channels:

    y = back · ((into · x) ⊙ (points · w))

5×5 → 3×3 takes 25 products instead of the definition's 81, 7×7 → 5×5 takes 49 instead of 225. The grid is so small
that it is one tile. The price is rounding: a few times a direct convolution's in float32 (below 1e-5 of the maps'
spread), and under bf16 autocast, where the matrix products alone run in bf16, 1 to 2 % (n = 5) and 4 % (n = 7) of it.

It is off until `use` switches it on, because it takes memory: the values at the points are kept for the way back.
`memory` says how many bytes; at the published sizes a step of 80 clips peaks at 7.0 GiB instead of 3.7.

On a GPU this is left to cuDNN, which has such algorithms of its own. With few channels the transforms cost more than
they save: `worthwhile` decides.
"""

from functools import lru_cache

import torch
from torch.nn import functional as F

POINTS = (0, 1, -1, 2, 1 / 2, -3 / 2)  # the small fractions that round least; the last point is infinity
TAPS = 3
CHANNELS = 128  # from here on the products outweigh the transforms

_used = False  # whether convolutions go this way


def use(yes):
    """Let convolutions on a CPU go this way from now on, or not."""
    global _used
    _used = yes


def memory(products, maps):
    """Bytes that the points of these convolutions take for so many maps, in float32.

    products : iterable of (n², C, O): points of a grid, channels of what goes in and comes out.
    """
    return sum(4 * points * (maps * inner + inner * outer + maps * outer) for points, inner, outer in products
               if min(inner, outer) >= CHANNELS)


@lru_cache
def matrices(rows, columns, transposed, dtype):
    """Transforms of a convolution that maps `rows` × `columns` cells; float64 inside.

    Returns `into` [n², cells], `points` [n², 9] and `back` [cells', n²], cells in row-major order.
    """
    one = [_line(size, transposed) for size in (rows, columns)]
    return tuple(torch.kron(a, b).to(dtype) for a, b in zip(*one))


def _line(size, transposed):
    """The same for one dimension of `size` numbers in."""
    signal = size if transposed else size - TAPS + 1  # m: of the polynomial product that is computed, or transposed
    n = signal + TAPS - 1

    def evaluate(terms):
        """Values of a polynomial with so many coefficients at the n points, [n, terms]."""
        finite = torch.tensor(POINTS[:n - 1], dtype=torch.float64)[:, None] ** torch.arange(terms)
        return torch.cat([finite, torch.eye(terms, dtype=torch.float64)[-1:]])

    interpolate = torch.linalg.inv(evaluate(n))
    if transposed:
        return evaluate(signal), evaluate(TAPS), interpolate
    return interpolate.T, evaluate(TAPS), evaluate(signal).T


def worthwhile(x, weight, n):
    """Whether `toom_cook` is used, and the faster way for maps x and a kernel, n points a dimension at most."""
    return (_used and x.device.type == "cpu" and weight.shape[2:] == (TAPS, TAPS) and TAPS <= n <= len(POINTS) + 1
            and min(weight.shape[:2]) >= CHANNELS)


def conv3(x, weight, bias=None, padding=0):
    """`F.conv2d(x, weight, bias, padding=padding)`, the faster way."""
    if not worthwhile(x, weight, max(x.shape[2:]) + 2 * padding):
        return F.conv2d(x, weight, bias, padding=padding)
    y = toom_cook(x, weight, padding=padding)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def conv_transpose3(x, weight, bias=None):
    """`F.conv_transpose2d(x, weight, bias)`, the faster way."""
    if not worthwhile(x, weight, max(x.shape[2:]) + TAPS - 1):
        return F.conv_transpose2d(x, weight, bias)
    y = toom_cook(x, weight, transposed=True)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def toom_cook(x, weight, transposed=False, padding=0):
    """`F.conv2d(x, weight, padding=padding)` or `F.conv_transpose2d(x, weight)` as n² matrix products.

    Parameters
    ----------
    x : Tensor[N, C, H, W]
    weight : Tensor[O, C, 3, 3], or Tensor[C, O, 3, 3] if transposed
    padding : int
        Zeros around x, not if transposed.

    Returns
    -------
    Tensor[N, O, H', W'], under autocast in its dtype. In memory its cells are outermost: the order in which the next
    convolution reads them.
    """
    N, (H, W) = len(x), (size + 2 * padding for size in x.shape[2:])
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):  # the transforms subtract numbers of similar size: not in bf16
        wide = torch.promote_types(dtype, torch.float32)
        into, points, back = matrices(H, W, transposed, wide)
        if padding:  # columns that would meet zeros
            into = into.view(-1, H, W)[:, padding:-padding, padding:-padding].flatten(1)
        cells = x.permute(2, 3, 0, 1).flatten(0, 1).to(wide)  # (H·W, N, C)
        taps = weight.permute((2, 3, 0, 1) if transposed else (2, 3, 1, 0)).flatten(0, 1)  # (9, C, O)
        values = (into @ cells.flatten(1)).view(-1, *cells.shape[1:]).to(dtype)  # (n², N, C)
        kernel = (points @ taps.flatten(1).to(wide)).view(-1, *taps.shape[1:]).to(dtype)  # (n², C, O)
        product = torch.bmm(values, kernel).to(wide)  # (n², N, O)
        y = (back @ product.flatten(1)).to(dtype)  # (H'·W', N·O)
    grow = TAPS - 1 if transposed else 1 - TAPS
    return y.view(H + grow, W + grow, N, -1).permute(2, 3, 0, 1)
