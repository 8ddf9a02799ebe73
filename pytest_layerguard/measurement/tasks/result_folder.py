"""Read the folder that lm-evaluation-harness writes of a run (``--output_path``): samples of each task, and results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.tasks.sample_files import NAMED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.environment.conditions import Conditions


@dataclass(frozen=True)
class ResultFolder:
    """What one run wrote.

    Attributes:
        written: The folder as it stands in the bet.
        key: The bet's key, for messages.
        files: The file of samples of each task, relative to the bet file.
        results: What the run found of all tasks.
    """

    written: str
    key: str
    files: Mapping[str, str]
    results: Mapping[str, Any]

    @classmethod
    def of(
        cls, written: str, key: str, reach: AllowedPaths, conditions: Conditions
    ) -> ResultFolder:
        """Find the files of a run.

        Raises:
            MeasurementError: If there are none, or those of several runs.
        """
        folder = reach.directory(written, key)
        found = sorted(
            path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.suffix in _SUFFIXES
        )
        samples = {path: named for path in found if (named := NAMED.fullmatch(path.name))}
        if not samples:
            raise MeasurementError(
                f"{key}: {quoted(written)} has no samples_TASK_DATE.jsonl; run lm_eval with --output_path and "
                "--log_samples"
            )
        runs = sorted({(path.parent, named["date"]) for path, named in samples.items()})
        if len(runs) > 1:
            listed = ", ".join(_relative(each / date, folder) for each, date in runs[:4])
            raise MeasurementError(
                f"{key}: {quoted(written)} has samples of {len(runs)} runs ({listed}); name the files of one, or a "
                "folder of its own"
            )
        ((parent, date),) = runs
        path = parent / f"results_{date}.json"
        if not path.exists():
            raise MeasurementError(
                f"{key}: {quoted(written)} has no {path.name} beside its samples; name the files instead"
            )
        shown = f"{written}/{_relative(path, folder)}"
        content = reach.file(shown, key, largest=conditions.budget.text_bytes).read_bytes()
        try:
            results = json.loads(content)
        except (ValueError, RecursionError):
            results = None
        if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
            raise MeasurementError(f"{key}: {quoted(shown)} is no results of lm-evaluation-harness")
        return cls(
            written,
            key,
            {
                named["task"]: f"{written}/{_relative(path, folder)}"
                for path, named in samples.items()
            },
            results,
        )

    def tasks_of(self, name: str) -> list[str]:
        """Return the tasks of a group, or the task itself.

        Raises:
            MeasurementError: If the run has no samples of it.
        """
        if name in self.files:
            return [name]
        waiting, found = [name], []
        known = {name}
        while waiting:
            each = waiting.pop(0)
            under = self._of("group_subtasks", each)
            if each in self.files:
                found.append(each)
            elif isinstance(under, list) and under:
                new = [one for one in map(str, under) if one not in known]
                known.update(new)
                waiting += new
            else:
                raise MeasurementError(
                    f"{self.key}: {quoted(self.written)} has no samples of {each}; it has those of "
                    f"{', '.join(sorted(self.files)[:20])}"
                )
        if not found:
            raise MeasurementError(f"{self.key}: the group {name} has no task")
        return found

    def version(self, task: str) -> str:
        """Return the version of a task, and the examples before each question, as people write them."""
        return f"version {self._of('versions', task)} with {self._of('n-shot', task)} examples"

    def check(self, task: str, measure: str, count: int, value: float) -> None:
        """Check that samples are those that the run's results were made of.

        Args:
            task: The task or group.
            measure: Its measure and filter.
            count: How many samples there are.
            value: The measure over them.

        Raises:
            MeasurementError: If there are more or fewer, or the results say something else.
        """
        asked = self._of("n-samples", task)
        effective = asked.get("effective") if isinstance(asked, dict) else None
        if isinstance(effective, int) and effective != count:
            raise MeasurementError(
                f"{self.key}: the samples of {task} are not whole: {count:,} of {effective:,}"
            )
        stated = self._of("results", task) or self._of("groups", task)
        known = stated.get(measure) if isinstance(stated, dict) else None
        if isinstance(known, int | float) and not math.isclose(known, value, rel_tol=1e-6):
            raise MeasurementError(
                f"{self.key}: the samples of {task} give {measure} of {value:.6g}, and the results of the same run "
                f"{known:.6g}"
                + (
                    ""
                    if task in self.files
                    else "; a group whose tasks count alike is judged by its tasks: name them"
                )
            )

    def _of(self, part: str, task: str) -> Any:
        found = self.results.get(part)
        return found.get(task) if isinstance(found, dict) else None


_SUFFIXES: Final = frozenset({".json", ".jsonl"})


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
