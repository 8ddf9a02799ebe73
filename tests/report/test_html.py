from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from typing import TYPE_CHECKING, get_args

import pytest
from support import tales
from support.hostile import FORBIDDEN, HOSTILE
from support.hostile_bet import hostile

from pytest_layerguard.bet.bet import Status
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.report import html
from pytest_layerguard.report.bet_report import OUTCOMES, UnreadableFile

if TYPE_CHECKING:
    from pytest_layerguard.report.bet_report import BetReport

WHEN = "2026-01-02 03:04 UTC"
VOID = {"meta", "link", "input", "br", "img"}


class Read(HTMLParser):
    """A page as a browser's parser sees it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(
    *bets: BetReport, refused: tuple[UnreadableFile, ...] = (), address: str | None = None
) -> str:
    source = html.FileLinks(tales.ROOT, tales.ROOT / "out/page.html", address)
    return html.render(bets, refused, source, WHEN)


@cache
def whole() -> str:
    """A page with a bet of every kind."""
    return page(*tales.every().values())


@cache
def page_of(words: str) -> str:
    """A page with a bet that says these words wherever it can say anything."""
    return page(hostile(words))


class TestPage:
    def test_it_asks_the_network_for_nothing(self) -> None:
        read = Read(whole())
        assert not {"script", "iframe", "object", "embed", "form", "base"} & {
            t for t, _ in read.tags
        }
        assert read.all("link") == [{"rel": "icon", "href": "data:,"}]
        assert not any("src" in attributes for _, attributes in read.tags)
        style = re.search(r"<style>(.*?)</style>", page(), re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]

    def test_its_policy_allows_its_own_style_sheet_alone(self) -> None:
        made = whole()
        (policy,) = (each["content"] for each in Read(made).all("meta") if each.get("http-equiv"))
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert re.search(r"style-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
        assert not any("style" in attributes for _, attributes in Read(made).tags)

    @pytest.mark.parametrize("kind", tales.every())
    def test_every_kind_of_bet_is_shown(self, kind: str) -> None:
        reported = tales.every()[kind]
        text = Read(page(reported)).text
        assert reported.title in text
        assert reported.word in text
        assert f"bets/some.yaml:{reported.line}" in text

    def test_claim_criteria_and_their_numbers(self) -> None:
        text = Read(page(tales.judged(tales.SWEEP, tales.sweep()))).text
        assert "At least one layer can be skipped" in text
        assert "any(perplexity_ratio <= 3)" in text
        assert "skip-2: 4 [3.636, 4.4] <= 3 is false" in text
        assert "The falsification stands." in text

    def test_words_before_and_after(self) -> None:
        text = Read(page(tales.judged(tales.SWEEP, tales.sweep()))).text
        assert text.index("there was a girl") < text.index("word2") < text.index("word0")

    def test_words_are_shown_without_being_asked_for(self) -> None:
        written = page(tales.eye_test())
        assert written.count("a broken word") == 1, (
            "it says the same whichever text it is scored on"
        )
        before = written[: written.index("a broken word")]
        assert before.count("<details") == before.count("</details")

    def test_a_door_that_nobody_could_try_is_not_called_closed(self) -> None:
        written = page(tales.doubtful())
        assert 'aria-label="May be closed by old"' in written
        assert "would stand in it with" in written

    def test_the_file_stands_at_the_top_of_a_bet(self) -> None:
        written = page(tales.every()["sweep"])
        heading = written[written.index("<article") : written.index("<h3")]
        assert "bets/some.yaml:1</a>" in heading

    def test_it_says_which_questions_changed_and_both_answers(self) -> None:
        text = " ".join(Read(page(tales.questions())).text.split())
        assert "120 lost, 0 gained" in text
        assert "2 of 4 questions that skip-1 answers otherwise" in text
        lost = "lost What flies? right answera birduntouched model\u2713 a birdskip-1\u2717 a stone"
        gained = (
            "gained What sinks? right answera stoneuntouched model\u2717 a birdskip-1\u2713 a stone"
        )
        assert lost in text
        assert gained in text

    def test_a_candidate_has_a_card(self) -> None:
        made = page(tales.candidate())
        card = made[made.index('<section class="card"') :]
        text = Read(card[: card.index("</section>") + 10]).text
        assert "load-small" in text
        assert "LlamaForCausalLM, 4 layers" in text
        assert "remove_layerskeeps 4 of 5 layers" in text
        assert "It computes in bfloat16, and so does its floor" in text

    def test_evidence_is_marked_as_such(self) -> None:
        text = Read(page(tales.every()["skipped"])).text
        assert "published, not measured here" in text
        assert "7120" in text

    def test_a_reader_without_eyes(self) -> None:
        read = Read(whole())
        assert read.all("html")[0]["lang"] == "en"
        for landmark in ("header", "main", "footer"):
            assert read.all(landmark)
        ids = Counter(each["id"] for _, each in read.tags if "id" in each)
        assert max(ids.values()) == 1
        for _, attributes in read.tags:
            for name in ("aria-labelledby",):
                assert all(each in ids for each in attributes.get(name, "").split())
        levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        anchors = {each["href"][1:] for each in read.all("a") if each["href"].startswith("#")}
        assert anchors <= set(ids)

    def test_every_drawing_is_named_or_hidden(self) -> None:
        made = whole()
        outer = re.findall(r"<svg([^>]*)>(\s*<title)?", made)
        for attributes, title in outer:
            drawn = 'role="img"' in attributes
            assert bool(title) is drawn
        hidden = re.sub(r"<td[^>]*aria-hidden.*?</td>", "", made, flags=re.DOTALL)
        for attributes, _ in re.findall(r"<svg([^>]*)>(\s*<title)?", hidden):
            assert 'role="img"' in attributes or 'aria-hidden="true"' in attributes

    def test_failures_come_first(self) -> None:
        made = whole()
        words = re.findall(r'<article[^>]*"bet sheet [a-z]+ ([A-Z]+) ', made)
        assert words == [
            "ERROR",
            "ERROR",
            "FALSIFIED",
            "FALSIFIED",
            "FALSIFIED",
            "LENIENT",
            "LENIENT",
            "SKIPPED",
        ]
        outcomes = re.findall(r'<article[^>]*"bet sheet ([a-z]+) ', made)
        assert outcomes == sorted(outcomes)

    def test_filters_leave_some_bets_out_and_know_what_is_new(self) -> None:
        sweep = tales.every()["sweep"]
        kept = replace(tales.every()["arms"], result=replace(tales.arms(), cached=True))
        worse = tales.judged(tales.ARMS, tales.arms(), verdict_before=Verdict.STRICT)
        read = Read(page(sweep, kept, worse, tales.every()["skipped"]))
        assert [each["id"].removeprefix("show-") for each in read.all("input")] == [
            *("all-outcome", "passed", "skipped", "FALSIFIED", "LENIENT", "SKIPPED"),
            *("all-status", "proposed", "falsified"),
            *("all-run", "measured", "kept", "refused", "changed"),
        ]
        assert "verdict changed 1" in read.text
        assert "was STRICT in its record" in read.text
        assert Read(page(sweep)).all("input") == []

    def test_each_filter_has_its_rule(self) -> None:
        styles = resources.files("pytest_layerguard.report").joinpath("page/page.css").read_text()
        ruled = set(re.findall(r"#show-(\w+):checked\) \.bet:not\(\.\1\)", styles))
        known = {*OUTCOMES, *map(str, Word), *get_args(Status)}
        known |= {"measured", "kept", "refused", "changed"}
        assert ruled == known

    def test_a_file_that_could_not_be_read(self) -> None:
        text = Read(
            page(refused=(UnreadableFile("bets/a.yaml", "bets/a.yaml:1:2: id: is <b>missing"),))
        ).text
        assert "bets/a.yaml:1:2: id: is <b>missing" in text
        assert "1 file could not be read" in text

    def test_what_came_from_the_cache_took_no_time(self) -> None:
        found = tales.sweep()
        assert "; 1.5s" in Read(page(tales.judged(tales.SWEEP, found))).text
        kept = Read(page(tales.judged(tales.SWEEP, replace(found, cached=True)))).text
        assert "; from the cache" in kept

    def test_a_bound_is_not_called_an_interval(self) -> None:
        bound = {"perplexity_ratio": Interval(4.0, 4.0, math.inf)}
        found = tales.result(tales.variant("skip-0", "0", metrics=bound))
        text = Read(page(tales.judged(tales.SWEEP, found))).text
        assert "4 or more" in text
        assert "95 % interval or more" not in text

    def test_what_a_model_says_is_no_landmark(self) -> None:
        read = Read(whole())
        roles = Counter(attributes.get("role") for _, attributes in read.tags)
        assert "region" not in roles
        scrolled = [attributes for _, attributes in read.tags if attributes.get("tabindex") == "0"]
        assert scrolled
        assert all(each["role"] == "group" and each["aria-label"] for each in scrolled)

    def test_a_column_for_eyes_alone_has_no_heading(self) -> None:
        made = page(tales.every()["sweep"])
        (head, *_) = re.findall(
            r'<table class="tokens"[^>]*>\s*<thead>(.*?)</thead>', made, re.DOTALL
        )
        (body, *_) = re.findall(r'<table class="tokens"[^>]*>.*?<tbody>(.*?)</tr>', made, re.DOTALL)
        seen = [len(re.findall(r"<t[hd](?![^>]*aria-hidden)[ >]", each)) for each in (head, body)]
        assert seen == [2, 2]

    def test_no_bets(self) -> None:
        assert "This run judged no bet." in Read(page()).text

    def test_a_file_leads_to_its_line(self) -> None:
        bet = tales.every()["error"]
        near = page(bet)
        assert 'href="../bets/some.yaml"' in near
        far = page(bet, address="https://github.com/a/b/blob/" + "0" * 40)
        assert f'href="https://github.com/a/b/blob/{"0" * 40}/bets/some.yaml#L1"' in far

    def test_a_big_sweep_stays_small(self) -> None:
        found = tales.result(
            *(
                tales.variant(
                    f"skip-{at}", str(at), samples=tales.said("x"), profile=tales.profile()
                )
                for at in range(2_000)
            )
        )
        assert len(page(tales.judged(tales.SWEEP, found))) < 600_000


class TestNotebook:
    @pytest.mark.parametrize("kind", ["sweep", "arms", "pairs", "trajectory", "training"])
    def test_it_shows_the_verdict_and_the_chart(self, kind: str) -> None:
        bet = tales.every()[kind]
        made = html.notebook(bet)
        read = Read(made)
        assert f"{bet.verdict} {bet.title}" in read.text
        assert bet.deciding is not None
        assert str(bet.deciding.filled) in read.text
        assert read.all("figure")
        assert len(made) < 40_000

    def test_its_style_touches_nothing_else_and_asks_for_nothing(self) -> None:
        read = Read(html.notebook(tales.every()["sweep"]))
        (style,) = re.findall(
            r"<style>(.*?)</style>", html.notebook(tales.every()["sweep"]), re.DOTALL
        )
        depth, outside = 0, ""
        for letter in style:
            depth += (letter == "{") - (letter == "}")
            outside += letter if depth == 0 else ""
        assert outside.replace("}", "").split() == [".layerguard.layerguard.layerguard"]
        assert "url(" not in style
        assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in read.tags}
        assert not any("style" in attributes for _, attributes in read.tags)

    def test_words_stay_apart_in_a_notebook_that_is_not_trusted(self) -> None:
        # Jupyter drops the style sheet and the elements of svg there, and keeps the text.
        text = Read(html.notebook(tales.by_branch())).text
        assert "layer 0: 2 [1.818, 2.2] layer 1: 1.5" in text

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_words_stay_words(self, kind: str) -> None:
        made = html.notebook(hostile(HOSTILE[kind]))
        honest = html.notebook(hostile("honest"))
        assert [tag for tag, _ in Read(made).tags] == [tag for tag, _ in Read(honest).tags]
        assert not set(FORBIDDEN) & set(made)


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_words_stay_words(self, kind: str) -> None:
        honest, made = page_of("honest"), page_of(HOSTILE[kind])
        tags = [(tag, sorted(attributes)) for tag, attributes in Read(made).tags]
        assert tags == [(tag, sorted(attributes)) for tag, attributes in Read(honest).tags]
        assert not set(FORBIDDEN) & set(made)
        assert len(made) < len(honest) + 200_000
        made.encode("utf-8")

    def test_what_was_written_is_what_is_read(self) -> None:
        assert HOSTILE["element"] in Read(page_of(HOSTILE["element"])).text
        assert "{{ 7 * 7 }}" in Read(page_of(HOSTILE["template"])).text

    def test_an_address_is_followed_only_where_the_bet_format_allows_one(self) -> None:
        for words in HOSTILE.values():
            for link in Read(page_of(words)).all("a"):
                assert re.match(r"#|\.\./bets/|https://example\.org/", link["href"])
