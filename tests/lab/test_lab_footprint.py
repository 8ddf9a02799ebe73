"""What a sweep holds beside the model: predicted before it runs, and never more than that."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import pytest
import torch
from support import families
from support.allocations import allocated
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from pytest_layerguard.interventions.plan import Edit, Plan, Weights
from pytest_layerguard.lab import footprint
from pytest_layerguard.lab.anatomy import Anatomy
from pytest_layerguard.lab.footprint import Dimensions, Limits, Rows, predicted, split
from pytest_layerguard.lab.head import chunk_rows
from pytest_layerguard.lab.runner import Runner
from pytest_layerguard.lab.sweep import sweep
from pytest_layerguard.lab.windows import Batch, Contract, batched, cut

TIGHT = Limits(states=2**18, edits=2**18, base=2**15)


def made(family: str, layers: int, width: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {
        "hidden_size": width,
        "n_embd": width,
        "intermediate_size": 3 * width,
        "n_inner": 3 * width,
        "num_hidden_layers": layers,
        "n_layer": layers,
        "vocab_size": vocabulary,
        "max_position_embeddings": 256,
        "n_positions": 256,
    }
    told = {**families._COMMON, **families.FAMILIES[family]}
    config = CONFIG_MAPPING[family.split("-")[0]](
        **{name: shape.get(name, value) for name, value in told.items()}
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().eval().requires_grad_(False)


def read(tokens: int, window: int, rows: int, vocabulary: int = families.VOCABULARY) -> list[Batch]:
    drawn = torch.randint(3, vocabulary, (tokens + 1,), generator=torch.Generator().manual_seed(1))
    return batched(cut(drawn.tolist(), Contract(tokens, window, window, bos=None)), rows)


def skips(layers: int) -> list[Plan]:
    base = Plan.untouched(layers)
    return [base.without(frozenset([layer])) for layer in range(layers)]


def pairs(layers: int) -> list[Plan]:
    base = Plan.untouched(layers)
    return [
        plan
        for i, j in combinations(range(layers), 2)
        for plan in (
            base.rebound({i: Weights(j)}),
            base.rebound({j: Weights(i)}),
            base.rebound({i: Weights(j), j: Weights(i)}),
        )
    ]


def drawn_anew(layers: int) -> list[Plan]:
    def apply(tensors: Mapping[str, Tensor], _parts: Any) -> Mapping[str, Tensor]:
        return {name: torch.randn_like(tensor) for name, tensor in tensors.items()}

    base = Plan.untouched(layers)
    return [base.edited({layer: Edit(("drawn",), apply)}) for layer in range(layers)]


class Shelf:
    """Layers as if they came from a disk: new tensors whenever one is asked for."""

    def tensors(self, _layer: int, own: Mapping[str, Tensor], _device: Any) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in own.items()}


SHAPES = {
    # family, layers, width, vocabulary, tokens, window, windows at a time
    "few logits": ("llama", 3, 128, 32, 128, 32, 1),
    "many logits": ("llama", 4, 32, 20_000, 128, 32, 2),
    "one micro-batch": ("llama", 5, 64, 512, 128, 64, 2),
    "a short last window": ("llama", 5, 64, 512, 150, 32, 2),
    "long windows": ("mistral", 4, 64, 256, 512, 256, 1),
    "attention scores": ("gemma2", 4, 64, 256, 256, 64, 2),
    "matrices the other way round": ("gpt2", 4, 64, 256, 256, 64, 2),
    "experts": ("qwen3_moe", 4, 64, 256, 256, 64, 2),
}
SWEEPS = {"skips": skips, "pairs": pairs, "edits": drawn_anew}
CASES = [(shape, "skips", False, False) for shape in SHAPES]
CASES += [
    ("few logits", sweep, streamed, parts)
    for sweep, streamed, parts in product(SWEEPS, (False, True), (False, True))
    if (sweep, streamed, parts) != ("skips", False, False)
]


@pytest.mark.parametrize(("shape", "variants", "streamed", "parts"), CASES)
def test_no_sweep_holds_more_than_predicted_and_none_much_less(
    shape: str, variants: str, streamed: bool, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parts:
        monkeypatch.setattr(footprint, "_LIMITS", {"cpu": TIGHT})
    family, layers, width, vocabulary, tokens, window, rows = SHAPES[shape]
    model, batches = made(family, layers, width, vocabulary), read(tokens, window, rows, 32)
    store: Any = Shelf() if streamed else None
    runner, plans = Runner(Anatomy.of(model), store), SWEEPS[variants](layers)
    base = Plan.untouched(layers)
    told = predicted(
        Dimensions.of(runner.anatomy), Rows.of(batches), base, plans, "cpu", streamed=streamed
    )
    took = allocated(lambda: sweep(runner, batches, base, plans, vocabulary))
    assert took.peak <= told.total <= 1.5 * took.peak, told


def test_a_base_that_is_known_serves_sweeps_that_are_cut_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Breadth first a state is held for each plan, so two sweeps have parts of unlike size.
    monkeypatch.setattr(footprint, "_LIMITS", {"cpu": Limits(2**17, 2**18, 2**20)})
    store: Any = Shelf()
    runner, batches = Runner(Anatomy.of(made("llama", 4, 64, 32)), store), read(256, 32, 1, 32)
    base = Plan.untouched(4)
    known = sweep(runner, batches, base, skips(4)[:1], 32).kept
    alone = sweep(runner, batches, base, pairs(4), 32)
    again = sweep(runner, batches, base, pairs(4), 32, known=known)
    assert known is not None
    assert alone.kept is not None
    assert len(known.final) != len(alone.kept.final)
    for one, other in zip(alone.variants, again.variants, strict=True):
        torch.testing.assert_close(one.kl, other.kl)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_block_of_any_family_stays_below_its_bound(family: str) -> None:
    runner = Runner(Anatomy.of(families.model(family)))
    dimensions = Dimensions.of(runner.anatomy)
    (batch,) = read(256, 64, 4)
    with torch.inference_mode():
        begun = allocated(lambda: runner.begin(batch.input_ids))
        frame = runner.begin(batch.input_ids)
        took = max(
            allocated(lambda slot=slot: runner.step(frame, slot, frame.embeddings)).peak  # type: ignore[misc]
            for slot in range(families.LAYERS)
        )
    assert took <= dimensions.block(4, 64)
    assert begun.peak <= dimensions.frame(4, 64) + dimensions.block(4, 64)


def test_logits_are_never_held_whole() -> None:
    vocabulary = 262_144
    model, batches = made("llama", 2, 8, vocabulary), read(64, 32, 2)
    runner = Runner(Anatomy.of(model))
    took = allocated(lambda: sweep(runner, batches, Plan.untouched(2), skips(2), vocabulary))
    chunk = chunk_rows(vocabulary, "cpu") * vocabulary * 4
    assert took.largest == chunk
    assert 4 * chunk == 64 * vocabulary * 4


def test_windows_side_by_side_are_cut_as_the_contract_cuts_them() -> None:
    for tokens, window, rows in ((256, 32, 2), (250, 32, 3), (20, 32, 2)):
        assert Rows.evenly(tokens, window, rows * window) == Rows.of(read(tokens, window, rows))


def test_parts_are_as_large_as_there_is_room_and_never_empty() -> None:
    assert [list(part) for part in split([3, 3, 3, 9, 1, 1], 6)] == [[0, 1], [2], [3], [4, 5]]
    assert list(split([], 6)) == []
