# SPDX-License-Identifier: MIT
"""Lattice quantisers for the refinement layer: Z, D4 and E8, each scaled to cells of unit volume, and their rate.

Closest points: Conway and Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and codes" (1982).

The rate is that of the coset Gaussian, for every lattice alike: a value x (relative to its predicted mean, in steps)
that a dithered quantiser can take, out of all values x + l with l in the lattice, has the probability

    P(x) = exp(-sum x_i^2 / 2 s_i^2) / sum over l of exp(-sum (x_i + l_i)^2 / 2 s_i^2).

These sum to one over the values possible with the dither at hand, so that -log2 P is a code length that an entropy
coder which knows the dither reaches (Zamir and Feder, 1992), in training; without dither x is a lattice point, and it
is one that a real coder reaches. The sum over the lattice is exact: it splits into sums over one coordinate each, for
D4 and E8 apart by parity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vqcodec.train.losses import SCALE_MAX_LOG2, SCALE_MIN_LOG2

DIMENSIONS = {"Z": 1, "D4": 4, "E8": 8}
SECOND_MOMENT = {"Z": 1 / 12, "D4": 0.076603, "E8": 929 / 12960}  # per dimension; Conway and Sloane, SPLAG, table 2.3
UNIT = {"Z": 1.0, "D4": 2**-0.25, "E8": 1.0}  # what the textbook lattice is multiplied by for cells of volume 1
_SWITCH = 0.45  # standard deviation where the Gaussian sum passes from its terms to its Fourier series: both at 1e-7


def _closest_d(x: Tensor) -> Tensor:
    """Closest point of D_n: integers with an even sum; [..., n] -> [..., n]."""
    rounded = x.round()
    error = x - rounded
    worst = error.abs().argmax(-1, keepdim=True)
    odd = rounded.sum(-1, keepdim=True).remainder(2)
    way = torch.where(error.gather(-1, worst) >= 0, 1.0, -1.0)  # the second nearest integer of the worst coordinate
    return rounded.scatter_add(-1, worst, way * odd)


def _closest_e8(x: Tensor) -> Tensor:
    """Closest point of E8: D8 and D8 moved by one half in every coordinate."""
    whole, half = _closest_d(x), _closest_d(x - 0.5) + 0.5
    nearer = (x - whole).square().sum(-1, keepdim=True) <= (x - half).square().sum(-1, keepdim=True)
    return torch.where(nearer, whole, half)


_CLOSEST: dict[str, Callable[[Tensor], Tensor]] = {"Z": torch.round, "D4": _closest_d, "E8": _closest_e8}


def closest(x: Tensor, lattice: str) -> Tensor:
    """Closest point of the lattice with cells of unit volume.

    Args:
        x: [..., n] float32, n the lattice's dimension.
        lattice: "Z", "D4" or "E8".

    Returns:
        the points, shaped as `x`.
    """
    return _CLOSEST[lattice](x / UNIT[lattice]) * UNIT[lattice]


def dither(like: Tensor, lattice: str) -> Tensor:
    """Uniform over the Voronoi cell around zero, shaped as `like` [..., n].

    2 Z^n lies in each of the lattices, so a uniform value of its cube is uniform modulo the lattice.
    """
    u = 2 * UNIT[lattice] * torch.rand_like(like)
    return u - closest(u, lattice)


def grouped(x: Tensor, n: int) -> Tensor:
    """[B, C, h, w] -> [B, C/n, h, w, n]: n neighbouring channels of a place make a vector."""
    b, c, h, w = x.shape
    return x.view(b, c // n, n, h, w).movedim(2, -1)


def flat(x: Tensor) -> Tensor:
    """The way back of `grouped`."""
    b, c, h, w, n = x.shape
    return x.movedim(-1, 2).reshape(b, c * n, h, w)


def lattice_quantise(
    y: Tensor, mean: Tensor, step: Tensor, lattice: str, noise: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """What `scalar_quantise` does, with vectors of neighbouring channels; C must be a multiple of the dimension.

    Args:
        y: [B, C, H, W] float32 latents.
        mean, step: the same shape or broadcastable to it; step > 0.
        lattice: "Z", "D4" or "E8".
        noise: True adds the cell's dither to the value that the rate sees, False gives it the lattice point.

    Returns:
        the quantised latents with straight-through gradient, the value for the rate and the lattice point, both in
        steps relative to the mean; each shaped as `y`.
    """
    t = grouped((y - mean) / step, DIMENSIONS[lattice])
    point = closest(t.detach(), lattice)
    rated = flat(t + dither(t.detach(), lattice)) if noise else flat(point)
    quantised = mean + step * flat(t + (point - t).detach())
    return quantised, rated, flat(point)


def _log_sum(x: Tensor, s: Tensor) -> Tensor:
    """log of the sum over all integers v of exp(-(x + v)^2 / 2 s^2), elementwise."""
    r = x - x.round()
    few = s.clamp(max=2 * _SWITCH)
    terms = torch.stack([-(r + v).square() for v in range(-2, 3)])
    direct = torch.logsumexp(terms / (2 * few.square()), 0)
    many = s.clamp(min=_SWITCH / 2)
    wave = torch.exp(-2 * math.pi**2 * many.square()) * torch.cos(2 * math.pi * r)
    fourier = torch.log(many * math.sqrt(2 * math.pi)) + torch.log1p(2 * wave.clamp(min=-0.49))
    return torch.where(s < _SWITCH, direct, fourier)


def _log_even(x: Tensor, s: Tensor) -> Tensor:
    """log of the sum over D_n, [..., n] -> [...]: coordinates joined in pairs, sums of even and of odd parity apart."""
    even, odd = _log_sum(x / 2, s / 2), _log_sum((x + 1) / 2, s / 2)
    while even.shape[-1] > 1:
        half = even.shape[-1] // 2
        (e1, e2), (o1, o2) = torch.split(even, half, -1), torch.split(odd, half, -1)
        even, odd = torch.logaddexp(e1 + e2, o1 + o2), torch.logaddexp(e1 + o2, o1 + e2)
    return even[..., 0]


def widened(log2_scale: Tensor) -> Tensor:
    """Deviations, in steps, with which the Gaussian at a point has the probabilities of one integrated over unit cells.

    Wider by 1/12 of variance where it is wide; twofold where it is narrow and the cell's edge is half as far as the
    next point.
    """
    variance = torch.exp2(2 * log2_scale.clamp(SCALE_MIN_LOG2, SCALE_MAX_LOG2))
    return torch.sqrt(variance + 3 * variance / (1 + 36 * variance))


def lattice_bits(t: Tensor, log2_scale: Tensor, lattice: str) -> Tensor:
    """Bits of the coset Gaussian (see above) of each vector.

    Args:
        t: [B, C, H, W] values in steps relative to the predicted mean: dithered, or lattice points.
        log2_scale: log2 of each channel's standard deviation before quantisation, in steps, same shape.
        lattice: "Z", "D4" or "E8".

    Returns:
        [B, C/n, H, W] bits, >= 0 but for rounding.
    """
    n = DIMENSIONS[lattice]
    s = widened(log2_scale) / UNIT[lattice]
    x, s = grouped(t / UNIT[lattice], n), grouped(s, n)
    if lattice == "Z":
        total = _log_sum(x, s)[..., 0]
    elif lattice == "D4":
        total = _log_even(x, s)
    else:
        total = torch.logaddexp(_log_even(x, s), _log_even(x + 0.5, s))
    bits: Tensor = ((x / s).square().sum(-1) / 2 + total) / math.log(2)
    return bits
