"""The evaluator of "No Free Swap", as published and as it ought to be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import families, plain
from support.workshop import runner_of

from pytest_layerguard.bet.bet import Measure
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics import variant_metrics
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.texts import windowed_text
from pytest_layerguard.texts.windowed_text import WindowedText
from pytest_layerguard.texts.windows import IGNORED, Contract, batched, cut, cut_strided

WINDOW, STRIDE = 16, 8


def perplexity(family: str, reading: WindowedText) -> float:
    runner = runner_of(family)
    base = Plan.untouched(4)
    swept = sweep(runner, reading.batches, base, [base], families.VOCABULARY)
    return variant_metrics.base_metrics(swept.base, reading.positions)["perplexity"].value


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("tokens", [2, 16, 17, 18, 40, 61])
def test_the_authors_loop(family: str, tokens: int) -> None:
    ids = families.text(tokens)
    windows = cut_strided(ids, WINDOW, STRIDE, last_only=False)
    reading = WindowedText(tuple(batched(windows, 2)), {}, neighbours=2)
    wanted, scored = plain.strided(families.model(family), ids, WINDOW, STRIDE)
    assert perplexity(family, reading) == pytest.approx(wanted, rel=1e-5)
    assert reading.scored == scored


def test_the_first_new_token_of_every_window_is_not_scored() -> None:
    scored = [
        [token for token in labels.tolist() if token != IGNORED]
        for _, labels in cut_strided(list(range(100, 133)), WINDOW, STRIDE, last_only=False)
    ]
    # The one new token of a last window would be dropped, and so is the window.
    assert scored == [
        list(range(101, 116)),
        list(range(117, 124)),
        list(range(125, 132)),
    ]


def test_a_matched_evaluator_scores_each_token_once() -> None:
    ids = families.text(61)
    windows = cut(ids, Contract(61, WINDOW, STRIDE, start=(1,)))
    scored = torch.cat([labels[labels != IGNORED] for _, labels in windows])
    assert scored.tolist() == ids
    assert [int(inputs[0]) for inputs, _ in windows] == [1] * len(windows)
    published = cut_strided([1, *ids], WINDOW, STRIDE, last_only=False)
    assert [int(inputs[0]) == 1 for inputs, _ in published] == [True] + [False] * (
        len(published) - 1
    )


def test_only_the_last_position_of_each_window() -> None:
    ids = families.text(40)
    for windows in (
        cut(ids[:-1], Contract(38, WINDOW, STRIDE, start=(), last_only=True)),
        cut_strided(ids, WINDOW, STRIDE, last_only=True),
    ):
        assert all(int((labels != -100).sum()) == 1 for _, labels in windows)
        assert all(int(labels[-1]) != -100 for _, labels in windows)


class _Words:
    """A tokenizer of numbers."""

    bos_token_id: int | None = None

    def __call__(self, text: str, **_: object) -> Any:
        return SimpleNamespace(input_ids=[int(word) for word in text.split()])


def test_the_presets_read_512_tokens_every_256(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed_text.tokenization, "start_ids", lambda *_: ())
    monkeypatch.setattr(
        windowed_text.tokenization, "encode", lambda _, text: list(map(int, text.split()))
    )
    text = " ".join(map(str, families.text(1_400)))
    config = SimpleNamespace(max_position_embeddings=None, vocab_size=families.VOCABULARY)
    config.get_text_config = lambda **_: config
    loaded: Any = SimpleNamespace(model=SimpleNamespace(config=config), tokenizer=_Words())
    monkeypatch.setattr(windowed_text.tokenization, "check_ids", lambda *_: None)
    # Of 1,300 tokens the published evaluator drops the first of each window.
    for preset, scored in (("nfs-512-256", 1_300), ("nfs-512-256-as-published", 1_295)):
        measure = Measure.model_validate(
            {"text": {"reference": "heldout"}, "tokens": 1_300, "preset": preset}
        )
        reading = windowed_text.windowed(text, measure, loaded, 2048)
        assert reading.scored == scored
        assert sum(len(batch.windows) for batch in reading.batches) == 5
        config.max_position_embeddings = 256
        with pytest.raises(
            MeasurementError, match="reads 512 tokens at a time and the model's context"
        ):
            windowed_text.windowed(text, measure, loaded, 2048)
        config.max_position_embeddings = None


def test_a_text_of_one_token_cannot_be_scored() -> None:
    with pytest.raises(MeasurementError, match="nothing to score"):
        cut_strided([5], WINDOW, STRIDE, last_only=False)
