"""Results of another engine, from the sample files of lm-evaluation-harness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.catalogue.staleness import digests_of, measured_on
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.laboratory import Laboratory
from pytest_layerguard.measurement.results import BetResult

BET = """\
id: served
title: The server's quantised model
claim: The quantised model of the server answers as well as the original.
status: proposed
model: {{hub: somebody/large, revision: {revision}}}
{intervention}
measure: {measure}
criteria: {{lenient: {lenient}}}
"""
FILES = "{base: {file: base.jsonl}, candidate: {file: candidate.jsonl}}"


def bet(
    folder: Path,
    files: str = FILES,
    measure: str = "{tasks: {arc: {lm_eval: arc_easy}}}",
    lenient: str = "arc.accuracy_change >= -0.5",
    intervention: str = "intervention: {{load_results: {files}}}",
) -> BetDocument:
    text = BET.format(
        revision="a" * 40,
        intervention=intervention.format(files=files),
        measure=measure,
        lenient=lenient,
    )
    (document,) = parse_bets(text, folder / "bets" / "bet.yaml")
    return document


def judged(folder: Path, **given: str) -> BetResult:
    laboratory = Laboratory(Conditions(device="cpu"), Registry.of())
    result = laboratory.measure(bet(folder, **given), bets=folder / "bets")
    assert laboratory.loads == 0
    return result


def sample(place: int, chosen: int, right: int, **changed: Any) -> dict[str, Any]:
    """A line as lm-evaluation-harness writes it, numbers of responses as text."""
    return {
        "doc_id": place,
        "doc": {"question": f"q{place}"},
        "target": str(right),
        "arguments": {
            f"gen_args_{choice}": {"arg_0": f"Question: q{place}\nAnswer:", "arg_1": f" c{choice}"}
            for choice in range(3)
        },
        "resps": [],
        "filtered_resps": [
            ["-1.5" if choice == chosen else "-2.5", "False"] for choice in range(3)
        ],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"d{place}",
        "prompt_hash": f"p{place}",
        "target_hash": f"t{place}",
        "acc": float(chosen == right),
        "acc_norm": float(place == 0),
        **changed,
    }


Change = Callable[[list[dict[str, Any]]], object]


def write(
    folder: Path, base: Change = lambda lines: None, candidate: Change = lambda lines: None
) -> None:
    (folder / "bets").mkdir(exist_ok=True)
    chosen = {"base": [0, 1, 2, 0, 1, 1], "candidate": [0, 1, 0, 0, 2, 2]}
    for name, change in (("base", base), ("candidate", candidate)):
        lines = [sample(place, each, place % 3) for place, each in enumerate(chosen[name])]
        change(lines)
        content = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "bets" / f"{name}.jsonl").write_text(content)


def test_results_of_another_engine_are_judged_without_a_model(tmp_path: Path) -> None:
    write(tmp_path, candidate=lambda lines: lines.reverse())
    result = judged(tmp_path)
    (variant,) = result.variants
    assert variant.name == "load-results"
    assert result.bases[0].metrics["arc.accuracy"].value == 5 / 6
    assert variant.metrics["arc.accuracy"].value == 4 / 6
    assert variant.metrics["arc.accuracy_change"].value == pytest.approx(-1 / 6)
    assert variant.metrics["arc.flips"].value == 3 / 6
    change = variant.tasks["arc"]
    assert (change.questions, change.lost, change.gained) == (6, 2, 1)
    shown = change.examples[0]
    assert (shown.right, shown.base, shown.variant) == ("c2", "c2", "c0")
    assert shown.question == "Question: q2\nAnswer:"
    assert measured_on(result)
    digests = digests_of(result.provenance)
    content = (tmp_path / "bets" / "base.jsonl").read_bytes()
    assert digests["results of the base"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert BetResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_measure_and_a_filter_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, base=lambda lines: lines.append({**lines[0], "filter": "strict"}))
    found = judged(tmp_path, measure="{tasks: {arc: {lm_eval: arc_easy, metric: 'acc_norm,none'}}}")
    assert found.variants[0].metrics["arc.accuracy"].value == 1 / 6


def without(lines: list[dict[str, Any]]) -> None:
    del lines[3]


def changed(**values: Any) -> Change:
    return lambda lines: lines[3].update(values)


@pytest.mark.parametrize(
    ("base", "candidate", "what"),
    [
        (None, without, r"candidate: question 3 \(doc_id\) is in the base's file alone"),
        (without, None, r"candidate: question 3 \(doc_id\) is in the candidate's file alone"),
        (None, changed(doc_hash="x"), r"the question with doc_id 3 is not the base's \(doc_hash"),
        (None, changed(prompt_hash="x"), r"the prompt with doc_id 3 is not the base's"),
        (None, changed(target_hash="x"), r"the right answer with doc_id 3 is not the base's"),
        (changed(acc=0.5), None, r"base: 'base.jsonl', line 4: no measure 'acc' that is 0 or 1"),
        (changed(doc_id=2), None, r"line 4: doc_id 2 was there before"),
        (None, lambda lines: lines[2].pop("doc_hash"), r"line 3: is no sample .*\(doc_hash is"),
        (lambda lines: lines.clear(), None, r"base: 'base.jsonl' has no sample of arc_easy"),
        (None, lambda lines: lines[0].update(metrics=["f1"], f1=1) or lines[0].pop("acc"), "none of f1"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_an_error(
    tmp_path: Path, base: Change | None, candidate: Change | None, what: str
) -> None:
    same: Change = lambda lines: None  # noqa: E731
    write(tmp_path, base or same, candidate or same)
    with pytest.raises(MeasurementError, match=what) as caught:
        judged(tmp_path)
    assert str(caught.value).startswith("intervention.load_results.")


def test_a_file_of_another_task_or_digest_is_refused_and_one_that_is_no_sample(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    name = "samples_hellaswag_2026-11-28T07-00-00.123456.jsonl"
    (tmp_path / "bets" / name).write_text("")
    with pytest.raises(MeasurementError, match="is of the task hellaswag, not of arc_easy"):
        judged(tmp_path, files=f"{{base: {{file: {name}}}, candidate: {{file: candidate.jsonl}}}}")
    files = f"{{base: {{file: base.jsonl, sha256: {'a' * 64}}}, candidate: {{file: base.jsonl}}}}"
    with pytest.raises(MeasurementError, match=r"base\.jsonl' has changed"):
        judged(tmp_path, files=files)
    (tmp_path / "bets" / "base.jsonl").write_text("perplexity 3\n")
    with pytest.raises(MeasurementError, match="line 1: is no sample that lm-evaluation-harness"):
        judged(tmp_path)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"measure": "{tasks: {arc: {lm_eval: arc_easy}}, tokens: 9}"}, "tokens: has no meaning beside load_results"),
        ({"measure": "{tasks: {arc: {lm_eval: arc_easy, limit: 9}}}"}, "limit: has no meaning beside"),
        ({"measure": "{tasks: {arc: {reference: questions}}}"}, "measure.tasks: must name the one task"),
        ({"lenient": "kl <= 3"}, "'kl' is not measured; load_results gives the metrics of its task"),
        ({"intervention": "intervention: [{{load_results: {files}}}, {{cast: {{dtype: float32}}}}]"}, "stands alone"),
        ({"intervention": "arms: {{one: {{load_results: {files}}}}}"}, "stands alone; no arms"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_results_is_refused(
    tmp_path: Path, given: dict[str, str], what: str
) -> None:
    with pytest.raises(BetFileError) as caught:
        bet(tmp_path, **given)
    assert what in str(caught.value)
