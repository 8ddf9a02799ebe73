"""What the model says with and without each variant's intervention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.generation import Choose, drawn, generate, greedy
from pytest_layerguard.measurement.out_of_memory import together
from pytest_layerguard.measurement.results import Continuation
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.tokenization import encode_prompt, end_of_text_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.bet import SampleSpec, SpeakSpec
    from pytest_layerguard.measurement.planning import Arm
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.models.runner import Runner


@dataclass(frozen=True)
class Samples:
    """What base and variants said to the same prompts.

    Attributes:
        base: The base's continuations, one per prompt.
        variants: For each variant, those of its directed plan that says the fewest words.
    """

    base: tuple[Continuation, ...]
    variants: tuple[tuple[Continuation, ...], ...]

    @property
    def fewest(self) -> Interval | None:
        """The base's unique tokens, the fewest over the prompts; None where nothing was asked."""
        return fewest(self.base)


def fewest(said: Sequence[Continuation]) -> Interval | None:
    """Unique tokens, the fewest over the prompts; None where nothing was said."""
    return Interval.point(min(each.unique_tokens for each in said)) if said else None


def sampled(
    runner: Runner, loaded: LoadedModel, arms: Sequence[Arm], spec: SampleSpec | None
) -> Samples:
    """Greedy continuations of exactly ``tokens`` new tokens, end of text masked out."""
    if spec is None:
        return Samples((), tuple(() for _ in arms))
    return _talk(runner, loaded, arms, spec.prompts, spec.tokens, greedy)


def spoken(
    runner: Runner, loaded: LoadedModel, arms: Sequence[Arm], spec: SpeakSpec | None
) -> Samples:
    """The eye test: continuations drawn at a temperature, shown and never judged."""
    if spec is None:
        return Samples((), tuple(() for _ in arms))
    choose = drawn(spec.temperature, spec.seed) if spec.temperature > 0 else greedy
    return _talk(runner, loaded, arms, spec.prompts, spec.tokens, choose)


def _talk(
    runner: Runner,
    loaded: LoadedModel,
    arms: Sequence[Arm],
    prompts: Sequence[str],
    tokens: int,
    choose: Choose,
) -> Samples:
    base = Plan.untouched(len(runner.anatomy))
    plans = list(dict.fromkeys([base, *(plan for arm in arms for plan in arm.plans)]))
    forbidden = end_of_text_ids(loaded.model, loaded.tokenizer)
    encoded = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts]
    spoke = together(
        lambda: generate(runner, plans, encoded, tokens, choose, forbidden),
        len(plans) * len(encoded),
    )
    said = dict(zip(plans, spoke, strict=True))

    def told(plan: Plan) -> tuple[Continuation, ...]:
        return tuple(
            Continuation(prompt, str(loaded.tokenizer.decode(ids)), len(set(ids)), tuple(ids))
            for prompt, ids in zip(prompts, said[plan], strict=True)
        )

    def poorest(plans: Sequence[Plan]) -> tuple[Continuation, ...]:
        return min(
            (told(plan) for plan in plans), key=lambda each: min(s.unique_tokens for s in each)
        )

    return Samples(told(base), tuple(poorest(arm.plans) for arm in arms))
