"""Results of another engine, from the sample files of lm-evaluation-harness."""

from __future__ import annotations

import hashlib
import json
import math
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
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult
from pytest_layerguard.measurement.tasks import results_elsewhere, sample_files

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
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    result = measurer.measure(bet(folder, **given), bets=folder / "bets")
    assert measurer.loads == 0
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
    measure = "{tasks: {arc: {lm_eval: arc_easy, metric: 'acc_norm,none'}}}"
    found = judged(tmp_path, measure=measure, lenient="arc.accuracy >= 0.1")
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
        (changed(arguments=3), None, "line 4: its arguments and responses are not as"),
        (changed(arguments=[7, {}]), None, "line 4: its arguments and responses are not as"),
        (changed(filtered_resps=[["x", "y"], ["z"]]), None, "line 4: its arguments and responses are not as"),
        (changed(filtered_resps="x"), None, "line 4: is no sample"),
        (changed(acc=[1]), None, "line 4: no measure 'acc' that is 0 or 1"),
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
        ({"measure": "{tasks: {arc: {reference: questions}}}"}, "tasks.arc: must be a task of lm-evaluation-harness"),
        ({"measure": "{}", "lenient": "kl <= 3"}, "measure: must name the tasks that the files are of"),
        ({"measure": "{tasks: {arc: {lm_eval: a}, two: {lm_eval: b}}}"}, "is of one task, and the bet has 2"),
        ({"files": "{base: {files: {b: {file: a}}}, candidate: {file: b}}"}, "one file for each task of the bet: arc"),
        ({"files": "{base: {file: a, folder: b}, candidate: {file: b}}"}, "folder: does not go with file"),
        ({"files": f"{{base: {{folder: b, sha256: {64 * 'a'}}}, candidate: {{file: b}}}}"}, "allowed with file only"),
        ({"files": "{base: {}, candidate: {file: b}}"}, "must name samples; allowed: one of file, files, folder"),
        ({"lenient": "kl <= 3"}, "'kl' is not measured; load_results gives the metrics of its tasks"),
        ({"intervention": "intervention: [{{load_results: {files}}}, {{cast: {{dtype: float32}}}}]"}, "stands alone"),
        ({"intervention": "arms: {{a: {{load_results: {files}}}, b: {{cast: {{dtype: float16}}}}}}"}, "measured here"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_results_is_refused(
    tmp_path: Path, given: dict[str, str], what: str
) -> None:
    with pytest.raises(BetFileError) as caught:
        bet(tmp_path, **given)
    assert what in str(caught.value)


DATE = "2026-11-28T07-00-00.123456"
LEAVES = {"animals": [0, 1, 2, 0], "plants": [1, 1, 0, 0, 2, 2]}
"""The choice of the base in each question of the two tasks of a group; the question's number modulo 3 is right."""


def document(place: int, likelihood: float, words: int) -> dict[str, Any]:
    line = sample(
        place,
        0,
        0,
        arguments={"gen_args_0": {"arg_0": "a text"}},
        filtered_resps=[str(likelihood)],
        metrics=["word_perplexity", "byte_perplexity", "bits_per_byte"],
        word_perplexity=[likelihood, words],
        byte_perplexity=[likelihood, 5 * words],
        bits_per_byte=[likelihood, 5 * words],
        target="a text",
    )
    return {name: value for name, value in line.items() if not name.startswith("acc")}


def write_run(
    folder: Path,
    worse: int = 0,
    results: Callable[[dict[str, Any]], object] = lambda results: None,
    name: str = "org__model",
    date: str = DATE,
) -> None:
    """Write what a run of a group and a task of documents leaves; ``worse`` questions are answered otherwise."""
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    lines = {
        task: [
            sample(place, (each + (place < worse)) % 3, place % 3)
            for place, each in enumerate(chosen)
        ]
        for task, chosen in LEAVES.items()
    }
    rights = {task: [line["acc"] for line in each] for task, each in lines.items()}
    lines["docs"] = [document(place, -20.0 - place - worse, 10) for place in range(9)]
    for task, samples in lines.items():
        content = "".join(f"{json.dumps(line)}\n" for line in samples)
        (run / f"samples_{task}_{date}.jsonl").write_text(content)
    flat = [each for right in rights.values() for each in right]
    found: dict[str, Any] = {
        "results": {
            **{task: {"acc,none": sum(right) / len(right)} for task, right in rights.items()},
            "docs": {"word_perplexity,none": math.exp((20 + 4 + worse) / 10)},
        },
        "groups": {"living": {"acc,none": sum(flat) / len(flat)}},
        "group_subtasks": {"living": ["animals", "plants"]},
        "versions": {"living": "1.0", "docs": 1.0},
        "n-shot": {"living": 0, "docs": 0},
        "n-samples": {task: {"effective": len(each)} for task, each in lines.items()},
    }
    results(found)
    (run / f"results_{date}.json").write_text(json.dumps(found))


FOLDERS = "{base: {folder: ../out/base}, candidate: {folder: ../out/candidate}}"
RUN = "{tasks: {living: {lm_eval: living}, docs: {lm_eval: docs}}}"


def test_a_folder_of_output_has_the_samples_of_groups_and_documents(tmp_path: Path) -> None:
    write_run(tmp_path / "out" / "base")
    write_run(
        tmp_path / "out" / "candidate", worse=1, name="other__model", date=DATE.replace("07", "08")
    )
    result = judged(tmp_path, files=FOLDERS, measure=RUN, lenient="docs.perplexity_ratio <= 2")
    (variant,) = result.variants
    chosen = [(place, each) for task in LEAVES.values() for place, each in enumerate(task)]
    before = [each == place % 3 for place, each in chosen]
    after = [(each + (place < 1)) % 3 == place % 3 for place, each in chosen]
    assert result.bases[0].metrics["living.accuracy"].value == sum(before) / 10
    assert variant.metrics["living.accuracy"].value == sum(after) / 10
    assert variant.tasks["living"].questions == 10
    assert variant.metrics["docs.perplexity_ratio"].value == pytest.approx(math.exp(1 / 10))
    assert variant.metrics["docs.bits_per_byte"].value == pytest.approx(25 / 50 / math.log(2))
    assert variant.documents == {"docs": 9}
    names = {each["name"] for each in result.provenance["checkpoints"][0]["results"]}
    assert names == {"base on living", "candidate on living", "base on docs", "candidate on docs"}
    assert BetResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_base_without_a_likelihood_is_no_base(tmp_path: Path) -> None:
    for side in ("base", "candidate"):
        write_run(tmp_path / "out" / side)
    edit(tmp_path / "out" / "base", "docs", "[-20.0, 10]", "[-Infinity, 10]")
    files = ", ".join(
        f"{side}: {{file: ../out/{side}/org__model/samples_docs_{DATE}.jsonl}}"
        for side in ("base", "candidate")
    )
    with pytest.raises(MeasurementError, match=r"^measure.tasks.docs: .* of 1 of 9 documents"):
        judged(
            tmp_path,
            files=f"{{{files}}}",
            measure="{tasks: {docs: {lm_eval: docs}}}",
            lenient="docs.perplexity_ratio <= 2",
        )


def arms(**candidates: str) -> str:
    written = (
        f"{name}: {{{{load_results: {{{{base: {{{{folder: ../out/{base}}}}}, "
        f"candidate: {{{{folder: ../out/{name}}}}}}}}}}}}}"
        for name, base in candidates.items()
    )
    return f"arms: {{{{{', '.join(written)}}}}}"


def test_arms_have_a_candidate_each_and_one_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def read(file: str, *args: Any) -> Any:
        opened.append(Path(file).parts[-3])
        return sample_files.read_samples(file, *args)

    monkeypatch.setattr(results_elsewhere, "read_samples", read)
    for name, worse in (("base", 0), ("one", 1), ("two", 2)):
        write_run(tmp_path / "out" / name, worse=worse)
    given = {"measure": RUN, "lenient": "one.living.accuracy >= two.living.accuracy - 1"}
    result = judged(tmp_path, intervention=arms(one="base", two="base"), **given)
    assert [each.arm for each in result.variants] == ["one", "two"]
    assert opened.count("base") == opened.count("one") == opened.count("two") > 0
    ratios = [each.metrics["docs.perplexity_ratio"].value for each in result.variants]
    assert ratios == pytest.approx([math.exp(0.1), math.exp(0.2)])
    what = r"^arms.two.load_results.base: its samples of living are not those of arms.one.load_results.base"
    with pytest.raises(MeasurementError, match=what):
        judged(tmp_path, intervention=arms(one="base", two="one"), **given)


def test_files_of_several_tasks_stand_by_their_names(tmp_path: Path) -> None:
    write(tmp_path)
    base = "{arc: {file: base.jsonl}, norm: {file: base.jsonl}}"
    candidate = base.replace("norm: {file: base", "norm: {file: candidate")
    (variant,) = judged(
        tmp_path,
        files=f"{{base: {{files: {base}}}, candidate: {{files: {candidate}}}}}",
        measure="{tasks: {arc: {lm_eval: arc_easy}, norm: {lm_eval: arc_easy, metric: acc_norm}}}",
        lenient="arc.accuracy >= 0.1",
    ).variants
    assert variant.metrics["arc.accuracy_change"].value == 0
    assert variant.metrics["norm.accuracy"].value == 1 / 6
    assert variant.tasks["norm"].lost == variant.tasks["norm"].gained == 0


def rewrite(folder: Path, task: str, change: Callable[[list[str]], list[str]]) -> None:
    (path,) = folder.glob(f"*/samples_{task}_*.jsonl")
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def edit(folder: Path, task: str, old: str, new: str) -> None:
    rewrite(folder, task, lambda lines: [lines[0].replace(old, new), *lines[1:]])


def in_a_circle(found: dict[str, Any]) -> None:
    found["group_subtasks"] = {"living": ["living", "nature"], "nature": ["living", "story"]}


def unweighted(found: dict[str, Any]) -> None:
    found["groups"]["living"]["acc,none"] = 0.6


def five(found: dict[str, Any]) -> None:
    found["n-shot"]["living"] = 5


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (lambda out: rewrite(out, "plants", lambda lines: lines[:-1]), "the samples of plants are not whole: 5 of 6"),
        (lambda out: edit(out, "plants", '"acc": 0.0', '"acc": 1.0'), "0.666667, and the results of the same run 0.5"),
        (lambda out: write_run(out, results=unweighted), "living give .* count alike is judged by its tasks"),
        (lambda out: write_run(out, results=five), "with 5 examples, and the base version 1.0 with 0"),
        (lambda out: write_run(out, date=DATE.replace("07", "09")), "has samples of 2 runs"),
        (lambda out: write_run(out, results=in_a_circle), "has no samples of story; it has those of animals"),
        (lambda out: next(out.glob("*/results*")).unlink(), r"has no results_.* beside its samples; name the files"),
        (lambda out: next(out.glob("*/results*")).write_text("[]"), "is no results of lm-evaluation-harness"),
        (lambda out: next(out.glob("*/samples_plants*")).unlink(), "samples of plants; it has those of animals, docs"),
        (lambda out: [each.unlink() for each in out.glob("*/samples*")], "run lm_eval with --output_path"),
        (lambda out: edit(out, "docs", "[-20.0, 10]", '"none"'), "line 1: word_perplexity is no log-likelihood"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_one_whole_run_is_an_error(
    tmp_path: Path, broken: Callable[[Path], object], what: str
) -> None:
    write_run(tmp_path / "out" / "base")
    write_run(tmp_path / "out" / "candidate")
    broken(tmp_path / "out" / "candidate")
    with pytest.raises(MeasurementError, match=what) as caught:
        judged(tmp_path, files=FOLDERS, measure=RUN, lenient="docs.perplexity <= 9")
    assert str(caught.value).startswith("intervention.load_results.candidate: ")
    assert "\n" not in str(caught.value)


def likelihoods(**changed: Any) -> Change:
    """Make documents of samples, of which the third is changed."""

    def change(lines: list[dict[str, Any]]) -> None:
        lines[:] = [document(place, -20.0, 10) for place in range(3)]
        lines[2].update(changed)

    return change


@pytest.mark.parametrize(
    ("base", "what"),
    [
        ({"word_perplexity": [math.nan, 10]}, "line 3: word_perplexity is no log-likelihood with"),
        ({"word_perplexity": [math.inf, 10]}, "line 3: word_perplexity is no log-likelihood with"),
        ({"word_perplexity": [-(10**400), 10]}, "line 3: word_perplexity is no log-likelihood"),
        ({"word_perplexity": [-20.0, -30]}, "line 3: word_perplexity is no log-likelihood with"),
        ({"word_perplexity": [-20.0, math.inf]}, "line 3: word_perplexity is no log-likelihood"),
        ({"bits_per_byte": [-20.0, -1]}, "line 3: bits_per_byte is no log-likelihood with"),
        ({"word_perplexity": [-math.inf, 10]}, "^measure.tasks.arc: the base has no finite likelihood of 1 of 3"),
    ],
)  # fmt: skip
def test_log_likelihoods_of_the_base_are_numbers(
    tmp_path: Path, base: dict[str, Any], what: str
) -> None:
    write(tmp_path, base=likelihoods(**base), candidate=likelihoods())
    with pytest.raises(MeasurementError, match=what):
        judged(tmp_path, lenient="arc.perplexity_ratio <= 2")


@pytest.mark.parametrize("measure", ["word_perplexity", "bits_per_byte"])
def test_empty_documents_have_no_perplexity(tmp_path: Path, measure: str) -> None:
    def empty(lines: list[dict[str, Any]]) -> None:
        lines[:] = [{**document(place, -20.0, 10), measure: [0.0, 0]} for place in range(3)]

    write(tmp_path, base=empty, candidate=empty)
    with pytest.raises(MeasurementError, match=r"base: all documents of 'base.jsonl' are empty"):
        judged(tmp_path, lenient="arc.perplexity_ratio <= 2")


def test_a_candidate_may_give_a_document_no_probability(tmp_path: Path) -> None:
    write(tmp_path, likelihoods(), likelihoods(word_perplexity=[-math.inf, 10]))
    (variant,) = judged(tmp_path, lenient="arc.perplexity_ratio <= 2").variants
    assert variant.metrics["arc.perplexity_ratio"].value == math.inf


def test_a_base_that_cannot_be_reported_from_guessing_has_nothing_to_lose(tmp_path: Path) -> None:
    write(tmp_path)
    measure = "{tasks: {arc: {lm_eval: arc_easy, metric: acc_norm}}}"
    with pytest.raises(MeasurementError, match=r"^measure.tasks.arc: .* and guesses in 0.3333"):
        judged(tmp_path, measure=measure)


def test_criteria_name_what_the_samples_give(tmp_path: Path) -> None:
    write_run(tmp_path / "out" / "base")
    write_run(tmp_path / "out" / "candidate")
    with pytest.raises(MeasurementError, match=r"^criteria.lenient: 'docs.flips' is not measured"):
        judged(tmp_path, files=FOLDERS, measure=RUN, lenient="docs.flips <= 0.1")
