"""Rounding to number formats equals that of the libraries that write such checkpoints, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_layerguard.interventions import rounding

GOLDEN = Path(__file__).with_name("rounding.json")
"""What the libraries named below make of ``weights``: written by ``write_golden``."""


def by_compressed_tensors(weights: Tensor, **reported: Any) -> Tensor:
    """Round ``[rows, columns]`` as llm-compressor's minmax observer and compressed-tensors do."""
    quantization = pytest.importorskip("compressed_tensors.quantization")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    args = quantization.QuantizationArgs(**reported)
    size = args.group_size
    groups = weights.unflatten(-1, (-1, size)) if size else weights.unsqueeze(-2)
    low, high = groups.amin(-1), groups.amax(-1)
    whole = None
    if args.strategy == "tensor_group":
        whole = helpers.generate_gparam(weights.min(), weights.max())
    scale, zero = helpers.calculate_qparams(low, high, args, whole)
    found: Tensor = forward.fake_quantize(weights, scale, zero, args, whole)
    return found


def by_bitsandbytes(weights: Tensor) -> Tensor:
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    found: Tensor = functional.dequantize_4bit(packed, state)
    return found


def integers(bits: int, symmetric: bool, size: int | None) -> tuple[Any, Any]:
    reported = {"num_bits": bits, "symmetric": symmetric, "strategy": "channel"}
    if size:
        reported |= {"strategy": "group", "group_size": size}

    def change(values: Tensor) -> Tensor:
        return rounding.to_integers(values, bits, symmetric=symmetric)

    return lambda w: by_compressed_tensors(w, **reported), lambda w: in_groups(w, size, change)


def in_groups(weights: Tensor, size: int | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    return rounding.grouped(weights, size, change) if size else change(weights)


FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
MXFP4 = {
    "num_bits": 4,
    "type": "float",
    "strategy": "group",
    "group_size": 32,
    "scale_dtype": torch.uint8,
    "zp_dtype": torch.uint8,
}
NVFP4 = {
    "num_bits": 4,
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": torch.float8_e4m3fn,
    "zp_dtype": torch.float8_e4m3fn,
}
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "int-2": integers(2, True, None),
    "int-3": integers(3, True, None),
    "int-4": integers(4, True, None),
    "int-8": integers(8, True, None),
    "int-3-zero-points": integers(3, False, None),
    "int-4-zero-points": integers(4, False, None),
    "int-4-groups": integers(4, True, 8),
    "int-4-groups-zero-points": integers(4, False, 8),
    "fp8": (lambda w: by_compressed_tensors(w, **FP8), rounding.to_fp8),
    "mxfp4": (
        lambda w: by_compressed_tensors(w, **MXFP4),
        lambda w: rounding.grouped(w, 32, rounding.to_mxfp4),
    ),
    "nvfp4": (
        lambda w: by_compressed_tensors(w, **NVFP4),
        lambda w: rounding.grouped(w, 16, lambda g: rounding.to_nvfp4(g, w.abs().max())),
    ),
    "nf4": (
        by_bitsandbytes,
        lambda w: rounding.grouped(w.flatten(), 64, rounding.to_nf4).view_as(w),
    ),
}
"""By name: the library's rounding and ours, of ``[rows, columns]``."""


def drawn() -> Tensor:
    """Weights of several magnitudes, with ties, a row of one sign and a group that is all zero."""
    weights = torch.randn((5, 64), generator=torch.Generator().manual_seed(1))
    weights *= torch.tensor([[1.0], [0.02], [1e-3], [1.0], [1.0]])
    weights[3] = torch.arange(64) / 8 - 3
    weights[4] = weights[4].abs() + 0.1
    weights[1, :32] = 0
    return weights


