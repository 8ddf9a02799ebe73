"""Check that a measurement is sound: the runner runs the model, and the base is a language model."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.failures import failing
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.token_scores import compare
from pytest_layerguard.models.own_code import own_code
from pytest_layerguard.models.plan import Edit, Plan, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import Continuation
    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.models.runner import ForwardState, Runner
    from pytest_layerguard.texts.windows import Batch

_CHECKED_TOKENS: Final = 32
_CAUSAL_TOKENS: Final = 16
_CHECKED_PROMPT: Final = 4
_CHECKED_NEW: Final = 4
_START_TOKENS: Final = 64
_CHECKED_WINDOWS: Final = 8
_MISSED: Final = 1.0
"""Nats per token; a model that needs BOS is worse by more without it, others are even a little better."""

_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""The largest difference of log-probabilities, in nats, that another batch shape makes in a dtype."""

_LOOKS_AHEAD: Final = {torch.float32: 1e-4, torch.bfloat16: 0.015, torch.float16: 0.01}
"""The largest change of a hidden state when the next token changes, over the change of that token's own."""

_FEWEST_UNIQUE_SHARE: Final = 0.05


@torch.inference_mode()
def check_model(runner: Runner, batch: Batch) -> None:
    """Check once that a model can be judged slot by slot.

    - A token must not change what the model predicts before it.
    - Slot by slot the model must give what its own forward pass gives.
    - Two variants that are sampled together must continue a text as each of them does alone.
    - After all this the base must be what it was, bit for bit on a CPU. Then doing nothing gives a ratio of
      exactly 1 and a divergence of exactly 0, and undoing an intervention restores the model.

    Of a model whose layers stay on disk only the first is checked: the others need all of it in memory.

    Raises:
        MeasurementError: If one of these does not hold.
    """
    ids = batch.input_ids[:1, :_CHECKED_TOKENS]
    _check_causal(runner, ids[:, :_CAUSAL_TOKENS])
    if runner.store is not None:
        return
    base = Plan.untouched(len(runner.anatomy))
    frame = runner.begin(ids)
    before = _final(runner, base, frame)
    _check_own(runner, frame.input_ids, before)
    last = len(runner.anatomy) - 1
    for slot, other in ((0, last), (last, 0)):
        # Layers of different structure cannot be interchanged; that is an error only if a bet asks for it.
        with suppress(MeasurementError), failing([base]), runner.bound(slot, Weights(other)):
            runner.step(frame, slot, frame.start)
    _check_samples(runner, ids[0, :_CHECKED_PROMPT].tolist())
    after = _final(runner, base, frame)
    # Two functions, so that the head runs twice as well.
    heads = [partial(runner.logits), partial(runner.logits)]
    base_losses, (nothing,) = compare(
        (before, heads[0]), [(after, heads[1])], ids[0].cpu(), _vocabulary(runner)
    )
    worst = float(torch.cat([nothing.kl, (nothing.losses - base_losses).nan_to_num().abs()]).max())
    if worst > _repeatable(runner):
        raise MeasurementError(
            f"{_name(runner)}: the untouched model, run twice on the same tokens, differs from "
            f"itself by {worst:.3g} nats; a model whose output changes, or that keeps a state of its own between "
            "runs, cannot be compared with a variant of it"
        )


def _final(runner: Runner, plan: Plan, frame: ForwardState) -> Tensor:
    """Run a plan by itself; return the final hidden states of the first row, ``[T, H]``."""
    state = frame.start
    for step in plan.steps:
        with runner.bound(step.slot, step.weights):
            state = runner.step(frame, step.slot, state)
    return runner.finish(frame, state)[0]


@torch.inference_mode()
def predictions(runner: Runner, plan: Plan, ids: Tensor) -> Tensor:
    """Return the log-probabilities ``[T, V]`` of a plan run by itself on tokens ``[1, T]``."""
    final = _final(runner, plan, runner.begin(ids))
    return runner.logits(final).float().log_softmax(-1)


