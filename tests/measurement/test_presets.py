"""The presets that other evaluators are known by, from the bet's file to the number, against plain loops."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from hub import tiny
from support import plain
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pytest_layerguard import reference
from pytest_layerguard.bet.bet import Measure
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult
from pytest_layerguard.texts import windowed_text

BET = """\
id: preset
title: A preset
claim: The first layer can go.
status: proposed
model: {{path: model}}
intervention: {{skip_layers: {{layers: 0}}}}
measure: {{text: {{file: text.txt}}, preset: {preset}, max_base_perplexity: none{more}}}
criteria: {{lenient: perplexity_ratio <= 3}}
"""

BOS = 1


def text_of(words: int) -> str:
    drawn = random.Random(4)
    return " ".join(drawn.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(words))


def model_of(context: int) -> LlamaForCausalLM:
    made = tiny.model(3, max_position_embeddings=context)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.4)
    return made


def measured(
    folder: Path, preset: str, context: int, words: int, more: str = "", *, adds_bos: bool = True
) -> BetResult:
    bets = folder / "bets"
    (bets / "model").mkdir(parents=True)
    torch.manual_seed(0)
    model_of(context).save_pretrained(bets / "model")
    tiny.tokenizer(adds_bos=adds_bos).save_pretrained(bets / "model")
    (bets / "text.txt").write_text(text_of(words), encoding="utf-8")
    (document,) = parse_bets(BET.format(preset=preset, more=more), bets / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)


def ids_of(words: int) -> list[int]:
    return [tiny.WORDS.index(word) for word in text_of(words).split()]


@torch.inference_mode()
def loss(model: LlamaForCausalLM, inputs: list[int], scored: list[int]) -> float:
    """Nats of the last tokens of what is read, in float64 on all logits."""
    logits = model(torch.tensor([inputs])).logits[0, -len(scored) :].double()
    return -float(logits.log_softmax(-1)[torch.arange(len(scored)), torch.tensor(scored)].sum())


def fresh(context: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return model_of(context)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("words", [50, 64, 200])
def test_rolling_windows_of_the_harness(tmp_path: Path, words: int, adds_bos: bool) -> None:
    context = 64
    text = [BOS, *ids_of(words)] if adds_bos else ids_of(words)
    model = fresh(context)
    total, done = 0.0, 0
    while done < len(text):
        count = min(context, len(text) - done)
        end = done + count
        # As much of what comes before as the model can read; before the text there is one prefix token.
        read = [BOS, *text][max(0, end - context) : end]
        total += loss(model, read, text[done:end])
        done = end
    found = measured(tmp_path, "lm-eval", context, words, adds_bos=adds_bos)
    metrics = found.bases[0].metrics
    assert found.tokens == len(text)
    assert metrics["perplexity"].value == pytest.approx(math.exp(total / len(text)), rel=1e-6)
    assert metrics["word_perplexity"].value == pytest.approx(math.exp(total / words), rel=1e-5)
    assert metrics["byte_perplexity"].value == pytest.approx(
        math.exp(total / (2 * words - 1)), rel=1e-6
    )


def test_a_part_of_a_text_has_no_perplexity_by_word(tmp_path: Path) -> None:
    found = measured(tmp_path, "lm-eval", 64, 200, ", tokens: 100")
    assert found.tokens == 100
    assert set(found.bases[0].metrics) == {"perplexity"}


def test_chunks_of_gptq(tmp_path: Path) -> None:
    text = [BOS, *ids_of(5000)]
    model = fresh(2048)
    losses = []
    for start in (0, 2048):
        chunk = text[start : start + 2048]
        losses.append(loss(model, chunk[:-1], chunk[1:]) / 2047 * 2048)
    wanted = math.exp(sum(losses) / (2 * 2048))
    found = measured(tmp_path, "gptq-2048", 2048, 5000)
    assert found.tokens == 2 * 2047
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(wanted, rel=1e-6)
    assert found.descriptive


@pytest.mark.parametrize("preset", ["gptq-2048", "llama-cpp", "nfs-512-256"])
def test_a_shorter_context_asks_for_a_window_and_gets_by_with_it(
    tmp_path: Path, preset: str
) -> None:
    with pytest.raises(
        MeasurementError,
        match=r"tokens at a time and the model's context is 64 tokens; write measure\.window: 64 beside it",
    ):
        measured(tmp_path / "without", preset, 64, 5000)
    assert measured(tmp_path / "with", preset, 64, 200, ", window: 64").tokens > 60
    with pytest.raises(
        MeasurementError, match=r"measure\.window is 65 and the model's context is 64"
    ):
        measured(tmp_path / "beyond", preset, 64, 200, ", window: 65")


def test_a_stride_beyond_a_shorter_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MeasurementError,
        match=r"measure\.stride is 80 and the window is the model's context, 64 tokens; allowed: 1 to 64",
    ):
        measured(tmp_path, "null", 64, 400, ", tokens: 300, stride: 80")


def test_chunks_of_gptq_in_another_window(tmp_path: Path) -> None:
    text = [BOS, *ids_of(200)]
    model = fresh(64)
    total = sum(loss(model, text[at : at + 47], text[at + 1 : at + 48]) for at in range(0, 192, 48))
    found = measured(tmp_path, "gptq-2048", 64, 200, ", window: 48")
    assert found.tokens == 4 * 47
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(
        math.exp(total / (4 * 47)), rel=1e-6
    )


def test_rolling_windows_of_a_shorter_context(tmp_path: Path) -> None:
    text = [BOS, *ids_of(100)]
    model = fresh(64)
    total = 0.0
    for done in range(0, len(text), 48):
        end = min(done + 48, len(text))
        total += loss(model, [BOS, *text][end - 48 : end], text[done:end])
    found = measured(tmp_path, "lm-eval", 64, 100, ", window: 48")
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(
        math.exp(total / len(text)), rel=1e-6
    )


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    ("more", "size", "chunks"), [("", 512, 2), (", window: 65, tokens: 200", 65, 6)]
)
def test_second_halves_of_llama_cpp(
    tmp_path: Path, adds_bos: bool, more: str, size: int, chunks: int
) -> None:
    text = [BOS, *ids_of(1_200)] if adds_bos else ids_of(1_200)
    model = fresh(512)
    half = size // 2
    total, count = 0.0, 0
    for number in range(chunks):
        chunk = text[number * size : (number + 1) * size]
        if adds_bos:
            chunk[0] = BOS
        total += loss(model, chunk[:-1], chunk[half + 1 :])
        count += size - 1 - half
    found = measured(tmp_path, "llama-cpp", 512, 1_200, more, adds_bos=adds_bos)
    assert (found.tokens, found.windows) == (count, chunks)
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(
        math.exp(total / count), rel=1e-6
    )


def test_half_of_a_window_is_the_stride_of_the_published_evaluator(tmp_path: Path) -> None:
    """On a reference model, whose context is shorter than the preset's window."""
    bets = tmp_path / "bets"
    bets.mkdir()
    text = BET.replace("{{path: model}}", "reference").replace(
        "{{file: text.txt}}", "{{reference: heldout}}"
    )
    more = ", window: 256, tokens: 2000"
    (document,) = parse_bets(
        text.format(preset="nfs-512-256-as-published", more=more), bets / "bet.yaml"
    )
    found = LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)
    folder = reference.folder("reference")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(
        reference.HELDOUT.read_text(encoding="utf-8")[:20_000]
    ).input_ids
    base, scored = plain.strided(model, ids[:2_000], 256, 128)
    skipped, _ = plain.strided(plain.skipped(model, [0]), ids[:2_000], 256, 128)
    assert found.tokens == scored
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(base, rel=1e-6)
    assert found.variants[0].metrics["perplexity"].value == pytest.approx(skipped, rel=1e-6)


def test_as_much_of_a_text_is_read_as_its_chunks_need() -> None:
    for preset, needed in (("llama-cpp", 80 * 512), ("gptq-2048", 9 * 2048), ("lm-eval", 20_401)):
        measure = Measure.model_validate(
            {"text": {"reference": "heldout"}, "tokens": 20_400, "preset": preset}
        )
        assert windowed_text.tokens_needed(measure) == needed


@pytest.mark.parametrize("tokens", ["", ", tokens: 1000"])
def test_a_bet_by_the_authors_evaluator(tmp_path: Path, tokens: str) -> None:
    found = measured(tmp_path, "nfs-512-256-as-published", 512, 1_300, tokens)
    read = [BOS, *ids_of(1_300)][: 1_000 if tokens else None]
    model = fresh(512)
    base, scored = plain.strided(model, read, 512, 256)
    skipped, _ = plain.strided(plain.skipped(model, [0]), read, 512, 256)
    assert found.tokens == scored
    assert found.bases[0].metrics["perplexity"].value == pytest.approx(base, rel=1e-6)
    assert found.variants[0].metrics["perplexity"].value == pytest.approx(skipped, rel=1e-6)
