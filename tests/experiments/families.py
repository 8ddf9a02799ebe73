"""Run every causal family of transformers against a plain loop, and write docs/families.md.

    python tests/experiments/families.py [FAMILY ...]

With names it prints the outcomes of these families and writes nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import transformers  # noqa: E402
from support import causal_families, family_matrix  # noqa: E402

PAGE = ROOT / "docs" / "families.md"


def main(names: list[str]) -> int:
    """Run the families; return 1 if one differs from the plain loop."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    found: dict[str, Mapping[str, str]] = {}
    for family in names or causal_families.ALL:
        try:
            found[family] = family_matrix.outcomes(family)
        except causal_families.NotSmallError as error:
            found[family] = {"model": f"not built: {error}"}
        except Exception as error:
            found[family] = {"model": f"failed: {type(error).__name__}: {str(error)[:200]}"}
        print(
            family,
            *(f"{check}: {what}" for check, what in found[family].items() if what != "agrees"),
            flush=True,
        )
    if not names:
        PAGE.write_text("\n".join(page(found)) + "\n", encoding="utf-8")
    return int(any("differs" in what for each in found.values() for what in each.values()))


def page(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of the page."""
    measured = {family: each for family, each in found.items() if len(each) > 1}
    refused = {
        family: each["model"] for family, each in found.items() if "refused" in each["model"]
    }
    others = {
        family: each["model"]
        for family, each in found.items()
        if len({family} & {*measured, *refused}) == 0
    }
    yield "# Families of models"
    yield ""
    yield (
        f"Written by `python tests/experiments/families.py` with transformers {transformers.__version__}. Every family "
        "that transformers loads for causal language modelling is built small, with random weights, and held against "
        "a plain loop over deep copies: skip each layer, interchange two, set one to zero, run one twice, quantise "
        "all, take all down to rank 4, round the cache by token and by channel, and without experts round the inputs "
        "of matrices and prune by Wanda, each alone and together in two orders; "
        f"{family_matrix.NEW} greedy tokens from the base and all of these, together and alone; the base again after "
        "all that; and the same with layers read from disk. A family agrees where the "
        f"logarithm of every perplexity is within {family_matrix.CLOSE:g} of the plain loop's and all tokens are equal."
    )
    yield ""
    agree = [family for family, each in measured.items() if set(each.values()) == {"agrees"}]
    differ = [
        family
        for family, each in measured.items()
        if any("differs" in what for what in each.values())
    ]
    yield (
        f"{len(agree)} families agree in everything, {len(measured) - len(agree) - len(differ)} but for what is "
        f"impossible, {len(differ)} differ, {len(refused)} are refused as a whole, and {len(others)} were not run, "
        "most of them wrappers whose text models were."
    )
    yield ""
    yield "## Agree in everything"
    yield ""
    yield ", ".join(agree)
    yield ""
    yield "## Agree but for what is impossible"
    yield ""
    yield (
        "The plain model fails there, too; or layers of different structure would have to change places; or layers "
        "have no keys and values, or no inputs, that can be changed; or the model itself gives something else when it "
        "reads token by token with a cache, so that no loop can hold a rounded one."
    )
    yield ""
    yield "| family | variant | why |"
    yield "|---|---|---|"
    for family in measured:
        for check, what in measured[family].items():
            if what != "agrees" and "differs" not in what:
                yield f"| {family} | {check} | {_cell(what)} |"
    yield ""
    yield "## Differ"
    yield ""
    yield "| family | variant | why |"
    yield "|---|---|---|"
    for family in differ:
        for check, what in measured[family].items():
            if "differs" in what:
                yield f"| {family} | {check} | {_cell(what)} |"
    for title, rows in (("Refused", refused), ("Not run", others)):
        yield ""
        yield f"## {title}"
        yield ""
        yield "| family | why |"
        yield "|---|---|"
        for family, what in rows.items():
            yield f"| {family} | {_cell(what)} |"


def _cell(text: str) -> str:
    shown = " ".join(text.removeprefix("refused: ").replace("|", "/").split())
    return shown if len(shown) <= 240 else f"{shown[:240]} ..."


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