def write_golden() -> None:
    golden = {"weights": drawn(), **{name: theirs(drawn()) for name, (theirs, _) in CASES.items()}}
    lines = [
        f'"{name}": ['
        + ",\n".join(json.dumps([float(f"{w:.9g}") for w in row]) for row in rows)
        + "]"
        for name, rows in ((name, rows.tolist()) for name, rows in golden.items())
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_it_restores_what_the_library_restored(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    _, ours = CASES[name]
    assert torch.equal(ours(torch.tensor(golden["weights"])), torch.tensor(golden[name]))


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_library_that_is_installed(name: str) -> None:
    theirs, ours = CASES[name]
    weights = torch.randn((64, 192), generator=torch.Generator().manual_seed(2)) * 0.05
    for each in (drawn(), weights, weights * 1e-6):
        assert torch.equal(ours(each), theirs(each.clone()))


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_equals_torchao_but_for_ties(symmetric: bool) -> None:
    """It multiplies by the reciprocal of the scale, so that what lies half-way may round otherwise."""
    ao = pytest.importorskip("torchao.quantization")
    weights = torch.randn((64, 192), generator=torch.Generator().manual_seed(2)) * 0.05
    reported = (ao.MappingType.SYMMETRIC if symmetric else ao.MappingType.ASYMMETRIC, (1, 32))
    scale, zero = ao.choose_qparams_affine(weights, *reported, torch.int8, -8, 7)
    levels = ao.quantize_affine(weights, (1, 32), scale, zero, torch.int8, -8, 7)
    theirs = ao.dequantize_affine(levels, (1, 32), scale, zero, torch.int8, -8, 7)
    ours = in_groups(weights, 32, lambda w: rounding.to_integers(w, 4, symmetric=symmetric))
    quotients = weights / scale.repeat_interleave(32, 1)
    tie = (quotients - quotients.floor() - 0.5).abs() < 1e-5
    assert tie.float().mean() < 0.05
    assert torch.equal(ours[~tie], theirs[~tie])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_zero_point_uses_all_levels_and_keeps_zero(bits: int) -> None:
    weights = torch.linspace(-1, 2, 1000)
    found = rounding.to_integers(weights, bits, symmetric=False)
    assert len(found.unique()) == 2**bits
    assert rounding.to_integers(weights.clamp_min(0), bits, symmetric=False)[0] == 0


def test_the_last_group_may_be_shorter() -> None:
    weights = torch.randn((3, 10), generator=torch.Generator().manual_seed(3))
    sums = rounding.grouped(weights, 4, lambda w: w.sum(-1, keepdim=True).expand_as(w))
    for start, end in ((0, 4), (4, 8), (8, 10)):
        piece = weights[:, start:end]
        assert torch.equal(sums[:, start:end], piece.sum(-1, keepdim=True).expand_as(piece))
    one = rounding.grouped(weights, 16, lambda w: w * 2)
    assert torch.equal(one, weights * 2)


@pytest.mark.parametrize("symmetric", [True, False])
def test_clipping_takes_the_best_range_of_gptqs_search(symmetric: bool) -> None:
    weights = torch.randn((6, 64), generator=torch.Generator().manual_seed(4))
    weights[:, 0] = 6
    found = rounding.to_integers(weights, 3, symmetric=symmetric, clip="mse")
    for row, ours in zip(weights, found, strict=True):
        low, high = min(float(row.min()), 0), max(float(row.max()), 0)
        best = None
        for step in range(80):
            share = 1 - step / 100
            if symmetric:
                scale, zero = share * max(-low, high) / 3.5, 4
            else:
                scale = share * (high - low) / 7
                zero = round(-share * low / scale)
            tried = scale * ((row / scale + zero).round().clamp(0, 7) - zero)
            error = float((tried - row).abs().pow(2.4).sum())
            if best is None or error < best[0]:
                best = (error, tried)
        assert best is not None
        torch.testing.assert_close(ours, best[1], rtol=1e-5, atol=1e-6)
    plain = rounding.to_integers(weights, 3, symmetric=symmetric)
    assert (found - weights).square().sum() < (plain - weights).square().sum()
