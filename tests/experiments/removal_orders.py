"""Computes the scores and the order of removed layers by plain loops over deep copies, for every score.

Run from the root of a checkout; without arguments on the embedded reference model, whose figures stand in
``tests/interventions/test_layers.py``. On another model and text:

    PYTHONPATH=tests python tests/experiments/removal_orders.py models/stories260k \\
        models/data/tinystories/validation.txt --tokens 4096 --window 256

On stories260k: block influence 0.116811611 for layer 2, and the order 2, 3, 1, 4, 0, as ShortGPT's own code has them;
swap-KL takes 2, 4, 0 with spacing 2. SLEB's own code takes 2, 1, 3. So does the loop on 8,192 tokens and more; on
4,096 the second and third are within 4 % of each other and it takes 2, 3, 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from support import plain
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_layerguard import reference
from pytest_layerguard.texts.windows import Contract, cut

Scores = dict[int, float]


def order(scores: Callable[[list[int]], Scores], count: int, spacing: int) -> list[int]:
    """Return the layers that go, each the lowest of those left."""
    gone: list[int] = []
    for _ in range(count):
        found = scores(gone)
        left = [i for i in found if all(abs(i - other) >= spacing for other in gone)]
        if left:
            gone.append(min(left, key=lambda layer: found[layer]))
    return gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=reference.folder("reference"))
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--window", type=int, default=128)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    model = AutoModelForCausalLM.from_pretrained(chosen.model).float().eval().requires_grad_(False)
    text = chosen.text or reference.HELDOUT
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
    starts = tokenizer.encode("") == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token_id if starts else None
    windows = cut(ids, Contract(chosen.tokens, chosen.window, chosen.window, bos))
    base, labels = plain.log_probabilities(model, windows)
    layers = range(len(plain.layers_of(model)))
    print("base", float(plain.losses_of(base, labels).mean().exp()))

    def kl(changed: object) -> float:
        return plain.divergence(base, plain.log_probabilities(changed, windows)[0])  # type: ignore[arg-type]

    def perplexity(gone: Sequence[int]) -> float:
        return float(plain.losses(plain.skipped(model, gone), windows).mean().exp())

    pairs = [*combinations(layers, 2)]
    interchange = {(i, j): kl(plain.exchanged(model, i, j)) for i, j in pairs}
    replacement = {
        (i, j): max(kl(plain.replaced(model, i, j)), kl(plain.replaced(model, j, i)))
        for i, j in pairs
    }
    fixed: dict[str, Scores] = {
        name: {i: min(d for pair, d in found.items() if i in pair) for i in layers}
        for name, found in (("interchange", interchange), ("replacement", replacement))
    }
    fixed["block_influence"] = dict(enumerate(plain.influence(model, windows)))
    fixed["angular_distance"] = dict(enumerate(plain.angular_distance(model, windows)))
    fixed["perplexity"] = {i: perplexity([i]) for i in layers}
    fixed["kl"] = {i: kl(plain.skipped(model, [i])) for i in layers}
    for name, scores in fixed.items():
        spacing = 2 if name in ("interchange", "replacement") else 1
        went = order(lambda _, scores=scores: scores, len(layers), spacing)  # type: ignore[misc]
        print(name, went, [round(each, 9) for each in scores.values()])
    inner = layers[1:-1]
    print(
        "SLEB, the first and last layer protected",
        order(
            lambda gone: {i: perplexity([*gone, i]) for i in inner if i not in gone}, len(inner), 1
        ),
    )
    block = plain.angular_distance(model, windows, 2)
    print("two in one block by angular_distance", [round(each, 9) for each in block])


if __name__ == "__main__":
    main()
