"""Bet 40 from the start of the process to its end, against lm-evaluation-harness doing the same.

    python tests/benchmarks/end_to_end.py --models DIR [--harness PYTHON] [--rounds 3]

`DIR` holds a model folder named by `--model`; `PYTHON` is an interpreter that has `lm_eval` (default: this one).
Each layer is skipped in turn, on the same text, in windows of the same length. Three ways, by turns:

- `pytest` on one bet with `--layerguard-fresh`; it also samples 100 tokens from every variant, and computes KL,
  agreement and intervals, which the others do not;
- `lm_eval` run once for the base and once for every variant, each a saved copy with the layer taken out;
- one process that loads the model once and calls `lm_eval.simple_evaluate` for the base and every variant.

Prints the seconds of each, by the clock and of the processor, which a busy machine does not stretch; the ratios of
medians; and the perplexities, which must agree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

BET = """\
id: bet-40
title: Skip each layer
claim: At least one layer can be skipped at no more than 3x the perplexity.
status: proposed
model: {{path: {model}}}
intervention: {{skip_layers: {{layers: {{each: all}}}}}}
measure:
  text: {{file: ../text.txt, sha256: {digest}}}
  tokens: {tokens}
  window: {window}
  bos: never
  max_base_perplexity: none
  sample: {{prompts: ["Once upon a time"], tokens: 100}}
criteria:
  strict: any(perplexity_ratio <= 1.5)
  lenient: any(perplexity_ratio <= 3)
  catastrophic: all(perplexity_ratio >= 10)
"""

TASK = """\
task: heldout
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
metadata: {{version: 1}}
"""

LOOP = """\
import json, sys
import torch
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

model, window, include, written = sys.argv[1:]
lm = HFLM(pretrained=model, device="cpu", dtype="float32", max_length=int(window), batch_size=16)
tasks = TaskManager(include_path=include)
lm.model.config.use_cache = False  # it is indexed by the layers that the model had
layers = lm.model.model.layers
found = []
for left_out in [None, *range(len(layers))]:
    kept = [layer for index, layer in enumerate(layers) if index != left_out]
    lm.model.model.layers = torch.nn.ModuleList(kept)
    done = lm_eval.simple_evaluate(model=lm, tasks=["heldout"], task_manager=tasks, bootstrap_iters=0)
    found.append(done["results"]["heldout"]["word_perplexity,none"])
json.dump(found, open(written, "w"))
"""

COPY = """\
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, left_out, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source)
layers = model.model.layers
model.model.layers = torch.nn.ModuleList(l for i, l in enumerate(layers) if i != int(left_out))
model.config.num_hidden_layers = len(model.model.layers)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(source).save_pretrained(target)
"""


class Took(NamedTuple):
    """Seconds."""

    clock: float
    processor: float


def now() -> Took:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(time.perf_counter(), used.ru_utime + used.ru_stime)


def run(command: list[str], folder: Path, *, may_fail: bool = False) -> Took:
    """Run a command and return how long it took, from its start to its end."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    started = now()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **quiet, "HF_HOME": str(folder / "hf")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    ended = now()
    if done.returncode not in ((0, 1) if may_fail else (0,)):
        sys.exit(f"{command}: {done.returncode}\n{done.stdout.decode()[-4000:]}")
    return Took(ended.clock - started.clock, ended.processor - started.processor)


def prepare(folder: Path, model: Path, tokens: int, window: int) -> int:
    """Write the bet, the text and the task; return the number of words of the text."""
    from tokenizers import Tokenizer

    from pytest_layerguard.reference import HELDOUT

    whole = HELDOUT.read_text(encoding="utf-8")
    encoding = Tokenizer.from_file(str(model / "tokenizer.json")).encode(
        whole, add_special_tokens=False
    )
    end = encoding.offsets[min(tokens, len(encoding.ids) - 1)][1]
    text = whole[:end]
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    (folder / "text.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "tasks").mkdir()
    task = TASK.format(file=folder / "text.jsonl")
    (folder / "tasks" / "heldout.yaml").write_text(task, encoding="utf-8")
    (folder / "bets").mkdir()
    bet = BET.format(
        model=model, digest=sha256(text.encode()).hexdigest(), tokens=tokens, window=window
    )
    (folder / "bets" / "40.yaml").write_text(bet, encoding="utf-8")
    return len(text.split())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", default="stories260k")
    parser.add_argument("--harness", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=128)
    args = parser.parse_args()
    model = (args.models / args.model).resolve()
    layers = json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        words = prepare(folder, model, args.tokens, args.window)
        for layer in range(layers):
            run([sys.executable, "-c", COPY, str(model), str(layer), f"copy-{layer}"], folder)

        def ours() -> Took:
            command = [sys.executable, "-m", "pytest", "bets", "--layerguard-fresh", "-q"]
            options = [f"--layerguard-root={model.parent}", "--layerguard-device=cpu"]
            return run([*command, *options, "--layerguard-json=ours.json"], folder, may_fail=True)

        def each() -> Took:
            copies = [str(model), *(str(folder / f"copy-{layer}") for layer in range(layers))]
            command = [args.harness, "-m", "lm_eval", "--model", "hf", "--tasks", "heldout"]
            options = ["--include_path", "tasks", "--device", "cpu", "--batch_size", "16"]
            how = f"dtype=float32,max_length={args.window}"
            runs = [
                run([*command, *options, "--model_args", f"pretrained={copy},{how}"], folder)
                for copy in copies
            ]
            return Took(*map(sum, zip(*runs, strict=True)))

        def loop() -> Took:
            rest = [str(model), str(args.window), "tasks", "loop.json"]
            return run([args.harness, "-c", LOOP, *rest], folder)

        ways: dict[str, Callable[[], Took]] = {
            "pytest bets": ours,
            "lm_eval once per variant": each,
            "one process looping lm_eval": loop,
        }
        took: dict[str, list[Took]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                took[name].append(way())
                print(f"{name}: {took[name][-1]}", file=sys.stderr, flush=True)
        report(took)
        compare(folder, words, args.tokens)


def report(took: dict[str, list[Took]]) -> None:
    for at, clock in enumerate(Took._fields):
        medians = {
            name: statistics.median(each[at] for each in times) for name, times in took.items()
        }
        ours = medians["pytest bets"]
        for name, times in took.items():
            listed = ", ".join(f"{each[at]:.1f}" for each in times)
            ratio = medians[name] / ours
            print(
                f"{clock:9}  {name:28} median {medians[name]:7.1f} s  x {ratio:5.2f}   [{listed}]"
            )


def compare(folder: Path, words: int, tokens: int) -> None:
    """Print both sides' perplexities; the harness also scores the first token, after BOS."""
    (bet,) = json.loads((folder / "ours.json").read_text(encoding="utf-8"))["bets"]
    ours = [bet["base"]["perplexity"]]
    ours += [variant["metrics"]["perplexity"]["value"] for variant in bet["variants"]]
    theirs = json.loads((folder / "loop.json").read_text(encoding="utf-8"))
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        per_token = math.exp(math.log(other) * words / (tokens + 1))
        name = "base" if place == 0 else f"skip-{place - 1}"
        print(f"{name:8} perplexity {one:10.4f} ours, {per_token:10.4f} the harness")


if __name__ == "__main__":
    main()
