"""Ask a task of lm-evaluation-harness, which builds the prompts and says which answers are right."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_layerguard.bet.errors import suggestion
from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.captured_output import first_line, quiet
from pytest_layerguard.environment.conditions import UNPINNED_FLAG
from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.measurement.metrics.task_metrics import (
    ACCURACY,
    Answer,
    Question,
    TaskAnswers,
)
from pytest_layerguard.measurement.metrics.task_perplexity import (
    BITS,
    PERPLEXITY,
    Documents,
    TaskLikelihoods,
)
from pytest_layerguard.measurement.tasks.right_or_wrong import USUAL, chance, shown
from pytest_layerguard.models.tokenization import check_chat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from pytest_layerguard.bet.task_sources import LmEvalTask
    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.measurement.tasks.asked_model import AskedModel
    from pytest_layerguard.models.plan import Plan

_BITS: Final = "bits_per_byte"
_NUMBERS: Final = (bool, int, float, np.number, np.bool_)
_SHOT_SEED: Final = 1234
"""The seed of lm-evaluation-harness for its choice of examples."""


@dataclass(frozen=True)
class LoadedTask:
    """A task with its requests built.

    Attributes:
        task: The task of lm-evaluation-harness.
        metric: The measure that it is judged by, which says whether an answer is right or is a perplexity.
        filter: The name of the filter of the responses that it is taken from.
        system: The instruction before everything else, if any.
        chat: How examples stand in the chat template that was applied; None if none was.
    """

    task: Any
    metric: str
    filter: str
    system: str | None
    chat: str | None

    @property
    def is_perplexity(self) -> bool:
        """Whether the measure is a perplexity, and not one of right and wrong."""
        return self.task.aggregation()[self.metric] in _perplexities()

    @property
    def gives(self) -> tuple[str, ...]:
        """The metrics that it gives."""
        if not self.is_perplexity:
            return ACCURACY
        return PERPLEXITY + (BITS if _BITS in self.task.aggregation() else ())

    @property
    def _by_question(self) -> list[list[Any]]:
        """The requests of each question."""
        found: dict[int, list[Any]] = defaultdict(list)
        for request in self.task.instances:
            found[request.doc_id].append(request)
        return [
            sorted(requests, key=lambda each: each.idx) for _, requests in sorted(found.items())
        ]

    @property
    def questions(self) -> int:
        """The number of questions."""
        return len(self._by_question)

    def ask(self, model: AskedModel) -> TaskAnswers | TaskLikelihoods:
        """Return the answers of every plan of a model.

        Raises:
            MeasurementError: If the task cannot be asked of this model, or its measure is not one of right and wrong.
        """
        from pytest_layerguard.measurement.tasks.variants_lm import VariantsLM

        lm = VariantsLM(model)
        responses: dict[Plan, dict[int, list[Any]]] = {plan: {} for plan in model.plans}
        with _silent():
            for kind, requests in self._by_kind().items():
                repeated = [each for each in requests for _ in range(each.repeats)]
                getattr(lm, kind)(repeated, disable_tqdm=True)
                for plan, given in lm.responses.items():
                    for request, response in zip(repeated, given, strict=True):
                        responses[plan].setdefault(id(request), []).append(response)
            if self.is_perplexity:
                return self._likelihoods(model.base, responses)
            answers = {plan: tuple(self._answers(given)) for plan, given in responses.items()}
            asked = tuple(self._question(requests) for requests in self._by_question)
        return TaskAnswers(asked, answers, self._provenance())

    def _by_kind(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for request in self.task.instances:
            found.setdefault(request.request_type, []).append(request)
        return found

    def _results(
        self, given: Mapping[int, Sequence[Any]]
    ) -> Iterator[tuple[list[Any], list[Any], Mapping[str, Any]]]:
        """Yield the requests of each question, the filtered responses, and what the task makes of them."""
        for request in self.task.instances:
            request.resps = list(given[id(request)])
            request.filtered_resps = {}
        with self._own("cannot be filtered"):
            self.task.apply_filters()
        for requests in self._by_question:
            filtered = [each.filtered_resps[self.filter] for each in requests]
            with self._own("cannot be scored"):
                found = dict(self.task.process_results(requests[0].doc, filtered))
            if self.metric not in found:
                raise MeasurementError(
                    f"the task gives no {self.metric} of a question; it gives {', '.join(found)}"
                )
            yield requests, filtered, found

    def _answers(self, given: Mapping[int, Sequence[Any]]) -> Iterator[Answer]:
        for requests, filtered, found in self._results(given):
            value = found[self.metric]
            if not isinstance(value, _NUMBERS) or value not in (0, 1):
                raise MeasurementError(
                    f"{self.metric} of a question is {value}, and not 0 or 1: it does not say whether an answer is "
                    "right; name another with metric"
                )
            choices = [str(each.args[1]) for each in requests]
            yield Answer(bool(value), shown(choices, filtered), tuple(map(str, filtered)))

    def _likelihoods(
        self, base: Plan, responses: Mapping[Plan, Mapping[int, Sequence[Any]]]
    ) -> TaskLikelihoods:
        found = {
            plan: [each for _, _, each in self._results(given)] for plan, given in responses.items()
        }
        sized = {plan: [_sized(each[self.metric]) for each in all_] for plan, all_ in found.items()}
        units = tuple(size for _, size in sized[base])
        of_bytes = None
        if _BITS in self.task.aggregation():
            of_bytes = tuple(_sized(each[_BITS])[1] for each in found[base])
        if not sum(units) or (of_bytes is not None and not sum(of_bytes)):
            raise MeasurementError("all of its documents are empty")
        return TaskLikelihoods(
            Documents(units, of_bytes),
            {plan: tuple(value for value, _ in all_) for plan, all_ in sized.items()},
            self._provenance(),
        )

    def _question(self, requests: Sequence[Any]) -> Question:
        target = self.task.doc_to_target(requests[0].doc)
        choices = [each.args[1] for each in requests]
        is_place = isinstance(target, int) and requests[0].request_type == "loglikelihood"
        right = choices[target] if is_place and 0 <= target < len(choices) else target
        return Question(
            str(requests[0].args[0]), str(right).strip(), chance([each.args for each in requests])
        )

    def _provenance(self) -> dict[str, Any]:
        """Return what was asked, with a digest of every prompt and right answer."""
        from lm_eval import __version__

        prompts = [[list(request.args) for request in each] for each in self._by_question]
        rights = [str(self.task.doc_to_target(each[0].doc)) for each in self._by_question]
        return {
            "digest": file_digests.of_text(json.dumps([prompts, rights], default=str)),
            "documents" if self.is_perplexity else "questions": self.questions,
            "lm_eval": __version__,
            "version": str(self.task.VERSION),
            "shots": self.task.get_config("num_fewshot"),
            "metric": f"{self.metric},{self.filter}",
            **({"chat": self.chat} if self.chat else {}),
            **({"system": self.system} if self.system else {}),
        }

    @contextmanager
    def _own(self, what: str) -> Iterator[None]:
        """Turn a failure of the task's own code into an error."""
        try:
            yield
        except Exception as error:
            raise MeasurementError(f"its answers {what}: {first_line(error)}") from None


