"""Token losses of a model and of what interventions make of it, to draw simulated measurements from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.measurement.token_scores import TokenScores
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.models.tokenization import encode, start_ids
from pytest_layerguard.texts.windows import IGNORED, Batch, Contract, batched, cut

Array = NDArray[np.float64]

_WINDOW = 256


def of_variants(
    loaded: PreTrainedModel, windows: Sequence[tuple[Tensor, Tensor]], batches: Sequence[Batch]
) -> tuple[Tensor, Mapping[str, TokenScores]]:
    """Return the base's token losses ``[n]`` and the scores of a few interventions, by name."""
    runner = Runner(Anatomy.of(loaded.eval().requires_grad_(False)))
    vocabulary = int(loaded.config.vocab_size)
    bench = Workbench(runner, batches[:1], vocabulary, lambda _: windows, lambda _: batches)
    base = Plan.untouched(len(runner.anatomy))

    def plan(kind: str, **arguments: object) -> Plan:
        given = BUILTIN_KINDS[kind].model_validate(arguments)
        return Registry.of()[kind].load()(base, given, bench)[0]

    plans = {
        f"skip-{k}": plan("skip_layers", layers=k)
        for k in sorted({0, len(base.steps) // 2, len(base.steps) - 1})
    }
    plans["4 bits"] = plan("quantize_weights", parts="linear", bits=4, scale="row")
    plans["10 % pruned"] = plan("prune_weights", parts="linear", sparsity=0.1, by="magnitude")
    swept = sweep(runner, batches, base, list(plans.values()), vocabulary)
    return swept.base, dict(zip(plans, swept.variants, strict=True))


def of_documents(model: Path, texts: Sequence[str]) -> Mapping[str, Array]:
    """Return the sum over each text of the losses that a variant has more than the base, ``[n]``, by name."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    start = start_ids(tokenizer, "auto")
    found = []
    for number, text in enumerate(texts):
        ids = encode(tokenizer, text)
        contract = Contract(len(ids) - (not start), _WINDOW, _WINDOW, start)
        found += [(number, window) for window in cut(ids, contract)]
    # Only neighbours of one length share a batch.
    found.sort(key=lambda each: len(each[1][0]))
    windows = [window for _, window in found]
    base, variants = of_variants(loaded, windows, batched(windows, 16))
    of_text = np.repeat(
        [number for number, _ in found], [int((labels != IGNORED).sum()) for _, labels in windows]
    )
    return {
        name: np.bincount(of_text, weights=(scores.losses.double() - base.double()).numpy())
        for name, scores in variants.items()
    }
