"""Check that a measurement is sound: the runner runs the model, and the base is a language model."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.token_scores import compare
from pytest_layerguard.models.plan import Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import Continuation
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.models.runner import ForwardState, Runner
    from pytest_layerguard.texts.windows import Batch

_CHECKED_TOKENS: Final = 64
_CHECKED_WINDOWS: Final = 8
_MISSED: Final = 1.0
"""Nats per token; a model that needs BOS is worse by more without it, others are even a little better."""

_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""The largest difference of log-probabilities, in nats, that another batch shape makes in a dtype."""

_FEWEST_UNIQUE_SHARE: Final = 0.05


@torch.inference_mode()
def check_head(runner: Runner, batch: Batch) -> None:
    """Run the start of a window slot by slot, twice, with layers interchanged and restored in between.

    The first run must equal the model's own forward pass, and the second must equal the first, bit for bit on a
    CPU. Then doing nothing gives a ratio of exactly 1 and a divergence of exactly 0, and undoing an intervention
    restores the model. A model whose layers stay on disk is not checked: its own forward pass cannot run.

    Raises:
        MeasurementError: If they differ by more than rounding.
    """
    if runner.store is not None:
        return
    ids = batch.input_ids[:1, :_CHECKED_TOKENS].to(runner.device)
    frame = runner.begin(ids)
    before = _slot_by_slot(runner, frame)
    _check_own(runner, ids, before)
    last = len(runner.anatomy) - 1
    for slot, other in ((0, last), (last, 0)):
        # Layers of different structure cannot be interchanged; that is an error only if a bet asks for it.
        with suppress(MeasurementError), runner.bound(slot, Weights(other)):
            runner.step(frame, slot, frame.embeddings)
    after = _slot_by_slot(runner, frame)
    base, (nothing,) = compare(
        (before, runner.logits), [(after, runner.logits)], ids[0].cpu(), _vocabulary(runner)
    )
    worst = float(torch.cat([nothing.kl, (nothing.losses - base).nan_to_num().abs()]).max())
    allowed = 0.0 if runner.device.type == "cpu" else _tolerance(runner)
    if worst > allowed:
        raise MeasurementError(
            f"{type(runner.anatomy.model).__name__}: the untouched model, run twice on the same tokens, differs from "
            f"itself by {worst:.3g} nats; a model that changes what it says, or keeps a state of its own between "
            "runs, cannot be compared with a variant of it"
        )


def _slot_by_slot(runner: Runner, frame: ForwardState) -> Tensor:
    hidden = frame.embeddings
    for slot in range(len(runner.anatomy)):
        hidden = runner.step(frame, slot, hidden)
    return runner.finish(frame, hidden)[0]


def _check_own(runner: Runner, ids: Tensor, final: Tensor) -> None:
    ours = runner.logits(final).float().log_softmax(-1)
    theirs = runner.anatomy.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    if not ours.isfinite().any() and not theirs.isfinite().any():
        return
    difference = float((ours - theirs).nan_to_num().abs().max())
    if difference > _tolerance(runner):
        raise MeasurementError(
            f"{type(runner.anatomy.model).__name__}: run layer by layer, the model differs from its own forward pass "
            f"by {difference:.3g} nats; it cannot be judged layer by layer"
        )


def _tolerance(runner: Runner) -> float:
    return _TOLERANCE.get(runner.anatomy.model.dtype, 1e-3)


def _vocabulary(runner: Runner) -> int:
    return int(runner.anatomy.model.config.get_text_config(decoder=True).vocab_size)


