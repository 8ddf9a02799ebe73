"""Continue prompts with all variants of a bet, greedily or by sampling.

If the blocks of a model depend on nothing but hidden states and positions, all variants go through the slots in
step. Variants that run a slot with the same weights are one batch, with a cache of its own for that slot. Texts that
went through the same steps and are equal so far are one row of it. The arguments of a block (mask, rotary embedding)
come from the model's own forward pass over a cache without content that has the right length in every slot, also in
those that a variant leaves out.

Otherwise each variant runs by itself, over the whole text for every token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pytest_layerguard.bet.bet import SpeakSpec
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import Advance, counted
from pytest_layerguard.measurement.failures import failing
from pytest_layerguard.measurement.metrics.free_text import FreeText
from pytest_layerguard.measurement.results import Continuation
from pytest_layerguard.models.own_code import own_code, shortage
from pytest_layerguard.models.plan import Plan, turns
from pytest_layerguard.models.runner import ForwardState, LayerState, Runner
from pytest_layerguard.models.tokenization import encode_chat, encode_prompt, end_of_text_ids
from pytest_layerguard.texts.windowed_text import context_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pytest_layerguard.bet.bet import GenerateSpec, SampleSpec
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.models.plan import OuterWeights, Weights

Choose = Callable[[Tensor], Tensor]
"""Chooses the next token of each row from fp32 logits ``[R, V]``; returns ids ``[R]``."""


_GROWING_ROPE: Final = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the length of the text, keys in a cache included."""


@dataclass
class _Group:
    """The variants that run one slot with the same weights.

    Attributes:
        weights: The weights.
        cache: The number of their cache.
        members: The variants.
        rows: Their rows.
        paths: For each row the steps that led here, this one included, as a number.
        distinct: The rows that differ from those before them; the cache holds these.
        places: For each row its place in ``distinct``.
    """

    weights: Weights
    cache: int
    members: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def tell_apart(self, texts: Sequence[int]) -> list[int]:
        """Find the rows that differ.

        Args:
            texts: A number for the text of each row of the batch.

        Returns:
            For each distinct row its place before, if there were any.
        """
        before = self.places or [0] * len(self.rows)
        keys = [(path, texts[row]) for path, row in zip(self.paths, self.rows, strict=True)]
        first: dict[tuple[int, int], int] = {}
        for at, key in enumerate(keys):
            first.setdefault(key, at)
        place = {key: number for number, key in enumerate(first)}
        self.places = [place[key] for key in keys]
        self.distinct = [self.rows[at] for at in first.values()]
        return [before[at] for at in first.values()]


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
    done: Callable[[Sequence[int]], bool] = lambda row: False,
) -> list[list[list[int]]]:
    """Continue every prompt with every plan by exactly ``tokens`` tokens, or until all of equal length are done.

    Args:
        runner: The model.
        plans: The variants, which may include the base.
        prompts: Tokenised prompts, with the special tokens that the tokenizer adds.
        tokens: The number of new tokens per prompt.
        choose: Chooses the next token.
        forbidden: Ids that are never chosen (end of text).
        cached: Whether to keep keys and values if the model allows it.
        done: Whether a continuation needs no more tokens.

    Returns:
        Lists of new token ids, ``[plan][prompt]``.

    Raises:
        PlanError: If the model cannot run a plan.
    """
    continued: list[list[list[int]]] = [[[] for _ in prompts] for _ in plans]
    cached = cached and runner.independent and _has_plain_cache(runner)
    # Prompts of equal length are one batch; padding shorter ones would change what the model reads.
    for length in sorted({len(prompt) for prompt in prompts}):
        chosen = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        batch = _Batch(runner, plans, [prompts[index] for index in chosen], choose, forbidden)
        with counted(f"sampling from {many(len(plans), 'model')}", tokens) as advance:
            rows_of_plans = batch.run(tokens, advance, done, cached=cached)
        for plan, rows in enumerate(rows_of_plans):
            for index, row in zip(chosen, rows, strict=True):
                continued[plan][index] = row
    return continued


