"""The text of a new bet, with comments; it is valid as it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS: Final = {
    "skip_layers": "{layers: {each: all}}",
    "zero_layers": "{layers: {each: all}}",
    "reinitialize_layers": "{layers: {each: all}}",
    "repeat_layers": "{layers: {each: all}}",
    "replace_layers": "{pairs: {each: adjacent}}",
    "interchange_layers": "{pairs: {each: adjacent}}",
    "merge_layers": "{layers: 0, count: 1}",
    "remove_layers": "{count: 1, guided_by: interchange}",
    "average_experts": "{layers: all}",
    "drop_experts": "{count: 1}",
    "merge_experts": "{count: 1}",
    "ternary_weights": "{parts: linear, scale: tensor}",
    "prune_weights": "{parts: linear, sparsity: 0.5, by: magnitude}",
    "quantize_weights": "{parts: linear, bits: 4}",
    "quantize_activations": "{parts: linear, bits: 8}",
    "quantize_kv_cache": "{bits: 4}",
    "low_rank": "{parts: linear, ratio: 0.5, by: svd}",
    "load_checkpoint": "{path: candidate}",
    "load_results": "{base: {file: base.jsonl}, candidate: {file: candidate.jsonl}}",
    "cast": "{dtype: bfloat16}",
    "train": "{steps: 50, text: {reference: training}}",
}
"""The arguments of each built-in intervention where only its name is given."""

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9 ,.()%/'-]*")
_WORDS: Final = frozenset({"null", "true", "false"})
_COMMENTS: Final = 35
"""The column in which comments start."""


@dataclass(frozen=True)
class NewBet:
    """The values of a new bet; `model`, `intervention` and `text` are YAML already."""

    id: str
    title: str
    claim: str
    status: str
    model: str
    intervention: str
    text: str
    tokens: int
    window: int
    tasks: Mapping[str, str]
    lenient: str
    strict: str | None
    catastrophic: str | None
    challenges: tuple[str, ...]
    acknowledges: tuple[str, ...]
    schema: str
    placeholders: tuple[str, ...] = ()
    """The criteria that are only placeholders."""

    def __str__(self) -> str:
        """Return the text of the file."""
        lines = [
            f"# yaml-language-server: $schema={self.schema}",
            "# One claim, written down before anything is measured. Keys, metrics and interventions:",
            "# python -m pytest_layerguard schema; what this would cost: ... explain FILE",
            _line(f"id: {self.id}", "unique in the catalogue"),
            f"title: {quoted(self.title)}",
            f"claim: {quoted(self.claim)}",
            _line(f"status: {self.status}", "proposed, then upheld or falsified"),
        ]
        if self.challenges:
            ids = ", ".join(self.challenges)
            lines.append(_line(f"challenges: [{ids}]", "I know, and I bet against it"))
        if self.acknowledges:
            ids = ", ".join(self.acknowledges)
            lines.append(_line(f"acknowledges: [{ids}]", "I know, and I claim less"))
        lines += [
            _line(f"model: {self.model}", _others(self.model, _MODELS)),
            "intervention:",
            f"  {self.intervention}",
            "measure:",
            *self._measure(),
            _line("criteria:", "write them before you measure; they stay"),
        ]
        after: list[str] = []
        if self.placeholders:
            names = ", ".join(self.placeholders)
            lines += [
                "  # Placeholders that nobody has thought about: put in their place, before the first",
                "  # measurement, the bars that you would accept, and the claim that they make true.",
            ]
            after = [_line(f"placeholders: [{names}]", "take this out then: none is recorded")]
        for name in ("strict", "lenient", "catastrophic"):
            criterion = getattr(self, name)
            if criterion is not None:
                meant = ("placeholder: " if name in self.placeholders else "") + _CRITERIA[name]
                lines.append(_line(f"  {name}: {quoted(criterion)}", meant))
        lines += after
        if self.status == "falsified":
            lines += [
                "# A falsification may close a door to proposals that do the same:",
                "# closes:",
                "#   interventions: [skip_layers]",
                "#   models: parameters <= 1e8",
            ]
        return "\n".join(lines) + "\n"

    def _measure(self) -> list[str]:
        if self.intervention.startswith("load_results"):
            tasks = [f"    {name}: {source}" for name, source in self.tasks.items()]
            return [_line("  tasks:", "what both files are of"), *tasks]
        lines = [
            _line(f"  text: {self.text}", _others(self.text, _TEXTS)),
            _line(f"  tokens: {self.tokens}", "scored tokens"),
            _line(f"  window: {self.window}", "of them per window; 8 windows give intervals"),
            _line('  sample: {prompts: ["Once upon a time"], tokens: 100}', "gives unique_tokens"),
        ]
        if self.tasks:
            lines.append(_line("  tasks:", "questions with known answers"))
        return [*lines, *(f"    {name}: {source}" for name, source in self.tasks.items())]


TASK: Final = "task"
"""The name of the task that results of another engine are judged by."""
_MODELS: Final = {
    "reference": "reference",
    "{path:": "{path: DIR}",
    "{hub:": "{hub: ORG/NAME, revision: COMMIT}",
}
_TEXTS: Final = {
    "{reference:": "{reference: heldout}",
    "{file:": "{file: PATH}",
    "{dataset:": "{dataset: ORG/NAME, ...}",
}
"""The forms that a model and a text may have, by how they begin."""
_CRITERIA: Final = {
    "strict": "the claim holds, with room to spare",
    "lenient": "the claim holds",
    "catastrophic": "it fails beyond doubt",
}


def _others(given: str, forms: Mapping[str, str]) -> str:
    """Return the other forms that it may have."""
    others = (form for start, form in forms.items() if not given.startswith(start))
    return ", ".join(f"or {form}" for form in others)


def quoted(text: str) -> str:
    """Return text as a YAML scalar: as it is where that is safe, or in quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and text == text.strip():
        return text
    if re.fullmatch(r"[a-z_()][\w ().<>=+*/-]*", text) and text == text.strip():
        return text
    return json.dumps(text, ensure_ascii=False)


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENTS}}# {comment}" if len(text) < _COMMENTS else f"{text}  # {comment}"
