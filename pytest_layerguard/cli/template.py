"""The text of a new bet: commented, and sound as it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

ARGUMENTS: Final = {
    "skip_layers": "{layers: {each: all}}",
    "zero_layers": "{layers: {each: all}}",
    "reinitialize_layers": "{layers: {each: all}}",
    "replace_layers": "{pairs: {each: adjacent}}",
    "interchange_layers": "{pairs: {each: adjacent}}",
    "remove_layers": "{count: 1, guided_by: interchange}",
    "average_experts": "{layers: all}",
    "drop_experts": "{count: 1}",
    "ternary_weights": "{parts: linear, scale: tensor}",
    "prune_weights": "{parts: linear, sparsity: 0.5, by: magnitude}",
    "quantize_weights": "{parts: linear, bits: 4}",
    "train": "{steps: 50, text: {reference: training}}",
}
"""What each built-in intervention is told where only its name is given."""

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9 ,.()%/'-]*")
_WORDS: Final = frozenset({"null", "true", "false"})
_COMMENTS: Final = 35
"""The column in which comments start."""


@dataclass(frozen=True)
class NewBet:
    """What a new bet says; `model`, `intervention` and `text` are YAML already."""

    id: str
    title: str
    claim: str
    status: str
    model: str
    intervention: str
    text: str
    tokens: int
    window: int
    lenient: str
    strict: str | None
    catastrophic: str | None
    challenges: tuple[str, ...]
    schema: str

    def __str__(self) -> str:
        """The file."""
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
        lines += [
            _line(f"model: {self.model}", "or {path: DIR}, or {hub: ORG/NAME, revision: COMMIT}"),
            "intervention:",
            f"  {self.intervention}",
            "measure:",
            _line(f"  text: {self.text}", "or {file: PATH}, or {dataset: ORG/NAME, ...}"),
            _line(f"  tokens: {self.tokens}", "scored tokens"),
            _line(f"  window: {self.window}", "of them per window; 8 windows give intervals"),
            _line('  sample: {prompts: ["Once upon a time"], tokens: 100}', "gives unique_tokens"),
            _line("criteria:", "write them before you measure; they stay"),
        ]
        for name in ("strict", "lenient", "catastrophic"):
            criterion = getattr(self, name)
            if criterion is not None:
                lines.append(_line(f"  {name}: {quoted(criterion)}", _CRITERIA[name]))
        if self.status == "falsified":
            lines += [
                "# A falsification may close a door to proposals that do the same:",
                "# closes:",
                "#   interventions: [skip_layers]",
                "#   models: parameters <= 1e8",
            ]
        return "\n".join(lines) + "\n"


_CRITERIA: Final = {
    "strict": "the claim holds, with room to spare",
    "lenient": "the claim holds",
    "catastrophic": "it fails beyond doubt",
}


def quoted(text: str) -> str:
    """Return text as a YAML scalar: as it is where that is safe, or in quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and text == text.strip():
        return text
    if re.fullmatch(r"[a-z_()][\w ().<>=+*/-]*", text) and text == text.strip():
        return text
    return json.dumps(text, ensure_ascii=False)


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENTS}}# {comment}" if len(text) < _COMMENTS else f"{text}  # {comment}"
