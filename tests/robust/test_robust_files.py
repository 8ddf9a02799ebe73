"""Bet files of every hostile kind, hundreds of them in one run: no traceback, and the sound one is judged."""

from __future__ import annotations

import os
import random
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Trouble

SOUND = """\
id: sound
title: Skip each layer
claim: fine
status: falsified
model: reference
intervention: {skip_layers: {layers: {each: all}}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: any(perplexity_ratio <= 2)}
closes: {interventions: [remove_layers], models: parameters <= 1}
"""
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "utf16": SOUND.encode("utf-16"),
    "latin1": SOUND.replace("fine", "f\xefne").encode("latin-1"),
    "deep": b"a: " + b"[" * 5_000 + b"]" * 5_000,
    "bomb": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n".encode()
        for n in range(20)
    ),
    "million-keys": b"".join(b"k%d: 1\n" % number for number in range(1_000_000)),
    "python": b"id: !!python/object/apply:os.system ['touch pwned']\n",
    "huge-integer": SOUND.replace("1024", "9" * 5_000).encode(),
    "nan": SOUND.replace("<= 2", "<= .nan").encode(),
    "contradiction": SOUND.replace(
        "{lenient: any(perplexity_ratio <= 2)}",
        "{lenient: any(perplexity_ratio <= 2), catastrophic: any(perplexity_ratio <= 2)}",
    ).encode(),
    "escape": SOUND.replace("fine", '"\\e[2J\\e]0;owned\\a"').encode(),
    "command": SOUND.replace("status: falsified", "status: '::error::owned'").encode(),
    "older-command": SOUND.replace("status: falsified", "status: '##[error]owned'").encode(),
    "direction": SOUND.replace("fine", "f\u202ene").encode(),
    "leaves": SOUND.replace("model: reference", "model: {path: ../../../../etc}").encode(),
}
NAMES = ("with space.yaml", "with\nbreak.yaml", "with\x1b[2Jescape.yaml", "##[error]owned.yaml")


def drawn(seed: int) -> bytes:
    """A sound bet with some of its bytes changed, cut, doubled or swapped."""
    chance = random.Random(seed)
    content = bytearray(SOUND.encode())
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                del content[at : at + chance.randint(1, 40)]
            case 2:
                content[at:at] = content[at : at + chance.randint(1, 40)]
            case _:
                content[at:at] = chance.choice([b"{", b"]", b": ", b"\n- ", b"&a ", b"*a", b"!!x "])
    return bytes(content)


def obeyed(line: str) -> bool:
    """Whether a terminal or a CI runner would obey a line."""
    return bool(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", line)) or bool(
        re.match(r"\s*::\w+", line) or "##[" in line
    )


def test_hundreds_of_malformed_files(trouble: Trouble) -> None:
    folder = trouble.path / "bets"
    (folder / "sound.yaml").write_text(SOUND, encoding="utf-8")
    for name, content in HOSTILE.items():
        (folder / f"{name}.yaml").write_bytes(content)
    for name in NAMES:
        (folder / name).write_text("id: [", encoding="utf-8")
    for seed in range(300):
        (folder / f"drawn-{seed:03}.yaml").write_bytes(drawn(seed))
    code, printed = trouble.run(
        "--continue-on-collection-errors",
        "--color=no",
        "--layerguard-html=out/page.html",
        "--layerguard-markdown=out/page.md",
    )
    assert code == pytest.ExitCode.TESTS_FAILED, printed[-3000:]
    assert trouble.words()["sound"] == "FALSIFIED"
    assert "Traceback" not in printed
    assert "INTERNALERROR" not in printed
    assert not list(trouble.path.rglob("pwned"))
    reported = [line for line in printed.splitlines() if obeyed(line)]
    assert not reported, reported[:5]
    for page in ("page.html", "page.md"):
        text = (trouble.path / "out" / page).read_text(encoding="utf-8")
        assert not any(obeyed(line) for line in text.splitlines()), page


def linked(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
def test_links_and_pipes(trouble: Trouble, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("a secret " * 2_000, encoding="utf-8")
    (outside / "model").mkdir()
    (outside / "model" / "config.json").write_text("{}", encoding="utf-8")
    (trouble.path / "conftest.py").write_text("", encoding="utf-8")
    linked(trouble.path / "models" / "m", outside / "model")
    linked(trouble.path / "bets" / "text.txt", outside / "secret.txt")
    linked(trouble.path / "bets" / "endless.yaml", trouble.path / "bets" / "endless.yaml")
    os.mkfifo(trouble.path / "bets" / "pipe.yaml")
    folder = trouble.path / "bets"
    model = SOUND.replace("model: reference", "model: {path: ../models/m}")
    (folder / "model.yaml").write_text(model.replace("id: sound", "id: model"), encoding="utf-8")
    text = SOUND.replace("{reference: heldout}", "{file: text.txt}")
    (folder / "text.yaml").write_text(text.replace("id: sound", "id: text"), encoding="utf-8")
    code, printed = trouble.run("--continue-on-collection-errors")
    assert code == pytest.ExitCode.TESTS_FAILED, printed
    assert trouble.words() == {"model": "ERROR", "text": "ERROR"}
    assert "a secret" not in printed
    assert printed.count("--layerguard-root") >= 2
    assert "Traceback" not in printed
