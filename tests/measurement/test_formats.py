"""Files of each format that a library serves, judged as that library runs them and as this package decodes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hub.tiny import WORDS, save, tokenizer
from support.quantized import MAKERS

import pytest_layerguard

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_served_by_its_own_library(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    modules, make = MAKERS[name]
    for module in modules:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "base", hidden_size=64, intermediate_size=128, num_key_value_heads=2)
    make(tmp_path / "base", tmp_path / "candidate")
    tokenizer().save_pretrained(tmp_path / "candidate")
    letters = random.Random(0).choices(WORDS[3:], k=300)
    (tmp_path / "text.txt").write_text(" ".join(letters), encoding="utf-8")
    capfd.readouterr()

    def judged(form: str) -> dict[str, Any]:
        bet = {
            "measure": {
                "text": {"file": "text.txt"},
                "tokens": 256,
                "window": 32,
                "max_base_perplexity": "none",
            },
            "criteria": {"lenient": "kl <= 1"},
        }
        candidate = {"path": "candidate", "as": form}
        measured = pytest_layerguard.measure(
            bet, model={"path": "base"}, candidate=candidate, device="cpu"
        )
        (about,) = measured.result.provenance["checkpoints"][0]["candidates"]
        found = {key: each.value for key, each in measured.result.variants[0].metrics.items()}
        return found | {"kinds": {each["kind"] for each in about["recognised"]}}

    served, stored = judged("served"), judged("stored")

    # No progress bar of the library.
    assert "%|" not in capfd.readouterr().err
    assert "quantize_weights" in served["kinds"]
    assert stored["kl"] > 0
    if name == "w8a8":
        assert served["kl"] > 1.1 * stored["kl"]
    else:
        assert served["perplexity_ratio"] == pytest.approx(stored["perplexity_ratio"], rel=1e-4)
        assert served["kl"] == pytest.approx(stored["kl"], rel=0.02)
