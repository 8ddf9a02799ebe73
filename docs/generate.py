"""Writes `docs/reference/` from the code: `python docs/generate.py`; a test fails where it is stale."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from pytest_layerguard import api, extending
from pytest_layerguard.bet import arguments, bet, task_sources, text_sources, validation
from pytest_layerguard.bet.criteria import evaluate, metrics
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.records import SCHEMA, Record
from pytest_layerguard.cli.bet_template import ARGUMENTS
from pytest_layerguard.cli.main import parser
from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.interventions import registry
from pytest_layerguard.pytest_plugin import commands, hookspecs, options
from pytest_layerguard.report import json
from pytest_layerguard.report.bet_report import BetReport, CandidateReport
from pytest_layerguard.report.words import meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_layerguard.bet.validation import BetPart

REFERENCE = Path(__file__).with_name("reference")
NOTICE = "<!-- Written by docs/generate.py; change the code that it describes. -->"


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    made = {
        "options.md": _options,
        "commands.md": _commands,
        "format.md": _format,
        "interventions.md": _interventions,
        "metrics.md": _metrics,
        "words.md": _words,
        "hooks.md": _hooks,
        "python.md": _python,
        "records.md": _records,
    }
    return {
        name: "\n".join([NOTICE, "", *lines()]).rstrip("\n") + "\n" for name, lines in made.items()
    }


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


class Recorder:
    """Stands where pytest's parser does, and keeps what is declared."""

    def __init__(self) -> None:
        self.flags: dict[str, dict[str, Any]] = {}
        self.ini: dict[str, str] = {}

    def getgroup(self, *_words: str) -> Recorder:
        """Return this: there is one group."""
        return self

    def addoption(self, flag: str, **more: Any) -> None:
        """Keep an option."""
        self.flags[flag] = more

    def addini(self, name: str, help: str, **_more: Any) -> None:  # noqa: A002 - pytest's name
        """Keep an ini option."""
        self.ini[name] = help


def declared() -> Recorder:
    """Return every option that the plugin declares."""
    recorder = Recorder()
    options.add_options(recorder)  # type: ignore[arg-type]
    commands.add_options(recorder)  # type: ignore[arg-type]
    return recorder


