"""Write the tables of docs/findings.md and draw its pictures from the records: `python docs/pictures/findings.py`.

Published figures are those of the bets' evidence. Nothing is measured. A test fails where the page is stale.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.report.charts import Scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "findings.md"
RECORDS: Final = ROOT / "bets" / "records"
FEWEST: Final = 5
"""Texts that are shown, those of the fewest unique tokens."""


def main() -> None:
    """Write the pictures and the tables."""
    for name, drawn in pictures().items():
        (Path(__file__).parent / name).write_text(drawn, encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page with its tables written anew."""
    for name, lines in tables().items():
        start, end = f"<!-- table: {name} -->\n", "\n<!-- end -->"
        before, found, rest = text.partition(start)
        assert found, f"{PAGE.name} has no table {name}"
        table = "\n".join(lines)
        text = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def tables() -> Mapping[str, Sequence[str]]:
    """Return the tables by name."""
    return {
        "scale": _table(
            (
                "model",
                "wide",
                "layers",
                "least missed",
                "ratio",
                "most missed",
                "ratio",
                "up to 1.5x",
            ),
            _scale(),
        ),
        "protocols": _table(
            (
                "model",
                "pairs",
                "replacement",
                "interchange",
                "gap",
                "pairs where interchange is worse",
            ),
            _protocols(),
        ),
        "removal": _table(
            ("removed", "by interchange", "ratio", "by replacement", "ratio"), _removal()
        ),
        "text": _table(
            ("skipped", "ratio", "KL", "unique tokens", 'after "Once upon a time"'), _texts()
        ),
        "training": _table(
            ("model", "text", "layer", "random", "retrained", "damage undone"), _training()
        ),
    }


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def record(id_: str) -> Any:
    """Return a bet's record."""
    return json.loads((RECORDS / f"{id_}.json").read_text(encoding="utf-8"))


def variants(id_: str, arm: str | None = None, text: str | None = None) -> list[Any]:
    """Return the recorded variants of an arm and a text."""
    found = record(id_)["result"]["variants"]
    return [each for each in found if each["arm"] == arm and each["text"] == text]


def evidence(file: str, id_: str, source: str) -> Iterator[Any]:
    """Yield the published figures of a bet whose source begins so."""
    for document in read_bets(ROOT / "bets" / file):
        if document.bet.id == id_:
            yield from (each for each in document.bet.evidence if each.source.startswith(source))


def _interval(metric: Mapping[str, float]) -> str:
    if "low" not in metric or metric["low"] == metric["high"]:
        return short(metric["value"])
    return f"{short(metric['value'])} [{short(metric['low'])}, {short(metric['high'])}]"


@dataclass(frozen=True)
class Skipped:
    """What it costs a model to lose each of its layers.

    Attributes:
        model: The model's name.
        width: The hidden size, where it is known.
        layers: The number of layers.
        ratios: The perplexity ratio without a layer, by the layer.
        shown: The same ratios with their intervals.
    """

    model: str
    width: str
    layers: int
    ratios: Mapping[int, float]
    shown: Mapping[int, str]


def skipped() -> list[Skipped]:
    """Return the measured models and the published ones."""
    found = []
    for id_, name in (
        ("bet-40", "reference"),
        ("bet-40-wide", "reference-wide"),
        ("bet-40-smollm2", "SmolLM2-135M"),
    ):
        (facts,) = record(id_)["facts"].values()
        metrics = {
            int(each["target"]): each["metrics"]["perplexity_ratio"] for each in variants(id_)
        }
        found.append(
            Skipped(
                name,
                str(facts["hidden_size"]),
                facts["layers"],
                {layer: each["value"] for layer, each in metrics.items()},
                {layer: _interval(each) for layer, each in metrics.items()},
            )
        )
    (fractal,) = evidence("40-skip-each-layer.yaml", "bet-40", "Bet 40")
    ratios = {_number(name): each["perplexity_ratio"] for name, each in fractal.variants.items()}
    found.append(_published("FractalMoE 30M, published", 4, ratios))
    for each in evidence("published/layer-degeneration.yaml", "degeneration-smollm2", "Layer"):
        ratios = {
            _number(name): values["perplexity"] / each.base["perplexity"]
            for name, values in each.variants.items()
            if name.startswith("zero-")
        }
        found.append(_published(f"Gemma-3-12b-it, published, {each.text}", 48, ratios))
    return found


