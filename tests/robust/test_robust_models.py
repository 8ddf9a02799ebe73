"""Models that are damaged, hostile or odd, each through `pytest bets/`: one clear message, and the others go on."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import tiny
from safetensors.torch import load_file, save_file
from support import families
from transformers import PreTrainedModel

BET = """\
id: {name}
title: Skip a layer
claim: It can go.
status: proposed
model: {{path: ../models/{name}}}
intervention: {does}
measure: {{text: {{file: ../text.txt}}, tokens: 48, window: 6, max_base_perplexity: none}}
criteria: {{lenient: any(perplexity_ratio <= 1e6)}}
"""
SKIP = "{skip_layers: {layers: {each: all}}}"
Spoil = Callable[[Path], object]


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return spoil


def config(**changed: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return spoil


def another(model: Callable[[], PreTrainedModel], words: int = len(tiny.WORDS)) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        model().save_pretrained(folder)
        more = tuple(f"w{number}" for number in range(words - len(tiny.WORDS)))
        tiny.tokenizer((*tiny.WORDS, *more)).save_pretrained(folder)

    return spoil


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def flip(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[3] ^= 0x40
    file.write_bytes(content)


def pickles(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "run",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def code(folder: Path) -> None:
    config(model_type="evil", auto_map={"AutoConfig": "evil.Evil"})(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'run')!r}, 'w')\n")


def fill(key: str, value: float) -> Spoil:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key].view(-1)[0] = value

    return weights(change)


def overflow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"].fill_(3e38)
    tensors["lm_head.weight"].fill_(3e38)


def drop(key: str) -> Spoil:
    return weights(lambda tensors: tensors.pop(key))


def without_experts(folder: Path) -> None:
    another(lambda: families.model("mixtral"), families.VOCABULARY)(folder)
    config(num_local_experts=0)(folder)


NORM = "model.layers.1.input_layernorm.weight"
CASES: dict[str, tuple[Spoil, str, str, str]] = {
    "good": (lambda folder: None, SKIP, "", ""),
    "tied": (another(lambda: tiny.model(tie_word_embeddings=True)), SKIP, "", ""),
    "one-layer": (another(lambda: tiny.model(num_hidden_layers=1)), SKIP, "", ""),
    "truncated": (cut, SKIP, "ERROR", "model.safetensors"),
    "flipped": (flip, SKIP, "ERROR", "model.safetensors"),
    "pickled": (pickles, SKIP, "ERROR", "safetensors"),
    "code": (code, SKIP, "ERROR", "--layerguard-allow-remote-code"),
    "nan": (fill(NORM, float("nan")), SKIP, "ERROR", NORM),
    "inf": (fill(NORM, float("inf")), SKIP, "ERROR", NORM),
    "nan-logits": (weights(overflow), SKIP, "ERROR", "not finite"),
    "tokenizer": (
        lambda folder: tiny.tokenizer((*tiny.WORDS, *"ABCDEFGH")).save_pretrained(folder),
        SKIP,
        "ERROR",
        "tokenizer",
    ),
    "missing-norm": (drop(NORM), SKIP, "ERROR", NORM),
    "no-experts": (
        without_experts,
        SKIP,
        "ERROR",
        "model ",
    ),
    "out-of-range": (lambda folder: None, "{skip_layers: {layers: 2}}", "ERROR", "2"),
    "unlike": (
        another(lambda: families.model("qwen2_moe-mixed"), families.VOCABULARY),
        "{interchange_layers: {pairs: [[0, 1]]}}",
        "ERROR",
        "layer",
    ),
    "no-experts-to-average": (lambda folder: None, "{average_experts: {}}", "ERROR", "expert"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; copy it before changing it."""
    return tiny.save(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("name", CASES)
def test_each_gets_one_message_and_the_next_bet_is_measured(
    pytester: pytest.Pytester, whole: Path, name: str
) -> None:
    root = pytester.path
    (root / "bets").mkdir()
    (root / "pytest.ini").write_text("[pytest]\n")
    (root / "text.txt").write_text(" ".join("the quick brown fox jumps over a dog" * 20))
    spoil, does, word, words = CASES[name]
    for each, how in ((name, does), ("zebra", SKIP)):
        shutil.copytree(whole, root / "models" / each)
        (root / "bets" / f"{each}.yaml").write_text(BET.format(name=each, does=how))
    spoil(root / "models" / name)
    ran = pytester.runpytest("bets", "--layerguard-json=report.json", "--layerguard-device=cpu")
    printed = "\n".join([*ran.outlines, *ran.errlines])
    reported = json.loads((root / "report.json").read_text(encoding="utf-8"))["bets"]
    outcomes = {each["id"]: (each["outcome"], each["word"]) for each in reported}
    assert outcomes.pop("zebra")[0] == "passed", printed
    assert "Traceback" not in printed
    assert not list(root.rglob("run"))
    if not word:
        assert outcomes[name][0] == "passed", printed
        assert ran.ret == pytest.ExitCode.OK
        return
    assert outcomes[name][1] == word, printed
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    message = printed.split(f"{name} (Skip a layer), proposed: ERROR")[1]
    message = re.split("____|====", message)[0]
    body = message.partition("claim:")[2].partition("\n")[2].strip()
    assert words in body
    assert len(body.splitlines()) <= 4, body
