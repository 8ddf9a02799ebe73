"""What a sweep holds beside the model: hidden states of one part of the windows, and never all logits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
import torch
from support import families
from support.allocations import allocated
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from pytest_layerguard import reference
from pytest_layerguard.measurement import sweep as sweeping
from pytest_layerguard.measurement.sweep import Limits, Work, split, sweep
from pytest_layerguard.measurement.token_scores import chunk_rows
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Edit, Plan, Weights
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut

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
    reported = {**families._COMMON, **families.FAMILIES[family]}
    config = CONFIG_MAPPING[family.split("-")[0]](
        **{name: shape.get(name, value) for name, value in reported.items()}
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().eval().requires_grad_(False)


def read(tokens: int, window: int, rows: int, vocabulary: int = families.VOCABULARY) -> list[Batch]:
    drawn = torch.randint(3, vocabulary, (tokens + 1,), generator=torch.Generator().manual_seed(1))
    return batched(cut(drawn.tolist(), Contract(tokens, window, window, start=())), rows)


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

    device = "cpu"
    outer: Mapping[str, Tensor] = {}

    def tensors(self, _layer: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in own.items()}


SWEEPS = {"skips": skips, "pairs": pairs, "edits": drawn_anew}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("variants", SWEEPS)
def test_more_tokens_are_more_parts_and_not_more_hidden_states(
    variants: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, fewer, more = 128, read(128, 32, 1, 32), read(512, 32, 1, 32)
    store: Any = Shelf() if streamed else None
    runner, plans = Runner(Anatomy.of(made("llama", 3, width, 32)), store), SWEEPS[variants](3)
    base = Plan.untouched(3)
    monkeypatch.setattr(sweeping, "_LIMITS", {"cpu": TIGHT})
    one, other = (
        allocated(lambda batches=batches: sweep(runner, batches, base, plans, 32)).peak  # type: ignore[misc]
        for batches in (fewer, more)
    )
    state_of_what_is_more = (512 - 128) * width * 4
    assert other - one < state_of_what_is_more


@pytest.mark.parametrize("streamed", [False, True])
def test_parts_score_as_the_whole_does(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = Shelf() if streamed else None
    runner = Runner(Anatomy.of(made("llama", 3, 128, 32)), store)
    batches, base = read(512, 32, 1, 32), Plan.untouched(3)
    whole = sweep(runner, batches, base, pairs(3), 32)
    monkeypatch.setattr(sweeping, "_LIMITS", {"cpu": TIGHT})
    parts = sweep(runner, batches, base, pairs(3), 32)
    assert whole.kept is not None
    assert parts.kept is None
    for one, other in zip(whole.variants, parts.variants, strict=True):
        torch.testing.assert_close(one.losses, other.losses)
        torch.testing.assert_close(one.kl, other.kl)


def test_a_base_that_is_known_serves_sweeps_that_are_cut_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Breadth first a state is held for each plan, so two sweeps have parts of unlike size.
    monkeypatch.setattr(sweeping, "_LIMITS", {"cpu": Limits(2**17, 2**18, 2**20)})
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


def test_logits_are_never_held_whole() -> None:
    vocabulary, tokens = 262_144, 124
    model, batches = made("llama", 2, 8, vocabulary), read(tokens, 31, 2)
    runner = Runner(Anatomy.of(model))
    took = allocated(lambda: sweep(runner, batches, Plan.untouched(2), skips(2), vocabulary))
    chunk = chunk_rows(vocabulary, "cpu") * vocabulary * 4
    assert took.largest == chunk
    # Log-probabilities and probabilities of the base, and the logits of one variant.
    assert took.peak < 3.5 * chunk
    assert 4 * chunk == tokens * vocabulary * 4
    # The base's log-probabilities and probabilities, a variant's logits, and what an eighth of them is scored with.
    assert took.peak < 4 * chunk


def test_parts_are_as_large_as_there_is_room_and_never_empty() -> None:
    assert [list(part) for part in split([3, 3, 3, 9, 1, 1], 6)] == [[0, 1], [2], [3], [4, 5]]
    assert list(split([], 6)) == []


@pytest.mark.parametrize("known", [False, True])
def test_progress_counts_every_layer_and_every_head(known: bool) -> None:
    runner, batches = Runner(Anatomy.of(made("llama", 3, 64, 32))), read(128, 32, 1, 32)
    base, plans = Plan.untouched(3), pairs(3)
    kept = sweep(runner, batches, base, [], 32).kept if known else None
    done: list[int] = []
    sweep(runner, batches, base, plans, 32, known=kept, advance=done.append)
    ran = plans if known else [base, *plans]
    work = Work.of(runner, 32)
    assert sum(done) == work.total(ran, 1 + len(set(plans)), batches)
    assert work.head == 32 * 64


def test_of_experts_those_that_the_router_chooses_are_counted() -> None:
    runner = Runner(Anatomy.of(AutoModelForCausalLM.from_pretrained(reference.folder("reference"))))
    config = runner.anatomy.model.config
    (bank,) = runner.anatomy.parts[0].banks
    experts = sum(runner.anatomy.parts[0].tensors[name].numel() for name in bank.fused)
    whole = sum(parameter.numel() for parameter in runner.anatomy.layers[0].parameters())
    chosen = experts * config.num_experts_per_tok // config.num_experts
    assert Work.of(runner, 32).layer == whole - experts + chosen