def _has_plain_cache(runner: Runner) -> bool:
    """Return whether the model's cache keeps keys and values of every slot, and gives what the whole text gives."""
    token = torch.ones((1, 2), dtype=torch.long, device=runner.device)
    try:
        with runner.any_weights(), runner.head(), own_code():
            output = runner.anatomy.model(input_ids=token, use_cache=True)
    except MeasurementError:
        return False
    cache = next((output[name] for name in ("cache", "past_key_values") if name in output), None)
    config = runner.anatomy.model.config.get_text_config(decoder=True)
    rope = str(getattr(config, "rope_parameters", None))
    return (
        type(cache) is DynamicCache
        and {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}
        and not any(f"'{kind}'" in rope for kind in _GROWING_ROPE)
    )


class _Batch:
    """Prompts of equal length, continued by all plans in step. Rows are plan-major."""

    def __init__(
        self,
        runner: Runner,
        plans: Sequence[Plan],
        prompts: Sequence[Sequence[int]],
        choose: Choose,
        forbidden: Sequence[int],
    ) -> None:
        self.runner = runner
        self.plans = plans
        self.prompts = len(prompts)
        self.choose = choose
        self.forbidden = list(forbidden)
        self.indices: dict[tuple[int, ...], Tensor] = {}
        self.text = torch.tensor(list(prompts), dtype=torch.long).repeat(len(plans), 1)
        self.texts = [0] * len(self.text)
        self.shells: dict[OuterWeights, list[int]] = {}
        for index, plan in enumerate(plans):
            self.shells.setdefault(plan.shell, []).append(index)
        self.caches = 0
        self.turns = self._turns()
        self.tensors: dict[Weights, dict[str, Tensor]] = {}
        for group in (group for _, groups in self.turns for group in groups):
            if group.weights.edits and runner.store is None:
                with self._failing(group.members):
                    self.tensors[group.weights] = runner.materialise(group.weights)

    def run(
        self,
        tokens: int,
        advance: Advance,
        done: Callable[[Sequence[int]], bool],
        *,
        cached: bool,
    ) -> list[list[list[int]]]:
        """Return lists of new token ids, ``[plan][prompt]``; call ``advance`` for each token."""
        # Caches that keep everything: whether a slot looks back less far is the mask's business.
        blank = DynamicCache()
        caches = [DynamicCache() for _ in range(self.caches)]
        start = self.text.shape[1]
        new = self.text
        for _ in range(tokens):
            logits = (self._together(new, blank, caches) if cached else self._apart()).float()
            advance(1)
            logits.index_fill_(1, self._index(self.forbidden), -torch.inf)
            new = self.choose(logits).cpu().unsqueeze(-1)
            self.text = torch.cat([self.text, new], dim=-1)
            if all(map(done, self.text[:, start:].tolist())):
                break
        rows = self.text[:, start:].tolist()
        return [
            rows[plan * self.prompts : (plan + 1) * self.prompts] for plan in range(len(self.plans))
        ]

    def _turns(self) -> list[tuple[int, list[_Group]]]:
        """Return each turn of each slot, in order, with those who run it.

        What runs a slot again keeps other keys and values than before.
        """
        found: list[tuple[int, list[_Group]]] = []
        paths = {
            plan: number for number, plans in enumerate(self.shells.values()) for plan in plans
        }
        known: dict[tuple[int, int, Weights], int] = {}
        caches: Counter[int] = Counter()
        for slot, turn in turns(self.plans, len(self.runner.anatomy)):
            groups: dict[Weights, _Group] = {}
            for index, plan in enumerate(self.plans):
                weights = plan.weights_at(slot, turn)
                if weights is None:
                    continue
                step = (paths[index], slot, weights)
                paths[index] = known.setdefault(step, len(self.shells) + len(known))
                if weights not in groups:
                    groups[weights] = _Group(weights, caches[slot])
                    caches[slot] += 1
                groups[weights].members.append(index)
                groups[weights].rows += self._rows([index])
                groups[weights].paths += [paths[index]] * self.prompts
            found.append((slot, [*groups.values()]))
        self.caches = max(caches.values(), default=0)
        return found

    def _tell_apart(self, new: Tensor, caches: Sequence[DynamicCache]) -> None:
        """Give rows whose texts differ from the new tokens ``[R, t]`` on keys and values of their own."""
        known: dict[tuple[int, ...], int] = {}
        self.texts = [
            known.setdefault((text, *ids), len(known))
            for text, ids in zip(self.texts, new.tolist(), strict=True)
        ]
        for slot, groups in self.turns:
            for group in groups:
                count = len(group.distinct)
                sources = group.tell_apart(self.texts)
                # A block without attention keeps nothing.
                for layer in caches[group.cache].layers[slot : slot + 1]:
                    if 0 < count < len(sources):
                        assert isinstance(layer, DynamicLayer)
                        layer.batch_select_indices(self._index(sources))

    def _rows(self, members: Sequence[int]) -> list[int]:
        return [plan * self.prompts + prompt for plan in members for prompt in range(self.prompts)]

    def _index(self, places: Sequence[int]) -> Tensor:
        """Return places as a tensor on the device, made once: the device is waited for when it is copied there."""
        key = tuple(places)
        if key not in self.indices:
            self.indices[key] = torch.tensor(key, dtype=torch.long, device=self.runner.device)
        return self.indices[key]

    def _failing(self, members: Sequence[int]) -> AbstractContextManager[None]:
        return failing([self.plans[index] for index in members])

    def _apart(self) -> Tensor:
        """Run each plan by itself on the whole text; return the last position's logits ``[R, V]``."""
        logits: list[Tensor] = []
        for index, plan in enumerate(self.plans):
            with self._failing([index]):
                frame = self.runner.begin(self.text[self._rows([index])], shell=plan.shell)
                state = frame.start
                for step in plan.steps:
                    tensors = self.tensors.get(step.weights)
                    with self.runner.bound(step.slot, step.weights, tensors):
                        state = self.runner.step(frame, step.slot, state)
                final = self.runner.finish(frame, state, plan.shell)
                logits.append(self.runner.logits(final[:, -1], plan.shell))
        return torch.cat(logits)

    def _together(self, new: Tensor, blank: DynamicCache, caches: Sequence[DynamicCache]) -> Tensor:
        """Run all plans on the new tokens ``[R, t]``; return the last position's logits ``[R, V]``."""
        self._tell_apart(new, caches)
        hidden = self._hidden(new, blank, caches)
        length = hidden.new_zeros((1, 1, hidden.shape[1], 1))
        for slot in range(len(self.runner.anatomy)):
            blank.update(length, length, slot)
        last: Tensor | None = None
        for shell, members in self.shells.items():
            rows = self._index(self._rows(members))
            token = torch.zeros((len(rows), 1), dtype=torch.long, device=hidden.device)
            ended = hidden[:, -1:].index_select(0, rows)
            frame = ForwardState(token, LayerState(ended), (), {})
            with self._failing(members):
                final = self.runner.finish(frame, frame.start, shell)
                logits = self.runner.logits(final[:, 0], shell)
            if last is None:
                last = logits.new_empty((len(hidden), logits.shape[-1]))
            last.index_copy_(0, rows, logits)
        assert last is not None
        return last

    def _hidden(self, new: Tensor, blank: DynamicCache, caches: Sequence[DynamicCache]) -> Tensor:
        """Run all slots on the new tokens ``[R, t]``; return the last layer's states ``[R, t, H]``."""
        # The arguments of a slot depend on positions alone, so those of as many rows are the same.
        frames: dict[int, ForwardState] = {}
        hidden: Tensor | None = None
        new = new.to(self.runner.device)
        for shell, members in self.shells.items():
            rows = self._index(self._rows(members))
            with self._failing(members):
                frame = self.runner.begin(new.index_select(0, rows), blank, shell)
            embeddings = frame.start.hidden
            if hidden is None:
                hidden = embeddings.new_empty((len(new), *embeddings.shape[1:]))
            hidden.index_copy_(0, rows, embeddings)
            frames[len(rows)] = frame
        assert hidden is not None
        for slot, groups in self.turns:
            for group in groups:
                rows = self._index(group.distinct)
                with self._failing(group.members):
                    if len(rows) not in frames:
                        frames[len(rows)] = self.runner.begin(new.index_select(0, rows), blank)
                    swap = (blank, caches[group.cache])
                    state = LayerState(hidden.index_select(0, rows))
                    with self.runner.bound(slot, group.weights, self.tensors.get(group.weights)):
                        after = self.runner.step(frames[len(rows)], slot, state, swap)
                all_of_them = after.hidden.index_select(0, self._index(group.places))
                hidden.index_copy_(0, self._index(group.rows), all_of_them)
        return hidden


