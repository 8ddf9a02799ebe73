"""A model that generates with transformers' quantised cache, beside quantize_kv_cache on the same text.

    PYTHONPATH=tests python tests/experiments/quantized_cache.py MODEL TEXT

The cache is `QuantizedLayer`, which keeps one position exact, with the scales and the rounding of optimum-quanto
(`pip install optimum-quanto`) for groups of one head. Prints the perplexity of 128 tokens in windows of 64 by both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from optimum.quanto import MaxOptimizer, qint2, qint4
from optimum.quanto.tensor.grouped import ungroup
from support import plain
from support.workshop import carried_out
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import QuantizedLayer

from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.models.tokenization import encode, start_ids
from pytest_layerguard.texts.windows import Contract, batched, cut


class Quanto(QuantizedLayer):
    def _quantize(self, tensor: Tensor, axis: int) -> Tensor:
        kind = {2: qint2, 4: qint4}[self.nbits]
        scale, shift = MaxOptimizer()(tensor, kind, axis, self.q_group_size)
        size = self.q_group_size
        found = torch.ops.quanto.quantize_affine(tensor, self.nbits, axis, size, scale, shift)
        return ungroup(found.float() * scale - shift, axis, tensor.shape)

    def _dequantize(self, tensor: Tensor) -> Tensor:
        return tensor


def main(folder: str, text: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = encode(tokenizer, Path(text).read_text(encoding="utf-8")[:9_999])
    windows = cut(ids, Contract(128, 64, 64, start_ids(tokenizer, "auto")))
    batches = batched(windows, 2)
    runner = Runner(Anatomy.of(model.eval()))
    bench = Workbench(
        runner, batches, model.config.vocab_size, lambda _: windows, lambda _: batches
    )
    base = Plan.untouched(bench.layers)
    for bits in (4, 2):
        losses = []
        for inputs, labels in windows:
            cache = DynamicCache()
            width = model.config.head_dim
            cache.layers = [Quanto(bits, 0, 0, width, 1) for _ in base.steps]
            rows = [
                model(input_ids=token, cache=cache, use_cache=True).logits[0]
                for token in inputs.unsqueeze(0).split(1, 1)
            ]
            scored = labels != -100
            logs = torch.cat(rows)[scored].double().log_softmax(-1)
            losses.append(plain.losses_of(logs, labels[scored]))
        arguments = {"bits": bits, "residual": 1}
        (plan,) = carried_out(bench, ("quantize_kv_cache", arguments))
        (ours,) = sweep(runner, batches, base, [plan], model.config.vocab_size).variants
        theirs = float(torch.cat(losses).mean().exp())
        print(f"{bits} bits: {float(ours.losses.double().mean().exp()):.5f}, cache {theirs:.5f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