def load_task(
    source: LmEvalTask,
    key: str,
    reach: AllowedPaths,
    conditions: Conditions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedTask:
    """Load a task and build its requests.

    Args:
        source: The task.
        key: The bet's key, such as ``measure.tasks.arc``, for messages.
        reach: The folders that may be read.
        conditions: What the user allows.
        tokenizer: The model's, whose chat template is applied where the bet asks for it; without one, none is.

    Raises:
        MeasurementError: If there is no such task, data set, revision or measure, or the task runs code.
        UnavailableError: If lm-evaluation-harness is not installed, or the data cannot be downloaded here.
    """
    if source.revision == UNPINNED and not conditions.allow_unpinned:
        raise UnavailableError(
            f"{key}.revision: the data set of {source.lm_eval} is not pinned to a commit; pin it to a full commit "
            f"hash, or allow it with {UNPINNED_FLAG}"
        )
    template = None
    if source.chat and tokenizer is not None:
        check_chat(tokenizer, f"{key}.chat")
        template = partial(_apply, tokenizer, source.system)
    with _silent(), _seeded():
        task = _task(source, key, reach)
        metric, name = _measure(task, source, key)
        own = task.get_config("num_fewshot")
        if own == 0 and source.shots:
            raise MeasurementError(f"{key}.shots: {source.lm_eval} takes no examples; leave it out")
        task.set_config(key="num_fewshot", value=own or 0 if source.shots is None else source.shots)
        task.set_fewshot_seed(seed=_SHOT_SEED)
        try:
            task.build_all_requests(
                limit=source.limit,
                rank=0,
                world_size=1,
                system_instruction=source.system,
                apply_chat_template=template is not None,
                fewshot_as_multiturn=source.multiturn,
                chat_template=template,
            )
        except Exception as error:
            raise MeasurementError(
                f"{key}: {source.lm_eval} cannot be asked: {first_line(error)}"
            ) from None
    turns = "examples as turns" if source.multiturn else "examples in one message"
    return LoadedTask(task, metric, name, source.system, turns if source.chat else None)


def _task(source: LmEvalTask, key: str, reach: AllowedPaths) -> Any:
    manager = _manager()
    name = source.lm_eval
    entry = manager.task_index.get(name)
    if entry is None:
        close = suggestion(name, manager.all_subtasks) or ";"
        raise MeasurementError(
            f"{key}.lm_eval: lm-evaluation-harness has no task {name!r}{close} all of them: lm-eval ls tasks"
        )
    if name not in manager.all_subtasks or entry.yaml_path is None:
        raise MeasurementError(
            f"{key}.lm_eval: {name} is no single task with a data set; name one of its tasks (lm-eval ls tasks)"
        )
    from lm_eval.tasks._yaml_loader import load_yaml

    own = load_yaml(entry.yaml_path, resolve_func=False, recursive=True)
    given = dict(own.get("dataset_kwargs") or {})
    changed: dict[str, Any] = {"task": name}
    if source.revision not in (None, UNPINNED):
        changed["dataset_kwargs"] = {**given, "revision": source.revision}
    if source.path is not None:
        folder = reach.directory(source.path, f"{key}.path")
        _check_local(folder / "README.md", f"{key}.path")
        given.pop("revision", None)
        changed |= {"dataset_path": str(folder), "dataset_kwargs": given}
    try:
        with tempfile.TemporaryDirectory(prefix="layerguard-") as cache:
            if source.path is not None:
                # The library's own cache does not notice that a local file holds something else.
                given |= {"cache_dir": cache, "keep_in_memory": True}
            # What a group changes of its tasks is laid over their own configurations.
            (task,) = manager.load([{"group": key, "task": [changed]}])["tasks"].values()
    except ConnectionError as error:
        raise UnavailableError(
            f"{key}: the data set of {name} cannot be fetched: {first_line(error)}; name a local copy with path",
            Lack("network", name),
        ) from None
    except Exception as error:
        raise MeasurementError(f"{key}: {name} cannot be loaded: {first_line(error)}") from None
    if getattr(task, "UNSAFE_CODE", False):
        raise MeasurementError(f"{key}.lm_eval: {name} runs code that the model writes")
    return task


def _check_local(readme: Path, key: str) -> None:
    """Refuse a local copy whose README names files elsewhere in its head: the library would go there."""
    head = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    if "://" in head.partition("---")[2].partition("---")[0]:
        raise MeasurementError(f"{key}: its README.md names files elsewhere; allowed: its own")


def _measure(task: Any, source: LmEvalTask, key: str) -> tuple[str, str]:
    """Return the measure that a task is judged by, and the filter that it is taken from."""
    measures = list(task.aggregation())
    filters = [each.name for each in task._filters]
    metric, _, name = (source.metric or "").partition(",")
    metric = metric or next((each for each in USUAL if each in measures), "")
    if not metric:
        raise MeasurementError(
            f"{key}: {source.lm_eval} gives {', '.join(measures)}, and none of them is known to say whether an answer "
            "is right; name one with metric"
        )
    for given, known, what in ((metric, measures, "measure"), (name, filters, "filter")):
        if given and given not in known:
            raise MeasurementError(
                f"{key}.metric: {source.lm_eval} has no {what} {given!r}; allowed: {', '.join(known)}"
            )
    return metric, name or filters[0]


def _sized(value: Any) -> tuple[float, float]:
    """Return the log-likelihood of a document and its size, which is 1 where the task does not say it."""
    likelihood, size = value if isinstance(value, list | tuple) else (value, 1)
    return float(likelihood), float(size)


def _perplexities() -> tuple[Any, ...]:
    """Return the ways in which lm-evaluation-harness makes a perplexity of log-likelihoods."""
    from lm_eval.api import metrics

    return metrics.perplexity, metrics.weighted_perplexity, metrics.bits_per_byte


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    system: str | None,
    messages: list[dict[str, str]],
    add_generation_prompt: bool = True,
) -> str:
    """Apply a chat template as lm-evaluation-harness does.

    Where the template takes no message of the system, that message is left out, but not the bet's own.
    """
    from jinja2 import TemplateError

    apply = partial(
        tokenizer.apply_chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    try:
        return str(apply(messages))
    except TemplateError:
        if system is not None:
            raise
        return str(apply([each for each in messages if each["role"] != "system"]))


@cache
def _manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UnavailableError(
            "tasks of lm-evaluation-harness need the package lm-eval, which is not installed; "
            "pip install 'pytest-layerguard[tasks]'",
            Lack("package", "lm-eval"),
        ) from None
    return TaskManager()


@contextmanager
def _silent() -> Iterator[None]:
    """Silence lm-evaluation-harness, whose progress bars go to the standard error."""
    with quiet(), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed what tasks draw with as lm-evaluation-harness does, and restore the state after the block."""
    before, others = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(1234)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(others)