def _published(name: str, layers: int, ratios: Mapping[int, float]) -> Skipped:
    return Skipped(
        name, "", layers, ratios, {layer: short(value) for layer, value in ratios.items()}
    )


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _scale() -> Iterator[Sequence[str]]:
    for each in skipped():
        least, most = (choose(each.ratios, key=each.ratios.__getitem__) for choose in (min, max))
        free = sum(value <= 1.5 for value in each.ratios.values())
        yield (
            each.model,
            each.width,
            str(each.layers),
            str(least),
            each.shown[least],
            str(most),
            each.shown[most],
            f"{free} of {len(each.ratios)}",
        )
    for document in read_bets(ROOT / "bets" / "no-free-swap-8b.yaml"):
        for published in document.bet.evidence:
            figure = published.variants["remove-1-by-interchange"]["perplexity"]
            ratio = short(figure / published.base["perplexity"])
            yield (
                f"{published.model}, published",
                "",
                "",
                "chosen by interchange",
                ratio,
                "",
                "",
                "",
            )


def _number_pair(name: str) -> tuple[int, int]:
    one, other = name.split("-")[-2:]
    return int(one), int(other)


@dataclass(frozen=True)
class Pairs:
    """Swap-KL of pairs of layers under both protocols, in nats per token."""

    replacement: Mapping[tuple[int, int], float]
    interchange: Mapping[tuple[int, int], float]

    def apart(self, gap: int) -> Pairs:
        """Return the pairs that are so far apart."""
        return Pairs(
            {pair: kl for pair, kl in self.replacement.items() if pair[1] - pair[0] == gap},
            {pair: kl for pair, kl in self.interchange.items() if pair[1] - pair[0] == gap},
        )

    @property
    def gaps(self) -> Mapping[tuple[int, int], float]:
        """Replacement minus interchange."""
        return {pair: kl - self.interchange[pair] for pair, kl in self.replacement.items()}


def pairs(id_: str, checkpoint: str | None = None) -> Pairs:
    """Return the pairs of a record."""
    found = {
        arm: {
            _number_pair(each["name"]): each["metrics"]["swap_kl"]["value"]
            for each in variants(id_, arm)
            if each["checkpoint"] == checkpoint
        }
        for arm in ("replacement", "interchange")
    }
    return Pairs(**found)


def _protocols() -> Iterator[Sequence[str]]:
    near = pairs("no-free-swap-smollm2-near")
    for model, found in (
        ("reference, untrained, neighbours", pairs("no-free-swap-trajectory", "init")),
        ("reference, neighbours", pairs("no-free-swap-protocols")),
        ("SmolLM2-135M, neighbours", pairs("no-free-swap-smollm2-adjacent")),
        ("SmolLM2-135M, two apart", near.apart(2)),
        ("SmolLM2-135M, three apart", near.apart(3)),
    ):
        below = [pair for pair, gap in found.gaps.items() if gap < 0]
        named = ", ".join(f"{i}\u2194{j}" for i, j in below[:4]) + ", ..." * (len(below) > 4)
        yield (
            model,
            str(len(found.gaps)),
            short(fmean(found.replacement.values())),
            short(fmean(found.interchange.values())),
            short(fmean(found.gaps.values())),
            f"{len(below)}: {named}" if below else "none",
        )
    (step0,) = evidence("no-free-swap-pythia.yaml", "no-free-swap-pythia-410m", "No Free Swap")
    replaced, exchanged = (
        step0.variants[f"{name}-adjacent"]["swap_kl"] for name in ("replace", "interchange")
    )
    yield (
        "Pythia-160M, untrained, neighbours, published",
        "",
        short(replaced),
        short(exchanged),
        short(replaced - exchanged),
        "",
    )


