"""Holds perplexities to lm-evaluation-harness's own, and the 2048-token window to GPTQ's plain computation.

    python tests/experiments/harness.py MODEL... --text test.parquet [--characters N]

Needs `pip install lm_eval` beside this package. Every text is one document. Each model is a folder in the
format of transformers; for the 2048-token window a model with a shorter rotary context is given a longer one,
which changes what it predicts and not how that is computed. Exits with 1 if a figure is off by more than 1e-4
(the harness) or 1e-5 (GPTQ).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult

BET = """\
id: harness
title: Hold to the harness
claim: The last layer can go.
status: proposed
model: {{path: {model!r}}}
intervention: {{skip_layers: {{layers: -1}}}}
measure: {{text: {{file: text.txt}}, preset: {preset}, max_base_perplexity: none}}
criteria: {{lenient: perplexity_ratio <= 3}}
"""

TASK = """\
task: whole_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file!r}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: !function whole.text
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


def ours(model: Path, text: str, preset: str, folder: Path) -> BetResult:
    bets = folder / "bets"
    bets.mkdir(exist_ok=True)
    (bets / "text.txt").write_text(text, encoding="utf-8", newline="")
    (document,) = parse_bets(BET.format(model=str(model), preset=preset), bets / "bet.yaml")
    conditions = Conditions(device="cpu", roots=(model.parent,))
    return LocalMeasurer(conditions, Registry.of()).measure(document, bets=bets)


def harness(model: Path, text: str, folder: Path) -> dict[str, float]:
    """Word, byte and token perplexity by the harness, of the whole text as one document."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (folder / "task").mkdir(exist_ok=True)
    rows = folder / "task" / "text.json"
    rows.write_text(json.dumps({"text": text}), encoding="utf-8")
    (folder / "task" / "whole.py").write_text("def text(doc):\n    return doc['text']\n")
    (folder / "task" / "whole.yaml").write_text(TASK.format(file=str(rows)))
    loaded = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4)
    found = lm_eval.simple_evaluate(
        loaded,
        tasks=["whole_text"],
        task_manager=TaskManager(include_path=str(folder / "task")),
        bootstrap_iters=0,
    )["results"]["whole_text"]
    by_word = found["word_perplexity,none"]
    total = math.log(by_word) * len(re.split(r"\s+", text))
    return {
        "word_perplexity": by_word,
        "byte_perplexity": found["byte_perplexity,none"],
        "perplexity": math.exp(total / len(loaded.tok_encode(text))),
    }


def longer(model: Path, folder: Path) -> Path:
    """The model with a context of 2048 tokens."""
    changed = folder / f"{model.name}-2048"
    shutil.copytree(model, changed)
    config = AutoConfig.from_pretrained(model)
    config.max_position_embeddings = max(2048, config.max_position_embeddings)
    config.save_pretrained(changed)
    return changed


@torch.inference_mode()
def gptq(model: Path, text: str) -> float:
    """The loop of GPTQ's `opt.py`: chunks of 2048, the mean loss of each times its length."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids
    count = ids.shape[1] // 2048
    losses = []
    for index in range(count):
        chunk = ids[:, index * 2048 : (index + 1) * 2048]
        logits = loaded(chunk).logits[:, :-1].contiguous()
        loss = torch.nn.functional.cross_entropy(logits[0], chunk[0, 1:])
        losses.append(loss.float() * 2048)
    return float(torch.exp(torch.stack(losses).sum() / (count * 2048)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--characters", type=int, default=None)
    chosen = parser.parse_args()
    rows = pyarrow.parquet.read_table(chosen.text, columns=["text"])["text"].to_pylist()
    text = "".join(rows)[: chosen.characters]
    wrong = 0
    print(f"{len(text):,} characters of {chosen.text.name}\n")
    print("| model | figure | pytest-layerguard | reference | relative difference |")
    print("|---|---|---|---|---|")
    for model in chosen.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            found = ours(model, text, "lm-eval", folder).bases[0].metrics
            wanted = harness(model, text, folder)
            for name, value in wanted.items():
                wrong += is_off(model, f"{name}, lm-eval", found[name].value, value, 1e-4)
            long = longer(model, folder)
            mine = ours(long, text, "gptq-2048", folder).bases[0].metrics["perplexity"].value
            wrong += is_off(model, "perplexity, gptq-2048", mine, gptq(long, text), 1e-5)
    return 1 if wrong else 0


def is_off(model: Path, figure: str, found: float, wanted: float, allowed: float) -> bool:
    difference = abs(found / wanted - 1)
    print(
        f"| {model.name} | {figure} | {found:.6f} | {wanted:.6f} | {difference:.1e} |", flush=True
    )
    return difference > allowed


if __name__ == "__main__":
    sys.exit(main())
