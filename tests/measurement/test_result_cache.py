"""The result cache: what is unchanged is not measured, and nothing else is believed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_layerguard import reference
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment import atomic_write
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Kind, Registry
from pytest_layerguard.measurement import measurer, result_cache
from pytest_layerguard.measurement.result_cache import CachingMeasurer, ResultCache
from pytest_layerguard.measurement.results import (
    FIRST_CRITERIA,
    BaseResult,
    BetResult,
    VariantResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_layerguard.bet.reader import BetDocument

BET = """\
id: {id}
title: Skip each layer
claim: One layer can go.
status: proposed
model: {model}
intervention: {{skip_layers: {{layers: {layers}}}}}
measure:
  text: {text}
  tokens: 512
  window: 64
{speak}criteria: {{lenient: perplexity_ratio <= {bar}}}
"""


class FakeMeasurer:
    """Returns made-up results, and notes what it was asked for."""

    measured: list[str]
    expected: list[str]

    def __init__(self, *_: object) -> None:
        pass

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        type(self).expected = [document.bet.id for document, _ in documents]

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        type(self).measured.append(document.bet.id)
        return result(float(len(type(self).measured)))


def result(value: float = 2.5, **changes: Any) -> BetResult:
    ratio = Interval(value, value - 0.5, float("inf"))
    return replace(
        BetResult(
            bases=(BaseResult(None, None, {"perplexity": Interval.point(10.0)}),),
            variants=(VariantResult("skip-0", "0", None, None, None, {"perplexity_ratio": ratio}),),
            tokens=512,
            windows=8,
            descriptive=False,
            provenance={"checkpoints": []},
            seconds=12.5,
        ),
        **changes,
    )


class Bench:
    """A folder of bets with a cache, and one new process after the other that measures them."""

    def __init__(self, folder: Path) -> None:
        self.bets = folder / "tree" / "bets"
        self.bets.mkdir(parents=True)
        self.cache = folder / "cache"
        self.conditions = Conditions(device="cpu", cache=self.cache)
        self.registry = Registry.of()

    def bet(self, id_: str = "a", **changes: str) -> BetDocument:
        words = {
            "id": id_,
            "model": "reference",
            "layers": "0",
            "text": "{reference: heldout}",
            "bar": "3",
            "speak": "",
        }
        text = BET.format(**words | changes)
        (document,) = parse_bets(text, self.bets / f"{id_}.yaml")
        return document

    def measure(self, document: BetDocument, **changes: Any) -> BetResult:
        return self.measure_all([document], **changes)[0]

    def measure_all(
        self, documents: list[BetDocument], registry: Registry | None = None, **changes: Any
    ) -> list[BetResult]:
        lab = CachingMeasurer(replace(self.conditions, **changes), registry or self.registry)
        lab.expect([(document, self.bets) for document in documents])
        return [lab.measure(document, bets=self.bets) for document in documents]

    @property
    def entry(self) -> Path:
        (path,) = self.cache.glob("*.json")
        return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    FakeMeasurer.measured = []
    FakeMeasurer.expected = []
    monkeypatch.setattr(measurer, "LocalMeasurer", FakeMeasurer)
    return Bench(tmp_path)


@pytest.fixture
def local_model(bench: Bench) -> Path:
    folder = bench.bets.parent / "model"
    shutil.copytree(reference.folder("reference"), folder)
    return folder


def test_an_unchanged_bet_is_measured_once(bench: Bench) -> None:
    first = bench.measure(bench.bet())
    second = bench.measure(bench.bet())
    assert FakeMeasurer.measured == ["a"]
    assert not first.cached
    assert second == replace(first, cached=True)


def test_fresh_measures_again_and_keeps_what_it_found(bench: Bench) -> None:
    bench.measure(bench.bet())
    assert not bench.measure(bench.bet(), fresh=True).cached
    assert bench.measure(bench.bet()).variants == result(2.0).variants
    assert FakeMeasurer.measured == ["a", "a"]


def test_without_a_folder_nothing_is_kept(bench: Bench) -> None:
    for _ in range(2):
        assert not bench.measure(bench.bet(), cache=None).cached
    assert not bench.cache.exists()


def test_what_is_remembered_is_not_swept_along(bench: Bench) -> None:
    known, new = bench.bet("a"), bench.bet("b", layers="1")
    bench.measure(known)
    bench.measure_all([known, new])
    assert FakeMeasurer.measured == ["a", "b"]
    assert FakeMeasurer.expected == ["b"]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "1"},
        {"model": "reference-wide"},
        {"model": "reference@init"},
        {"model": "{path: ../model, dtype: bfloat16}"},
        {"speak": "  speak: {prompts: [Hello], tokens: 4}\n"},
    ],
    ids=str,
)
def test_a_changed_bet_is_measured_anew(
    bench: Bench, local_model: Path, change: dict[str, str]
) -> None:
    assert local_model.is_dir()
    bench.measure(bench.bet())
    assert not bench.measure(bench.bet(**change)).cached
    assert bench.measure(bench.bet(**change)).cached


@pytest.mark.parametrize(("old", "new"), [("One layer", "Some layer"), ("proposed", "falsified")])
def test_another_claim_or_status_measures_nothing(bench: Bench, old: str, new: str) -> None:
    first = bench.measure(bench.bet())
    text = BET.format(
        id="a", model="reference", layers="0", text="{reference: heldout}", bar="3", speak=""
    ).replace(old, new)
    if new == "falsified":
        text += "closes: {interventions: [skip_layers], models: parameters <= 1}\n"
    (document,) = parse_bets(text, bench.bets / "a.yaml")
    assert bench.measure(document) == replace(first, cached=True)


def test_other_criteria_measure_nothing_and_the_first_ones_are_kept(bench: Bench) -> None:
    assert not bench.measure(bench.bet(bar="3")).diagnostics
    for fresh in (False, True, False):
        found = bench.measure(bench.bet(bar="4"), fresh=fresh)
        assert found.cached is not fresh
        assert found.diagnostics == {FIRST_CRITERIA: {"lenient": "perplexity_ratio <= 3"}}
    assert not bench.measure(bench.bet(bar="3.0")).diagnostics


def test_a_metric_that_is_measured_on_request_is_measured_when_it_is_named(bench: Bench) -> None:
    bench.measure(bench.bet(bar="3"))
    tail = "3 and kl_p99 <= 9"
    found = bench.measure(bench.bet(bar=tail))
    assert not found.cached
    # What was seen first stays known.
    assert found.diagnostics == {FIRST_CRITERIA: {"lenient": "perplexity_ratio <= 3"}}
    for bar in (tail, "3"):
        assert bench.measure(bench.bet(bar=bar)).cached
    assert not bench.measure(bench.bet(bar="3 and kl_p999 <= 9")).cached


def test_where_a_text_lies_measures_nothing(bench: Bench) -> None:
    (bench.bets / "sub").mkdir()
    digest = hashlib.sha256(b"abc").hexdigest()
    for place in ("a.txt", "sub/b.txt"):
        (bench.bets / place).write_text("abc", encoding="utf-8")
    assert not bench.measure(bench.bet(text="{file: a.txt}")).cached
    for text in ("{file: sub/b.txt}", f"{{file: a.txt, sha256: {digest}}}"):
        assert bench.measure(bench.bet(text=text)).cached


def test_what_only_describes_a_bet_changes_nothing(bench: Bench) -> None:
    bench.measure(bench.bet("a"))
    assert bench.measure(bench.bet("b")).cached


def test_changed_weights_are_measured_anew(bench: Bench, local_model: Path) -> None:
    bet = bench.bet(model="{path: ../model}")
    bench.measure(bet)
    assert bench.measure(bet).cached
    weights = local_model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert not bench.measure(bet).cached


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "modeling_own.py",
    ],
)
def test_a_changed_model_file_is_measured_anew(bench: Bench, local_model: Path, file: str) -> None:
    bet = bench.bet(model="{path: ../model}")
    path = local_model / file
    path.touch()
    bench.measure(bet)
    assert bench.measure(bet).cached
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert not bench.measure(bet).cached


def test_a_model_that_may_run_its_own_code_is_another(bench: Bench) -> None:
    bench.measure(bench.bet())
    assert not bench.measure(bench.bet(), allow_remote_code=True).cached


def test_a_changed_text_is_measured_anew(bench: Bench) -> None:
    text = bench.bets / "text.txt"
    text.write_text("Once upon a time\n", encoding="utf-8")
    bet = bench.bet(text="{file: text.txt}")
    bench.measure(bet)
    assert bench.measure(bet).cached
    text.write_text("Once upon a mime\n", encoding="utf-8")
    assert not bench.measure(bet).cached


@pytest.mark.parametrize("source", ["{dataset: text, file: a.txt%s}", "{file: a.txt%s}"])
def test_a_text_of_another_digest_is_no_cached_result(bench: Bench, source: str) -> None:
    (bench.bets / "a.txt").write_text("Once upon a time\n", encoding="utf-8")
    bench.measure(bench.bet(text=source % ""))
    with pytest.raises(MeasurementError, match=r"file: 'a\.txt' has changed"):
        bench.measure(bench.bet(text=source % f", sha256: {'f' * 64}"))


def test_questions_of_another_digest_are_no_cached_result(bench: Bench) -> None:
    (bench.bets / "q.jsonl").write_text("{}", encoding="utf-8")
    tasks = "  tasks: {q: {file: q.jsonl%s}}\n"
    bench.measure(bench.bet(speak=tasks % ""))
    with pytest.raises(MeasurementError, match=r"measure\.tasks\.q\.file: 'q\.jsonl' has changed"):
        bench.measure(bench.bet(speak=tasks % f", sha256: {'f' * 64}"))


def test_another_version_is_measured_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.measure(bench.bet())
    monkeypatch.setattr(result_cache, "versions", lambda: {"torch": "2.999"})
    assert not bench.measure(bench.bet()).cached


def test_other_code_is_measured_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.measure(bench.bet())
    monkeypatch.setattr(result_cache, "code_digest", lambda: "another commit")
    assert not bench.measure(bench.bet()).cached


def test_another_kind_of_device_is_measured_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.measure(bench.bet())
    monkeypatch.setattr(result_cache, "device_kind", lambda _: "cuda ['NVIDIA H200']")
    assert not bench.measure(bench.bet()).cached


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has mps")
def test_a_device_that_is_asked_for_is_not_answered_with_anothers_numbers() -> None:
    names = ("auto", "cpu", "cuda", "cuda:1", "mps")
    asked = {name: result_cache.device_kind(Conditions(device=name)) for name in names}
    assert len({asked[name] for name in names[1:]}) == 4
    if not torch.cuda.is_available():
        assert asked["auto"] == asked["cpu"]


def test_what_another_package_does_is_never_remembered(bench: Bench) -> None:
    own = bench.registry["skip_layers"]
    others = Registry(
        [
            *(kind for name, kind in bench.registry.items() if name != "skip_layers"),
            Kind("skip_layers", own.arguments, "elsewhere:skip"),
        ]
    )
    for _ in range(2):
        assert not bench.measure_all([bench.bet()], registry=others)[0].cached
    assert not list(bench.cache.glob("*.json"))


def test_a_model_that_is_not_there_is_no_reason_to_fail_another_bet(bench: Bench) -> None:
    missing, there = bench.bet("a", model="{path: nowhere}"), bench.bet("b")
    with pytest.raises(MeasurementError, match="does not exist"):
        bench.measure(missing)
    lab = CachingMeasurer(bench.conditions, bench.registry)
    lab.expect([(missing, bench.bets), (there, bench.bets)])
    assert lab.measure(there, bets=bench.bets).variants


def edited(path: Path, change: Any) -> str:
    entry = json.loads(path.read_text(encoding="utf-8"))
    change(entry)
    return json.dumps(entry)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: "",
        lambda path: path.read_text(encoding="utf-8")[:-30],
        lambda path: "[" * 100_000,
        lambda path: "null",
        lambda path: "[]",
        lambda path: '"text"',
        lambda path: "{}",
        lambda path: edited(path, lambda entry: entry.update(format=1)),
        lambda path: edited(path, lambda entry: entry.update(key="sha256:0")),
        lambda path: edited(path, lambda entry: entry.update(result=None)),
        lambda path: edited(path, lambda entry: entry["result"].update(tokens=4096)),
        lambda path: edited(
            path,
            lambda entry: entry["result"]["variants"][0]["metrics"]["perplexity_ratio"].update(
                value=1.25
            ),
        ),
    ],
)
def test_a_damaged_entry_is_measured_again_and_mended(bench: Bench, damage: Any) -> None:
    bench.measure(bench.bet())
    bench.entry.write_text(damage(bench.entry), encoding="utf-8")
    assert not bench.measure(bench.bet()).cached
    assert bench.measure(bench.bet()).cached
    assert FakeMeasurer.measured == ["a", "a"]


def test_an_entry_that_is_no_text_is_measured_again(bench: Bench) -> None:
    bench.measure(bench.bet())
    bench.entry.write_bytes(b"\xff\xfe\x00")
    assert not bench.measure(bench.bet()).cached


def test_an_entry_under_another_name_is_never_believed(bench: Bench) -> None:
    bench.measure(bench.bet())
    theirs = bench.entry
    bench.measure(bench.bet(layers="1"))
    (ours,) = set(bench.cache.glob("*.json")) - {theirs}
    shutil.copy(theirs, ours)
    assert not bench.measure(bench.bet(layers="1")).cached


@pytest.mark.parametrize("reason", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refused(path: Path, text: str) -> None:
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(atomic_write, "write_whole", refused)
    for _ in range(2):
        assert not bench.measure(bench.bet()).cached


def test_a_folder_that_is_a_file(bench: Bench) -> None:
    bench.cache.write_text("no folder", encoding="utf-8")
    for _ in range(2):
        assert not bench.measure(bench.bet()).cached
    assert bench.cache.read_text(encoding="utf-8") == "no folder"


def test_two_runs_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    kept = ResultCache(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda number: kept.keep("sha256:a", result(number), {}), range(1, 65))
        found = [kept.find("sha256:a") for _ in range(64)]
        list(results)
    assert all(each is None or each.cached for each in found)
    assert kept.find("sha256:a") in [result(number, cached=True) for number in range(1, 65)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