def _removal() -> Iterator[Sequence[str]]:
    rows = {
        each["arm"]: each for each in record("no-free-swap-smollm2-removal")["result"]["variants"]
    }
    for count in (1, 3, 5):
        cells = [str(count)]
        for protocol in ("interchange", "replacement"):
            each = rows[f"{protocol}_{count}"]
            cells += [str(each["target"]), _interval(each["metrics"]["perplexity_ratio"])]
        yield cells


def _texts() -> Iterator[Sequence[str]]:
    result = record("bet-40-smollm2")["result"]
    (base,) = result["bases"]
    yield (
        "nothing",
        "1",
        "0",
        short(base["metrics"]["unique_tokens"]["value"]),
        _said(base["samples"]),
    )
    fewest = sorted(result["variants"], key=lambda each: each["metrics"]["unique_tokens"]["value"])
    for each in fewest[:FEWEST]:
        metrics = each["metrics"]
        yield (
            str(each["target"]),
            _interval(metrics["perplexity_ratio"]),
            short(metrics["kl"]["value"]),
            short(metrics["unique_tokens"]["value"]),
            _said(each["samples"]),
        )


def _said(samples: Sequence[Mapping[str, str]]) -> str:
    words = " ".join(samples[0]["text"].split())
    return f"`{words[:60].replace('`', '').replace('|', '')}`"


def _training() -> Iterator[Sequence[str]]:
    small = "degeneration-retraining"
    for place, name in (("first", "0"), ("middle", "2")):
        random, trained = (variants(small, f"{place}_{how}")[0] for how in ("random", "retrained"))
        yield "reference, 100 steps", "held-out", name, *_undone(random, trained)
    for text in ("wikitext", "documentation"):
        for place, name in (("first", "0"), ("middle", "14"), ("last", "29")):
            (random,) = variants("degeneration-smollm2", f"{place}_random", text)
            (trained,) = variants("degeneration-smollm2-retrained", f"{place}_retrained", text)
            yield "SmolLM2-135M, 100 steps", text, name, *_undone(random, trained)
    for each in evidence("published/layer-degeneration.yaml", "degeneration-smollm2", "Layer"):
        for layer in (0, 23):
            ratios = [
                each.variants[f"{how}-{layer}"]["perplexity"] / each.base["perplexity"]
                for how in ("reinitialize", "retrained")
            ]
            yield (
                "Gemma-3-12b-it, published",
                each.text,
                str(layer),
                *map(short, ratios),
                _share(*ratios),
            )


def _undone(random: Any, trained: Any) -> tuple[str, str, str]:
    ratios = [each["metrics"]["perplexity_ratio"] for each in (random, trained)]
    return (*map(_interval, ratios), _share(*(each["value"] for each in ratios)))  # type: ignore[return-value]


def _share(random: float, trained: float) -> str:
    return f"{100 * (1 - math.log(trained) / math.log(random)):.0f} %"


