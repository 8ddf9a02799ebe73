"""Measuring on a Ray cluster of two nodes on this machine, which loses a worker now and then."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import ray_nodes

from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

if TYPE_CHECKING:
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.measurement.results import BetResult

pytest.importorskip("ray", reason="Ray is not installed; it comes with the extra [ray]")

# Ray asks for its own warnings to be heard, and leaves its pipes to the garbage collector.
pytestmark = [pytest.mark.machine, pytest.mark.filterwarnings("default")]

BET = """\
id: {id}
title: A bet
claim: It can go.
status: proposed
model: {model}
intervention: {{skip_layers: {{layers: {{each: [0, 2]}}}}}}
measure: {{text: {{reference: heldout}}, tokens: 192, window: 16}}
criteria: {{lenient: all(perplexity_ratio <= 3)}}
{more}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes, one processor each, which nobody outside can reach."""
    with ray_nodes.cluster(nodes=1, head_processors=1) as made:
        yield made.address


def bets_in(folder: Path, **models: str) -> list[BetDocument]:
    bets = folder / "bets"
    bets.mkdir()
    found = []
    for id_, model in models.items():
        model, _, more = model.partition("|")
        path = bets / f"{id_}.yaml"
        path.write_text(BET.format(id=id_, model=model, more=more), encoding="utf-8")
        found.extend(read_bets(path))
    return found


def numbers(result: BetResult) -> object:
    return replace(result, seconds=0.0).to_json()


def measurer(address: str, opens: Any = LocalMeasurer) -> Any:
    from pytest_layerguard.measurement.ray_cluster import RayMeasurer

    return RayMeasurer(Conditions(device="cpu"), Registry.of(), address, opens)


def test_the_cluster_finds_what_this_process_finds(address: str, tmp_path: Path) -> None:
    documents = bets_in(tmp_path, a="reference", b="reference-wide", c="reference")
    bets = tmp_path / "bets"
    here, there = LocalMeasurer(Conditions(device="cpu"), Registry.of()), measurer(address)
    for lab in (here, there):
        lab.expect([(document, bets) for document in documents])
    for document in documents:
        found = there.measure(document, bets=bets)
        assert numbers(found) == numbers(here.measure(document, bets=bets))


class Mortal(LocalMeasurer):
    """Dies with its worker at the first bet, in the way of a node that is switched off."""

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        mark = bets / "died"
        with mark.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        if len(mark.read_text(encoding="utf-8").splitlines()) <= int(document.bet.notes or 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(document, bets=bets)


def mortal(conditions: Conditions, registry: Registry) -> Mortal:
    return Mortal(conditions, registry)


def travelling() -> Any:
    """What makes a measurer, by value: nodes cannot import a test."""
    pickle = importlib.import_module("ray.cloudpickle")
    pickle.register_pickle_by_value(sys.modules[__name__])
    return mortal


def test_a_lost_worker_is_replaced(address: str, tmp_path: Path) -> None:
    (document,) = bets_in(tmp_path, a="reference")
    bets = tmp_path / "bets"
    found = measurer(address, travelling()).measure(document, bets=bets)
    expected = LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)
    assert numbers(found) == numbers(expected)
    workers = (bets / "died").read_text(encoding="utf-8").split()
    assert len(set(workers)) == 2


def test_a_worker_that_is_always_lost_is_an_error(address: str, tmp_path: Path) -> None:
    (document,) = bets_in(tmp_path, a='reference|notes: "99"\n')
    with pytest.raises(MeasurementError, match="lost the worker that measured this, 4 times: "):
        measurer(address, travelling()).measure(document, bets=tmp_path / "bets")


def test_what_no_node_has_is_not_waited_for(address: str, tmp_path: Path) -> None:
    documents = bets_in(
        tmp_path, gpu="reference|needs: {gpu: 1GiB}\n", memory="reference|needs: {memory: 900TiB}\n"
    )
    lab = measurer(address)
    bets = tmp_path / "bets"
    lab.expect([(document, bets) for document in documents])
    for document, reported in zip(documents, ("1 GPU", "e.14 memory"), strict=True):
        with pytest.raises(
            UnavailableError, match=f"needs 1 CPU, .*{reported}; no node of the Ray"
        ):
            lab.measure(document, bets=bets)


def test_what_goes_wrong_on_a_node_is_reported_here(address: str, tmp_path: Path) -> None:
    (document,) = bets_in(tmp_path, a="{path: nowhere}")
    with pytest.raises(MeasurementError, match="'nowhere' does not exist"):
        measurer(address).measure(document, bets=tmp_path / "bets")


def test_a_node_of_another_version_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_layerguard.measurement import ray_cluster

    (document,) = bets_in(tmp_path, a="reference")
    monkeypatch.setattr(ray_cluster, "code_digest", lambda: "another commit")
    with pytest.raises(MeasurementError, match="another version of pytest-layerguard"):
        measurer(address).measure(document, bets=tmp_path / "bets")


def test_a_run_on_a_cluster_says_what_a_run_here_says(address: str, tmp_path: Path) -> None:
    bets_in(tmp_path, a="reference", b="reference-wide")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    reported = {}
    for name, args in {"here": [], "there": [f"--layerguard-ray={address}"]}.items():
        command = [sys.executable, "-m", "pytest", "bets", "--layerguard-device=cpu", *args]
        done = subprocess.run(
            [*command, "--layerguard-fresh", f"--layerguard-json={name}.json"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 1, done.stdout.decode()
        report = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        reported[name] = [{**bet, "seconds": 0.0} for bet in report["bets"]]
    assert reported["there"] == reported["here"]
