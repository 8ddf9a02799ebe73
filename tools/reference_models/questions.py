"""The questions about stories that the reference models never saw."""

from __future__ import annotations

import json
import re
from itertools import islice
from random import Random
from typing import Final

from pytest_layerguard.reference.story_generator import stories

QUESTIONS_SEED: Final = 2
"""Neither that of the training text nor that of the held-out text."""
QUESTIONS: Final = 200
CHOICES: Final = 4

_SENTENCE_END: Final = re.compile(r"(?<=[.!?]) |(?<=[.!?]\") ")
_FIRST: Final = 3
"""Sentences that a question has at least."""
_LONGEST: Final = 120
"""Words of a question, so that it fits the context of the models."""


def question_lines() -> str:
    """Generate the shipped file of questions, one a line: which sentence goes on with a story?

    Each question is the beginning of one of the first stories of ``QUESTIONS_SEED``. The right choice is the sentence
    that follows there; the others are sentences of all these stories, drawn at random.
    """
    rng = Random(QUESTIONS_SEED)
    told = [_SENTENCE_END.split(story) for story in islice(stories(QUESTIONS_SEED), QUESTIONS)]
    every = [sentence for sentences in told for sentence in sentences]
    lines = []
    for sentences in told:
        places = [
            place
            for place in range(_FIRST, len(sentences))
            if len(" ".join(sentences[:place]).split()) <= _LONGEST
        ]
        place = places[int(rng.random() * len(places))]
        choices = [sentences[place]]
        while len(choices) < CHOICES:
            drawn = every[int(rng.random() * len(every))]
            if drawn not in choices:
                choices.append(drawn)
        answer = int(rng.random() * CHOICES)
        choices.insert(answer, choices.pop(0))
        question = {"context": " ".join(sentences[:place]), "choices": choices, "answer": answer}
        lines.append(json.dumps(question) + "\n")
    return "".join(lines)
