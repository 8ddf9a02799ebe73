"""The JSON report: one file, written whole or not at all."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.environment.atomic_write import write_whole
from pytest_layerguard.report.bet_report import by_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.report.bet_report import BetReport

SCHEMA: Final = 1


def document(
    bets: Sequence[BetReport], more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """What `--layerguard-json` writes, bets in the order of their files and lines.

    `more` is what it says beside them, by key.
    """
    return {"schema": SCHEMA, "bets": [told.entry for told in by_place(bets)], **more}


def write(
    path: Path, bets: Sequence[BetReport], more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write the report; a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: when the path cannot be written; whatever stood there still does.
    """
    text = json.dumps(document(bets, more), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