def check_written(runner: Runner, ids: Tensor, wanted: Tensor) -> None:
    """Check that a variant that was written and loaded again predicts what it did, bit for bit on a CPU.

    A layer can do another thing in another place, or among fewer layers, by rules that stand in no weights.

    Args:
        runner: What was loaded.
        ids: Tokens ``[1, T]``.
        wanted: The variant's log-probabilities on them, ``[T, V]``.

    Raises:
        MeasurementError: If it does not.
    """
    given = predictions(runner, Plan.untouched(len(runner.anatomy)), ids)
    # Ids that a model rules out are minus infinity on both sides.
    same = (given == wanted) | (given.isnan() & wanted.isnan())
    missed = float((given - wanted).abs().masked_fill(same, 0.0).max())
    if not missed <= _repeatable(runner):
        raise MeasurementError(
            "its architecture cannot be written: a model of its configuration gives other numbers, since what its "
            "layers compute depends on their place or on how many there are"
        )


@torch.inference_mode()
def check_forward(runner: Runner, batch: Batch) -> None:
    """Check that a candidate is causal, and that slot by slot it gives what its own forward pass gives.

    Of one whose layers stay on disk only the first is checked: the other needs all of it in memory.

    Raises:
        MeasurementError: If one of these does not hold.
    """
    ids = batch.input_ids[:1, :_CHECKED_TOKENS]
    _check_causal(runner, ids[:, :_CAUSAL_TOKENS])
    if runner.store is not None:
        return
    frame = runner.begin(ids)
    final = _final(runner, Plan.untouched(len(runner.anatomy)), frame)
    _check_own(runner, frame.input_ids, final)


def _check_causal(runner: Runner, ids: Tensor) -> None:
    """Refuse a model whose predictions depend on later tokens: it sees the token that it is to predict."""
    last = int(ids[0, -1])
    others = [token for token in ids[0].tolist() if token != last]
    moved = ids.clone()
    moved[0, -1] = others[0] if others else (last + 1) % _vocabulary(runner)
    if ids.shape[1] < 2:
        return
    with runner.any_weights(), failing([Plan.untouched(len(runner.anatomy))]):
        frame = runner.begin(torch.cat([ids, moved]))
        state = frame.start
        for slot in range(len(runner.anatomy)):
            state = runner.step(frame, slot, state)
        final = runner.finish(frame, state).float()
    change = (final[0] - final[1]).abs().mean(-1)
    # The token next to the one that is moved is within reach of any attention that looks ahead.
    if change[-2] > _LOOKS_AHEAD.get(runner.anatomy.model.dtype, 1e-4) * change[-1]:
        raise MeasurementError(
            f"{_name(runner)}: what it predicts depends on later tokens, so it sees the token that it is to predict "
            "and its losses mean nothing. Look for is_causal, is_decoder or use_bidirectional_attention in "
            "config.json; models that are not causal cannot be measured"
        )


def _check_own(runner: Runner, ids: Tensor, final: Tensor) -> None:
    ours = runner.logits(final).float().log_softmax(-1)
    theirs = _own_predictions(runner, ids)
    if not ours.isfinite().any() and not theirs.isfinite().any():
        return
    difference = float((ours - theirs).nan_to_num().abs().max())
    if difference > _tolerance(runner):
        raise MeasurementError(
            f"{_name(runner)}: run layer by layer, the model differs from its own forward pass "
            f"by {difference:.3g} nats; it cannot be judged layer by layer"
        )


@own_code()
def _own_predictions(runner: Runner, ids: Tensor) -> Tensor:
    """Return the log-probabilities ``[T, V]`` of the model's own forward pass."""
    logits: Tensor = runner.anatomy.model(input_ids=ids, use_cache=False).logits
    return logits[0].float().log_softmax(-1)