def _options() -> Iterator[str]:
    recorder = declared()
    yield "# Options of pytest"
    yield ""
    yield (
        "Every option of the command line that has a name in the second column can stand in an ini "
        "file, such as `[tool.pytest.ini_options]` of `pyproject.toml`. A path on the command line "
        "starts from the current directory, one in an ini file from that file."
    )
    yield ""
    yield "| option | ini | does |"
    yield "|---|---|---|"
    for flag, more in sorted(recorder.flags.items()):
        ini = str(more.get("dest", ""))
        metavar = f" {more['metavar']}" if more.get("metavar") else ""
        shown = f"`{ini}`" if ini in recorder.ini else ""
        yield f"| `{flag}{metavar}` | {shown} | {_cell(more['help'])} |"
    flags = {str(more.get("dest")) for more in recorder.flags.values()}
    for name, text in recorder.ini.items():
        if name not in flags:
            yield f"| | `{name}` | {_cell(text)} |"
    yield ""
    yield "## Limits"
    yield ""
    yield (
        "A bet is data from a pull request and must not exhaust a machine. What one may use at the "
        "most, unless `--layerguard-limit NAME=NUMBER` or the ini key allow more or less:"
    )
    yield ""
    yield "| limit | at most |"
    yield "|---|---|"
    for name, value in vars(Budget()).items():
        yield f"| `{name}` | {value:,} |"
    yield ""
    yield "What a bet file may say at all, which no option changes:"
    yield ""
    yield "| of a file | at most |"
    yield "|---|---|"
    for name, value in vars(validation.LIMITS).items():
        yield f"| `{name}` | {value:,} |"


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "`python -m pytest_layerguard COMMAND`; the exit status is 0, 1 for what is wrong, 2 for a misuse."
    made = parser()
    (chosen,) = (
        action for action in made._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in chosen.choices.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield str(command.description)
        yield ""
        yield "| argument | meaning |"
        yield "|---|---|"
        for action in command._actions:
            if action.dest == "help":
                continue
            shown = action.option_strings[0] if action.option_strings else action.dest.upper()
            values = "\\|".join(action.choices) if action.choices else action.metavar or ""
            words = f"{shown} {values}".strip() if action.option_strings else values or shown
            default = "" if action.default in (None, False, []) else f" (default: {action.default})"
            yield f"| `{words}` | {_cell(action.help or 'what the bet is')}{default} |"


PARTS: tuple[tuple[str, type[BetPart], str], ...] = (
    ("A bet", bet.Bet, ""),
    (
        "model",
        bet.ModelSpec,
        "Or one word: " + ", ".join(f"`{n}`" for n in bet.REFERENCE_NAMES),
    ),
    ("measure", bet.Measure, ""),
    ("measure.text: the package's own", text_sources.ReferenceText, ""),
    ("measure.text: a file", text_sources.FileText, ""),
    ("measure.text: a dataset of the hub", text_sources.DatasetText, ""),
    ("measure.text: a dataset in a file", text_sources.LocalDatasetText, ""),
    ("measure.sample", bet.SampleSpec, ""),
    ("measure.generate", bet.GenerateSpec, ""),
    ("measure.tasks: the package's own", task_sources.ReferenceQuestions, ""),
    ("measure.tasks: a file of questions", task_sources.QuestionFile, ""),
    ("measure.tasks: a task of lm-evaluation-harness", task_sources.LmEvalTask, ""),
    ("measure.speak", bet.SpeakSpec, ""),
    ("load_results: base and candidate", arguments.SampleFile, ""),
    ("criteria", evaluate.Criteria, ""),
    ("closes", bet.Closes, ""),
    ("evidence", bet.Evidence, ""),
    ("needs", bet.Needs, ""),
    ("amends", bet.Amends, ""),
)


def _format() -> Iterator[str]:
    yield "# The bet file, format 1"
    yield ""
    yield (
        "One YAML document is one bet; a file may hold several. YAML 1.2 scalars (`1e-5` is a number, "
        "`on` is a string), no duplicate keys, unknown keys are errors. What `intervention` and `arms` "
        "take is on [its own page](interventions.md), what criteria may name on [another](metrics.md). "
        "`python -m pytest_layerguard schema` prints the JSON Schema that editors complete from."
    )
    for title, part, more in PARTS:
        yield ""
        yield f"## {title}"
        yield ""
        yield from _prose(part)
        if more:
            yield ""
            yield more
        yield ""
        yield from _keys(part)
    yield ""
    yield "## Targets"
    yield ""
    yield (
        "`layers` is `all`, an index, a list (together, one variant), or `{each: all}` and "
        "`{each: [0, -1]}` (a sweep, one variant each); negative indices count from the end. `pairs` is "
        "likewise a list of pairs, `{each: [[15, 17], [20, 22]]}`, `{each: all}`, `{each: adjacent}` or "
        "`{each: {max_gap: 3}}`."
    )
    yield ""
    yield "## Expressions"
    yield ""
    yield (
        "A criterion has comparisons, `and`, `or`, `not`, `+ - * /`, numbers, and `any(...)`, "
        "`all(...)`, `min(...)`, `max(...)`, `mean(...)` over a sweep. A dotted prefix names an arm, a "
        "text, a task or a checkpoint. In a sweep a metric outside any of these is an error. A scope in "
        "`closes.models` compares `parameters`, `layers`, `experts`, `hidden_size`, `family` and `name`."
    )


def _keys(part: type[BetPart], inherited: Iterable[str] = ()) -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for key, field in part.model_fields.items():
        name = field.alias or key
        if name in inherited:
            continue
        default = field.get_default()
        shown = "" if default in (None, (), PydanticUndefined) else f"`{_plain(default)}`"
        yield f"| `{name}` | {'required' if field.is_required() else shown} | {_cell(field.description or '')} |"


def _plain(value: object) -> str:
    written = getattr(value, "written", None)
    return str(written() if callable(written) else value)


def _interventions() -> Iterator[str]:
    yield "# Interventions"
    yield ""
    yield (
        "What `intervention` and `arms` take: one of these, or a list applied in order. Others come "
        "from packages; see [your own intervention](../guides/your-own-intervention.md)."
    )
    for kind, accepted in arguments.BUILTIN_KINDS.items():
        yield ""
        yield f"## {kind}"
        yield ""
        yield from _prose(accepted)
        yield ""
        yield "```yaml"
        yield f"{kind}: {ARGUMENTS[kind]}"
        yield "```"
        yield ""
        yield from _keys(accepted)
        if accepted.measures:
            yield ""
            yield f"Gives the metric {', '.join(f'`{name}`' for name in sorted(accepted.measures))}."


NEEDS: Mapping[str, str] = {
    "nothing": "",
    "sample": "`measure.sample`",
    "pairs": "`replace_layers` or `interchange_layers` alone",
    "protocols": "two arms, a replacement and an interchange of the same pairs",
    "weights": "an intervention that stores weights otherwise",
    "generate": "`measure.generate`",
    "tasks": "`measure.tasks`; the name of a task stands before it, as in `NAME.accuracy`",
    "criterion": "a criterion that names it",
    "registered": "",
}


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield (
        "What criteria may name. All but counts, sizes, `kl_max` and what is measured of generated text carry a 95 % "
        "interval, clustered by window; those of tasks one of counts, paired by question. "
        "Others come from packages; see [your own metric](../guides/your-own-metric.md)."
    )
    yield ""
    yield "| metric | unit | meaning | needs |"
    yield "|---|---|---|---|"
    for metric in metrics.METRICS.values():
        yield f"| `{metric.name}` | {metric.unit} | {_cell(metric.meaning)} | {NEEDS[metric.needs]} |"


def _words() -> Iterator[str]:
    yield "# Outcome words"
    yield ""
    yield "| word | means |"
    yield "|---|---|"
    for word in Word:
        yield f"| {word} | {_cell(meaning('', word, ''))} |"
    yield ""
    yield "## When the build fails"
    yield ""
    yield "| status | the test passes when | else the build fails with |"
    yield "|---|---|---|"
    yield "| `proposed` | it is not CROSSED and its claim holds | CROSSED, or the verdict |"
    yield "| `upheld` | its claim holds, no worse than in its record | REGRESSED |"
    yield "| `falsified` | its claim does not hold; INCONCLUSIVE passes with a warning | OVERTURNED |"
    yield "| any, with a record | the bet says what it said then | TAMPERED |"
    yield "| any, with a record | weights, tokenizer, text and candidate are those of the record | STALE |"
    yield ""
    yield "## In which order a verdict is reached"
    yield ""
    yield "1. CATASTROPHIC: `catastrophic` is true, whatever else is."
    yield "2. STRICT: `catastrophic` is false and `strict` is true."
    yield "3. LENIENT: `catastrophic` is false and `lenient` is true."
    yield "4. FALSIFIED: `lenient` is false."
    yield "5. INCONCLUSIVE: an interval straddles a bar."


def _hooks() -> Iterator[str]:
    yield "# Hooks, entry points and the fixture"
    yield ""
    yield (
        "Hooks are those of pytest: implement them in a `conftest.py`, or in a package that is a pytest "
        "plugin (entry point group `pytest11`)."
    )
    for name, hook in vars(hookspecs).items():
        if name.startswith("pytest_layerguard_"):
            yield ""
            yield f"## {name}"
            yield ""
            yield from _signature(name, hook)
            yield ""
            yield str(inspect.getdoc(hook))
    yield ""
    yield "## Entry points"
    yield ""
    yield "What they name is known everywhere, also to `python -m pytest_layerguard` and `measure`."
    yield ""
    yield "| group | names |"
    yield "|---|---|"
    yield f"| `{registry.ENTRY_POINT_GROUP}` | a `Kind`: an intervention |"
    yield f"| `{registry.METRICS_ENTRY_POINT_GROUP}` | an `OwnMetric` |"
    yield "| `pytest11` | a module with the hooks above |"
    yield ""
    yield "## The fixture"
    yield ""
    yield "`layerguard`, for the whole session; nothing is loaded before a bet is measured."
    yield ""
    yield from _signature("layerguard.measure", api.Measuring.measure)
    yield ""
    yield from _doc(api.Measuring.measure)


SHOWN: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("pytest_layerguard.measure", api.measure),
    ("pytest_layerguard.Measured", api.Measured),
    *(
        (f"pytest_layerguard.extending.{each.__name__}", each)
        for each in (
            extending.Kind,
            extending.Arguments,
            extending.LayersArguments,
            extending.PairsArguments,
            extending.Plan,
            extending.Edit,
            extending.Weights,
            extending.LayerParts,
            extending.Bench,
            extending.InterventionError,
            extending.OwnMetric,
            extending.ScoredTokens,
            extending.Interval,
            extending.BetResult,
            extending.VariantResult,
            extending.Continuation,
            extending.BetReport,
        )
    ),
)


