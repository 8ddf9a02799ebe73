"""Every example of the documentation is run, or is compared with what it is an example of."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.markdown import Block, blocks

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.cli.main import main

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_plugin"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/guides/*.md", "docs/why/*.md", "docs/reference/*.md")
    for page in ROOT.glob(pattern)
)
RUN = {"sh", "python"}
MARKS = {"", "file", "edit", "says", "example", "not run", "ci", "fragment"}
IN_THE_REPOSITORY = {"CONTRIBUTING.md"}
"""Pages whose commands are given in a clone."""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_is_what_it_says(page: Path) -> None:
    for block in blocks(page):
        assert block.mark in MARKS, block.place
        assert block.language, f"{block.place}: a block without a language"
        if block.mark == "not run":
            assert block.reported, f"{block.place}: says not why it is not run"
        if block.language == "yaml" and block.text.startswith("id:"):
            parse_bets(block.text, page)
        elif block.language in ("yaml", "json", "toml"):
            _parse(block)
        if block.mark == "example":
            assert block.text == (EXAMPLE / block.reported).read_text(encoding="utf-8"), block.place


def _parse(block: Block) -> None:
    read = {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}[block.language]
    read(block.text)


WITH_COMMANDS = pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language in RUN and not b.mark for b in blocks(page))],
    ids=named,
)


@WITH_COMMANDS
@pytest.mark.usefixtures("measured")
def test_every_command_does_what_its_page_says(
    page: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.syspath_prepend(EXAMPLE)
    _follow(page, pytester.path, lambda block: _run_here(block, pytester))


@pytest.mark.slow
@WITH_COMMANDS
def test_every_command_does_it_in_a_shell(page: Path, tmp_path: Path) -> None:
    _follow(page, tmp_path, lambda block: _run_in_a_shell(block, tmp_path))


def _follow(page: Path, folder: Path, run: Callable[[Block], tuple[bool, str]]) -> None:
    """Do in a folder what a page says; a block whose comment says that it fails must fail."""
    if page.name in IN_THE_REPOSITORY:
        _clone(folder)
    said = ""
    for block in blocks(page):
        if block.mark == "file":
            path = folder / block.reported
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.mark == "edit":
            _edit(folder / block.reported, block)
        elif block.mark == "says":
            _compare(block, said)
        elif block.language in RUN and not block.mark:
            succeeded, said = run(block)
            fails = block.text.rstrip().endswith("# fails")
            assert succeeded is not fails, f"{block.place}:\n{said}"


def _run_here(block: Block, pytester: pytest.Pytester) -> tuple[bool, str]:
    """Run a block in this process, where everything is imported already."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
            return True, out.getvalue()
        succeeded = True
        for line in block.text.replace("\\\n", "").splitlines():
            for command in line.split("&&"):
                succeeded = succeeded and _called(shlex.split(command, comments=True), pytester)
    return succeeded, out.getvalue()


def _called(command: list[str], pytester: pytest.Pytester) -> bool:
    match command:
        case ["pytest", *words]:
            return pytester.runpytest_inprocess(*words).ret == 0
        case ["python", "-m", "pytest_layerguard", *words]:
            return main(words) == 0
        case _:
            return subprocess.run(command, cwd=pytester.path, check=False).returncode == 0


def _run_in_a_shell(block: Block, folder: Path) -> tuple[bool, str]:
    commands = {
        "sh": ["bash", "-euo", "pipefail", "-c", block.text],
        "python": [sys.executable, "-c", block.text],
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    package = os.pathsep.join(filter(None, [str(EXAMPLE), os.environ.get("PYTHONPATH", "")]))
    quiet = {
        "PYTHONPATH": package,
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "GITHUB_ACTIONS": "",
    }
    ran = subprocess.run(
        commands[block.language],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **quiet, "PATH": path},
        check=False,
    )
    return ran.returncode == 0, ran.stdout + ran.stderr


def _edit(path: Path, block: Block) -> None:
    text = path.read_text(encoding="utf-8")
    old = "".join(row[1:] for row in block.text.splitlines(True) if row.startswith(("-", " ")))
    new = "".join(row[1:] for row in block.text.splitlines(True) if row.startswith(("+", " ")))
    assert old in text, f"{block.place}: {path.name} has no such lines"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _compare(block: Block, said: str) -> None:
    """Every line of the block stands in what was said; runs of blanks are one, `...` is anything."""
    flat = [" ".join(line.split()) for line in said.splitlines()]
    for line in block.text.splitlines():
        wanted = " ".join(line.split())
        pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("..."))
        assert any(re.search(pattern, each) for each in flat), f"{block.place}: {line!r}\n{said}"


def _clone(folder: Path) -> None:
    """A clone as far as bets go: the bet folder, under version control."""
    shutil.copytree(ROOT / "bets", folder / "bets", ignore=shutil.ignore_patterns("SUMMARY.md"))
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "The bets")):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    for key, value in (("user.name", "A"), ("user.email", "a@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)


def test_ci_runs_the_checks_that_contributing_names() -> None:
    checks, nightly = (
        block for block in blocks(ROOT / "CONTRIBUTING.md") if block.mark == "not run"
    )
    workflow = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    assert f"- run: {nightly.text}" in workflow
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in checks.text.splitlines():
        assert f"{command}\n" in script or command in readme, command
