"""A headless Chromium; without one these tests are skipped, and say so."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest
from support import tales
from support.hostile import HOSTILE
from support.hostile_bet import hostile

from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.report import html
from pytest_layerguard.report.bet_report import UnreadableFile

from .chromium import Chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    with tempfile.TemporaryDirectory() as profile:
        browser = Chromium(program, driver, profile)
        try:
            yield browser
        finally:
            browser.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a bet of every kind, and one for each way to be hostile."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    kinds = [*tales.every().values(), tales.steep(), tales.by_branch(), tales.candidate()]
    kinds.append(tales.questions())
    kinds.append(tales.judged(tales.ARMS, tales.arms(), verdict_before=Verdict.STRICT))
    bets = [*kinds, *(hostile(words) for words in HOSTILE.values())]
    refused = [UnreadableFile.of("bets/a.yaml", words) for words in HOSTILE.values()]
    links = html.FileLinks(tales.ROOT, path, None)
    page = html.render(bets, refused, links, "2026-01-02 03:04 UTC")
    path.write_text(page, encoding="utf-8", errors="replace")
    return path
