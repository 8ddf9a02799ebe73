"""What the model says with and without each variant's intervention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria import Interval
from pytest_layerguard.interventions.plan import Plan
from pytest_layerguard.lab.memory import together
from pytest_layerguard.lab.results import Spoken
from pytest_layerguard.lab.sampling import Choose, drawn, greedy, speak
from pytest_layerguard.lab.tokens import encode_prompt, end_of_text_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.model import SampleSpec, SpeakSpec
    from pytest_layerguard.lab.arms import Arm
    from pytest_layerguard.lab.loading import Loaded
    from pytest_layerguard.lab.runner import Runner


@dataclass(frozen=True)
class Talk:
    """What base and variants said to the same prompts.

    Attributes:
        base: The base's continuations, one per prompt.
        variants: For each variant, those of its directed plan that says the fewest words.
    """

    base: tuple[Spoken, ...]
    variants: tuple[tuple[Spoken, ...], ...]

    @property
    def fewest(self) -> Interval | None:
        """The base's unique tokens, the fewest over the prompts; None where nothing was asked."""
        return fewest(self.base)


def fewest(said: Sequence[Spoken]) -> Interval | None:
    """Unique tokens, the fewest over the prompts; None where nothing was said."""
    return Interval.point(min(each.unique_tokens for each in said)) if said else None


def sampled(runner: Runner, loaded: Loaded, arms: Sequence[Arm], spec: SampleSpec | None) -> Talk:
    """Greedy continuations of exactly ``tokens`` new tokens, end of text masked out."""
    if spec is None:
        return Talk((), tuple(() for _ in arms))
    return _talk(runner, loaded, arms, spec.prompts, spec.tokens, greedy)


def spoken(runner: Runner, loaded: Loaded, arms: Sequence[Arm], spec: SpeakSpec | None) -> Talk:
    """The eye test: continuations drawn at a temperature, shown and never judged."""
    if spec is None:
        return Talk((), tuple(() for _ in arms))
    choose = drawn(spec.temperature, spec.seed) if spec.temperature > 0 else greedy
    return _talk(runner, loaded, arms, spec.prompts, spec.tokens, choose)


def _talk(
    runner: Runner,
    loaded: Loaded,
    arms: Sequence[Arm],
    prompts: Sequence[str],
    tokens: int,
    choose: Choose,
) -> Talk:
    base = Plan.untouched(len(runner.anatomy))
    plans = list(dict.fromkeys([base, *(plan for arm in arms for plan in arm.plans)]))
    forbidden = end_of_text_ids(loaded.model, loaded.tokenizer)
    encoded = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts]
    spoke = together(
        lambda: speak(runner, plans, encoded, tokens, choose, forbidden), len(plans) * len(encoded)
    )
    said = dict(zip(plans, spoke, strict=True))

    def told(plan: Plan) -> tuple[Spoken, ...]:
        return tuple(
            Spoken(prompt, str(loaded.tokenizer.decode(ids)), len(set(ids)), tuple(ids))
            for prompt, ids in zip(prompts, said[plan], strict=True)
        )

    def poorest(plans: Sequence[Plan]) -> tuple[Spoken, ...]:
        return min(
            (told(plan) for plan in plans), key=lambda each: min(s.unique_tokens for s in each)
        )

    return Talk(told(base), tuple(poorest(arm.plans) for arm in arms))
