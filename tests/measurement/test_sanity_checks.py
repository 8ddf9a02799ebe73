"""What every measurement proves of itself, and which bases it refuses, each with what to check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import families
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_layerguard.bet.bet import Measure
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult, Continuation
from pytest_layerguard.measurement.sanity_checks import check_base, check_model, check_start
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Weights
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut

BATCHES = batched(cut(families.text(65), Contract(64, 16, 16, start=())), 2)


def runner_of(family: str) -> Runner:
    return Runner(Anatomy.of(families.model(family)))


def measure(**more: object) -> Measure:
    text = {"text": {"reference": "heldout"}, "tokens": 64}
    return Measure.model_validate({**text, **more})


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_is_itself_slot_by_slot_and_twice(family: str) -> None:
    check_model(runner_of(family), BATCHES[0])


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "gptj"])
def test_weights_bound_where_they_belong_are_the_model_bit_for_bit(family: str) -> None:
    # The sweep never binds a layer to its own slot; done all the same, nothing may change.
    runner = runner_of(family)
    with torch.inference_mode():
        frame = runner.begin(BATCHES[0].input_ids)
        plain = bound = frame.start
        for slot in range(len(runner.anatomy)):
            plain = runner.step(frame, slot, plain)
        with runner.bound(0, Weights(1)), runner.bound(1, Weights(0)):
            runner.step(frame, 0, frame.start)
        for slot in range(len(runner.anatomy)):
            own = runner.materialise(Weights(slot))
            with runner.bound(slot, Weights(slot), own):
                bound = runner.step(frame, slot, bound)
    assert torch.equal(plain.hidden, bound.hidden)


def test_a_model_that_says_something_else_the_second_time_is_refused() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=families.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    runner = Runner(Anatomy.of(model))
    layer = model.model.layers[1]
    original = layer.forward
    calls = 0

    def drifting(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        out: Tensor = original(*args, **kwargs)
        return out * (1 + calls / 1e5)

    layer.forward = drifting
    with pytest.raises(
        MeasurementError, match=r"run twice on the same tokens, differs from itself by \d"
    ):
        check_model(runner, BATCHES[0])


def spoken(ids: list[int]) -> Continuation:
    return Continuation("Once", "...", len(set(ids)), tuple(ids))


def refusal(
    losses: Tensor | None = None,
    perplexity: float = 10.0,
    said: list[int] | None = None,
    **more: object,
) -> str:
    """What is said of a base, or nothing."""
    try:
        check_base(
            torch.ones(4) if losses is None else losses,
            Interval.point(perplexity),
            [] if said is None else [spoken(said)],
            measure(**more),
            1000,
            "windows start with token 1",
        )
    except MeasurementError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers(wrong: float) -> None:
    reported = refusal(torch.tensor([1.0, wrong]))
    assert "not finite" in reported
    assert "model.dtype: float32" in reported
    assert "not finite" in refusal(torch.tensor([1.0, wrong]), max_base_perplexity="none")


def test_a_perplexity_near_the_vocabularys_size() -> None:
    reported = refusal(perplexity=600)
    assert "perplexity is 600, above 500 (half its vocabulary)" in reported
    assert "BOS is right (windows start with token 1)" in reported
    assert "max_base_perplexity: none" in reported
    assert refusal(perplexity=500) == ""
    assert refusal(perplexity=600, max_base_perplexity=700) == ""
    assert "above 50 (measure.max_base_perplexity)" in refusal(
        perplexity=60, max_base_perplexity=50
    )
    assert refusal(perplexity=1e9, max_base_perplexity="none") == ""


def test_a_sample_that_has_collapsed_before_anything_was_done() -> None:
    reported = refusal(said=[7, 8, 9, 9] * 25)
    assert "own sample has collapsed to 3 unique tokens in 100 after 'Once'" in reported
    assert "Check the prompt, the tokenizer and BOS" in reported
    assert refusal(said=list(range(5)) * 20) == ""
    assert refusal(said=[7] * 100, max_base_perplexity="none") == ""
    # Of a few tokens nothing can be said.
    assert refusal(said=[7] * 10) == ""


def needs_bos() -> LlamaForCausalLM:
    """A model that looks at its BOS, where there is one, and otherwise at noise.

    One layer, one head. Every query and the key of token 0 lie in the slowest rotary direction, so that all
    attention goes to token 0 where there is one, and evenly to everything else where there is none. The
    value of token 0 is nothing; that of any other shouts for another token than its own.
    """
    size = 16
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        bos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.zero_()
    slowest = size // 2 - 1
    first = model.model.layers[0].self_attn
    model.model.embed_tokens.weight.copy_(torch.eye(size))
    first.q_proj.weight[slowest] = 5.0
    first.k_proj.weight[slowest, 0] = 5.0
    first.v_proj.weight.copy_(torch.roll(torch.eye(size), 5, 0))
    first.v_proj.weight[:, 0] = 0
    first.o_proj.weight.copy_(20 * torch.eye(size))
    # Token t is followed by token t + 1.
    model.lm_head.weight.copy_(3 * torch.roll(torch.eye(size), 1, 0))
    return model


def counting(*start: int) -> list[Batch]:
    ids = [1 + index % 15 for index in range(200)]
    return batched(cut(ids, Contract(128, 16, 16, start)), 8)


def test_missing_bos_where_the_model_needs_it() -> None:
    runner = Runner(Anatomy.of(needs_bos()))
    (batch,) = counting()
    with pytest.raises(MeasurementError) as refused:
        check_start(runner, batch, None, 0, measure())
    reported = str(refused.value)
    assert "windows start without BOS, and the model needs it" in reported
    assert "with token 0 before them. Say measure.bos: always" in reported
    # With it, or where the tokenizer has none, or where an unsound base is asked for, nothing is refused.
    check_start(runner, counting(0)[0], 0, 0, measure())
    check_start(runner, batch, None, None, measure())
    check_start(runner, batch, None, 0, measure(max_base_perplexity="none"))
    check_start(runner, batch, None, 0, measure(preset="gptq-2048"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_bos_is_not_asked_for_where_it_makes_no_difference(family: str) -> None:
    check_start(runner_of(family), BATCHES[0], None, 1, measure())


BET = """\
id: bet-1
title: A control
claim: The measurement is sound.
status: proposed
model: reference
intervention: {{{intervention}}}
measure: {{text: {text}, tokens: 256, window: 32{more}}}
criteria: {{lenient: perplexity_ratio <= 3}}
"""


def measured(
    folder: Path,
    intervention: str = "skip_layers: {layers: 0}",
    text: str = "{reference: heldout}",
    more: str = "",
) -> BetResult:
    bets = folder / "bets"
    bets.mkdir(exist_ok=True)
    content = BET.format(intervention=intervention, text=text, more=more)
    (document,) = parse_bets(content, bets / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)


def test_a_bet_that_does_nothing_is_described_so(tmp_path: Path) -> None:
    nothing = "prune_weights: {parts: linear, sparsity: 0.0, by: magnitude}"
    (variant,) = measured(tmp_path, nothing).variants
    for name, exact in (("perplexity_ratio", 1), ("kl", 0), ("top1_agreement", 1)):
        assert variant.metrics[name] == Interval.point(exact)


def test_a_base_without_sense_is_an_error_that_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(
        MeasurementError, match="the base is unsound: the untouched model's perplexity"
    ):
        measured(tmp_path, more=", max_base_perplexity: 1.01")


def test_a_text_that_brings_its_own_bos(tmp_path: Path) -> None:
    from pytest_layerguard.models.loading import load
    from pytest_layerguard.reference import HELDOUT

    bets = tmp_path / "bets"
    bets.mkdir()
    (document,) = parse_bets(
        BET.format(intervention="skip_layers: {layers: 0}", text="{reference: heldout}", more=""),
        bets / "bet.yaml",
    )
    (source,) = document.bet.model.checkpoints().values()
    loaded = load(
        document.bet.model,
        source,
        bet_file=document.path,
        bets=bets,
        conditions=Conditions(device="cpu"),
    )
    own = loaded.tokenizer.bos_token
    if own is None:
        pytest.skip("the reference tokenizer has no BOS")
    (bets / "text.txt").write_text(own + HELDOUT.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(MeasurementError, match="the text itself starts with the tokenizer's BOS"):
        measured(tmp_path, text="{file: text.txt}", more=", bos: always")