@torch.inference_mode()
def check_start(
    runner: Runner, batch: Batch, bos: int | None, own: int | None, measure: Measure
) -> None:
    """Refuse windows without BOS for a model that needs it, as Gemma does.

    The starts of a few windows are scored with and without the tokenizer's BOS before them, on the same
    tokens. BOS hardly changes the losses of a model that was trained without it.

    Args:
        runner: The model.
        batch: The first windows.
        bos: The token that windows start with, or None.
        own: The tokenizer's BOS, or None if it has none.
        measure: The bet's ``max_base_perplexity`` and preset.

    Raises:
        MeasurementError: If BOS is missing.
    """
    length = min(_CHECKED_TOKENS, batch.input_ids.shape[1])
    if bos is not None or own is None or runner.store is not None or length < 2:
        return
    if measure.preset is not None or measure.max_base_perplexity == "none":
        # How a published contract starts its windows is not up to the bet.
        return
    ids = batch.input_ids[:_CHECKED_WINDOWS, :length].to(runner.device)
    started = torch.cat([torch.full_like(ids[:, :1], own), ids[:, :-1]], dim=1)
    without, having = (
        _mean_loss(runner, inputs, ids[:, 1:], first) for inputs, first in ((ids, 0), (started, 1))
    )
    if without - having > _MISSED:
        raise MeasurementError(
            "the base is unsound: windows start without BOS, and the model needs it. On the start of its first "
            f"windows its perplexity is {math.exp(min(without, 700)):,.4g} without and {math.exp(having):,.4g} with "
            f"token {own} before them. Say measure.bos: always; measure.max_base_perplexity: none measures it as it is"
        )


def _mean_loss(runner: Runner, inputs: Tensor, labels: Tensor, first: int) -> float:
    logits = runner.anatomy.model(input_ids=inputs, use_cache=False).logits.float()
    scored = logits[:, first : first + labels.shape[1]].log_softmax(-1)
    return -float(scored.gather(-1, labels.unsqueeze(-1)).mean())


def check_losses(losses: Tensor) -> None:
    """Refuses a base whose token losses ``[n]`` are not numbers: nothing can be compared with it.

    Raises:
        MeasurementError: If one is NaN or infinite.
    """
    if not torch.isfinite(losses).all():
        raise MeasurementError(
            "the untouched model's losses are not finite: NaN or infinite logits. Its weights may be damaged, or its "
            "dtype too narrow (try model.dtype: float32)"
        )


def check_base(
    losses: Tensor,
    perplexity: Interval,
    samples: Sequence[Continuation],
    measure: Measure,
    vocabulary: int,
    bos: str,
) -> None:
    """Refuse a base that is not a language model of this text: a ratio to it would mean nothing.

    Args:
        losses: The base's token losses, ``[n]``.
        perplexity: Its perplexity.
        samples: Its greedy samples.
        measure: The bet's ``max_base_perplexity``.
        vocabulary: The number of logits.
        bos: A description of how windows start.

    Raises:
        MeasurementError: If the losses are not numbers, the perplexity is above the bound, or a sample has collapsed.
    """
    check_losses(losses)
    if measure.max_base_perplexity == "none":
        return
    bound = measure.max_base_perplexity or vocabulary / 2
    stated = "measure.max_base_perplexity" if measure.max_base_perplexity else "half its vocabulary"
    if perplexity.value > bound:
        raise MeasurementError(
            f"the base is unsound: the untouched model's perplexity is {perplexity.value:,.4g}, above "
            f"{bound:,.4g} ({stated}). "
            f"Check that text and tokenizer belong to the model and that BOS is right ({bos}); "
            "measure.max_base_perplexity: none allows an untrained model"
        )
    for spoken in samples:
        fewest = math.ceil(_FEWEST_UNIQUE_SHARE * len(spoken.token_ids))
        if len(spoken.token_ids) >= 2 * fewest > 2 and spoken.unique_tokens < fewest:
            raise MeasurementError(
                f"the base is unsound: the untouched model's own sample has collapsed to {spoken.unique_tokens} "
                f"unique tokens in {len(spoken.token_ids)} after {spoken.prompt!r}. Check the prompt, the tokenizer "
                "and BOS; measure.max_base_perplexity: none allows an untrained model"
            )


def overflow(losses: Tensor, plan: Plan, runner: Runner) -> str | None:
    """Return why a variant's losses are not finite, or None if they are.

    If weights and base are finite, NaN and infinity come from activations beyond the dtype's range.

    Raises:
        MeasurementError: If the intervention itself made weights that are not finite.
    """
    if bool(torch.isfinite(losses).all()):
        return None
    for step in plan.steps:
        for name, tensor in runner.materialise(step.weights).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise MeasurementError(
                    f"the intervention left weights that are not finite: layer {step.weights.layer}, {name}"
                )
    return "its activations overflowed after a finite base; perplexity is told as infinite"
