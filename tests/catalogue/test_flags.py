"""No option lets a proposal through a closed door; each runs here against a measurer that would say yes."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import hypothesis  # noqa: F401
import pytest
from support.catalogue import BET_40, PROPOSAL

# LoadedModel here once: pytest inside pytest forgets what it imported.
import pytest_layerguard.catalogue.judge
import pytest_layerguard.report.failure
import pytest_layerguard.report.json
import pytest_layerguard.report.terminal  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

MEASURER = """
from support.catalogue import measured


class LocalMeasurer:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        return measured(1.0)


def pytest_layerguard_measurer():
    return LocalMeasurer()
"""
ALONE = [
    ["-k", "drop-one"],
    ["--deselect", "bets/40.yaml::bet-40"],
    ["--ignore", "bets/40.yaml"],
    ["--lf"],
    ["--layerguard-record"],
    ["--layerguard-allow-unpinned"],
    ["--layerguard-allow-remote-code"],
    ["--layerguard-root", "."],
    ["--layerguard-require", "all,records"],
    ["-o", "layerguard_bets=bets other"],
    ["-o", "layerguard_record=true"],
    ["-o", "norecursedirs=bets"],
    ["-p", "no:cacheprovider", "--layerguard-fresh"],
    ["--runxfail", "-W", "ignore", "--continue-on-collection-errors", "--tb=no"],
    ["-k", "drop-one", "--layerguard-record", "--layerguard-allow-unpinned", "--lf", "--ff"],
]


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    pytester.makeini("[pytest]\n")
    pytester.makeconftest(MEASURER)
    folder = pytester.path / "bets"
    folder.mkdir()
    (folder / "40.yaml").write_text(json.dumps(BET_40), encoding="utf-8")
    (folder / "new.yaml").write_text(json.dumps(PROPOSAL), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        *((flags, "proposed") for flags in ALONE),
        (["--lf"], "upheld"),
        (["--layerguard-require", "records"], "upheld"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_no_flag_opens_a_door(
    pytester: pytest.Pytester, folder: Path, flags: list[str], status: str
) -> None:
    (folder / "new.yaml").write_text(json.dumps({**PROPOSAL, "status": status}), encoding="utf-8")
    result = pytester.inline_run("bets/new.yaml", "bets", "--layerguard-json", "seen.json", *flags)
    (seen,) = [
        bet
        for bet in json.loads((pytester.path / "seen.json").read_text(encoding="utf-8"))["bets"]
        if bet["id"] == "drop-one"
    ]
    assert (seen["word"], seen["outcome"], seen["crossed"]) == ("CROSSED", "failed", ["bet-40"])
    assert result.ret == 1
    assert not (folder / "records" / "drop-one.json").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["-o", "layerguard_bets=other"],
        ["--collect-only"],
        ["--setup-only"],
        ["--ignore", "bets"],
        ["-k", "nothing"],
        ["-m", "nothing"],
    ],
    ids=" ".join,
)
def test_a_flag_that_keeps_bets_from_running_lets_none_pass(
    pytester: pytest.Pytester, folder: Path, flags: list[str]
) -> None:
    result = pytester.inline_run("bets", *flags)
    assert result.listoutcomes()[0] == []


@pytest.mark.parametrize(
    ("file", "flags"),
    [
        ("tools/bets/new.yaml", ["--rootdir=tools"]),
        ("bets/deep/bets/new.yaml", ["--rootdir=bets/deep"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_nor_does_one_that_says_where_bets_lie(
    pytester: pytest.Pytester, folder: Path, file: str, flags: list[str]
) -> None:
    (pytester.path / ".git").mkdir()
    assert words_of(pytester, file, flags) == ["CROSSED"]


def test_nor_a_configuration_of_its_own_further_down(
    pytester: pytest.Pytester, folder: Path
) -> None:
    (pytester.path / ".git").mkdir()
    pytester.mkdir("tools").joinpath("pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    assert words_of(pytester, "tools/bets/new.yaml", []) == ["CROSSED"]


def words_of(pytester: pytest.Pytester, file: str, flags: list[str]) -> list[str]:
    """What a run of one proposal says of it."""
    path = pytester.path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**PROPOSAL, "id": "elsewhere"}), encoding="utf-8")
    result = pytester.inline_run(file, "--layerguard-json", "seen.json", *flags)
    assert result.ret == 1
    seen = json.loads((pytester.path / "seen.json").read_text(encoding="utf-8"))
    return [bet["word"] for bet in seen["bets"]]


def test_workers_read_the_catalogue_too(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    result = pytester.runpytest_subprocess("bets/new.yaml", "-n", "1")
    result.stdout.fnmatch_lines(
        ["CROSSED bets/new.yaml::drop-one - closed by bet-40; nothing was measured*"]
    )
    assert result.ret == 1