def _check_samples(runner: Runner, prompt: list[int]) -> None:
    """Sample the base and a variant together, and check that each chooses the tokens that it chooses alone."""
    layers = len(runner.anatomy)
    base = Plan.untouched(layers)
    # Weights of its own in every slot, so that the two are separate batches; and a text of its own.
    same = Edit(("the same weights",), lambda tensors, _: tensors)
    variant = base.edited(dict.fromkeys(range(layers), same)).without(frozenset([layers - 1]))
    texts = generate(runner, [base, variant], [prompt], _CHECKED_NEW, greedy)
    for plan, (text,) in zip((base, variant), texts, strict=True):
        ids = torch.tensor([[*prompt, *text[:-1]]], device=runner.device)
        if plan is base:
            predicted = _own_predictions(runner, ids)
        else:
            predicted = (
                runner.logits(_final(runner, plan, runner.begin(ids))).float().log_softmax(-1)
            )
        rows = predicted[len(prompt) - 1 :]
        chosen = rows.gather(-1, torch.tensor(text, device=rows.device).unsqueeze(-1)).squeeze(-1)
        missed = float((rows.amax(-1) - chosen).nan_to_num().max())
        if missed > _tolerance(runner):
            raise MeasurementError(
                f"{_name(runner)}: variants that are sampled together do not continue a text as they do alone: a "
                f"token is {missed:.3g} nats less likely than the most likely one; it cannot be sampled here"
            )


def _name(runner: Runner) -> str:
    return type(runner.anatomy.model).__name__


def _repeatable(runner: Runner) -> float:
    """Return by how many nats the same weights may differ from themselves at one shape: by nothing on a CPU."""
    return 0.0 if runner.device.type == "cpu" else _tolerance(runner)


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
    length = min(_START_TOKENS, batch.input_ids.shape[1])
    if bos is not None or own is None or runner.store is not None or length < 2:
        return
    if measure.preset is not None or measure.max_base_perplexity == "none":
        # A bet cannot change how a published contract starts its windows.
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


@own_code()
def _mean_loss(runner: Runner, inputs: Tensor, labels: Tensor, first: int) -> float:
    logits = runner.anatomy.model(input_ids=inputs, use_cache=False).logits.float()
    scored = logits[:, first : first + labels.shape[1]].log_softmax(-1)
    return -float(scored.gather(-1, labels.unsqueeze(-1)).mean())


def check_losses(losses: Tensor) -> None:
    """Refuse a base whose token losses ``[n]`` are not numbers: nothing can be compared with it.

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
    for sampled in samples:
        fewest = math.ceil(_FEWEST_UNIQUE_SHARE * len(sampled.token_ids))
        if len(sampled.token_ids) >= 2 * fewest > 2 and sampled.unique_tokens < fewest:
            raise MeasurementError(
                f"the base is unsound: the untouched model's own sample has collapsed to {sampled.unique_tokens} "
                f"unique tokens in {len(sampled.token_ids)} after {sampled.prompt!r}. Check the prompt, the tokenizer "
                "and BOS; measure.max_base_perplexity: none allows an untrained model"
            )


def check_weights(plan: Plan, runner: Runner, whose: str) -> None:
    """Refuse a plan whose losses are not finite because weights of its layers are not.

    Args:
        plan: A plan with losses that are NaN or infinite.
        runner: The model.
        whose: What left the weights so, for the message.

    Raises:
        MeasurementError: If a weight is NaN or infinite; names it.
    """
    for step in plan.steps:
        for name, tensor in runner.materialise(step.weights).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise MeasurementError(
                    f"{whose} weights that are not finite: layer {step.weights.layer}, {name}"
                )


def overflow(scores: Sequence[TokenScores]) -> str | None:
    """Return why losses of a variant's directed changes are not finite, or None if they are.

    Weights and base are finite, so NaN and infinity come from activations beyond the dtype's range.
    """
    if all(map(is_finite, scores)):
        return None
    return "its activations overflowed after a finite base; perplexity is reported as infinite"


def is_finite(scores: TokenScores) -> bool:
    """Return whether all losses are numbers."""
    return bool(torch.isfinite(scores.losses).all())
