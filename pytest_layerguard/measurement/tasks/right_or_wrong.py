"""Read what lm-evaluation-harness says of one question: its usual measures of right and wrong, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

USUAL: Final = ("acc", "exact_match", "word_perplexity", "byte_perplexity")
"""The measures by which a task is judged by default: the first of them that it has."""


def chance(requests: Sequence[Sequence[Any]]) -> float:
    """Return the probability that a guess is right, 0 where there is nothing to choose from.

    Args:
        requests: The arguments of each request of a question: a prompt, and what was to follow it.
    """
    # A choice may be asked twice, after the prompt and without it; or one text may follow several prompts.
    choices = max(len({str(each[place]) for each in requests}) for place in (0, -1))
    return 1 / choices if choices > 1 else 0.0


def shown(choices: Sequence[str], responses: Sequence[Any]) -> str:
    """Return an answer as it is shown: the most likely choice, or what was generated.

    Args:
        choices: What was to follow the prompts, one for each of them.
        responses: The responses: pairs of a log-likelihood and whether it is the greedy one, or texts.
    """
    first = responses[0] if responses else ""
    if not isinstance(first, list | tuple):
        return str(first).strip()
    if len(choices) == 1:
        return choices[0].strip() if str(first[1]) == "True" else "another continuation"
    likeliest = max(range(len(responses)), key=lambda place: float(responses[place][0]))
    return choices[likeliest].strip()
