"""Questions asked of base and variants: against a plain loop over deep copies, and what sharing saves."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import tiny
from support import plain
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pytest_layerguard import reference
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement import result_cache
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.metrics import statistics, task_metrics, task_perplexity
from pytest_layerguard.measurement.metrics.task_metrics import Answer, Question
from pytest_layerguard.measurement.results import BetResult
from pytest_layerguard.measurement.session import MICRO_BATCH, ModelSession
from pytest_layerguard.measurement.sweep import evaluations
from pytest_layerguard.measurement.tasks import lm_eval_task, question_task
from pytest_layerguard.measurement.tasks.asked_model import AskedModel
from pytest_layerguard.measurement.tasks.right_or_wrong import chance
from pytest_layerguard.models.loading import LoadedModel
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.tokenization import encode_pairs
from pytest_layerguard.texts.questions import ChoiceQuestion, QuestionSet

BET = """\
id: asked
title: Questions
claim: Some layer can be skipped without a wrong answer.
status: proposed
model: {model}
intervention: {intervention}
measure:
  text: {{reference: heldout}}
  tokens: 64
  window: 8
  tasks:
    stories: {task}
criteria: {{lenient: "any(stories.accuracy_change >= -0.1 and kl <= 5)"}}
"""
ASKED = 12


def measured(
    folder: Path,
    task: str = f"{{reference: questions, limit: {ASKED}}}",
    intervention: str = "{skip_layers: {layers: {each: [0, 2]}}}",
    model: str = "reference",
) -> BetResult:
    bets = folder / "bets"
    bets.mkdir(exist_ok=True)
    text = BET.format(model=model, intervention=intervention, task=task)
    (document,) = parse_bets(text, bets / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)


def questions() -> list[dict[str, object]]:
    lines = reference.QUESTIONS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:ASKED]]


@torch.no_grad()
def right_answers(model: PreTrainedModel) -> list[bool]:
    """Which questions a model answers rightly: each choice is a forward pass of its own."""
    tokenizer = AutoTokenizer.from_pretrained(reference.folder("reference"))
    found = []
    for each in questions():
        context = tokenizer(each["context"])["input_ids"]
        values = []
        for choice in each["choices"]:
            whole = tokenizer(f"{each['context']} {choice}")["input_ids"]
            scores = model(torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
            places = range(len(context) - 1, len(whole) - 1)
            values.append(sum(float(scores[place, whole[place + 1]]) for place in places))
        found.append(values.index(max(values)) == each["answer"])
    return found


def test_base_and_variants_answer_as_deep_copies_do(tmp_path: Path) -> None:
    result = measured(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        reference.folder("reference"), dtype=torch.float32
    ).eval()
    before = right_answers(model)
    assert result.bases[0].metrics["stories.accuracy"].value == sum(before) / ASKED
    for layer, variant in zip((0, 2), result.variants, strict=True):
        after = right_answers(plain.skipped(model, [layer]))
        pairs = list(zip(before, after, strict=True))
        change = variant.tasks["stories"]
        assert change.lost == pairs.count((True, False)) > 0
        assert change.gained == pairs.count((False, True))
        assert (change.questions, change.right_before) == (ASKED, sum(before))
        metrics = variant.metrics
        assert metrics["stories.accuracy"].value == sum(after) / ASKED
        assert metrics["stories.base_accuracy"].value == sum(before) / ASKED
        assert metrics["stories.accuracy_change"].value == (change.gained - change.lost) / ASKED
        assert metrics["stories.flips"].value == (change.gained + change.lost) / ASKED
        shown = change.examples[0]
        assert shown.lost
        assert shown.base == shown.right != shown.variant
    (made,) = result.provenance["checkpoints"]
    digest = reference.manifest()["questions"]["sha256"]
    assert made["tasks"] == [{"name": "stories", "digest": digest, "questions": ASKED}]
    assert BetResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def asked_model(variants: Sequence[Plan], layers: int = 5, micro_batch: int = 64) -> AskedModel:
    model = tiny.model(num_hidden_layers=layers)
    loaded = LoadedModel(model=model, tokenizer=tiny.tokenizer(), provenance={})
    session = ModelSession(loaded)
    return AskedModel(
        runner=session.runner, loaded=loaded, variants=tuple(variants), micro_batch=micro_batch
    )


PAIRS = [([1, *range(3, 3 + size)], [5, 6, 7][: 1 + size % 3]) for size in range(1, 9)]


def test_five_variants_share_the_layers_below_them() -> None:
    base = Plan.untouched(5)
    skips = [base.without(frozenset([layer])) for layer in range(5)]
    together = asked_model(skips)
    together.likelihoods(PAIRS)
    alone = 0
    for plan in skips:
        one = asked_model([plan])
        one.likelihoods(PAIRS)
        alone += one.runner.evaluations
    assert together.runner.evaluations % evaluations([base, *skips]) == 0
    assert evaluations([base, *skips]) == 15
    assert together.runner.evaluations <= 0.6 * alone


def test_likelihoods_do_not_depend_on_the_company() -> None:
    plan = Plan.untouched(3).without(frozenset([1]))
    model = asked_model([plan], layers=3)
    found = model.likelihoods(PAIRS)
    for place, pair in enumerate(PAIRS):
        for plans, answers in model.likelihoods([pair]).items():
            assert answers[0].value == pytest.approx(found[plans][place].value, abs=1e-5)
            assert answers[0].greedy == found[plans][place].greedy
    (context, first), (other, second) = PAIRS[0], PAIRS[1]
    logits = model.loaded.model(torch.tensor([[*context, *first]])).logits[0].log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(first) - 1)
    expected = sum(float(logits[place, [*context, *first][place + 1]].detach()) for place in places)
    assert found[model.base][0].value == pytest.approx(expected, abs=1e-5)
    assert [*other, *second] != [*context, *first]


def test_a_context_that_is_too_long_loses_its_beginning() -> None:
    model = asked_model([], layers=1, micro_batch=MICRO_BATCH["cpu"])
    long = [3 + place % 20 for place in range(100)]
    (cut,) = model.likelihoods([(long, [4, 5])])[model.base]
    (same,) = model.likelihoods([(long[-63:], [4, 5])])[model.base]
    assert cut.value == pytest.approx(same.value, abs=1e-5)
    with pytest.raises(MeasurementError, match=r"65 tokens does not fit the model's context of 64"):
        model.likelihoods([([1], [3] * 65)])
    with pytest.raises(MeasurementError, match="has no tokens of its own"):
        model.likelihoods([([1], [])])


def test_continuations_stop_when_all_are_done() -> None:
    model = asked_model([Plan.untouched(5).without(frozenset([0]))])
    prompts = [[1, 3], [1, 4, 5], [1, 6]]
    whole = model.continuations(prompts, 9, lambda ids: False)
    before = model.runner.evaluations
    short = model.continuations(prompts, 9, lambda ids: len(ids) >= 2)
    for plan in model.plans:
        assert [row[:2] for row in whole[plan]] == list(short[plan])
        assert [len(row) for row in whole[plan]] == [9, 9, 9]
    assert model.runner.evaluations - before < before / 3


def test_pairs_are_tokenised_as_one_text() -> None:
    tokenizer = tiny.tokenizer()
    pairs = encode_pairs(tokenizer, [("a b ", " c"), ("a", " b c")])
    assert pairs == [([1, 3, 4], [5]), ([1, 3], [4, 5])]
    assert all(one != other for one, other in pairwise(pairs))


def test_a_candidate_answers_the_same_questions(tmp_path: Path) -> None:
    shutil.copytree(reference.folder("reference"), tmp_path / "copy")
    result = measured(tmp_path, intervention="{load_checkpoint: {path: ../copy}}")
    (variant,) = result.variants
    assert variant.metrics["stories.accuracy_change"] == Interval.point(0.0)
    assert variant.metrics["stories.flips"] == Interval.point(0.0)
    assert variant.metrics["stories.accuracy"] == result.bases[0].metrics["stories.accuracy"]


def answers(rights: str) -> list[Answer]:
    return [Answer(each == "1", each, (each,)) for each in rights]


def test_of_two_directions_the_worse_one_counts() -> None:
    base, one, other = answers("1111"), answers("1110"), answers("0011")
    found = task_metrics.metrics(base, [one, other], 1)
    assert found["accuracy"].value == 0.5
    assert found["accuracy_change"].value == -0.5
    asked = [Question(f"q{place}" + "x" * 400, "1") for place in range(4)]
    change = task_metrics.change(asked, base, [one, other])
    assert (change.lost, change.gained) == (2, 0)
    assert change.examples[0].question.startswith("\u2026")
    assert len(change.examples[0].question) == 300


def test_no_flip_is_known_where_nothing_changed_and_estimated_where_something_did() -> None:
    base = answers("1100")
    assert task_metrics.metrics(base, [base], 1)["flips"] == Interval.point(0.0)
    moved = [Answer(each.right, each.text, (each.text, 0.1)) for each in base]
    found = task_metrics.metrics(base, [moved], 1)
    assert found["flips"].low == found["flips"].value == 0 < found["flips"].high < 1
    assert found["accuracy_change"].low < 0 < found["accuracy_change"].high


def near_chance(folder: Path, lines: int = 12, more: str = "") -> BetResult:
    """Measure on questions whose right answer is said to be another than it is."""
    (folder / "bets").mkdir()
    asked = [{**each, "answer": (int(str(each["answer"])) + 1) % 4} for each in questions()[:lines]]
    content = "".join(f"{json.dumps(each)}\n" for each in asked)
    (folder / "bets" / "wrong.jsonl").write_text(content)
    return measured(folder, task=f"{{file: wrong.jsonl}}{more}")


def test_a_base_that_cannot_be_reported_from_guessing_has_nothing_to_lose(tmp_path: Path) -> None:
    with pytest.raises(
        MeasurementError,
        match=r"^measure.tasks.stories: .* guesses in 0\.25: it has nothing to lose",
    ):
        near_chance(tmp_path)


def test_a_base_that_guesses_is_allowed_where_an_untrained_one_is(tmp_path: Path) -> None:
    result = near_chance(tmp_path, more="\n  max_base_perplexity: none")
    change = result.variants[0].tasks["stories"]
    assert change.chance == 0.25
    assert result.bases[0].metrics["stories.accuracy"].low < 0.25


class DropsWords:
    """A tokenizer that leaves out what follows a context."""

    def __call__(self, text: str | list[str], **given: object) -> dict[str, object]:
        listed = [text] if isinstance(text, str) else text
        ids = [[3] * len(each.partition(" ")[0]) for each in listed]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}


def test_a_choice_that_leaves_no_token_is_named() -> None:
    model = asked_model([])
    model = replace(model, loaded=replace(model.loaded, tokenizer=DropsWords()))
    asked = QuestionSet((ChoiceQuestion("abc", ("d", "e"), 0),), "sha256:")
    with pytest.raises(
        MeasurementError, match="the choice 'd' after 'abc' has no tokens of its own"
    ):
        question_task.ask(model, asked)


def test_an_answer_that_does_not_fit_is_an_error_of_its_task(tmp_path: Path) -> None:
    (tmp_path / "bets").mkdir()
    asked = {"context": "a", "choices": ["b " * 400, "c"], "answer": 0}
    (tmp_path / "bets" / "long.jsonl").write_text(json.dumps(asked))
    with pytest.raises(
        MeasurementError, match=r"^measure.tasks.stories: an answer of .* context of 256"
    ):
        measured(tmp_path, task="{file: long.jsonl}")


def test_chance_is_one_of_the_choices() -> None:
    assert chance([["q", " a"], ["q", " b"], ["q", " c"]]) == 1 / 3
    assert chance([["q a", " x"], ["q b", " x"]]) == 1 / 2
    assert chance([["q", " a"], ["q", " b"], ["", " a"], ["", " b"]]) == 1 / 2
    assert chance([["q", " a"]]) == chance([["q", {"until": ["."]}]]) == chance([]) == 0
    found = task_metrics.guesses(Interval(0.75, 0.5, 0.875), 0.25)
    assert found["accuracy_change"] == Interval(-0.5, -0.625, -0.25)
    assert found["flips"].value == 0.75 * 0.75 + 0.25 * 0.25


def test_a_perplexity_is_paired_by_document() -> None:
    sizes, base = (
        [3.0, 5.0, 4.0, 6.0, 2.0, 5.0, 3.0, 4.0],
        [-6.0, -9.0, -8.0, -14.0, -3.0, -9.0, -7.0, -8.0],
    )
    worse = [
        value - size * (0.1 + 0.01 * place)
        for place, (value, size) in enumerate(zip(base, sizes, strict=True))
    ]
    documents = task_perplexity.Documents(tuple(sizes), tuple(5 * each for each in sizes))
    found = task_perplexity.metrics(documents, base, [base, worse], 1)
    assert found["base_perplexity"].value == pytest.approx(math.exp(64 / 32))
    assert found["perplexity"].value == pytest.approx(math.exp(-sum(worse) / 32))
    assert found["bits_per_byte"].value == pytest.approx(-sum(worse) / 160 / math.log(2))
    assert found["base_bits_per_byte"].value == pytest.approx(64 / 160 / math.log(2))
    rises = np.array(base) - np.array(worse)
    mean = statistics.ratio(rises, np.array(sizes)).interval(2)
    ratio = found["perplexity_ratio"]
    for one, other in zip(
        (ratio.value, ratio.low, ratio.high), (mean.value, mean.low, mean.high), strict=True
    ):
        assert math.log(one) == pytest.approx(other, rel=1e-9)
    alone = task_perplexity.metrics(
        task_perplexity.Documents((2.0,), None), [-4.0], [[math.nan]], 1
    )
    assert alone["base_perplexity"] == Interval.point(math.exp(2))
    assert alone["perplexity"].value == alone["perplexity_ratio"].value == math.inf
    assert "bits_per_byte" not in alone


@pytest.mark.parametrize(
    ("criterion", "what"),
    [
        ("asked.kl <= 1", "'kl' is not measured on the task 'asked'"),
        ("bits_per_byte <= 1", "'bits_per_byte' is measured on a task; write 'asked.bits_per_byte'"),
        ("asked.perplexity_ratio <= 1.1", "the questions of 'asked' give accuracy and flips"),
    ],
)  # fmt: skip
def test_criteria_of_questions_name_what_they_give(criterion: str, what: str) -> None:
    text = BET.format(
        model="reference", intervention="{skip_layers: {layers: 1}}", task="{reference: questions}"
    )
    text = text.replace("stories:", "asked:").replace(
        "any(stories.accuracy_change >= -0.1 and kl <= 5)", criterion
    )
    with pytest.raises(BetFileError, match=what):
        parse_bets(text, Path("bet.yaml"))
    of_documents = text.replace("{reference: questions}", "{lm_eval: wikitext}")
    parse_bets(of_documents.replace(criterion, "asked.perplexity_ratio <= 1.1"), Path("bet.yaml"))


def test_without_lm_eval_a_bet_is_skipped_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where it is installed, an earlier test may have used it.
    lm_eval_task._manager.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UnavailableError, match=r"pip install 'pytest-layerguard\[tasks\]'"):
        measured(tmp_path, task="{lm_eval: arc_easy}")


def key(folder: Path, task: str) -> str | None:
    text = BET.format(model="reference", intervention="{skip_layers: {layers: 1}}", task=task)
    (document,) = parse_bets(text, folder / "bets" / "bet.yaml")
    return result_cache.identity(document, folder / "bets", Conditions(), Registry.of())


def test_other_questions_are_another_result(tmp_path: Path) -> None:
    (tmp_path / "bets").mkdir()
    file = tmp_path / "bets" / "q.jsonl"
    shutil.copyfile(reference.QUESTIONS, file)
    moved = tmp_path / "bets" / "moved.jsonl"
    shutil.copyfile(file, moved)
    first = key(tmp_path, "{file: q.jsonl}")
    assert first == key(tmp_path, "{file: moved.jsonl}")
    assert first != key(tmp_path, "{file: q.jsonl, limit: 9}")
    file.write_text(file.read_text() + "\n")
    assert first != key(tmp_path, "{file: q.jsonl}")
    assert key(tmp_path, "{reference: questions}") is not None
    assert key(tmp_path, "{lm_eval: arc_easy}") is None
    pinned = f"{{lm_eval: arc_easy, revision: {'a' * 40}}}"
    assert key(tmp_path, pinned) is not None
