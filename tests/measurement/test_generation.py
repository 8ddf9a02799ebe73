"""Greedy texts of many variants: those of plain loops, and nothing computed twice."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support import families, plain

from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan, Weights
from pytest_layerguard.models.runner import Runner

NEW = 24
BASE = Plan.untouched(families.LAYERS)
SKIPS = [BASE.without(frozenset([layer])) for layer in range(families.LAYERS)]


class Counting(Runner):
    """Counts the tokens that went through a layer."""

    tokens = 0

    def step(self, frame: Any, slot: int, state: Any, *more: Any) -> Any:
        self.tokens += state.hidden.shape[0] * state.hidden.shape[1]
        return super().step(frame, slot, state, *more)


def least(plans: list[Plan], prompt: list[int], texts: list[list[int]]) -> int:
    """The tokens that must go through a layer if no plan runs what another has run on the same text."""
    return sum(
        len(
            {
                (plan.steps[: depth + 1], tuple(text[:known]))
                for plan, text in zip(plans, texts, strict=True)
                for depth in range(len(plan.steps))
            }
        )
        * (1 if known else len(prompt))
        for known in range(NEW)
    )


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_variants_share_layers_until_their_texts_part(family: str) -> None:
    model = families.model(family)
    runner, prompt = Counting(Anatomy.of(model)), families.text(5, 1)
    plans = [BASE, *SKIPS, BASE.rebound({1: Weights(2), 2: Weights(1)})]
    texts = [text for (text,) in generate(runner, plans, [prompt], NEW, greedy)]
    for layer, text in enumerate(texts[1:-1]):
        assert text == plain.continued(plain.skipped(model, [layer]), prompt, NEW, [])
    assert texts[0] == plain.continued(model, prompt, NEW, [])
    assert texts[-1] == generate(runner, plans[-1:], [prompt], NEW, greedy)[0][0]
    runner.tokens = 0
    generate(runner, plans, [prompt], NEW, greedy)
    assert runner.tokens == least(plans, prompt, texts)
    # Texts that part at once share their prompt alone.
    assert len({tuple(text) for text in texts}) > 1


def test_variants_that_continue_as_the_base_cost_half_of_their_layers() -> None:
    # No layer adds anything, so that all texts are the base's.
    model = copy.deepcopy(families.model("llama"))
    runner, prompt = Counting(Anatomy.of(model)), families.text(5, 1)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    texts = generate(runner, [BASE, *SKIPS], [prompt], NEW, greedy)
    assert texts == [texts[0]] * len(texts)
    depth = families.LAYERS
    assert runner.tokens == depth * (depth + 1) // 2 * (len(prompt) + NEW - 1)


def test_equal_prompts_are_continued_once() -> None:
    runner = Counting(Anatomy.of(families.model("llama")))
    prompts = [families.text(5, seed) for seed in (1, 2, 1)]
    texts = generate(runner, [BASE, *SKIPS], prompts, NEW, greedy)
    twice, runner.tokens = runner.tokens, 0
    assert [each[:2] for each in texts] == generate(
        runner, [BASE, *SKIPS], prompts[:2], NEW, greedy
    )
    assert runner.tokens == twice
    assert all(each[0] == each[2] for each in texts)
