"""Continue prompts with all variants of a bet together, greedily or by sampling.

All variants go through the slots in step. Variants that run a slot with the same weights are one batch, with a
cache of its own for that slot. The arguments of a block (mask, rotary embedding) come from the model's own
forward pass over a cache without content that has the right length in every slot, also in those that a variant
leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pytest_layerguard.bet.bet import SpeakSpec
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import Advance, counted
from pytest_layerguard.measurement.results import Continuation
from pytest_layerguard.measurement.session import shortage
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import ForwardState, Runner
from pytest_layerguard.models.tokenization import encode_prompt, end_of_text_ids

if TYPE_CHECKING:
    from pytest_layerguard.bet.bet import SampleSpec
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.models.plan import OuterWeights, Weights

Choose = Callable[[Tensor], Tensor]
"""Chooses the next token of each row from fp32 logits ``[R, V]``; returns ids ``[R]``."""


@dataclass(frozen=True)
class _Group:
    """The variants that run one slot with the same weights, and the number of their cache."""

    weights: Weights
    members: tuple[int, ...]
    cache: int


def greedy(logits: Tensor) -> Tensor:
    """Choose the most likely token; of equals the first."""
    return logits.argmax(-1)


def drawn(temperature: float, seed: int) -> Choose:
    """Return a function that draws from the softmax at a temperature, the same in every run.

    Every row is drawn with the same random number, so that the texts of two variants differ only if
    their distributions do.
    """
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        cumulative = (logits.double() / temperature).softmax(-1).cpu().cumsum(-1)
        point = torch.rand((), generator=generator, dtype=torch.float64)
        picked = torch.searchsorted(cumulative, (point * cumulative[:, -1:]), right=True).squeeze(
            -1
        )
        return picked.clamp_(max=logits.shape[-1] - 1)

    return choose


@torch.inference_mode()
def generate(
    runner: Runner,
    plans: Sequence[Plan],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    choose: Choose,
    forbidden: Sequence[int] = (),
    *,
    cached: bool = True,
) -> list[list[list[int]]]:
    """Continue every prompt with every plan by exactly ``tokens`` tokens.

    Args:
        runner: The model.
        plans: The variants, which may include the base.
        prompts: Tokenised prompts, with the special tokens that the tokenizer adds.
        tokens: The number of new tokens per prompt.
        choose: Chooses the next token.
        forbidden: Ids that are never chosen (end of text).
        cached: Whether keys and values are kept; if not, every token recomputes the whole text.

    Returns:
        Lists of new token ids, ``[plan][prompt]``.
    """
    continued: list[list[list[int]]] = [[[] for _ in prompts] for _ in plans]
    usable = cached and _has_plain_cache(runner)
    # Prompts of equal length are one batch; padding shorter ones would change what the model reads.
    for length in sorted({len(prompt) for prompt in prompts}):
        chosen = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        batch = _Batch(
            runner, plans, [prompts[index] for index in chosen], choose, forbidden, cached=usable
        )
        with counted(f"sampling from {many(len(plans), 'model')}", tokens) as advance:
            rows_of_plans = batch.run(tokens, advance)
        for plan, rows in enumerate(rows_of_plans):
            for index, row in zip(chosen, rows, strict=True):
                continued[plan][index] = row
    return continued


def _has_plain_cache(runner: Runner) -> bool:
    """Return whether every slot keeps keys and values; the text is recomputed for recurrent slots."""
    cache = DynamicCache(config=runner.anatomy.model.config.get_text_config(decoder=True))
    kinds = {type(layer).__name__ for layer in cache.layers}
    return kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}


class _Batch:
    """Prompts of equal length, continued by all plans in step. Rows are plan-major."""

    def __init__(
        self,
        runner: Runner,
        plans: Sequence[Plan],
        prompts: Sequence[Sequence[int]],
        choose: Choose,
        forbidden: Sequence[int],
        *,
        cached: bool,
    ) -> None:
        self.runner = runner
        self.plans = plans
        self.prompts = len(prompts)
        self.choose = choose
        self.forbidden = list(forbidden)
        self.cached = cached
        self.text = torch.tensor(list(prompts), dtype=torch.long).repeat(len(plans), 1)
        self.config = runner.anatomy.model.config.get_text_config(decoder=True)
        self.slots = [self._groups(slot) for slot in range(len(runner.anatomy))]
        self.tensors = {
            group.weights: runner.materialise(group.weights)
            for groups in self.slots
            for group in groups
            if group.weights.edits and runner.store is None
        }
        self.shells: dict[OuterWeights, tuple[int, ...]] = {}
        for index, plan in enumerate(plans):
            self.shells[plan.shell] = (*self.shells.get(plan.shell, ()), index)

    def run(self, tokens: int, advance: Advance) -> list[list[list[int]]]:
        """Return lists of new token ids, ``[plan][prompt]``; call ``advance`` for each token."""
        ruler = DynamicCache(config=self.config)
        caches = [
            DynamicCache(config=self.config) for _ in range(max(map(len, self.slots), default=0))
        ]
        start = self.text.shape[1]
        new = self.text
        for _ in range(tokens):
            hidden = self._advance(new, ruler, caches)
            advance(1)
            logits = self._logits(hidden).float()
            logits[:, self.forbidden] = -torch.inf
            picked = self.choose(logits).cpu().unsqueeze(-1)
            self.text = torch.cat([self.text, picked], dim=-1)
            if self.cached:
                new = picked
                self._lengthen(ruler, hidden)
            else:
                new = self.text
        rows = self.text[:, start:].tolist()
        return [
            rows[plan * self.prompts : (plan + 1) * self.prompts] for plan in range(len(self.plans))
        ]

    def _groups(self, slot: int) -> list[_Group]:
        members: dict[Weights, list[int]] = {}
        for index, plan in enumerate(self.plans):
            weights = plan.weights_at(slot)
            if weights is not None:
                members.setdefault(weights, []).append(index)
        return [
            _Group(weights, tuple(found), number)
            for number, (weights, found) in enumerate(members.items())
        ]

    def _rows(self, members: Sequence[int]) -> list[int]:
        return [plan * self.prompts + prompt for plan in members for prompt in range(self.prompts)]

    def _advance(self, new: Tensor, ruler: DynamicCache, caches: Sequence[DynamicCache]) -> Tensor:
        """Run all slots on the tokens ``[R, t]``; return the last layer's states ``[R, t, H]``."""
        past = ruler if self.cached else None
        frames: dict[int, ForwardState] = {}
        hidden: Tensor | None = None
        for shell, members in self.shells.items():
            rows = self._rows(members)
            frame = self.runner.begin(new[rows], past, shell)
            if hidden is None:
                hidden = frame.embeddings.new_empty((len(new), *frame.embeddings.shape[1:]))
            hidden[rows] = frame.embeddings
            frames[len(rows)] = frame
        assert hidden is not None
        for slot, groups in enumerate(self.slots):
            for group in groups:
                rows = self._rows(group.members)
                if len(rows) not in frames:
                    frames[len(rows)] = self.runner.begin(new[rows], past)
                swap: tuple[Any, Any] | None = (ruler, caches[group.cache]) if self.cached else None
                with self.runner.bound(slot, group.weights, self.tensors.get(group.weights)):
                    hidden[rows] = self.runner.step(frames[len(rows)], slot, hidden[rows], swap)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        last = None
        for shell, members in self.shells.items():
            rows = self._rows(members)
            frame = ForwardState(
                torch.zeros((len(rows), 1), dtype=torch.long, device=hidden.device),
                hidden[rows],
                (),
            )
            final = self.runner.finish(frame, hidden[rows][:, -1:], shell)
            logits = self.runner.logits(final[:, 0], shell)
            if last is None:
                last = logits.new_empty((len(hidden), logits.shape[-1]))
            last[rows] = logits
        assert last is not None
        return last

    def _lengthen(self, ruler: DynamicCache, hidden: Tensor) -> None:
        blank = hidden.new_zeros((1, 1, hidden.shape[1], 1))
        for slot in range(len(self.slots)):
            ruler.update(blank, blank, slot)


