"""What a configuration file of pytest says by itself; pytest tells only what an override left of it."""

from __future__ import annotations

import configparser
import shlex
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def words(path: Path, option: str) -> list[str]:
    """Return the words of an option in a file that pytest has read, none where it has none."""
    text = path.read_text(encoding="utf-8")
    value = _in_toml(text, option) if path.suffix == ".toml" else _in_ini(text, option)
    if isinstance(value, str):
        return shlex.split(value)
    return [str(each) for each in value or ()]


def _in_toml(text: str, option: str) -> Any:
    data = tomllib.loads(text)
    tool = data.get("tool", {}).get("pytest", {})
    tables = (data.get("pytest"), tool.get("ini_options"), tool)
    found = (table[option] for table in tables if isinstance(table, Mapping) and option in table)
    return next(found, None)


def _in_ini(text: str, option: str) -> str | None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        # pytest reads a little more than Python does, and has read this.
        return None
    sections = (name for name in ("pytest", "tool:pytest") if parser.has_option(name, option))
    return next((parser.get(name, option) for name in sections), None)
