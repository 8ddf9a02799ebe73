"""Is the measurement sound: the base a language model at all, the head the model's own, the numbers numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pytest_layerguard.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.criteria import Interval
    from pytest_layerguard.bet.model import Measure
    from pytest_layerguard.interventions.plan import Plan
    from pytest_layerguard.lab.results import Spoken
    from pytest_layerguard.lab.runner import Runner
    from pytest_layerguard.lab.windows import Batch

_CHECKED_TOKENS: Final = 64
_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of log-probabilities, in nats, that another batch shape may make in a dtype."""

_FEWEST_UNIQUE_SHARE: Final = 0.05


@torch.inference_mode()
def check_head(runner: Runner, batch: Batch) -> None:
    """Compares the slot-by-slot run with the model's own forward pass on the start of a window.

    A model whose layers stay on disk is not compared: its own forward pass cannot run.

    Raises:
        LabError: If they differ by more than rounding.
    """
    if runner.store is not None:
        return
    ids = batch.input_ids[:1, :_CHECKED_TOKENS].to(runner.device)
    frame = runner.begin(ids)
    hidden = frame.embeddings
    for slot in range(len(runner.anatomy)):
        hidden = runner.step(frame, slot, hidden)
    ours = runner.logits(runner.finish(frame, hidden)[0]).float().log_softmax(-1)
    theirs = runner.anatomy.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    if not ours.isfinite().any() and not theirs.isfinite().any():
        return
    difference = float((ours - theirs).nan_to_num().abs().max())
    allowed = _TOLERANCE.get(runner.anatomy.model.dtype, 1e-3)
    if difference > allowed:
        raise LabError(
            f"{type(runner.anatomy.model).__name__}: run layer by layer, the model differs from its own forward pass "
            f"by {difference:.3g} nats; it cannot be judged layer by layer"
        )


def check_base(
    losses: Tensor,
    perplexity: Interval,
    samples: Sequence[Spoken],
    measure: Measure,
    vocabulary: int,
    bos: str,
) -> None:
    """Refuses a base that is no language model on this text: any ratio to it would mean nothing.

    Args:
        losses: The base's token losses, ``[n]``.
        perplexity: Its perplexity.
        samples: Its greedy samples.
        measure: What the bet says of ``max_base_perplexity``.
        vocabulary: The number of logits.
        bos: How windows start, in words.

    Raises:
        LabError: If the losses are not numbers, the perplexity is above the bound, or a sample has collapsed.
    """
    if not torch.isfinite(losses).all():
        raise LabError(
            "the untouched model's losses are not finite: NaN or infinite logits. Its weights may be damaged, or its "
            "dtype too narrow (try model.dtype: float32)"
        )
    if measure.max_base_perplexity == "none":
        return
    bound = measure.max_base_perplexity or vocabulary / 2
    stated = "measure.max_base_perplexity" if measure.max_base_perplexity else "half its vocabulary"
    if perplexity.value > bound:
        raise LabError(
            f"the base is unsound: the untouched model's perplexity is {perplexity.value:,.4g}, above "
            f"{bound:,.4g} ({stated}). "
            f"Check that text and tokenizer belong to the model and that BOS is right ({bos}); "
            "measure.max_base_perplexity: none allows an untrained model"
        )
    for spoken in samples:
        fewest = math.ceil(_FEWEST_UNIQUE_SHARE * len(spoken.token_ids))
        if len(spoken.token_ids) >= 2 * fewest > 2 and spoken.unique_tokens < fewest:
            raise LabError(
                f"the base is unsound: the untouched model's own sample has collapsed to {spoken.unique_tokens} "
                f"unique tokens in {len(spoken.token_ids)} after {spoken.prompt!r}. Check the prompt, the tokenizer "
                "and BOS; measure.max_base_perplexity: none allows an untrained model"
            )


def overflow(losses: Tensor, plan: Plan, runner: Runner) -> str | None:
    """Says why a variant's losses are not finite, or None where they are.

    With finite weights and a finite base, NaN or infinity can only come from numbers growing past the dtype.

    Raises:
        LabError: If the intervention itself made weights that are not finite.
    """
    if bool(torch.isfinite(losses).all()):
        return None
    for step in plan.steps:
        for name, tensor in runner.materialise(step.weights).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise LabError(
                    f"the intervention left weights that are not finite: layer {step.weights.layer}, {name}"
                )
    return "its activations overflowed after a finite base; perplexity is told as infinite"
