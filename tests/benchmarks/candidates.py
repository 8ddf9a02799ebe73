"""Candidates of a published model: numbers against a plain loop, time and memory, together and in turn.

    python tests/benchmarks/candidates.py SMOLLM2 TEXT [--tokens 1024] [--made DIR] [--only NAME ...]

SMOLLM2 holds SmolLM2-135M-Instruct as a GGUF file and, in `smollm2-135m`, as bfloat16 safetensors made of it; TEXT is
the file of stories. From the safetensors are made, once, in DIR: four bits by bitsandbytes (NF4) and by
compressed-tensors (W4A16 in groups of 32), one without layers 13 and 20, and one whose matrices have the smaller
half of their weights set to zero. Each is judged as a candidate, in processes of their own: in memory with its base,
after it, and with layers on disk where the candidate has plain weights; and measured by a loop that loads both as
transformers does. Memory is what is resident beside the imports, mapped pages of files included.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import quantized
from support.resident import resident, status

import pytest_layerguard
from pytest_layerguard.environment import devices, file_digests

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PLAIN = "smollm2-135m"
WINDOW = 256
REMOVED = (13, 20)
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def shallower(source: Path, folder: Path) -> None:
    model = plain_model(source)
    for layer in sorted(REMOVED, reverse=True):
        del model.model.layers[layer]
    model.config.num_hidden_layers = len(model.model.layers)
    model.save_pretrained(folder)


def half_pruned(source: Path, folder: Path) -> None:
    model = plain_model(source)
    for name, module in model.named_modules():
        if name.endswith(MATRICES):
            sizes = module.weight.data.abs().flatten()
            module.weight.data.view(-1)[sizes.argsort()[: len(sizes) // 2]] = 0
    model.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "nf4": quantized.bitsandbytes,
    "w4a16": quantized.w4a16,
    "shallower": shallower,
    "half-pruned": half_pruned,
}
GGUF_BASE = "safetensors-of-gguf"
CASES = (GGUF_BASE, *MAKERS)
SIDES = ("loop", "together", "in turn", "streamed")


def make(models: Path, made: Path) -> None:
    """Write the candidates that are not there yet."""
    for name, maker in MAKERS.items():
        if (made / name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=made) as unfinished:
            folder = Path(unfinished) / name
            maker(models / PLAIN, folder)
            AutoTokenizer.from_pretrained(models / PLAIN).save_pretrained(folder)
            folder.rename(made / name)


def files(case: str, models: Path, made: Path) -> tuple[Path, Path]:
    """Return the base and the candidate."""
    if case == GGUF_BASE:
        return models / GGUF, models / PLAIN
    return models / PLAIN, made / case


def loaded(file: Path) -> Any:
    """Load a model as transformers does, to compute in float32."""
    if file.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
    model = AutoModelForCausalLM.from_pretrained(file, dtype=torch.float32)
    for module in model.modules():
        # bitsandbytes would compute in bfloat16 where a processor can.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        # What is not quantised stays in the dtype of the file beside layers of bitsandbytes, whatever is asked for.
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    return model


def windows(models: Path, text: Path, tokens: int) -> list[torch.Tensor]:
    """Cut the text; this tokenizer adds no BOS, so that a window's first token is not scored."""
    tokenizer = AutoTokenizer.from_pretrained(models / PLAIN)
    content = text.read_text(encoding="utf-8")[: tokens * 12]
    ids = tokenizer(content, add_special_tokens=False)["input_ids"]
    return [torch.tensor([ids[start : start + WINDOW + 1]]) for start in range(0, tokens, WINDOW)]


@torch.inference_mode()
def alone(file: Path, cut: list[torch.Tensor]) -> dict[str, float]:
    """Load one model and score the text with it."""
    model = loaded(file)
    losses = [
        torch.nn.functional.cross_entropy(
            model(input_ids=window[:, :-1], use_cache=False).logits[0], window[0, 1:]
        )
        for window in cut
    ]
    return {
        "perplexity": math.exp(float(torch.stack(losses).mean())),
        "weights": sum(each.nbytes for each in model.parameters()),
    }


@torch.inference_mode()
def looped(base: Path, candidate: Path, cut: list[torch.Tensor]) -> dict[str, float]:
    """Return the perplexity ratio and the KL by a loop over both models."""
    original, other = loaded(base), loaded(candidate)
    difference = divergence = 0.0
    tokens = sum(window.shape[1] - 1 for window in cut)
    for window in cut:
        p, q = (
            model(input_ids=window[:, :-1], use_cache=False).logits[0].double().log_softmax(-1)
            for model in (original, other)
        )
        rows, labels = torch.arange(len(p)), window[0, 1:]
        difference += float((p[rows, labels] - q[rows, labels]).sum())
        divergence += float((p.exp() * (p - q)).sum())
    return {"ratio": math.exp(difference / tokens), "kl": divergence / tokens}