def _python() -> Iterator[str]:
    yield "# Python"
    yield ""
    yield "What may be imported, by packages that add to this one and by notebooks."
    for name, thing in SHOWN:
        yield ""
        yield f"## {name}"
        yield ""
        if inspect.isfunction(thing):
            yield from _signature(name.rpartition(".")[2], thing)
            yield ""
        yield from _doc(thing)
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            inner = function.fget if isinstance(function, property) else function
            inner = getattr(inner, "__func__", inner)
            own = inspect.isfunction(inner) and inner.__doc__ and not method.startswith("_")
            if own:
                yield ""
                yield f"- `{method}`: {_cell(str(inspect.getdoc(inner)).splitlines()[0])}"


_JSON_ONLY = {
    "crossed": "The ids of the falsifications whose door it stands in.",
    "seconds": "The time that this run spent on it; 0 where its numbers were kept.",
    "cached": "Whether its numbers were kept from an earlier run.",
    "tokens": "Scored tokens per text, or null where nothing was measured.",
    "windows": "Windows per text, or null.",
    "base": "The metrics of the untouched model; null with several texts or checkpoints: each variant has its own.",
    "variants": "Each with `name`, `target` (a number where it is one layer), `arm`, `text`, `checkpoint`, `metrics`.",
    "candidates": "The checkpoints that were put in the base's place, where there are any.",
}
"""Keys of an entry that are no attributes of a BetReport, or otherwise there."""


