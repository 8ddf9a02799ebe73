"""Judge real compressed checkpoints by pytest, and compare each with a plain loop over both models.

    python tests/experiments/candidates.py MODELS TEXT [NAME ...]

MODELS is a folder with `stories260k` and `compressed`, TEXT the file of stories. Each file is judged by
`pytest --layerguard-root` as a candidate of its base, as served and as stored, and measured once more, as served, by a
loop that loads both models as transformers and peft do. The loop takes as many windows at a time as a CPU does in
a bet, because LLM.int8 chooses its outliers over the batch. A table goes to stdout.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_layerguard.measurement.session import MICRO_BATCH

PADDED = {
    "ct-w4a16-g32",
    "ct-gptq-w4a16-g32",
    "ct-nvfp4a16",
    "ao-intx4-g32",
    "gptq-4-g32",
    "autoround-w4-g32",
    "autoround-w4-g32-gptq-format",
    "fp8-block",
}
"""Those whose base has its feed-forward width padded with zeros."""
PUBLISHED = {
    "ct-w8a8": 4.3121, "ct-w4a16-chan": 5.0071, "ct-fp8-dynamic": 4.3546, "ct-w4a16-g32": 4.8086,
    "ct-gptq-w4a16-g32": 4.6169, "ct-nvfp4a16": 4.8383, "ao-int8wo": 4.3166, "ao-fp8wo": 4.3434,
    "ao-intx4-g32": 4.8102, "bnb-8bit": 4.3047, "bnb-nf4": 4.7686, "bnb-nf4-double": 4.7534,
    "gptq-4-g32": 4.5451, "autoround-w4-g32": 4.6778, "autoround-w4-g32-gptq-format": 4.6816,
    "fp8-block": 4.3405, "gguf/stories260k-F32.gguf": 4.30996, "gguf/stories260k-F16.gguf": 4.3097,
    "gguf/stories260k-Q8_0.gguf": 4.3133, "gguf/stories260k-Q4_0.gguf": 4.8505, "peft-lora": 4.3106,
    "depth-4": 8.7697, "plain-bfloat16": 4.3122, "sharded": 4.3100, "quanto-own-int8": math.nan,
}  # fmt: skip
"""Perplexities that the files' makers' libraries gave, in the note that came with them."""
TOKENS, WINDOW = 4096, 256
AT_A_TIME = MICRO_BATCH["cpu"] // WINDOW


def main(models: Path, text: Path, names: list[str]) -> None:
    """Print the table."""
    cases = [(name, form) for name in names or PUBLISHED for form in ("served", "stored")]
    entries, output = judged(models, text, cases)
    print(
        "file | as | dtype | perplexity | published | ratio | of a loop | KL | of a loop | size | outcome"
    )
    print("|".join(["---"] * 11))
    for case in cases:
        row(models, text, case, entries[slug(*case)], output)


def row(
    models: Path, text: Path, case: tuple[str, str], entry: dict[str, Any], output: str
) -> None:
    """Print a line of the table."""
    name, form = case
    if not entry["variants"]:
        why = re.search(rf"compressed/{name}': (.*)", output)
        print(
            f"{name} | {form} | | | {PUBLISHED[name]} | | | | | | {entry['word']}: {why and why[1]}",
            flush=True,
        )
        return
    found = {key: each["value"] for key, each in entry["variants"][0]["metrics"].items()}
    dtype = "bfloat16" if entry["candidates"][0]["floor"] else "float32"
    ratio = divergence = ""
    if form == "served":
        plain = looped(based(models, name), models / "compressed" / name, text, dtype)
        ratio, divergence = (f"{each:.8f}" for each in plain)
    print(
        f"{name} | {form} | {dtype} | {found['perplexity']:.5f} | {PUBLISHED[name]} | "
        f"{found['perplexity_ratio']:.8f} | {ratio} | {found['kl']:.8f} | {divergence} | "
        f"{found['size_ratio']:.4f} | {entry['word']}",
        flush=True,
    )


def slug(name: str, form: str) -> str:
    """Return the id of a bet."""
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{form}".lower())


def based(models: Path, name: str) -> Path:
    """Return the base of a file."""
    padded = name in PADDED or "gguf" in name
    return models / ("compressed/base-padded-192" if padded else "stories260k")


def judged(
    models: Path, text: Path, cases: list[tuple[str, str]]
) -> tuple[dict[str, dict[str, Any]], str]:
    """Run pytest on a bet about each file; return the entries of the JSON report, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        (tree / "bets").mkdir()
        for name, form in cases:
            file = models / "compressed" / name
            named = {"adapter" if (file / "adapter_config.json").exists() else "path": str(file)}
            if file.suffix == ".gguf":
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                named = {"gguf": str(file), "sha256": digest}
            bet = {
                "id": slug(name, form),
                "title": "A candidate",
                "claim": "It is measured.",
                "status": "proposed",
                "model": {"path": str(based(models, name))},
                "intervention": {"load_checkpoint": {**named, "as": form}},
                "measure": {"text": {"file": str(text)}, "tokens": TOKENS, "window": WINDOW},
                "criteria": {"lenient": "perplexity_ratio <= 1e9"},
            }
            (tree / "bets" / f"{slug(name, form)}.yaml").write_text(yaml.safe_dump(bet))
        command = [sys.executable, "-m", "pytest", "bets", "-rs", "--layerguard-json=report.json"]
        command += [f"--layerguard-root={root}" for root in (models, text.parent)]
        ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        bets = json.loads((tree / "report.json").read_text())["bets"]
    return {each["id"]: each for each in bets}, ran.stdout


def looped(base: Path, file: Path, text: Path, dtype: str) -> tuple[float, float]:
    """Return perplexity ratio and KL by a plain loop over two models that transformers loads."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text.read_text(encoding="utf-8")[:60_000], add_special_tokens=False)[
        "input_ids"
    ]
    as_served: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if file.suffix == ".gguf":
        candidate = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, **as_served
        )
    elif (file / "adapter_config.json").exists():
        from peft import PeftModel

        candidate = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, **as_served), str(file)
        )
    else:
        candidate = AutoModelForCausalLM.from_pretrained(file, **as_served)
    for module in candidate.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    difference = divergence = 0.0
    with torch.inference_mode():
        windows = [
            [tokenizer.bos_token_id, *ids[start : start + WINDOW]]
            for start in range(0, TOKENS, WINDOW)
        ]
        for batch in torch.tensor(windows).split(AT_A_TIME):
            p, q = (
                model(input_ids=batch[:, :-1], use_cache=False).logits.double().log_softmax(-1)
                for model in (original, candidate)
            )
            labels = batch[:, 1:, None]
            difference += float((p.gather(-1, labels) - q.gather(-1, labels)).sum())
            divergence += float((p.exp() * (p - q)).sum())
    return math.exp(difference / TOKENS), divergence / TOKENS


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:])
