"""Compare what a record was measured on with what is there now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_layerguard.measurement.results import BetResult

_FILES: Final = ("weights", "config", "tokenizer")
_MISSING: Final = "unknown"
_LONGEST: Final = 100


def stale_files(recorded: BetResult, now: BetResult) -> tuple[str, ...]:
    """Return a line for each file that holds something else than when the record was made.

    A digest that the record does not have cannot be compared. The base's perplexity then and now
    follows where anything differs.
    """
    changed = changed_digests(digests_of(recorded.provenance), digests_of(now.provenance))
    return (*changed, *_bases(recorded, now)) if changed else ()


def changed_digests(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Return a line for each digest that is another one."""
    return tuple(
        f"{name}: {_plain(digest)} -> {_plain(after.get(name, _MISSING))}"
        for name, digest in before.items()
        if after.get(name) != digest
    )


def measured_on(result: BetResult) -> bool:
    """Return whether a result has the digests of its models and texts, or of results measured elsewhere."""
    digests = digests_of(result.provenance)
    if any(name.startswith("results") for name in digests):
        return True
    return any(name.startswith("weights") for name in digests) and any(
        name.startswith("text") for name in digests
    )


def trained_on(result: BetResult) -> bool:
    """Return whether a result has the digests of the files that interventions read."""
    return any(
        made.get("training") or made.get("results")
        for made in result.provenance.get("checkpoints", ())
    )


def candidates_known(result: BetResult) -> bool:
    """Return whether a result has the digests of its candidates; those of a cast are the model's."""
    found = [each.get("digests") for each in result.candidates() if each["model"]["kind"] != "cast"]
    return bool(found) and all(found)


def digests_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of everything that a result was measured on, by what it is."""
    found: dict[str, str] = {}
    for made in provenance.get("checkpoints", ()):
        checkpoint = made.get("checkpoint")
        of = f" of {_plain(checkpoint)}" if checkpoint is not None else ""
        digests = made.get("digests", {})
        found |= {f"{file}{of}": digests[file] for file in _FILES if file in digests}
        for text in made.get("texts", ()):
            name = text.get("name")
            found[f"text {_plain(name)}" if name is not None else "text"] = text["text"]
        for each in made.get("candidates", ()):
            arm = each.get("arm")
            of = f" of the candidate{f' {_plain(arm)}' if arm is not None else ''}"
            digests = each.get("digests", {})
            found |= {f"{file}{of}": digests[file] for file in _FILES if file in digests}
        for task in made.get("tasks", ()):
            found[f"questions {_plain(task.get('name'))}"] = task["digest"]
        for file in made.get("results", ()):
            found[f"results of the {_plain(file['name'])}"] = file["digest"]
        for place, digest in enumerate(made.get("training", ())):
            found[f"training text {place}"] = digest
    return found


def _bases(recorded: BetResult, now: BetResult) -> Iterator[str]:
    for then in recorded.bases:
        for base in now.bases:
            same = (then.text, then.checkpoint) == (base.text, base.checkpoint)
            if same and "perplexity" in then.metrics and "perplexity" in base.metrics:
                names = [name for name in (then.text, then.checkpoint) if name is not None]
                of = f" ({_plain(', '.join(names))})" if names else ""
                was, new = (short(each.metrics["perplexity"].value) for each in (then, base))
                yield f"perplexity of the base{of}: {was} -> {new}"


def _plain(value: object) -> str:
    """Return what a record says, which is untrusted text."""
    return printable(str(value))[:_LONGEST]