def _records() -> Iterator[str]:
    yield "# Records and the JSON report"
    yield ""
    yield (
        "`bets/records/ID.json` is written by `--layerguard-record`, whole or not at all, committed and "
        "reviewed like code. `bets/SUMMARY.md` is rolled up from the records by `--layerguard-summary`."
    )
    yield ""
    yield "| key | holds |"
    yield "|---|---|"
    yield f"| `schema` | The version of this form of a record: {SCHEMA}. Another one is refused. |"
    for name, text in attributes(Record).items():
        yield f"| `{name}` | {_cell(text)} |"
    yield ""
    yield "Its `result`:"
    yield ""
    yield "| key | holds |"
    yield "|---|---|"
    for name, text in attributes(extending.BetResult).items():
        yield f"| `{name}` | {_cell(text)} |"
    yield ""
    yield "## --layerguard-json"
    yield ""
    yield (
        'The results of the run: `{"schema": 1, "bets": [...]}`, one entry for each bet, by file and line. '
        "A metric is `value`, and `low` and `high` where it has an interval; a number that overflowed is the "
        "string `inf`."
    )
    yield ""
    yield "| key | holds |"
    yield "|---|---|"
    described = attributes(BetReport) | _JSON_ONLY
    nothing = dict.fromkeys(("id", "file", "status", "outcome", "word", "digest", "model"), "")
    shown = BetReport(**nothing, line=1, intervention="", candidates=(CandidateReport(""),))
    for name in json.entry(shown):
        yield f"| `{name}` | {_cell(described[name])} |"


def attributes(documented: type) -> dict[str, str]:
    """Return what a docstring's section of attributes says, by name."""
    section = str(inspect.getdoc(documented)).partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        started = re.match(r"    (\w+): (.*)", line)
        if started:
            name = started[1]
            found[name] = started[2]
        elif line.startswith("     ") and name:
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return found


def _doc(thing: object) -> Iterator[str]:
    text = str(inspect.getdoc(thing))
    head, _, section = text.partition("Attributes:\n")
    for line in head.rstrip().splitlines():
        named = re.match(r"    (\w+): (.*)", line)
        if named:
            yield f"- `{named[1]}`: {named[2]}"
        else:
            yield re.sub(r":(?:class|data|meth|mod|func):`~?([^`]*)`", r"`\1`", line.strip())
    if section:
        yield ""
        for name, meant in attributes(thing).items():  # type: ignore[arg-type]
            yield f"- `{name}`: {meant}"


def _prose(thing: object) -> Iterator[str]:
    yield from str(inspect.getdoc(thing)).replace("``", "`").splitlines()


def _signature(name: str, function: Callable[..., Any]) -> Iterator[str]:
    given = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            given.append("*")
            star = True
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        given.append(f"{parameter.name}: {parameter.annotation}{default}")
    returns = inspect.signature(function).return_annotation
    flat = f"{name}({', '.join(given)}) -> {returns}"
    yield "```text"
    if len(flat) <= 100:
        yield flat
    else:
        yield f"{name}("
        yield from (f"    {each}," for each in given)
        yield f") -> {returns}"
    yield "```"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    sys.exit(main())
