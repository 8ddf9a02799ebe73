"""A variant as a file: judged as a candidate it has the same numbers, and is recognised as what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pytest_layerguard
from pytest_layerguard.cli.main import main

CRITERIA = {"lenient": "max(perplexity_ratio) <= 1e9"}
MEASURE = {
    "text": {"reference": "heldout"},
    "tokens": 512,
    "window": 64,
    "sample": {"prompts": ["Once upon a time"], "tokens": 10},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bets").mkdir()
    return tmp_path


def put(done: Any, **more: Any) -> str:
    bet = {
        "id": "tried",
        "title": "Tried",
        "claim": "It can be done.",
        "status": "proposed",
        "model": "reference",
        "measure": MEASURE,
        "criteria": CRITERIA,
        **({"arms": done} if "one" in done else {"intervention": done}),
        **more,
    }
    Path("bets/tried.yaml").write_text(json.dumps(bet))
    return "bets/tried.yaml"


TWICE = [{"interchange_layers": {"pairs": [[1, 2]]}}] * 2
"""What does nothing."""


@pytest.mark.parametrize(
    ("done", "kind"),
    [
        ([{"skip_layers": {"layers": 2}}], "remove_layers"),
        (TWICE, "identical"),
        ([{"average_experts": {}}], "average_experts"),
        ([{"drop_experts": {"count": 4}}], "drop_experts"),
        pytest.param(
            [{"prune_weights": {"sparsity": 0.5}}], "prune_weights", marks=pytest.mark.slow
        ),
        pytest.param(
            [{"quantize_weights": {"bits": 4}}], "quantize_weights", marks=pytest.mark.slow
        ),
        pytest.param(TWICE[:1], "interchange_layers", marks=pytest.mark.slow),
        pytest.param(
            [{"skip_layers": {"layers": 1}}, {"prune_weights": {"sparsity": 0.25}}],
            "prune_weights",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_an_exported_variant_has_the_same_numbers(done: Any, kind: str) -> None:
    assert main(["export", put(done), "--to", "made"]) == 0
    arms = {"file": {"load_checkpoint": {"path": "made"}}, "done": done}
    measured = pytest_layerguard.measure(
        {"model": "reference", "arms": arms, "measure": MEASURE, "criteria": CRITERIA},
        device="cpu",
    )
    file, variant = measured.result.variants
    metrics = {name: each for name, each in file.metrics.items() if name != "size_ratio"}
    assert metrics == {
        k: v for k, v in variant.metrics.items() if k not in ("size_ratio", "swap_kl")
    }
    assert file.samples == variant.samples
    (candidate,) = measured.result.provenance["checkpoints"][0]["candidates"]
    assert kind in {each["kind"] for each in candidate["recognised"]}


def test_its_readme_names_the_bet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put({"one": {"skip_layers": {"layers": {"each": "all"}}}})
    assert main(["export", path, "--to", "made", "--variant", "one.skip-1"]) == 0
    assert "wrote made: one.skip-1 of tried" in capsys.readouterr().out
    readme = (here / "made" / "README.md").read_text()
    assert readme.startswith("# one.skip-1 of tried\n")
    assert "- verdict: not recorded\n" in readme
    assert "- digest of the bet: sha256:" in readme


@pytest.mark.parametrize(
    ("done", "options", "message"),
    [
        (
            {"skip_layers": {"layers": {"each": "all"}}},
            (),
            "the bet has 4 variants, say which: skip-0",
        ),
        ({"skip_layers": {"layers": 1}}, ("--variant", "skip-2"), "'skip-2' is none or several"),
        ({"replace_layers": {"pairs": [[0, 1]]}}, (), "is 2 directed changes and no one model"),
        (
            {"drop_experts": {"count": 2, "layers": [1]}},
            (),
            "its layers have 14 and 16 experts left",
        ),
        ({"quantize_activations": {"bits": 8}}, (), "changes what its layers do while they run"),
        ({"cast": {"dtype": "bfloat16"}}, (), "is a checkpoint already"),
        ({"skip_layers": {"layers": 1}}, ("--to", "bets"), "bets exists and is not overwritten"),
        ({"skip_layers": {"layers": 1}}, ("--id", "other"), "say which with --id: tried"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    done: Any,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert main(["export", put(done), "--to", "made", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {each.name for each in here.iterdir()} == {"bets"}
