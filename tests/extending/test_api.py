"""`pytest_layerguard.measure` and the `layerguard` fixture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_layerguard
from pytest_layerguard import reference
from pytest_layerguard.api import Measured
from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.results import FIRST_CRITERIA
from pytest_layerguard.reference import HELDOUT
from pytest_layerguard.report.rows import COLUMNS

BET: dict[str, Any] = {
    "model": "reference",
    "intervention": {"skip_layers": {"layers": 0}},
    "measure": {"text": {"reference": "heldout"}, "tokens": 1024, "window": 128},
    "criteria": {"lenient": "perplexity_ratio <= 3"},
}
FILE = """\
id: {id}
title: Skip the first layer
claim: The first layer can be skipped.
status: proposed
model: reference
intervention: {{skip_layers: {{layers: 0}}}}
measure: {{text: {{file: ../text.txt}}, tokens: 1024, window: 128}}
criteria: {{lenient: perplexity_ratio <= 3}}
"""


def test_a_mapping_gives_numbers_and_a_verdict(tmp_path: Path) -> None:
    measured = pytest_layerguard.measure(BET, device="cpu", cache=tmp_path)
    assert measured.verdict == "FALSIFIED"
    assert not measured.holds
    (variant,) = measured.result.variants
    assert variant.metrics["perplexity_ratio"].low > 3
    first, *table = str(measured).splitlines()
    assert first.startswith("unnamed: FALSIFIED, by lenient: perplexity_ratio <= 3")
    assert any(line.startswith("skip-0") for line in table)
    assert repr(measured) == "<Measured unnamed: FALSIFIED, 1 variant, 1,024 tokens>"
    frame = measured.to_frame()
    assert list(frame.columns) == list(COLUMNS)
    row = frame[frame.metric == "perplexity_ratio"].iloc[0]
    ratio = variant.metrics["perplexity_ratio"]
    assert (row.variant, row.target) == ("skip-0", 0)
    assert (row.value, row.low, row.high) == (ratio.value, ratio.low, ratio.high)
    again = pytest_layerguard.measure(BET, device="cpu", cache=tmp_path)
    assert again.result.cached


def test_a_frame_without_pandas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'pytest-layerguard\[pandas\]'"):
        object.__new__(Measured).to_frame()


def test_without_criteria_there_are_numbers_and_no_verdict(tmp_path: Path) -> None:
    explored = pytest_layerguard.measure(
        {key: BET[key] for key in ("model", "intervention", "measure")},
        device="cpu",
        cache=tmp_path,
    )
    assert explored.verdict is None
    assert not explored.holds
    assert repr(explored) == "<Measured unnamed: no criteria, 1 variant, 1,024 tokens>"
    assert str(explored).startswith("unnamed: no criteria, so no verdict\n")
    (variant,) = explored.result.variants
    assert variant.metrics["kl_p99"].value == pytest.approx(variant.kl_tail["p99"])
    assert "no criteria" in explored._repr_html_()
    # A bar that is written after the numbers were seen says so.
    judged = pytest_layerguard.measure(BET, device="cpu", cache=tmp_path)
    assert judged.result.cached
    assert judged.result.diagnostics[FIRST_CRITERIA] == {}


@pytest.mark.parametrize("criteria", [{}, None])
def test_empty_criteria_are_an_error_all_the_same(criteria: Any) -> None:
    with pytest.raises(BetFileError, match="criteria"):
        pytest_layerguard.measure({**BET, "criteria": criteria}, device="cpu")


def test_a_file_and_a_document_are_one_bet(tmp_path: Path) -> None:
    (tmp_path / "bets").mkdir()
    text = HELDOUT.read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    path = tmp_path / "bets" / "two.yaml"
    two = FILE.format(id="one") + "---\n" + FILE.format(id="two")
    path.write_text(two, encoding="utf-8")
    kept = tmp_path / "kept"
    measured = pytest_layerguard.measure(path, id="two", device="cpu", cache=kept)
    assert measured.document.bet.id == "two"
    document = read_bets(path)[1]
    assert pytest_layerguard.measure(document, device="cpu", cache=kept).result.cached
    with pytest.raises(ValueError, match="has 2 bets; say which one by its id: one, two"):
        pytest_layerguard.measure(path)


def test_a_mapping_reads_from_where_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = HELDOUT.read_text(encoding="utf-8")
    Path("text.txt").write_text(text, encoding="utf-8")
    measure = {**BET["measure"], "text": {"file": "text.txt"}}
    assert not pytest_layerguard.measure({**BET, "measure": measure}, device="cpu").holds


def test_all_that_is_wrong_with_a_mapping_is_reported() -> None:
    with pytest.raises(BetFileError, match="did you mean 'intervention'") as reported:
        pytest_layerguard.measure({"interventoin": {}, **BET, "model": "refernce"})
    unknown, misspelt = sorted(str(reported.value).splitlines())
    assert unknown.startswith("the mapping: interventoin: ")
    assert misspelt.startswith("the mapping: model: ")


def test_a_path_that_leads_outside_names_the_argument_that_allows_it() -> None:
    measure = {**BET["measure"], "text": {"file": "/outside/text.txt"}}
    with pytest.raises(MeasurementError, match=r"in Python with roots=\[DIR\]"):
        pytest_layerguard.measure({**BET, "measure": measure}, device="cpu")


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, pytest_layerguard\n"
        "assert 'pytest_layerguard.api' not in sys.modules\n"
        "pytest_layerguard.measure\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_candidate_is_judged_against_its_base(tmp_path: Path) -> None:
    made = shutil.copytree(reference.folder("reference"), tmp_path / "made")
    less = {"measure": {"text": {"reference": "heldout"}, "tokens": 256, "window": 32}}
    judged = pytest_layerguard.measure(less, model="reference", candidate=made, device="cpu")
    assert judged.verdict.holds
    assert judged.result.variants[0].name == "load-made"
    assert judged.result.variants[0].metrics["kl"].value == 0
    with pytest.raises(TypeError, match="a bet, or a model and a candidate"):
        pytest_layerguard.measure(less, model="reference")
    with pytest.raises(MeasurementError, match="there is no checkpoint in"):
        pytest_layerguard.measure(model=tmp_path, candidate=made)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mesure'"):
        _ = pytest_layerguard.mesure  # type: ignore[attr-defined]


FIXTURE = """
BET = {
    "model": MODEL,
    "intervention": {"skip_layers": {"layers": 0}},
    "measure": {"text": {"reference": "heldout"}, "tokens": 1024, "window": 128},
    "criteria": {"lenient": "perplexity_ratio <= 3"},
}

def test_the_first_layer_matters(layerguard):
    assert not layerguard.measure(BET).holds
"""


def test_the_fixture_measures_in_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FIXTURE.replace("MODEL", "'reference'"))
    pytester.runpytest("--layerguard-device=cpu").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "word"), [((), "skipped"), (("--layerguard-require=all",), "failed")]
)
def test_the_fixture_skips_what_cannot_be_had(
    pytester: pytest.Pytester, option: tuple[str, ...], word: str
) -> None:
    model = "{'hub': 'no/model', 'revision': 'unpinned'}"
    pytester.makepyfile(FIXTURE.replace("MODEL", model))
    result = pytester.runpytest("--layerguard-device=cpu", *option)
    result.assert_outcomes(**{word: 1})


def test_the_fixture_describes_itself(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--fixtures")
    result.stdout.fnmatch_lines(["layerguard*", "*Measure bets in a test*"])