def judged(base: Path, candidate: Path, text: Path, tokens: int, **spec: Any) -> dict[str, Any]:
    """Judge the candidate as a user does in Python."""
    model: dict[str, Any] = {"path": str(base)}
    if base.suffix == ".gguf":
        model = {"gguf": str(base), "sha256": file_digests.of_file(base)[7:]}
    measured = pytest_layerguard.measure(
        {
            "measure": {"text": {"file": str(text)}, "tokens": tokens, "window": WINDOW},
            "criteria": {"lenient": "perplexity_ratio <= 1.1 and kl <= 0.1"},
        },
        model={**model, **spec},
        candidate=candidate,
        device="cpu",
        roots=(base.parent, candidate.parent, text.parent),
    )
    (variant,) = measured.result.variants
    (about,) = measured.result.provenance["checkpoints"][0]["candidates"]
    found = {name: each.value for name, each in variant.metrics.items()}
    return {
        "ratio": found["perplexity_ratio"],
        "kl": found["kl"],
        "size": found["size_ratio"],
        "perplexity": found["perplexity"],
        "base": measured.result.bases[0].metrics["perplexity"].value,
        "verdict": str(measured.verdict),
        "recognised": [each["sentence"] for each in about["recognised"]],
    }


@contextmanager
def anonymous() -> Iterator[list[int]]:
    """Watch the resident memory that belongs to no file; give what it was at first, and at most since then."""
    found, ended = [status("RssAnon")] * 2, threading.Event()

    def watch() -> None:
        # No sample is kept: each would hold the block of memory that Python had to spare when it was taken.
        while not ended.wait(0.005):
            found[1] = max(found[1], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Run one side in this process."""
    base, candidate = files(given.case, given.models, given.made)
    cut = windows(given.models, given.text, given.tokens)
    judge = {
        "together": lambda: judged(base, candidate, given.text, given.tokens),
        "in turn": lambda: judged(base, candidate, given.text, given.tokens),
        "streamed": lambda: judged(base, candidate, given.text, given.tokens, placement="stream"),
        "base": lambda: alone(base, cut),
        "candidate": lambda: alone(candidate, cut),
        "loop": lambda: looped(base, candidate, cut),
    }[given.side]
    found: dict[str, Any] = {}
    free = 0 if given.side == "in turn" else 2**40
    with mock.patch.object(devices, "free_memory", return_value=free), anonymous() as held:
        used = time.process_time()
        found["peak"] = resident(lambda: found.update(judge()))
        found["seconds"] = time.process_time() - used
    before, most = held
    return found | {"anonymous": most - before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--made", type=Path)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=SIDES)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.models, given.text = given.models.resolve(), given.text.resolve()
    if given.side is not None:
        print(json.dumps(measured(given)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = (given.made or Path(scratch)).resolve()
        made.mkdir(exist_ok=True)
        make(given.models, made)
        alone_in_memory = []
        for name in ("base", "candidate"):
            each = side(GGUF_BASE, name, made)
            assert each is not None
            alone_in_memory.append(each)
            print(
                f"{files(GGUF_BASE, given.models, made)[name == 'candidate'].name} alone, in float32: "
                f"{each['seconds']:.1f} s of the processor, perplexity {each['perplexity']:.4f}, "
                f"weights {each['weights'] / 2**20:,.0f} MiB, peak {each['peak'] / 2**20:,.0f} MiB "
                f"({each['anonymous'] / 2**20:,.0f} MiB of no file)",
                flush=True,
            )
        for case in given.only:
            # The safetensors are the larger model of every case: what they take alone is the least of both.
            report(case, given.sides, min(alone_in_memory, key=lambda each: each["peak"]), made)


def side(case: str, name: str, made: Path) -> dict[str, Any] | None:
    """Measure one side in a process of its own."""
    command = [sys.executable, *sys.argv, "--made", str(made), "--case", case, "--side", name]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        print(f"{case}, {name}: {done.stderr.splitlines()[-1]}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(case: str, sides: list[str], larger: dict[str, Any], made: Path) -> None:
    """Print what each side of a case measured."""
    found = {name: each for name in sides if (each := side(case, name, made)) is not None}
    loop = found["loop"]
    print(case)
    for line in next(each["recognised"] for each in found.values() if "recognised" in each):
        print(f"  {line}")
    for name, each in found.items():
        numbers = f"; ratio {each['ratio']:.8f}, KL {each['kl']:.8f}"
        if name != "loop":
            numbers = (
                f"; ratio {each['ratio'] / loop['ratio'] - 1:+.1e} and KL {each['kl'] - loop['kl']:+.1e} "
                f"of the loop's, size {each['size']:.4f}, {each['verdict']}"
            )
        print(
            f"  {name:8} {each['seconds']:6.1f} s of the processor, peak {each['peak'] / 2**20:5,.0f} MiB "
            f"({each['peak'] / larger['peak']:.2f} of the larger model alone, "
            f"{each['peak'] / larger['weights']:.2f} of its weights; "
            f"{each['anonymous'] / 2**20:,.0f} MiB of no file){numbers}",
            flush=True,
        )


if __name__ == "__main__":
    main()