@dataclass(frozen=True)
class Samples:
    """Continuations of the same prompts by the base and by every variant.

    Attributes:
        base: The base's continuations, one per prompt; empty where there are no prompts.
        variants: For each variant, those of the directed plan with the fewest unique tokens.
    """

    base: tuple[Continuation, ...]
    variants: tuple[tuple[Continuation, ...], ...]

    def unique_tokens(self, variant: int) -> dict[str, Interval]:
        """Return the metrics of unique tokens of a variant, the fewest over the prompts."""
        if not self.base:
            return {}
        return {
            "unique_tokens": fewest_unique(self.variants[variant]),
            "base_unique_tokens": fewest_unique(self.base),
        }


def fewest_unique(continuations: Sequence[Continuation]) -> Interval:
    """Return the fewest unique tokens of any continuation, as a point."""
    return Interval.point(min(each.unique_tokens for each in continuations))


def sample(
    runner: Runner,
    loaded: LoadedModel,
    variants: Sequence[PlannedVariant],
    spec: SampleSpec | SpeakSpec | None,
) -> Samples:
    """Continue every prompt with the base and every variant, by exactly ``spec.tokens`` new tokens.

    Greedy, but for a spec with a temperature above 0. The end of text is never picked. Without a spec there
    are no prompts.

    Raises:
        MeasurementError: If there is not enough memory for all variants and prompts together.
    """
    if spec is None:
        return Samples((), tuple(() for _ in variants))
    choose: Choose = greedy
    if isinstance(spec, SpeakSpec) and spec.temperature > 0:
        choose = drawn(spec.temperature, spec.seed)
    base = Plan.untouched(len(runner.anatomy))
    plans = list(dict.fromkeys([base, *(plan for variant in variants for plan in variant.plans)]))
    forbidden = end_of_text_ids(loaded.model, loaded.tokenizer)
    encoded = [encode_prompt(loaded.tokenizer, prompt) for prompt in spec.prompts]
    tokens = _all_at_once(
        lambda: generate(runner, plans, encoded, spec.tokens, choose, forbidden),
        len(plans) * len(encoded),
    )
    continuations = {
        plan: tuple(
            Continuation(prompt, str(loaded.tokenizer.decode(ids)), len(set(ids)), tuple(ids))
            for prompt, ids in zip(spec.prompts, rows, strict=True)
        )
        for plan, rows in zip(plans, tokens, strict=True)
    }
    return Samples(
        continuations[base],
        tuple(
            min(
                (continuations[plan] for plan in variant.plans),
                key=lambda each: fewest_unique(each).value,
            )
            for variant in variants
        ),
    )


def _all_at_once(work: Callable[[], list[list[list[int]]]], rows: int) -> list[list[list[int]]]:
    """Return what ``work`` returns.

    Raises:
        MeasurementError: If there is no memory for all rows together; fewer windows at a time would not help.
    """
    try:
        return work()
    except Exception as error:
        needed = shortage(error)
        if needed is None:
            raise
    # Not in the handler, so that the tensors of the failed attempt can be freed.
    raise MeasurementError(
        f"out of memory while {rows:,} texts (variants times prompts) were continued together, which "
        f"needed {needed}; take fewer prompts, fewer tokens or fewer variants"
    )
