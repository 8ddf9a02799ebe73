"""Measure on a Ray cluster: the bets on each model are one task, on a node that has what they need.

Nodes need this package in the version of the machine that starts the tasks, and the files that bets name at the
same paths; models of a hub each node fetches itself. That machine judges what the tasks measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions, silent
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.environment.progress_listener import uncounted
from pytest_layerguard.measurement.result_cache import CachingMeasurer, code_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.measurer import Measurer
    from pytest_layerguard.measurement.results import BetResult

    Opens = Callable[[Conditions, Registry], Measurer]
    Answer = BetResult | MeasurementError | UnavailableError

RETRIES: Final = 3
"""How often a task is started again after its worker was lost."""


@dataclass(frozen=True)
class _Bet:
    """A bet as it is sent to a node: the text of its file, which the node may not have."""

    text: str
    path: Path
    bets: Path
    id: str


@dataclass(frozen=True)
class _Task:
    """Bets that one worker measures, and how."""

    bets: tuple[_Bet, ...]
    conditions: Conditions
    registry: Registry
    code: str
    opens: Opens


class RayMeasurer:
    """Measures on a cluster; all announced bets are started at once.

    Args:
        conditions: What the user allows.
        registry: The kinds of interventions; those of other packages must be installed on the nodes.
        address: The cluster's address, as ``ray.init`` takes it.
        opens: Makes the measurer of a node.
    """

    def __init__(
        self,
        conditions: Conditions,
        registry: Registry,
        address: str,
        opens: Opens = CachingMeasurer,
    ) -> None:
        self._conditions = conditions
        self._registry = registry
        self._address = address
        self._opens = opens
        self._expected: list[tuple[BetDocument, Path]] = []
        self._begun: list[tuple[BetDocument, Any]] = []
        self._connected = False

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Announce the bets that will be measured."""
        self._expected = list(documents)

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Return what the cluster measured for a bet.

        Raises:
            MeasurementError: If no honest measurement can be made, or no cluster answers.
            UnavailableError: If no node has what the bet needs.
        """
        import ray

        self._connect()
        self._begin_expected()
        if not any(each is document for each, _ in self._begun):
            self._begin([(document, bets)])
        place = next(at for at, (each, _) in enumerate(self._begun) if each is document)
        _, begun = self._begun.pop(place)
        if isinstance(begun, Exception):
            raise begun
        self._conditions.progress(f"measuring on the Ray cluster at {self._address}")
        try:
            answer: Answer = ray.get(begun)
        except ray.exceptions.RayError as error:
            raise MeasurementError(
                f"the Ray cluster lost the worker that measured this, {RETRIES + 1} times: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _connect(self) -> None:
        if self._connected:
            return
        import ray

        try:
            ray.init(
                address=self._address,
                ignore_reinit_error=True,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MeasurementError(f"no Ray cluster answers at {self._address}: {reason}") from None
        self._connected = True

    def _begin_expected(self) -> None:
        by_model: dict[str, list[tuple[BetDocument, Path]]] = {}
        for document, bets in self._expected:
            by_model.setdefault(document.model_identity, []).append((document, bets))
        self._expected = []
        for group in by_model.values():
            self._begin(group)

    def _begin(self, group: Sequence[tuple[BetDocument, Path]]) -> None:
        """Start the bets on one model; those that need the same resources are one task."""
        import ray

        by_needs: dict[tuple[tuple[str, float], ...], list[tuple[BetDocument, Path]]] = {}
        for document, bets in group:
            needed = tuple(sorted(self._resources(document).items()))
            by_needs.setdefault(needed, []).append((document, bets))
        for needed, members in by_needs.items():
            resources = dict(needed)
            documents = [document for document, _ in members]
            try:
                _require(resources)
                task = self._task(members)
            except (MeasurementError, UnavailableError) as error:
                self._begun += [(document, error) for document in documents]
                continue
            remote = ray.remote(_measure).options(
                num_returns=len(members), max_retries=RETRIES, **_options(resources)
            )
            found = remote.remote(task)
            refs = found if len(members) > 1 else [found]
            self._begun += zip(documents, refs, strict=True)

    def _task(self, members: Sequence[tuple[BetDocument, Path]]) -> _Task:
        return _Task(
            tuple(
                _Bet(_text(document.path), document.path, bets, document.bet.id)
                for document, bets in members
            ),
            # Progress is shown on this machine; a task has only the GPUs that Ray gave it.
            replace(
                self._conditions,
                device=self._conditions.device.partition(":")[0],
                worker=0,
                progress=silent,
                counting=uncounted,
            ),
            self._registry,
            code_digest(),
            self._opens,
        )

    def _resources(self, document: BetDocument) -> dict[str, float]:
        """Return the resources that a node must have, by Ray's names."""
        import ray

        needs = document.bet.needs
        resources = {"CPU": 1.0}
        on_gpu = self._conditions.device.startswith("cuda") or (
            needs is not None and needs.gpu is not None
        )
        if on_gpu:
            resources["GPU"] = 1.0
            if document.bet.model.device_map is not None:
                # A model across several GPUs takes all that one node has.
                most = (node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"])
                resources["GPU"] = max([1.0, *most])
        if needs is not None and needs.memory is not None:
            resources["memory"] = float(needs.memory)
        return resources


def _require(resources: Mapping[str, float]) -> None:
    """Refuse resources that no node has: Ray would wait for such a node for ever."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(has.get(name, 0) >= much for name, much in resources.items()) for has in alive):
        return
    needed = ", ".join(f"{much:g} {name}" for name, much in resources.items())
    raise UnavailableError(f"needs {needed}; no node of the Ray cluster has that")


def _options(resources: Mapping[str, float]) -> dict[str, float]:
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {names[name]: much for name, much in resources.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: cannot be read any more: {error}") from None


def _measure(task: _Task) -> Any:
    """Measure on a node, in a process of Ray, which expects one value for each bet."""
    answers = _answers(task)
    return answers if len(answers) > 1 else answers[0]


def _answers(task: _Task) -> list[Answer]:
    if task.code != code_digest():
        other = MeasurementError(
            "the Ray node has another version of pytest-layerguard than the machine that asked it"
        )
        return [other] * len(task.bets)
    measurer = task.opens(task.conditions, task.registry)
    documents = [(_parsed(bet, task.registry), bet.bets) for bet in task.bets]
    measurer.expect(documents)
    return [_answer(measurer, document, bets) for document, bets in documents]


def _parsed(bet: _Bet, registry: Registry) -> BetDocument:
    documents = parse_bets(bet.text, bet.path, kinds=registry.arguments, metrics=registry.metrics)
    return next(document for document in documents if document.bet.id == bet.id)


def _answer(measurer: Measurer, document: BetDocument, bets: Path) -> Answer:
    """Return the bet's result, or the error as a value: one that Ray raises would end the other bets too."""
    try:
        return measurer.measure(document, bets=bets)
    except (MeasurementError, UnavailableError) as error:
        return error
    except Exception as error:
        return MeasurementError(f"{type(error).__name__}: {error}")
