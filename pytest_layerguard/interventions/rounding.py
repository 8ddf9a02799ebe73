"""Round numbers to a number format and back.

Each function takes a float32 tensor whose last dimension shares one scale, and returns the numbers that the
format restores. The rounding is that of the libraries that write such checkpoints, to the bit: compressed-tensors
for integers, FP8, MXFP4 and NVFP4, bitsandbytes for NF4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

E4M3: Final = torch.float8_e4m3fn
_E4M3_LARGEST: Final = 448.0
_E2M1_LARGEST: Final = 6.0
_SMALLEST_E4M3_SCALE: Final = 0.125
"""What compressed-tensors writes for an NVFP4 scale that would be zero."""
_NF4: Final = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The quantiles of a normal distribution that QLoRA publishes (Dettmers et al., arXiv 2305.14314)."""


def grouped(values: Tensor, size: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the last dimension group by group; what is left beyond the last whole group is a shorter one.

    Args:
        values: ``[..., columns]``.
        size: Numbers in a group.
        change: Maps ``[..., groups, size]`` to the same shape; the shorter group comes as ``[..., 1, rest]``.
    """
    whole = values.shape[-1] - values.shape[-1] % size
    pieces = []
    if whole:
        pieces.append(change(values[..., :whole].reshape(*values.shape[:-1], -1, size)).flatten(-2))
    if whole < values.shape[-1]:
        pieces.append(change(values[..., whole:].unsqueeze(-2)).squeeze(-2))
    return torch.cat(pieces, -1)


def to_integers(values: Tensor, bits: int, *, symmetric: bool = True, clip: str = "none") -> Tensor:
    """Round to the ``2^bits`` integers from ``-2^(bits - 1)``, times a scale.

    Symmetric: the scale is the largest magnitude over half the range, ``2 max|w| / (2^bits - 1)``. With a zero
    point: ``(max - min) / (2^bits - 1)``, where zero always lies between the two and stays exactly zero.
    """
    least, most = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1

    def rounded(low: Tensor, high: Tensor) -> Tensor:
        if symmetric:
            scale = _not_zero(torch.maximum(-low, high) / ((most - least) / 2))
            zero = torch.zeros_like(scale)
        else:
            scale = _not_zero((high - low) / (most - least))
            zero = (least - low / scale).clamp(least, most).round()
        return ((values / scale + zero).clamp(least, most).round() - zero) * scale

    return _in_best_range(values, rounded, clip)


def to_levels(values: Tensor, bits: int) -> Tensor:
    """Round to the nearest of ``2^bits`` levels that are evenly spaced from the least value to the largest.

    The rule of KIVI (Liu et al., arXiv 2402.02750): unlike a zero point, the least value is no integer.
    """
    least = values.amin(-1, keepdim=True)
    scale = _not_zero((values.amax(-1, keepdim=True) - least) / (2**bits - 1))
    return ((values - least) / scale).round() * scale + least


def to_fp8(values: Tensor, *, clip: str = "none") -> Tensor:
    """Round to FP8 (E4M3) times a scale that takes the largest magnitude to 448."""

    def rounded(low: Tensor, high: Tensor) -> Tensor:
        scale = _not_zero(torch.maximum(-low, high) / _E4M3_LARGEST)
        return _to_e4m3(values / scale) * scale

    return _in_best_range(values, rounded, clip)


def to_mxfp4(values: Tensor) -> Tensor:
    """Round to FP4 (E2M1) times a power of two (OCP Microscaling Formats 1.0).

    The scale is a quarter of the power of two below the largest magnitude, or a half of it where that magnitude is
    1.75 times the power or more.
    """
    mantissa, exponent = torch.frexp(values.abs().amax(-1, keepdim=True))
    power = (exponent - 3 + (mantissa >= 0.875)).clamp(-127, 128)
    scale = 2.0 ** power.float()
    return _to_e2m1(values / scale) * scale


def to_nvfp4(values: Tensor, largest: Tensor) -> Tensor:
    """Round to FP4 (E2M1) times an FP8 scale, itself times one number for the whole matrix.

    Args:
        values: The groups.
        largest: The largest magnitude of the matrix that they are of; its shape broadcasts against theirs.
    """
    whole = torch.where(largest > 0, _E4M3_LARGEST * _E2M1_LARGEST / largest, 1.0)
    scale = _to_e4m3(whole * (values.abs().amax(-1, keepdim=True) / _E2M1_LARGEST))
    scale = torch.where(scale == 0, _SMALLEST_E4M3_SCALE, scale) / whole
    return _to_e2m1(values / scale) * scale


def to_nf4(values: Tensor) -> Tensor:
    """Round to the nearest of 16 quantiles of a normal distribution, times the largest magnitude."""
    code = torch.tensor(_NF4, device=values.device)
    largest = values.abs().amax(-1, keepdim=True)
    shares = (values * (1.0 / largest.clamp_min(1e-38))).clamp(-1, 1)
    return code[torch.bucketize(shares, (code[:-1] + code[1:]) / 2)] * largest


def _in_best_range(
    values: Tensor, rounded: Callable[[Tensor, Tensor], Tensor], clip: str
) -> Tensor:
    """Round with the range of the values, or with the share of it that loses least.

    ``clip: mse`` is the search of GPTQ's quantizer (Frantar et al., arXiv 2210.17323, its code): of the ranges
    shrunk to 100, 99, ... 21 percent the one with the least sum of ``|error|^2.4``.
    """
    low = values.amin(-1, keepdim=True).clamp_max(0)
    high = values.amax(-1, keepdim=True).clamp_min(0)
    best = rounded(low, high)
    if clip == "none":
        return best

    def loss(found: Tensor) -> Tensor:
        return (found - values).abs().pow(2.4).sum(-1, keepdim=True)

    least = loss(best)
    for percent in range(99, 20, -1):
        found = rounded(low * (percent / 100), high * (percent / 100))
        lost = loss(found)
        best = torch.where(lost < least, found, best)
        least = torch.minimum(lost, least)
    return best


def _not_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)


def _to_e4m3(values: Tensor) -> Tensor:
    return values.clamp(-_E4M3_LARGEST, _E4M3_LARGEST).to(E4M3).to(values.dtype)


def _to_e2m1(values: Tensor) -> Tensor:
    """Round to 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign; a tie goes to the even mantissa."""
    magnitude = values.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return ((values / step).round() * step).clamp(-_E2M1_LARGEST, _E2M1_LARGEST)
