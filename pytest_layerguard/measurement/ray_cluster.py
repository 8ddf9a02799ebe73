"""Measuring on a Ray cluster: the bets on each model are one task, wherever there is what they need.

Nodes need this package in the version that asks them, and the files that bets name at the same paths; models
of a hub each node fetches itself. What a task found is judged by whoever asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions, silent
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.environment.progress_listener import uncounted
from pytest_layerguard.measurement.answers import Answer, Measures, failure, given, success
from pytest_layerguard.measurement.cache_key import code
from pytest_layerguard.measurement.result_cache import CachingLaboratory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.results import BetResult

    Opens = Callable[[Conditions, Registry], Measures]

RETRIES: Final = 3
"""How often a task is begun again on another worker when its own was lost."""


@dataclass(frozen=True)
class _Bet:
    """A bet as it travels: the file's text, for a node need not have the file."""

    text: str
    path: Path
    bets: Path
    id: str


@dataclass(frozen=True)
class _Order:
    """What a task is to do."""

    bets: tuple[_Bet, ...]
    conditions: Conditions
    registry: Registry
    code: str
    opens: Opens


class RayLaboratory:
    """Measures on a cluster; everything that is expected is begun at once.

    Args:
        conditions: What the user allows.
        registry: The kinds of interventions; those of other packages must be installed on the nodes.
        address: The cluster's address, as ``ray.init`` takes it.
        opens: Makes the laboratory of a node.
    """

    def __init__(
        self,
        conditions: Conditions,
        registry: Registry,
        address: str,
        opens: Opens = CachingLaboratory,
    ) -> None:
        self._conditions = conditions
        self._registry = registry
        self._address = address
        self._opens = opens
        self._expected: list[tuple[BetDocument, Path]] = []
        self._begun: dict[str, Any] = {}
        self._connected = False

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Says which bets will be asked for."""
        self._expected = list(documents)

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Returns what the cluster found for a bet.

        Raises:
            MeasurementError: If no honest measurement can be made, or no cluster answers.
            UnavailableError: If no node has what the bet needs.
        """
        import ray

        self._connect()
        if document.bet.id not in self._begun:
            self._begin([(document, bets)])
        begun = self._begun.pop(document.bet.id)
        if isinstance(begun, Exception):
            raise begun
        self._conditions.progress(f"measuring on the Ray cluster at {self._address}")
        try:
            return given(ray.get(begun))
        except ray.exceptions.RayError as error:
            raise MeasurementError(
                f"the Ray cluster lost the worker that measured this, {RETRIES + 1} times: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None

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
        groups: dict[str, list[tuple[BetDocument, Path]]] = {}
        for document, bets in self._expected:
            groups.setdefault(document.model_identity, []).append((document, bets))
        for group in groups.values():
            self._begin(group)

    def _begin(self, group: Sequence[tuple[BetDocument, Path]]) -> None:
        """Begins the bets on one model, those together that need the same."""
        import ray

        by_needs: dict[tuple[tuple[str, float], ...], list[tuple[BetDocument, Path]]] = {}
        for document, bets in group:
            needed = tuple(sorted(self._resources(document).items()))
            by_needs.setdefault(needed, []).append((document, bets))
        for needed, members in by_needs.items():
            wanted = dict(needed)
            ids = [document.bet.id for document, _ in members]
            try:
                _require(wanted)
                order = self._order(members)
            except (MeasurementError, UnavailableError) as error:
                self._begun |= dict.fromkeys(ids, error)
                continue
            task = ray.remote(_measured).options(
                num_returns=len(members), max_retries=RETRIES, **_options(wanted)
            )
            found = task.remote(order)
            refs = found if len(members) > 1 else [found]
            self._begun |= dict(zip(ids, refs, strict=True))

    def _order(self, members: Sequence[tuple[BetDocument, Path]]) -> _Order:
        return _Order(
            tuple(
                _Bet(_text(document.path), document.path, bets, document.bet.id)
                for document, bets in members
            ),
            # Whoever is shown how far it is sits here; a task sees only the GPUs that Ray gave it.
            replace(
                self._conditions,
                device=self._conditions.device.partition(":")[0],
                worker=0,
                progress=silent,
                counting=uncounted,
            ),
            self._registry,
            code(),
            self._opens,
        )

    def _resources(self, document: BetDocument) -> dict[str, float]:
        """What a node must have, in Ray's names."""
        import ray

        needs = document.bet.needs
        wanted = {"CPU": 1.0}
        on_gpu = self._conditions.device.startswith("cuda") or (
            needs is not None and needs.gpu is not None
        )
        if on_gpu and document.bet.model.device_map is not None:
            # A model across several GPUs takes all that one node has.
            wanted["GPU"] = max(_most(ray.nodes(), "GPU"), 1.0)
        elif on_gpu:
            wanted["GPU"] = 1.0
        if needs is not None and needs.memory is not None:
            wanted["memory"] = float(needs.memory)
        return wanted


def _require(wanted: Mapping[str, float]) -> None:
    """Refuse what no node can ever give: Ray would wait for such a node for ever."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(has.get(name, 0) >= much for name, much in wanted.items()) for has in alive):
        return
    told = ", ".join(f"{much:g} {name}" for name, much in wanted.items())
    raise UnavailableError(f"needs {told}; no node of the Ray cluster has that")


def _most(nodes: Iterable[Mapping[str, Any]], name: str) -> float:
    return max((node["Resources"].get(name, 0.0) for node in nodes if node["Alive"]), default=0.0)


def _options(wanted: Mapping[str, float]) -> dict[str, float]:
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {names[name]: much for name, much in wanted.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: cannot be read any more: {error}") from None


def _measured(order: _Order) -> Any:
    """Measure on a node; runs in a process of Ray's."""
    answers = _answers(order)
    return answers if len(answers) > 1 else answers[0]


def _answers(order: _Order) -> list[Answer]:
    if order.code != code():
        told = (
            "the Ray node has another version of pytest-layerguard than the machine that asked it"
        )
        return [failure(MeasurementError(told))] * len(order.bets)
    laboratory = order.opens(order.conditions, order.registry)
    documents = [(_parsed(bet, order.registry), bet.bets) for bet in order.bets]
    laboratory.expect(documents)
    return [
        _answer(partial(laboratory.measure, document, bets=bets)) for document, bets in documents
    ]


def _parsed(bet: _Bet, registry: Registry) -> BetDocument:
    documents = parse_bets(bet.text, bet.path, kinds=registry.arguments, metrics=registry.metrics)
    return next(document for document in documents if document.bet.id == bet.id)


def _answer(measure: Callable[[], BetResult]) -> Answer:
    try:
        return success(measure())
    except Exception as error:  # whatever it is, the machine that asked must be told
        return failure(error)
