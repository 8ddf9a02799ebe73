"""Text that runs free: its metrics, and the text itself against a plain loop of whole forward passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hub import tiny
from support import plain
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pytest_layerguard import reference
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.metrics.free_text import (
    FreeText,
    FreeTexts,
    repetition,
    stop_rate,
)
from pytest_layerguard.measurement.results import BetResult, GeneratedText
from pytest_layerguard.models.tokenization import encode_chat

BET = """\
id: free
title: Free-running text
claim: Without the last layer the model ends its stories as before.
status: proposed
model: {model}
intervention: {intervention}
measure:
  text: {{reference: heldout}}
  tokens: 64
  window: 8
  generate: {generate}
criteria: {{lenient: any(repetition <= 0.5 and stop_rate >= 0.5 and first_divergence >= 3)}}
"""


def measured(
    folder: Path,
    generate: str,
    intervention: str,
    *,
    model: str = "reference",
    sample: str | None = None,
) -> BetResult:
    bets = folder / "bets"
    bets.mkdir()
    text = BET.format(model=model, intervention=intervention, generate=generate)
    if "each" not in intervention:
        text = text.replace("any(", "(")
    if sample is not None:
        text = text.replace("  generate:", f"  sample: {sample}\n  generate:")
    (document,) = parse_bets(text, bets / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)


def looped(text: list[int]) -> tuple[int, int]:
    """How many 4-grams there are, and how many of them occurred before."""
    repeated = 0
    grams = [text[place : place + 4] for place in range(len(text) - 3)]
    for place, gram in enumerate(grams):
        repeated += gram in grams[:place]
    return len(grams), repeated


@torch.inference_mode()
def continued(model: PreTrainedModel, prompt: list[int], tokens: int, end: int) -> FreeText:
    """Greedy text by whole forward passes without a cache, until the end of text."""
    text = [*prompt]
    while len(text) < len(prompt) + tokens:
        token = int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax())
        if token == end:
            return FreeText(tuple(text[len(prompt) :]), ended=True)
        text.append(token)
    return FreeText(tuple(text[len(prompt) :]), ended=False)


def test_free_text_is_that_of_whole_forward_passes(tmp_path: Path) -> None:
    prompts = ["Once upon a time", "The end.", "One day"]
    folder = reference.folder("reference")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    end = tokenizer.eos_token_id
    found = measured(
        tmp_path,
        f"{{prompts: {prompts}, tokens: 40}}",
        "{skip_layers: {layers: {each: [2, 3]}}}",
    )
    base = [continued(model, prompt, 40, end) for prompt in encoded]
    metrics = found.bases[0].metrics
    assert metrics["stop_rate"].value == sum(each.ended for each in base) / 3
    for layer, variant in zip((2, 3), found.variants, strict=True):
        texts = [continued(plain.skipped(model, [layer]), prompt, 40, end) for prompt in encoded]
        counts = [looped(list(each.ids)) for each in texts]
        same = [
            next(
                (at for at, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b),
                min(len(one.ids), len(two.ids)),
            )
            for one, two in zip(base, texts, strict=True)
        ]
        assert variant.metrics["repetition"] == Interval.point(
            sum(repeated for _, repeated in counts) / sum(grams for grams, _ in counts)
        )
        assert variant.metrics["stop_rate"].value == sum(each.ended for each in texts) / 3
        assert variant.metrics["first_divergence"].value == min(same)
        kept = [
            GeneratedText(prompt, tokenizer.decode(each.ids), len(each.ids), each.ended)
            for prompt, each in zip(prompts, texts, strict=True)
        ]
        assert list(variant.generated) == kept
    assert [each.text for each in found.bases[0].generated] == [
        tokenizer.decode(each.ids) for each in base
    ]
    assert BetResult.from_json(found.to_json()) == found


def test_a_loop_of_many_tokens_is_repetition() -> None:
    # More tokens than a collapse by unique tokens would show.
    loop = FreeText(tuple(range(12)) * 8, ended=False)
    assert repetition([loop]).value == pytest.approx((96 - 3 - 12) / (96 - 3))
    drawn = random.Random(0)
    for length in (0, 3, 4, 5, 200):
        text = [drawn.randrange(3) for _ in range(length)]
        grams, repeated = looped(text)
        wanted = repeated / grams if grams else 0.0
        assert repetition([FreeText(tuple(text), ended=True)]).value == wanted


def changed_reference(folder: Path, change: Callable[[PreTrainedModel], None]) -> Path:
    """Save a copy of the reference model, changed."""
    own = reference.folder("reference")
    model = AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32)
    change(model.requires_grad_(False))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(own).save_pretrained(folder)
    return folder


def test_a_model_that_loops_over_a_dozen_tokens_repeats_itself(tmp_path: Path) -> None:
    def loop(model: PreTrainedModel) -> None:
        for name, parameter in model.named_parameters():
            if name.startswith("model.layers") and "norm" not in name:
                parameter.zero_()
        # Each token's own direction is that of the next one's logit; all others go on with the first.
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        own = torch.eye(len(embeddings[0]))
        embeddings.copy_(own[11].expand_as(embeddings))
        head.zero_()
        for place in range(12):
            embeddings[100 + place] = own[place]
            head[100 + (place + 1) % 12] = own[place]

    found = measured(
        tmp_path,
        "{prompts: [One day, The end.], tokens: 60}",
        f"{{load_checkpoint: {{path: ../{changed_reference(tmp_path / 'loop', loop).name}}}}}",
        sample="{prompts: [One day], tokens: 60}",
    )
    metrics = found.variants[0].metrics
    assert metrics["unique_tokens"].value == 12
    assert metrics["repetition"].value == (60 - 3 - 12) / (60 - 3)
    assert metrics["repetition"].value > 3 * found.bases[0].metrics["repetition"].value


def test_a_model_that_lost_its_end_of_text_does_not_stop(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference.folder("reference"))
    full_stop = tokenizer("x.").input_ids[-1]

    def ends(model: PreTrainedModel) -> None:
        head = model.get_output_embeddings().weight
        head[tokenizer.eos_token_id] = head[full_stop] * 1.05

    changed_reference(tmp_path / "base", ends)
    changed_reference(tmp_path / "changed", lambda model: None)
    found = measured(
        tmp_path,
        "{prompts: [Once upon a time, One day], tokens: 60}",
        "{load_checkpoint: {path: ../changed}}",
        model="{path: ../base}",
    )
    (variant,) = found.variants
    assert found.bases[0].metrics["stop_rate"].value == 1
    assert variant.metrics["stop_rate"].value == 0
    assert variant.metrics["perplexity_ratio"].value < 1
    assert [each.tokens for each in variant.generated] == [60, 60]


def test_4_grams_of_all_texts_count_alike_and_each_in_its_own() -> None:
    one, other = FreeText((1, 2, 3, 4), ended=True), FreeText((1, 2, 3, 4, 1, 2, 3, 4), ended=True)
    assert repetition([one, other]).value == 1 / 6


def test_a_text_goes_to_its_first_end() -> None:
    assert FreeText.of([5, 2, 6, 2], {2, 3}) == FreeText((5,), ended=True)
    assert FreeText.of([5, 6], {2, 3}) == FreeText((5, 6), ended=False)
    assert stop_rate([FreeText((5,), ended=True), FreeText((5, 6), ended=False)]).value == 0.5


@pytest.mark.parametrize(
    ("ids", "ended", "divergence"),
    [
        ((1, 2, 3), True, 9),
        ((1, 2, 4), True, 2),
        ((1, 2), True, 2),
        ((1, 2, 3, 4), True, 3),
        ((7,), False, 0),
    ],
)
def test_where_a_text_leaves_the_base(ids: tuple[int, ...], ended: bool, divergence: int) -> None:
    base = (FreeText((1, 2, 3), ended=True),)
    found = FreeTexts(base, (((FreeText(ids, ended),),),), 9).metrics(0)
    assert found["first_divergence"] == Interval.point(divergence)


def test_of_two_directions_the_worse_counts() -> None:
    base = (FreeText((1, 2, 3, 4, 5), ended=True),)
    looping = (FreeText((1,) * 9, ended=False),)
    found = FreeTexts(base, ((base, looping),), 9).metrics(0)
    assert found == {
        "repetition": Interval.point(5 / 6),
        "stop_rate": Interval.point(0.0),
        "first_divergence": Interval.point(1),
    }


def test_the_first_texts_are_kept_and_of_two_directions_those_that_loop() -> None:
    base = tuple(FreeText(tuple(range(3_000)), ended=False) for _ in range(9))
    looping = tuple(FreeText((7,) * 9, ended=True) for _ in range(9))
    free = FreeTexts(base, ((base, looping),), 9, tuple("abcdefghi"))

    def decode(ids: Sequence[int]) -> str:
        return "ab" * len(ids)

    assert free.shown(decode) == tuple(
        GeneratedText(prompt, "ab" * 2_000, 3_000, ended=False) for prompt in "abcdefgh"
    )
    assert free.shown(decode, 0)[0] == GeneratedText("a", "ab" * 9, 9, ended=True)


def test_the_models_chat_template_is_applied(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    with pytest.raises(MeasurementError, match="no chat template; leave chat out"):
        encode_chat(tokenizer, "a b")
    tokenizer.chat_template = (
        "{{ bos_token }} u {% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} v{% endif %}"
    )
    wanted = [1, *(tiny.WORDS.index(word) for word in ("u", "a", "b", "v"))]
    assert encode_chat(tokenizer, "a b") == wanted
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(
        MeasurementError, match="chat template fails on a prompt: TemplateError: no system"
    ):
        encode_chat(tokenizer, "a b")
    with pytest.raises(MeasurementError, match="no chat template"):
        measured(
            tmp_path,
            "{prompts: [a], tokens: 2, chat: true}",
            "{skip_layers: {layers: {each: [0]}}}",
        )
