"""The page as a browser shows it, opened from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import tales

from pytest_layerguard.report import html

if TYPE_CHECKING:
    from pathlib import Path

    from .chromium import Chromium

pytestmark = pytest.mark.slow

TAB = "\ue004"
RIGHT = "\ue014"
SPACE = " "
CONTRAST = """
function channel(v) { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }
function light(c) { return .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]); }
function parse(s) { const m = s.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; }
function behind(e) {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c;
  }
  return [255, 255, 255, 1];
}
document.querySelectorAll('details').forEach(each => each.open = true);
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || seen.has(e) || !e.getClientRects().length) continue;
  if (e.closest('title, desc, .unseen, .skip')) continue;
  seen.add(e);
  const style = getComputedStyle(e);
  const ink = parse(e instanceof SVGElement ? style.fill : style.color), paper = behind(e);
  const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  const big = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  if (ratio < (big ? 3 : 4.5)) poor.push([ratio, e.outerHTML.slice(0, 80)]);
}
return [seen.size, poor];
"""

OVERLAPS = """
document.querySelectorAll('details').forEach(each => each.open = true);
const axes = [...document.querySelectorAll('.ticks, svg.lines')].filter(each => each.checkVisibility());
let count = 0;
const covered = [];
for (const axis of axes) {
  const all = [...axis.querySelectorAll('text')].filter(each => each.checkVisibility());
  const lowest = Math.max(...all.map(each => each.getBoundingClientRect().top));
  const texts = all.filter(each => each.getBoundingClientRect().top > lowest - 2);
  const boxes = texts.map(each => each.getBoundingClientRect());
  count += boxes.length;
  for (let i = 1; i < boxes.length; i++)
    if (boxes[i].left < boxes[i - 1].right + 2) covered.push(texts[i].textContent);
}
return [count, covered];
"""


def test_nothing_is_asked_for_and_nothing_is_blocked(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    assert set(chromium.requests) - {"data:,"} == {page.as_uri()}
    assert chromium.complaints == []
    assert chromium.ask("return document.scripts.length") == 0
    assert chromium.ask("return document.title").endswith("- layerguard")


def test_what_got_in_unescaped_would_still_be_blocked(
    chromium: Chromium, page: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    planted = """
    <script>document.title = 'owned'</script>
    <img src="https://evil.example/a.png" onerror="document.title = 'owned'">
    <p id="styled" style="color: rgb(1, 2, 3)">x</p>
    <style>#styled { color: rgb(4, 5, 6) }</style>
    <iframe src="https://evil.example/"></iframe>
    <link rel="stylesheet" href="https://evil.example/a.css">
    <base href="https://evil.example/">
    """
    whole = page.read_text(encoding="utf-8")
    broken.write_text(whole.replace("<main", f"{planted}<main", 1), encoding="utf-8")
    chromium.open(broken)
    assert chromium.ask("return document.title") != "owned"
    color = chromium.ask("return getComputedStyle(document.getElementById('styled')).color")
    assert color not in {"rgb(1, 2, 3)", "rgb(4, 5, 6)"}
    assert chromium.ask("return document.links[0].href").startswith("file:")
    violations = [each for each in chromium.complaints if "Content Security Policy" in each]
    assert len(violations) >= 5


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_can_be_read(chromium: Chromium, page: Path, dark: bool) -> None:
    chromium.open(page, dark=dark)
    count, poor = chromium.ask(CONTRAST)
    assert count > 200
    assert poor == []


def test_themes_differ(chromium: Chromium, page: Path) -> None:
    def paper() -> Any:
        return chromium.ask("return getComputedStyle(document.body).backgroundColor")

    chromium.open(page)
    light = paper()
    chromium.open(page, dark=True)
    assert paper() != light


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
@pytest.mark.parametrize("unfolded", [False, True], ids=["folded", "unfolded"])
def test_nothing_is_wider_than_the_screen(
    chromium: Chromium, page: Path, width: int, unfolded: bool
) -> None:
    chromium.open(page, width=width)
    if unfolded:
        chromium.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert chromium.ask("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 390, 768, 1200])
def test_no_number_of_an_axis_covers_another(chromium: Chromium, page: Path, width: int) -> None:
    chromium.open(page, width=width)
    count, covered = chromium.ask(OVERLAPS)
    assert count > 20
    assert covered == []


def test_lines_are_distinguished_without_colour(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    dashes = """return [...document.querySelectorAll('svg.lines')].map(each => [0, 1, 2].map(at => {
        const line = each.querySelector(`.line.st${at}`);
        return line && getComputedStyle(line).strokeDasharray;
    })).filter(each => each[2])"""
    figures = chromium.ask(dashes)
    assert figures
    assert all(len(set(each)) == 3 for each in figures)


def test_no_word_of_a_table_is_broken(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    lines = """return [...document.querySelectorAll('.figures thead th:not(:has(.unseen))')].filter(each => {
        const range = document.createRange();
        range.selectNodeContents(each);
        return range.getClientRects().length > 1;
    }).length"""
    assert chromium.ask(lines) == 0


def test_a_keyboard_goes_through_it_in_order(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    visited = []
    for _ in range(6):
        chromium.press(TAB)
        visited.append(
            chromium.ask("const e = document.activeElement; return e.id || e.getAttribute('href')")
        )
    assert visited == [
        *("#bets", "show-all-outcome", "show-all-status", "show-all-run"),
        *("#bet-1", "#bet-2"),
    ]
    assert chromium.ask("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [390, 1200])
def test_a_screen_reader_finds_the_name_of_everything(
    chromium: Chromium, page: Path, width: int
) -> None:
    chromium.open(page, width=width)
    chromium.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    spoken = chromium.spoken
    roles = {role for role, _ in spoken}
    # A table whose cells are laid out as blocks would cease to be one.
    assert {
        "table",
        "rowheader",
        "columnheader",
        "figure",
        "image",
        "article",
        "radio",
        "group",
    } <= roles
    assert {name for role, name in spoken if role == "group"} >= {"Outcome", "Status", "This run"}
    assert ("region", "candidate load-small") in spoken
    drawn = [name for role, name in spoken if role == "image"]
    for start in ("KL by percentile of the tokens skip-2: half of", "perplexity ratio by layer"):
        assert any(name.startswith(start) for name in drawn)
    named = {"table", "figure", "image", "article", "region", "link", "radio", "heading"}
    assert [role for role, name in spoken if role in named and not name.strip()] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_notebook_shows_bets_and_is_touched_by_none(
    chromium: Chromium, tmp_path: Path, width: int, dark: bool
) -> None:
    bets = [*tales.every().values(), tales.by_branch()]
    shown = "".join(html.notebook(bet) for bet in bets if bet.result is not None)
    own = '<table id="own"><tr><td>a</td></tr></table><p class="quiet" id="word">b</p>'
    page = tmp_path / "notebook.html"
    head = '<!doctype html><meta charset=utf-8><meta name="viewport" content="width=device-width">'
    page.write_text(head + own + shown, encoding="utf-8")
    chromium.open(page, width=width, dark=dark)
    assert chromium.ask("return document.documentElement.scrollWidth") <= width
    count, poor = chromium.ask(CONTRAST)
    assert count > 50
    assert poor == []
    assert (
        chromium.ask("return getComputedStyle(document.getElementById('own')).borderCollapse")
        == "separate"
    )
    color = "return getComputedStyle(document.getElementById('word')).color"
    assert chromium.ask(color) == "rgb(0, 0, 0)"


def test_filters_need_no_script(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    shown = (
        "return [...document.querySelectorAll('article')].filter(e => e.checkVisibility()).length"
    )
    every = chromium.ask(shown)
    chromium.press(TAB)
    chromium.press(TAB)
    chromium.press(RIGHT)
    assert chromium.ask("return document.activeElement.id") == "show-failed"
    failed = chromium.ask(shown)
    assert 0 < failed < every
    chromium.ask("document.getElementById('show-SKIPPED').click()")
    assert chromium.ask(shown) == 1
    rows = "return [...document.querySelectorAll('tr.bet')].filter(e => e.checkVisibility()).length"
    assert chromium.ask(rows) == 1
    # Two groups of choices hold together.
    chromium.ask("document.getElementById('show-passed').click()")
    passed = chromium.ask(shown)
    chromium.ask("document.getElementById('show-falsified').click()")
    assert 0 < chromium.ask(shown) < passed


def test_a_fold_opens_by_keyboard(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    chromium.ask("document.querySelector('article details:not([open]) summary').focus()")
    chromium.press(SPACE)
    assert chromium.ask("return document.activeElement.parentElement.open")


def test_print_shows_everything_on_white(chromium: Chromium, page: Path) -> None:
    chromium.open(page, dark=True)
    theme = {"name": "prefers-color-scheme", "value": "dark"}
    chromium.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [theme]}
    )
    style = "return getComputedStyle(document.body)"
    assert chromium.ask(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert (
        chromium.ask("return getComputedStyle(document.querySelector('.filters')).display")
        == "none"
    )
    count, poor = chromium.ask(CONTRAST)
    assert count > 200
    assert poor == []
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
