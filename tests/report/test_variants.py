"""Notes on variants: each once, however many variants have it."""

from __future__ import annotations

from support import tales

from pytest_layerguard.measurement.results import TaskChange
from pytest_layerguard.report.words import notes, task_changes


def test_a_note_of_several_is_reported_once() -> None:
    made = [tales.variant(f"skip-{at}", str(at), note="overflowed") for at in range(5)]
    other = tales.variant("zero-1", "1", note="is copied \x1b[2J")
    bare = tales.variant("zero-2", "2")
    assert list(notes([*made, other, bare])) == [
        "skip-0, skip-1, skip-2, skip-3, skip-4: overflowed",
        r"zero-1: is copied \u001b[2J",
    ]


def test_of_many_names_a_few_are_reported() -> None:
    made = [tales.variant(f"skip-{at}", str(at), note="overflowed") for at in range(48)]
    assert list(notes(made)) == ["skip-0, skip-1, skip-2, skip-3 and 44 more: overflowed"]


def test_a_text_and_a_checkpoint_are_part_of_the_name() -> None:
    (reported,) = notes(
        [tales.variant("skip-0", "0", text="heldout", checkpoint="init", note="odd")]
    )
    assert reported == "skip-0, heldout, init: odd"


def test_answers_lost_and_gained_are_reported() -> None:
    made = tales.variant("skip-0", "0", tasks={"q": TaskChange(200, 193, 60, 2, 1.7e-15)})
    assert list(task_changes([made])) == [
        "skip-0: of 193 right answers of q 60 lost, 2 gained (McNemar's exact p 1.7e-15)"
    ]
