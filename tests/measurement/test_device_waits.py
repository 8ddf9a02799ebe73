"""Count what makes a GPU wait for Python, on the meta device: it must not grow with the variants.

Whatever asks for a number, indexes with a list or a mask, or copies to or from a device waits until the device has done
all that it was given before. The meta device computes nothing: what asks for a number is answered with one that is not
true, and what only values could answer, as the places of a mask, fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.measurement.token_scores import chunk_rows
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Edit, Plan, Weights
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Contract, batched, cut

LAYERS = 4
VOCABULARY = 2**19
BASE = Plan.untouched(LAYERS)
WINDOW = 8


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for, and answers in its place.

    Attributes:
        found: The name of the operation of each wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if torch.is_inference_mode_enabled() and name != "_local_scalar_dense":
            # Otherwise what consists of several operations arrives as one.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            target = kwargs.get("device") if name == "_to_copy" else args[0].device
            if target is not None and torch.device(target) != source.device:
                self.found.append(f"{source.device} to {target}")
                return torch.zeros(source.shape, dtype=source.dtype, device=target)
        elif args and isinstance(args[0], Tensor) and args[0].is_meta:
            if name == "_local_scalar_dense":
                self.found.append(name)
                return args[0].dtype == torch.bool or 1
            if name in ("index", "index_put", "index_put_"):
                self.found.append(name)
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def runner() -> Runner:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with Waits():
        return Runner(Anatomy.of(model))


def variants(count: int) -> list[Plan]:
    """Variants of each kind: a layer left out, one in the place of another, and one with other weights."""
    same = Edit(("the same weights",), lambda tensors, _: tensors)
    return [
        each
        for layer in range(count)
        for each in (
            BASE.without(frozenset([layer])),
            BASE.rebound({layer: Weights((layer + 1) % LAYERS)}),
            BASE.edited({layer: same}),
        )
    ]


def waits_of_a_sweep(runner: Runner, count: int, windows: int) -> list[str]:
    contract = Contract(windows * WINDOW, WINDOW, WINDOW, start=())
    ids = [each % VOCABULARY for each in range(windows * WINDOW + 1)]
    with Waits() as waits:
        sweep(runner, batched(cut(ids, contract), 1), BASE, variants(count), VOCABULARY)
    return waits.found


def test_a_sweep_waits_as_often_for_many_variants_as_for_few(runner: Runner) -> None:
    few, many = (waits_of_a_sweep(runner, count, windows=2) for count in (1, LAYERS))
    assert many == few


def test_a_sweep_waits_for_a_window_when_it_begins_and_for_a_chunk_of_logits_once(
    runner: Runner,
) -> None:
    few, many = (waits_of_a_sweep(runner, 1, windows) for windows in (2, 6))
    chunks = 4 * WINDOW // chunk_rows(VOCABULARY, "meta")
    # Of a window the tokens and the places of those scored go to the device, and transformers asks for its mask.
    assert len(many) - len(few) <= 4 * 3 + chunks


def test_sampling_waits_for_a_token_as_often_for_many_variants_as_for_few(runner: Runner) -> None:
    def waits(count: int, tokens: int) -> int:
        with Waits() as found:
            generate(runner, [BASE, *variants(count)], [[3, 4, 5]], tokens, greedy)
        return len(found.found)

    few, many = (waits(count, 4) - waits(count, 2) for count in (1, LAYERS))
    # The tokens come from the device and go back to it.
    assert few == many == 2 * 2
