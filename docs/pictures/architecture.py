"""Draw the rooms of the package and the imports between them: `python docs/pictures/architecture.py`.

An arrow is an import, also one inside a function or for types alone. An arrow that a longer way
already implies is left out. A test fails where the picture is stale.
"""

from __future__ import annotations

import ast
import textwrap
from html import escape
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "pytest_layerguard"
PICTURE: Final = Path(__file__).with_suffix(".svg")
_WIDE, _HIGH, _GAP, _SIDE = 380, 66, 30, 20
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #424a53 } .name { font-weight: 600; fill: #1f2328 }
rect { fill: #f6f8fa; stroke: #d1d9e0 } path { stroke: #59636e; stroke-width: 1.5; fill: none }
marker path { fill: #59636e; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #b7bdc8 } .name { fill: #f0f6fc }
  rect { fill: #151b23; stroke: #3d444d } path { stroke: #9198a1 } marker path { fill: #9198a1 }
}"""


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(), encoding="utf-8")


def picture() -> str:
    """Return the picture as the text of an SVG."""
    needs = imports()
    rows = _rows(needs)
    width, height = 2 * _WIDE + 3 * _SIDE, len(rows) * (_HIGH + _GAP) + _GAP
    place = {
        room: (
            (width - len(row) * _WIDE - (len(row) - 1) * _SIDE) // 2 + at * (_WIDE + _SIDE),
            _GAP // 2 + y * (_HIGH + _GAP),
        )
        for y, row in enumerate(rows)
        for at, room in enumerate(row)
    }
    arrows = []
    for room, others in needs.items():
        for other in sorted(others - {far for near in others for far in _reached(needs, near)}):
            (x, y), (to_x, to_y) = place[room], place[other]
            start, end = f"{x + _WIDE // 2} {y + _HIGH}", f"{to_x + _WIDE // 2} {to_y - 7}"
            arrows.append(f'<path d="M{start}L{end}" marker-end="url(#arrow)"/>')
    boxes = [line for room, (x, y) in place.items() for line in _box(room, x, y)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'aria-label="The rooms of pytest_layerguard and the imports between them">',
            f"<style>{_STYLE}</style>",
            '<marker id="arrow" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0L10 5L0 10z"/></marker>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports; `api.py` and `extending.py` count as rooms."""
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"api", "extending"}
    needs: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room not in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found = {name.split(".")[1] for name in names if name.startswith(PACKAGE.name)}
                needs[room] |= found & rooms - {room}
    return needs


def _reached(needs: dict[str, set[str]], room: str) -> set[str]:
    return needs[room].union(*(_reached(needs, other) for other in needs[room]))


def _rows(needs: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms row by row: each below all that import it."""

    def row(room: str) -> int:
        above = [other for other, others in needs.items() if room in others]
        return 1 + max(map(row, above)) if above else 0

    rows = {room: row(room) for room in needs}
    for room, others in needs.items():
        # Nothing imports a room at the top; it stands just above what it needs.
        if rows[room] == 0:
            rows[room] = min(rows[other] for other in others) - 1
    first = min(rows.values())
    return [
        [room for room in needs if rows[room] == at] for at in range(first, max(rows.values()) + 1)
    ]


def _box(room: str, x: int, y: int) -> list[str]:
    folder = PACKAGE / room
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    lines = textwrap.wrap(doc.splitlines()[0].replace("`", ""), 54)
    name = f"{room}/" if folder.is_dir() else f"{room}.py"
    return [
        f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="6"/>',
        f'<text class="name" x="{x + 12}" y="{y + 20}">{escape(name)}</text>',
        *(
            f'<text x="{x + 12}" y="{y + 38 + 17 * at}">{escape(line)}</text>'
            for at, line in enumerate(lines)
        ),
    ]


if __name__ == "__main__":
    main()
