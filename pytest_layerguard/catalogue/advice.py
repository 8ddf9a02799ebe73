"""Advice on proposals that remove or merge layers: look at both protocols.

"No Free Swap" (arXiv 2605.16234) finds that replacing a layer by another and interchanging the two rank layers
differently, and that which of the two guides a removal can change its harm several times; so a proposal that reports
one of them is told of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.arguments import InterchangeLayers, RemoveLayers, ReplaceLayers
from pytest_layerguard.bet.problems import many

if TYPE_CHECKING:
    from pytest_layerguard.bet.arguments import Arguments, PairsArguments
    from pytest_layerguard.bet.model import Bet

REPLACEMENT: Final = "replacement"
INTERCHANGE: Final = "interchange"
_PROTOCOLS: Final = (REPLACEMENT, INTERCHANGE)
_LONGEST_ID: Final = 80
_SUFFIX: Final = "-both-protocols"


def advice(bet: Bet, doors: tuple[str, ...] = ()) -> str | None:
    """Return what to tell a proposal that removes or merges layers and reports fewer than two protocols.

    The text names the protocol that is missing and ends with a bet, ready to be saved, that measures both. `doors`
    are the falsifications that removing layers of this model must challenge. None where there is nothing to tell.
    """
    if bet.status != "proposed":
        return None
    done = [each.arguments for steps in bet.arm_interventions.values() for each in steps]
    reported = {protocol for arguments in done if (protocol := _protocol(arguments)) is not None}
    touching = [each for each in done if isinstance(each, RemoveLayers) or _protocol(each)]
    missing = [protocol for protocol in _PROTOCOLS if protocol not in reported]
    if not touching or not missing:
        return None
    reports = (
        f"reports {' and '.join(sorted(reported))} alone, and not {' and '.join(missing)}"
        if reported
        else f"reports neither {' nor '.join(missing)}"
    )
    return (
        f"removes or merges layers and {reports}. The two protocols rank layers differently, and the one "
        "that guides a removal can make it several times worse (No Free Swap, arXiv 2605.16234). "
        f"A bet that measures both:\n\n{_written(_both(bet, touching[0], doors))}"
    )


def _protocol(arguments: Arguments) -> str | None:
    match arguments:
        case ReplaceLayers():
            return REPLACEMENT
        case InterchangeLayers():
            return INTERCHANGE
        case RemoveLayers(guided_by=guide) if guide in _PROTOCOLS:
            return guide
        case _:
            return None


def _both(bet: Bet, touching: Arguments, doors: tuple[str, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": bet.id[: _LONGEST_ID - len(_SUFFIX)].rstrip("-") + _SUFFIX,
        "title": f"{bet.title}: both protocols"[:2_000],
        "claim": "",
        "status": "proposed",
        "model": bet.model.model_dump(exclude_defaults=True),
        "arms": {},
        "measure": bet.measure.model_dump(exclude_defaults=True),
        "criteria": {},
    }
    if isinstance(touching, RemoveLayers):
        count = touching.count or len((touching.layers and touching.layers.indices) or ())
        data["claim"] = (
            f"Removing {many(count, 'layer')} costs no more when interchange chooses them than when replacement does."
        )
        data["arms"] = {
            protocol: {"remove_layers": {"count": count, "guided_by": protocol}}
            for protocol in _PROTOCOLS
        }
        ratio = "interchange{0}.perplexity_ratio <= replacement{0}.perplexity_ratio"
    else:
        pairs: PairsArguments = touching  # type: ignore[assignment]
        data["claim"] = "Interchanging these layers disturbs the model less than replacing them."
        written = pairs.pairs.written()
        data["arms"] = {
            REPLACEMENT: {"replace_layers": {"pairs": written}},
            INTERCHANGE: {"interchange_layers": {"pairs": written}},
        }
        ratio = "mean(protocol_gap{0}) > 0" if pairs.pairs.each else "protocol_gap{0} > 0"
    data["criteria"]["lenient"] = _for_each(bet, ratio)
    closed = doors if isinstance(touching, RemoveLayers) else ()
    if challenges := dict.fromkeys((*bet.challenges, *closed)):
        data["challenges"] = list(challenges)
    if bet.needs is not None:
        data["needs"] = bet.needs.model_dump(exclude_defaults=True)
    return data


def _for_each(bet: Bet, expression: str) -> str:
    """The expression for every text and checkpoint that has a name."""
    places = [
        [*filter(None, (text, checkpoint))]
        for text in bet.measure.named_texts
        for checkpoint in bet.model.checkpoints()
    ]
    if "protocol_gap" in expression:
        named = [
            expression.format("").replace("protocol_gap", ".".join([*place, "protocol_gap"]))
            for place in places
        ]
    else:
        named = [expression.format("".join(f".{name}" for name in place)) for place in places]
    return " and ".join(dict.fromkeys(named))


def _written(data: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
