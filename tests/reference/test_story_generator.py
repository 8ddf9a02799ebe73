"""The generator: the same text for ever, and text that asks a model to remember."""

import hashlib
import re
from itertools import islice

import pytest

from pytest_layerguard.reference import HELDOUT, manifest
from pytest_layerguard.reference.story_generator import STORIES_PER_BOOK, books, stories
from pytest_layerguard.reference.story_templates import (
    ENDINGS,
    HABITS,
    MIDDLES,
    OPENINGS,
    PLOTS,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("seed", "golden"),
    [
        (0, "3519f35415933e4916f562a6032cc3becba079ee22b7804589caeeb6f30dc388"),
        (1, "f98ac87a6bd66a651ae0b40bbe79a1123af15c5909355bb1a85cf0683fd72b7a"),
    ],
)
def test_a_seed_is_one_text_for_ever(seed, golden):
    assert digest("\n".join(islice(stories(seed), 500))) == golden


def test_seeds_differ():
    first, second = (set(islice(stories(seed), 300)) for seed in (0, 1))
    assert not first & second


def test_stories_are_clean_paragraphs():
    for story in islice(stories(5), 2000):
        assert re.fullmatch(r"[A-Za-z .,!?\"]+", story), story
        assert "  " not in story
        assert story == story.strip()
        assert story.count('"') % 2 == 0
        assert story[0].isupper()
        assert story[-1] in '.!?"'
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[.!?] [a-z]", story), story


def test_stories_begin_in_many_ways():
    starts = {" ".join(story.split()[:2]) for story in islice(stories(0), 1000)}
    assert "Once upon" in starts
    assert len(starts) > 20


def test_names_and_things_come_back_within_a_story():
    repeated = 0
    for story in islice(stories(0), 200):
        names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", story)
        repeated += max(names.count(name) for name in names) >= 3
    assert repeated > 190


def test_every_template_can_be_filled():
    seen = "\n".join(islice(stories(7), 4000))
    # The longest plain piece of each template is found again in enough text.
    for template in [*OPENINGS, *HABITS, *MIDDLES, *ENDINGS, *(b for plot in PLOTS for b in plot)]:
        pieces = re.split(r"\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]|\{\w+\}|a~ ?", template)
        assert max(pieces, key=len) in seen, template


def test_a_book_is_stories_with_blank_lines_between():
    book = next(books(0))
    assert book.split("\n\n") == list(islice(stories(0), STORIES_PER_BOOK))


def test_the_heldout_file_is_what_the_manifest_says():
    found = hashlib.sha256(HELDOUT.read_bytes()).hexdigest()
    assert manifest()["heldout"]["sha256"] == f"sha256:{found}"
