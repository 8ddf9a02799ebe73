"""The metrics, in one table for criteria, documentation and reports."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pytest_layerguard.bet.criteria.interval import Interval

Needs = Literal[
    "nothing",
    "sample",
    "pairs",
    "protocols",
    "weights",
    "criterion",
    "generate",
    "tasks",
    "registered",
]


@dataclass(frozen=True)
class Metric:
    """A metric that a criterion may name.

    ``needs`` names what a bet must hold for the metric to be measured. ``low`` and ``high`` are the bounds by
    its definition. ``whole`` means that it is a count, ``spans_arms`` that a pair of arms has one value, ``of_tasks``
    that a task may have one of its own.
    """

    name: str
    unit: str
    meaning: str
    needs: Needs = "nothing"
    low: float = float("-inf")
    high: float = float("inf")
    whole: bool = False
    spans_arms: bool = False
    of_tasks: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnMetric(Metric):
    """A metric of another package. It is measured for the bets whose criteria name it.

    ``implementation`` is ``"package.module:function"``, so that naming a metric imports nothing heavy;
    the function takes a :class:`~pytest_layerguard.extending.ScoredTokens` and returns an interval. If an
    intervention is measured in two directions, the worse value counts: the greater one, unless
    ``larger_is_worse`` is false.
    """

    implementation: str
    larger_is_worse: bool = True

    def load(self) -> Callable[[Any], Interval]:
        """Import and return the function that measures the metric."""
        module, _, function = self.implementation.partition(":")
        loaded: Callable[[Any], Interval] = getattr(import_module(module), function)
        return loaded


_TABLE: Final = (
    Metric(
        "perplexity",
        "1",
        "exp of the mean token loss; of a task, by the word or the byte of its documents",
        low=1,
        of_tasks=True,
    ),
    Metric(
        "base_perplexity",
        "1",
        "perplexity of the untouched model",
        low=1,
        of_tasks=True,
    ),
    Metric(
        "perplexity_ratio",
        "1",
        "exp of the mean difference of token losses, variant minus base, on identical tokens; of a task, its "
        "perplexity over base_perplexity, paired by document",
        low=0,
        of_tasks=True,
    ),
    Metric(
        "unique_tokens",
        "tokens",
        "distinct token ids in a greedy sample (the fewest over the prompts)",
        needs="sample",
        low=1,
        whole=True,
    ),
    Metric(
        "base_unique_tokens",
        "tokens",
        "unique_tokens of the untouched model",
        needs="sample",
        low=1,
        whole=True,
    ),
    Metric(
        "kl", "nats per token", "mean KL(base || variant) of the next-token distributions", low=0
    ),
    Metric(
        "swap_kl",
        "nats per token",
        "replacement: the larger of the two directed means; interchange: the one mean",
        needs="pairs",
        low=0,
    ),
    Metric(
        "protocol_gap",
        "nats per token",
        "replacement swap_kl minus interchange swap_kl, of a pair or averaged over pairs",
        needs="protocols",
        spans_arms=True,
    ),
    Metric(
        "top1_agreement",
        "share",
        "positions whose most likely token is the base's",
        low=0,
        high=1,
    ),
    Metric(
        "kl_p99",
        "nats",
        "99th percentile over tokens of KL(base || variant)",
        needs="criterion",
        low=0,
    ),
    Metric(
        "kl_p999",
        "nats",
        "99.9th percentile over tokens of KL(base || variant)",
        needs="criterion",
        low=0,
    ),
    Metric(
        "kl_max",
        "nats",
        "largest KL(base || variant) of any token; no interval",
        needs="criterion",
        low=0,
    ),
    Metric(
        "rms_dp",
        "share",
        "root mean square change of the probability of the true token",
        needs="criterion",
        low=0,
        high=1,
    ),
    Metric(
        "repetition",
        "share",
        "4-grams of free-running text that occurred before in the same continuation",
        needs="generate",
        low=0,
        high=1,
    ),
    Metric(
        "stop_rate",
        "share",
        "continuations that ended by themselves",
        needs="generate",
        low=0,
        high=1,
    ),
    Metric(
        "first_divergence",
        "tokens",
        "tokens before the variant's free-running text leaves the base's (the fewest over the prompts); "
        "all that were asked for where it never does",
        needs="generate",
        low=0,
        whole=True,
    ),
    Metric(
        "accuracy",
        "share",
        "questions of a task that are answered rightly",
        needs="tasks",
        low=0,
        high=1,
    ),
    Metric(
        "base_accuracy",
        "share",
        "accuracy of the untouched model",
        needs="tasks",
        low=0,
        high=1,
    ),
    Metric(
        "accuracy_change",
        "share",
        "accuracy minus base_accuracy, paired by question",
        needs="tasks",
        low=-1,
        high=1,
    ),
    Metric(
        "flips",
        "share",
        "questions of a task that only one of base and variant answers rightly",
        needs="tasks",
        low=0,
        high=1,
    ),
    Metric(
        "bits_per_byte",
        "bits",
        "log2 of the perplexity by byte of the documents of a task",
        needs="tasks",
        low=0,
    ),
    Metric(
        "base_bits_per_byte",
        "bits",
        "bits_per_byte of the untouched model",
        needs="tasks",
        low=0,
    ),
    Metric(
        "size_ratio",
        "share",
        "bytes of the intervened weights as the intervention would store them, over the base's",
        needs="weights",
        low=0,
    ),
)

METRICS: Final[Mapping[str, Metric]] = MappingProxyType({metric.name: metric for metric in _TABLE})
"""The built-in metrics by name."""


PERCENTILES: Final[Mapping[str, float]] = MappingProxyType({"kl_p99": 0.99, "kl_p999": 0.999})
"""The metrics that are percentiles over tokens, with the share of tokens below."""


def built_in(key: str) -> Metric | None:
    """Return the built-in metric of a name, which may stand after that of a task: ``stories.accuracy``."""
    return METRICS.get(key.rpartition(".")[2])