_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #424a53 } .title { font-weight: 600; fill: #1f2328 }
.grid { stroke: #d1d9e0; stroke-width: 1 } path { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 }
.c2 { stroke: #1a7f37; fill: #1a7f37 } .c3 { stroke: #8250df; fill: #8250df }
.c4 { stroke: #cf222e; fill: #cf222e } .c5 { stroke: #6e7781; fill: #6e7781 } path { fill: none !important }
text.label { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #b7bdc8 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
  .c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #db6d28; fill: #db6d28 }
  .c2 { stroke: #3fb950; fill: #3fb950 } .c3 { stroke: #ab7df8; fill: #ab7df8 }
  .c4 { stroke: #f85149; fill: #f85149 } .c5 { stroke: #9198a1; fill: #9198a1 }
}"""
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 780, 360, 60, 20, 60, 44


@dataclass(frozen=True)
class Line:
    """A named line of points; a dotted one has points alone."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True


def pictures() -> Mapping[str, str]:
    """Return the pictures as the text of SVG files, by file name."""
    near = pairs("no-free-swap-smollm2-adjacent")
    texts = record("bet-40-smollm2")["result"]["variants"]
    return {
        "findings-scale.svg": drawn(
            "Perplexity without one layer, times the whole model's",
            "place of the layer, from the first (0) to the last (1)",
            [
                Line(
                    each.model.replace("-it, published, ", ", ").replace("m-ric/", ""),
                    [
                        (layer / (each.layers - 1), ratio)
                        for layer, ratio in sorted(each.ratios.items())
                    ],
                    joined=len(each.ratios) == each.layers,
                )
                for each in skipped()
            ],
            log=True,
        ),
        "findings-protocols.svg": drawn(
            "Swap-KL of neighbouring layers of SmolLM2-135M, nats per token",
            "the first layer of the pair",
            [
                Line("replacement", [(i, kl) for (i, _), kl in sorted(near.replacement.items())]),
                Line("interchange", [(i, kl) for (i, _), kl in sorted(near.interchange.items())]),
            ],
            log=True,
        ),
        "findings-text.svg": drawn(
            "Unique tokens among 60 greedy ones, SmolLM2-135M without one layer",
            "the layer that is skipped",
            [
                Line(
                    "unique tokens",
                    [
                        (int(each["target"]), each["metrics"]["unique_tokens"]["value"])
                        for each in texts
                    ],
                )
            ],
            log=False,
        ),
    }


def drawn(title: str, below: str, lines: Sequence[Line], *, log: bool) -> str:
    """Return a picture of lines over one axis."""
    across = Scale.over([x for line in lines for x, _ in line.points], log=False, start=0, end=100)
    up = Scale.over(
        [y for line in lines for _, y in line.points] + ([] if log else [0.0]),
        log=log,
        start=0,
        end=100,
    )

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + across.at(x) / 100 * (_WIDE - _LEFT - _RIGHT), 1),
            round(_HIGH - _BOTTOM - up.at(y) / 100 * (_HIGH - _TOP - _BOTTOM), 1),
        )

    parts = [f'<text x="{_LEFT}" y="20" class="title">{escape(title)}</text>']
    for tick in up.ticks():
        y = round(_HIGH - _BOTTOM - tick.at / 100 * (_HIGH - _TOP - _BOTTOM), 1)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDE - _RIGHT}"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(tick.label)}</text>'
        )
    for tick in across.ticks():
        x = round(_LEFT + tick.at / 100 * (_WIDE - _LEFT - _RIGHT), 1)
        parts.append(
            f'<text x="{x}" y="{_HIGH - _BOTTOM + 18}" text-anchor="middle">{escape(tick.label)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDE - _RIGHT) / 2:.0f}" y="{_HIGH - 6}" text-anchor="middle">{escape(below)}</text>'
    )
    at = _LEFT
    for number, line in enumerate(lines):
        colour = f"c{number % 6}"
        points = [place(x, y) for x, y in line.points]
        if line.joined:
            parts.append(f'<path class="{colour}" d="M{"L".join(f"{x} {y}" for x, y in points)}"/>')
        parts += [f'<circle class="{colour}" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
        if len(lines) > 1:
            row, at = (34, at) if number < 3 else (50, _LEFT if number == 3 else at)
            parts.append(f'<circle class="{colour}" cx="{at + 4}" cy="{row - 4}" r="4"/>')
            parts.append(f'<text x="{at + 14}" y="{row}">{escape(line.name)}</text>')
            at += 34 + 7 * len(line.name)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" role="img" '
            f'aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    main()