@dataclass(frozen=True)
class Samples:
    """Continuations of the same prompts by the base and by every variant.

    Attributes:
        base: The base's continuations, one per prompt; empty where there are no prompts.
        variants: For each variant, those of the directed plan with the fewest unique tokens.
    """

    base: tuple[Continuation, ...]
    variants: tuple[tuple[Continuation, ...], ...]

    @classmethod
    def of(
        cls,
        spoken: Mapping[Plan, tuple[Continuation, ...]],
        base: Plan,
        variants: Sequence[PlannedVariant],
    ) -> Samples:
        """Pick those of a bet's base and variants from the continuations of plans."""
        prompts = len(spoken[base])
        return cls(
            spoken[base],
            tuple(
                min(
                    (spoken[plan] for plan in variant.plans),
                    key=lambda each: fewest_unique(each).value if prompts else 0,
                )
                for variant in variants
            ),
        )

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
    runner: Runner, loaded: LoadedModel, plans: Sequence[Plan], spec: SampleSpec | SpeakSpec | None
) -> dict[Plan, tuple[Continuation, ...]]:
    """Continue every prompt with the untouched model and every plan, by exactly ``spec.tokens`` new tokens.

    Greedy, but for a spec with a temperature above 0. The end of text is never picked.

    Args:
        runner: The model that runs.
        loaded: The base, whose tokenizer and ends of text count.
        plans: The plans beside the untouched model.
        spec: The prompts; without a spec there are none.

    Returns:
        The continuations of each plan, the untouched model among them.

    Raises:
        MeasurementError: If a text would be longer than the model's context, or there is not enough memory for
            all plans and prompts together.
        PlanError: If the model cannot run a plan.
    """
    plans = list(dict.fromkeys([Plan.untouched(len(runner.anatomy)), *plans]))
    if spec is None:
        return dict.fromkeys(plans, ())
    choose: Choose = greedy
    if isinstance(spec, SpeakSpec) and spec.temperature > 0:
        choose = drawn(spec.temperature, spec.seed)
    forbidden = end_of_text_ids(loaded.model, loaded.tokenizer)
    encoded = [encode_prompt(loaded.tokenizer, prompt) for prompt in spec.prompts]
    _check_context(loaded, max(map(len, encoded)), spec.tokens)
    tokens = _all_at_once(
        lambda: generate(runner, plans, encoded, spec.tokens, choose, forbidden),
        len(plans) * len(encoded),
    )
    return {
        plan: tuple(
            Continuation(prompt, str(loaded.tokenizer.decode(ids)), len(set(ids)), tuple(ids))
            for prompt, ids in zip(spec.prompts, rows, strict=True)
        )
        for plan, rows in zip(plans, tokens, strict=True)
    }


