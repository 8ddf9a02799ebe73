"""A seeded generator of English stories: the text that the reference models were trained on.

It draws only from ``Random.random()``, whose sequence for a seed is fixed by Python's documentation.
The same seed therefore gives the same text on every version.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Final, TypeVar

from pytest_layerguard.reference import story_templates, story_words

T = TypeVar("T")

STORIES_PER_BOOK: Final = 8

_TOKEN = re.compile(r"[\[\]|]|\{[^}]*\}|[^\[\]|{}]+")
_ARTICLE = re.compile(r"\b([Aa])~ ?(?=(\w))")


def stories(seed: int) -> Iterator[str]:
    """Yield stories without end.

    Args:
        seed: The seed of the text.

    Yields:
        One story, a paragraph of some 100 to 200 English words without a line break.
    """
    rng = Random(seed)
    while True:
        yield story(rng)


def books(seed: int) -> Iterator[str]:
    """Yield books without end; in training, each is followed by an end-of-text token.

    A book holds several stories, as the held-out text does, so that the models learn what follows a
    blank line as well as what follows the end of a text.

    Args:
        seed: The seed of the stories.

    Yields:
        ``STORIES_PER_BOOK`` stories with a blank line between them.
    """
    shelf = stories(seed)
    while True:
        yield "\n\n".join(islice(shelf, STORIES_PER_BOOK))


def story(rng: Random) -> str:
    """Draw one story.

    Args:
        rng: The generator that every choice is drawn from.

    Returns:
        A paragraph without a line break.
    """
    cast = _cast(rng)
    plot = _pick(rng, story_templates.PLOTS)
    opening = _pick(rng, [text for text in story_templates.OPENINGS if _suits(text, plot)])
    beats = [_fill(opening, rng, cast)]
    if rng.random() < 0.5:
        habit = _pick(rng, [text for text in story_templates.HABITS if _suits(text, plot)])
        beats.append(_fill(habit, rng, cast))
    pause = 3 + int(rng.random() * (len(plot) - 3))
    for index, beat in enumerate(plot):
        # A middle names the friend, who must have entered by then.
        if index == pause and rng.random() < 0.7 and cast["F"] in "".join(beats):
            beats.append(_fill(_pick(rng, story_templates.MIDDLES), rng, cast))
        beats.append(_fill(beat, rng, cast))
    beats.append(_fill(_pick(rng, story_templates.ENDINGS), rng, cast))
    return _ARTICLE.sub(_article, "".join(beats).strip())


def _suits(text: str, plot: tuple[str, ...]) -> bool:
    """Return whether an opening neither contradicts nor repeats what the plot says."""
    if "{F}" in text and any("{friend_intro}" in beat for beat in plot):
        return False
    return "thing}" not in text or any("{his} {colour} {thing}" in beat for beat in plot[:2])


def _article(match: re.Match[str]) -> str:
    return match[1] + ("n " if match[2].lower() in "aeiou" else " ")


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _pick_two(rng: Random, options: Sequence[T]) -> tuple[T, T]:
    first = int(rng.random() * len(options))
    second = int(rng.random() * (len(options) - 1))
    return options[first], options[second + (second >= first)]


def _pick_three(rng: Random, options: Sequence[T]) -> tuple[T, T, T]:
    left = list(options)
    first, second, third = (left.pop(int(rng.random() * len(left))) for _ in range(3))
    return first, second, third


def _cast(rng: Random) -> Mapping[str, str]:
    """Draw the value of every slot of a story: who and what it is about."""
    hero_she, friend_she, elder_she = (rng.random() < 0.5 for _ in range(3))
    hero = _pick(rng, story_words.SHE_NAMES if hero_she else story_words.HE_NAMES)
    friend = hero
    while friend == hero:
        friend = _pick(rng, story_words.SHE_NAMES if friend_she else story_words.HE_NAMES)
    hero_kind, friend_kind, third_kind = _pick_three(rng, story_words.KINDS)
    if rng.random() < 0.2:
        hero_kind = "girl" if hero_she else "boy"
    hero_trait, friend_trait = _pick_two(rng, story_words.TRAITS)
    colour, colour2 = _pick_two(rng, story_words.COLOURS)
    thing, thing2 = _pick_two(rng, story_words.THINGS)
    where, where2, where3 = _pick_three(rng, story_words.PLACES)
    food = _pick(rng, story_words.FOODS)
    noise, source = _pick(rng, story_words.NOISES)
    skill, skilling = _pick(rng, story_words.SKILLS)
    elder = _pick(rng, story_words.SHE_ELDERS if elder_she else story_words.HE_ELDERS)
    return {
        "H": hero,
        "he": "she" if hero_she else "he",
        "He": "She" if hero_she else "He",
        "him": "her" if hero_she else "him",
        "his": "her" if hero_she else "his",
        "His": "Her" if hero_she else "His",
        "hero_intro": f"a~ {hero_trait} {'little ' if rng.random() < 0.3 else ''}{hero_kind}",
        "F": friend,
        "fhis": "her" if friend_she else "his",
        "Fhis": "Her" if friend_she else "His",
        "friend_intro": f"a~ {friend_trait} {friend_kind}",
        "E": elder,
        "E_cap": elder[0].upper() + elder[1:],
        "holder": _pick(rng, story_words.HOLDERS),
        "pot": _pick(rng, story_words.POTS),
        "part": _pick(rng, story_words.PARTS),
        "kind2": third_kind,
        "home": _pick(rng, story_words.HOMES),
        "colour": colour,
        "colour2": colour2,
        "thing": thing,
        "thing2": thing2,
        "a_thing": f"a~ {colour} {thing}",
        "a2_thing2": f"a~ {colour2} {thing2}",
        "place": where[1],
        "place2": where2[1],
        "place3": where3[1],
        "in_place": " ".join(where),
        "in_place2": " ".join(where2),
        "in_place3": " ".join(where3),
        "spot": _pick(rng, story_words.SPOTS),
        "food": food,
        "Food": food.capitalize(),
        "dish": _pick(rng, story_words.DISHES),
        "number": _pick(rng, story_words.NUMBERS),
        "day": _pick(rng, story_words.DAYS),
        "weather": _pick(rng, story_words.WEATHERS),
        "feeling": _pick(rng, story_words.FEELINGS),
        "noise": noise,
        "source": source,
        "skill": skill,
        "skilling": skilling,
        "plant": _pick(rng, story_words.PLANTS),
        "work": _pick(rng, story_words.WORKS),
    }


@dataclass(frozen=True)
class _Slot:
    name: str


@dataclass(frozen=True)
class _Choice:
    options: tuple["_Sequence", ...]


_Sequence = tuple[str | _Slot | _Choice, ...]


@cache
def _parse(template: str) -> _Sequence:
    tokens = _TOKEN.findall(template)
    sequence, end = _parse_sequence(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"unbalanced brackets in {template!r}")
    return sequence


def _parse_sequence(tokens: list[str], at: int) -> tuple[_Sequence, int]:
    nodes: list[str | _Slot | _Choice] = []
    while at < len(tokens) and tokens[at] not in "|]":
        if tokens[at] == "[":
            options = []
            while tokens[at] != "]":
                option, at = _parse_sequence(tokens, at + 1)
                options.append(option)
            nodes.append(_Choice(tuple(options)))
        elif tokens[at].startswith("{"):
            nodes.append(_Slot(tokens[at][1:-1]))
        else:
            nodes.append(tokens[at])
        at += 1
    return tuple(nodes), at


def _fill(template: str, rng: Random, cast: Mapping[str, str]) -> str:
    """Draw the template's choices, from left to right, and fill its slots from the cast."""
    return _render(_parse(template), rng, cast)


def _render(sequence: _Sequence, rng: Random, cast: Mapping[str, str]) -> str:
    parts = []
    for node in sequence:
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, _Slot):
            parts.append(cast[node.name])
        else:
            parts.append(_render(_pick(rng, node.options), rng, cast))
    return "".join(parts)
