"""A planted access token, and every place that a run writes or prints to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_layerguard.environment.secrets import without_secrets

if TYPE_CHECKING:
    from conftest import Trouble

PLANTED = "hf_plantedplantedplantedplanted"
ODD = "a-token-of-some-other-make"


ARGUMENTS = (
    "--layerguard-record",
    "--layerguard-cache=cache",
    "--layerguard-html=out/page.html",
    "--layerguard-markdown=out/page.md",
    "--layerguard-comment=out/comment.json",
    "--junit-xml=out/junit.xml",
    "--showlocals",
    "-rA",
    "-vv",
    "-p",
    "no:cacheprovider",
)


@pytest.mark.parametrize("token", [PLANTED, ODD])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_token_reaches_nobody(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch, token: str, workers: int
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    trouble.bets(a="leaks", b="leaks from a library", c="says it", d="fine")
    code, printed = (
        trouble.run_apart(*ARGUMENTS, f"-n{workers}") if workers else trouble.run(*ARGUMENTS)
    )
    assert code == 1, printed
    assert token not in printed
    assert "***" in printed
    files = [path for path in trouble.path.rglob("*") if path.is_file()]
    assert {"report.json", "page.html", "page.md", "comment.json", "junit.xml"} <= {
        path.name for path in files
    }
    for path in files:
        assert token.encode() not in path.read_bytes(), path


def test_words_that_only_look_a_little_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "the")
    text = "the hf_hub and the api_org of shf_0123456789012345"
    assert without_secrets(text) == text
