"""What a model says: greedy and sampled continuations of all variants of a bet, together.

All variants of one bet walk through the slots in step. Where several run a slot with the same weights, their
rows are one batch; each such group has a cache of its own, and the cache index belongs to the slot. The
arguments that a block is given (mask, rotary embedding) are taken from the model's own forward pass over a
ruler: a cache that has the right length in every slot, also in those that a variant leaves out, and no content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment.progress_listener import Advance, counted
from pytest_layerguard.models.runner import ForwardState, Runner

if TYPE_CHECKING:
    from pytest_layerguard.models.plan import OuterWeights, Plan, Weights

Choose = Callable[[Tensor], Tensor]
"""Picks the next token of each row from fp32 logits ``[R, V]``; returns ids ``[R]``."""


@dataclass(frozen=True)
class _Group:
    """Variants that run one slot with the same weights: which, and the number of their cache."""

    weights: Weights
    members: tuple[int, ...]
    cache: int


def greedy(logits: Tensor) -> Tensor:
    """Picks the most likely token; of equals the first."""
    return logits.argmax(-1)


def drawn(temperature: float, seed: int) -> Choose:
    """Returns a chooser that draws from the softmax at a temperature, the same draws in every run.

    Every row is drawn with the same random number, so that texts of two variants differ only where
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
def speak(
    runner: Runner,
    plans: Sequence[Plan],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    choose: Choose,
    forbidden: Sequence[int] = (),
    *,
    cached: bool = True,
) -> list[list[list[int]]]:
    """Continues every prompt with every plan by exactly ``tokens`` tokens.

    Args:
        runner: The model.
        plans: The variants, which may include the base.
        prompts: Tokenised prompts, special tokens included where the tokenizer adds them.
        tokens: New tokens per prompt.
        choose: How the next token is picked.
        forbidden: Ids that are never picked (end of text).
        cached: Whether keys and values are kept; without, every token recomputes the whole text.

    Returns:
        ``[plan][prompt]`` lists of new token ids.
    """
    said: list[list[list[int]]] = [[[] for _ in prompts] for _ in plans]
    usable = cached and _has_plain_cache(runner)
    # Prompts of equal length are one batch; padding shorter ones would change what the model is asked.
    for length in sorted({len(prompt) for prompt in prompts}):
        chosen = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        talk = _Talk(
            runner, plans, [prompts[index] for index in chosen], choose, forbidden, cached=usable
        )
        with counted(f"sampling from {many(len(plans), 'model')}", tokens) as advance:
            rows_of_plans = talk.run(tokens, advance)
        for plan, rows in enumerate(rows_of_plans):
            for index, row in zip(chosen, rows, strict=True):
                said[plan][index] = row
    return said


def _has_plain_cache(runner: Runner) -> bool:
    """Whether every slot keeps keys and values; recurrent and hybrid slots are recomputed instead."""
    cache = DynamicCache(config=runner.anatomy.model.config.get_text_config(decoder=True))
    kinds = {type(layer).__name__ for layer in cache.layers}
    return kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}


class _Talk:
    """One batch of prompts of equal length, continued by all plans in step. Rows are plan-major."""

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
        """Returns ``[plan][prompt]`` lists of new token ids; tells of each token."""
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
        said = self.text[:, start:].tolist()
        return [
            said[plan * self.prompts : (plan + 1) * self.prompts] for plan in range(len(self.plans))
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
        """Runs all slots on the tokens ``[R, t]``; returns the last layer's states ``[R, t, H]``."""
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
