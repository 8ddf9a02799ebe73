"""Ask a model and its variants for likelihoods and continuations, with what variants share computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.sweep import Work, sweep
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.texts.windowed_text import context_of
from pytest_layerguard.texts.windows import IGNORED, Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.models.runner import Runner

Pair = tuple["Sequence[int]", "Sequence[int]"]
"""The tokens of a context, and those of a continuation."""


class Likelihood(NamedTuple):
    """The log-likelihood of a continuation, and whether each of its tokens is the most likely one."""

    value: float
    greedy: bool


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """A model and its variants.

    Attributes:
        runner: The model that runs.
        loaded: The base, whose tokenizer and ends of text count.
        variants: The plans beside the untouched model.
        micro_batch: Tokens that go through a block at a time.
    """

    runner: Runner
    loaded: LoadedModel
    variants: tuple[Plan, ...]
    micro_batch: int

    @property
    def base(self) -> Plan:
        """The untouched model."""
        return Plan.untouched(len(self.runner.anatomy))

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The untouched model and its variants, each once."""
        return tuple(dict.fromkeys([self.base, *self.variants]))

    @property
    def context(self) -> int | None:
        """The longest text that the model was made for, in tokens, or None if it states none."""
        return context_of(self.loaded)

    def likelihoods(self, pairs: Sequence[Pair]) -> Mapping[Plan, Sequence[Likelihood]]:
        """Return the likelihood of each continuation after its context, for every plan.

        A context that is too long loses its beginning, as in lm-evaluation-harness. Rows of a micro-batch are padded
        at their ends, which a causal model does not see.

        Raises:
            MeasurementError: If a continuation has no tokens or is longer than the model's context, or the untouched
                model's losses are not finite.
        """
        rows = [self._row(context, continuation) for context, continuation in pairs]
        # The longest first, so that a lack of memory shows at once.
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        batches = [
            _batch([rows[place] for place in places], [len(pairs[place][1]) for place in places])
            for places in _packed(
                order, [len(rows[place]) - 1 for place in order], self.micro_batch
            )
        ]
        plans = self.plans
        vocabulary = int(self.runner.anatomy.model.config.get_text_config(decoder=True).vocab_size)
        work = Work.of(self.runner, vocabulary).total(plans, 1 + len(plans), batches)
        with counted(f"asking {many(len(plans), 'model')}", work) as advance:
            swept = sweep(self.runner, batches, self.base, plans, vocabulary, advance=advance)
        sanity_checks.check_losses(swept.base)
        sizes = [len(pairs[place][1]) for place in order]
        found: dict[Plan, list[Likelihood]] = {}
        for plan, scores in zip(plans, swept.variants, strict=True):
            answers = [Likelihood(0.0, greedy=False)] * len(pairs)
            parts = (torch.split(each, sizes) for each in (scores.losses, scores.correct))
            for place, losses, correct in zip(order, *parts, strict=True):
                answers[place] = Likelihood(-float(losses.double().sum()), bool(correct.all()))
            found[plan] = answers
        return found

    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        done: Callable[[Sequence[int]], bool],
    ) -> Mapping[Plan, Sequence[Sequence[int]]]:
        """Return greedy continuations of each prompt by up to ``tokens`` tokens, for every plan.

        Args:
            prompts: Tokenised prompts.
            tokens: The most new tokens.
            done: Whether a continuation needs no more tokens; it may get some all the same.
        """
        plans = self.plans
        found: dict[Plan, list[Sequence[int]]] = {plan: [[]] * len(prompts) for plan in plans}
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        sizes = [len(prompts[place]) + tokens for place in order]
        for places in _packed(order, sizes, self.micro_batch):
            some = [prompts[place] for place in places]
            rows = generate(self.runner, plans, some, tokens, greedy, done=done)
            for plan, continued in zip(plans, rows, strict=True):
                for place, row in zip(places, continued, strict=True):
                    found[plan][place] = row
        return found

    def _row(self, context: Sequence[int], continuation: Sequence[int]) -> Sequence[int]:
        if not continuation:
            raise MeasurementError(
                "a choice has no tokens of its own after its question: the tokenizer joins it to the question"
            )
        if self.context is not None and len(continuation) > self.context:
            raise MeasurementError(
                f"an answer of {len(continuation):,} tokens does not fit the model's context of {self.context:,}"
            )
        row = [*context, *continuation]
        # Nothing is predicted from the last token.
        return row if self.context is None else row[-(self.context + 1) :]


def _batch(rows: Sequence[Sequence[int]], scored: Sequence[int]) -> Batch:
    """Return rows whose last ``scored`` tokens count, as one micro-batch."""
    length = max(map(len, rows)) - 1
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for place, (row, count) in enumerate(zip(rows, scored, strict=True)):
        size = len(row) - 1
        ids[place, :size] = torch.tensor(row[:-1])
        labels[place, size - count : size] = torch.tensor(row[-count:])
    return Batch(ids, labels, tuple(range(len(rows))))


def _packed(places: Sequence[int], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Return neighbours together as long as their number times the longest fits the room, one at least."""
    packs: list[list[int]] = []
    longest = 0
    for place, size in zip(places, sizes, strict=True):
        longest = max(longest, size)
        if packs and (len(packs[-1]) + 1) * longest <= room:
            packs[-1].append(place)
        else:
            packs.append([place])
            longest = size
    return packs