def _check_context(loaded: LoadedModel, prompt: int, tokens: int) -> None:
    context = context_of(loaded)
    # Nothing is predicted from the last token.
    if context is not None and prompt + tokens - 1 > context:
        raise MeasurementError(
            f"a prompt of {prompt} tokens and {tokens} new ones do not fit the model's context of {context} tokens; "
            f"allowed: up to {max(0, context + 1 - prompt)} new tokens after this prompt"
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


def run_free(
    runner: Runner, loaded: LoadedModel, plans: Sequence[Plan], spec: GenerateSpec | None
) -> dict[Plan, tuple[FreeText, ...]]:
    """Continue every prompt greedily until the end of text or ``spec.tokens``; see :func:`sample`.

    Raises:
        MeasurementError: If the tokenizer has no chat template that is asked for, a text may grow longer than the
            model's context, or there is not enough memory for all plans and prompts together.
        PlanError: If the model cannot run a plan.
    """
    plans = list(dict.fromkeys([Plan.untouched(len(runner.anatomy)), *plans]))
    if spec is None:
        return dict.fromkeys(plans, ())
    encode = encode_chat if spec.chat else encode_prompt
    encoded = [encode(loaded.tokenizer, prompt) for prompt in spec.prompts]
    _check_context(loaded, max(map(len, encoded)), spec.tokens)
    # Rows do not depend on each other, so what comes after an end of text changes nothing before it.
    tokens = _all_at_once(
        lambda: generate(runner, plans, encoded, spec.tokens, greedy), len(plans) * len(encoded)
    )
    ends = frozenset(end_of_text_ids(loaded.model, loaded.tokenizer))
    return {
        plan: tuple(FreeText.of(ids, ends) for ids in rows)
        for plan, rows in zip(plans, tokens, strict=True)
    }
