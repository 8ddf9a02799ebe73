"""Make the pictures of the README: the page, and a pull request that fails.

Run by hand, from the root of a clone, where Chromium, its chromedriver and a font
with emoji are installed::

    pip install -e '.[test]' markdown-it-py
    python docs/pictures/make.py

A proposal to drop a layer is put beside the bets of this repository that it has to do with, and
judged as it would be in a pull request; nothing in the pictures is drawn by hand.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt
from selenium import webdriver

HERE = Path(__file__).parent
BETS = HERE.parent.parent / "bets"
SHOWN = {
    "40-skip-each-layer.yaml": ("bet-40", "bet-40-wide"),
    "48-magnitude-pruning.yaml": ("bet-48", "bet-48-wide"),
}
"""Bet files, and the ids of the bets in them."""
PROPOSAL = """\
id: ship-without-layer-2
title: Ship without layer 2
claim: Layer 2 does little; without it the perplexity grows by no more than 20 %.
status: proposed
model: reference
intervention:
  skip_layers: {layers: 2}
measure: {text: {reference: heldout}, tokens: 8192, window: 128}
criteria:
  lenient: perplexity_ratio <= 1.2
"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


def main() -> None:
    """Judge, render, photograph."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bets = folder / "bets"
        bets.mkdir()
        (bets / "records").mkdir()
        for name, ids in SHOWN.items():
            shutil.copy(BETS / name, bets)
            for each in ids:
                shutil.copy(BETS / "records" / f"{each}.json", bets / "records")
        (bets / "ship-without-layer-2.yaml").write_text(PROPOSAL, encoding="utf-8")
        (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "bets"]
        written = ["--layerguard-html=page.html", "--layerguard-markdown=summary.md"]
        subprocess.run([*command, *written], cwd=folder, check=False)
        words = (folder / "summary.md").read_text(encoding="utf-8")
        summary = folder / "summary.html"
        render = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render
        style = (HERE / "summary.css").read_text(encoding="utf-8")
        head = f'<!doctype html><meta charset="utf-8"><style>{style}</style>'
        summary.write_text(head + render(words), encoding="utf-8")
        photograph(folder / "page.html", HERE / "page.png", 1060, 1400)
        photograph(summary, HERE / "pull-request.png", 980, 1080)


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Save a page as it looks in a window of that size."""
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        program = shutil.which("chromium") or shutil.which("google-chrome")
        options.binary_location = program or ""
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page.as_uri())
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        finally:
            driver.quit()
    picture.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
