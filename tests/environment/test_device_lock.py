"""GPUs: dealt out to workers by the caller's own list, and held by one process at a time."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

from pytest_layerguard.bet.bet import ModelSpec
from pytest_layerguard.environment import devices
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.device_lock import DeviceLock
from pytest_layerguard.environment.measurement_errors import UnavailableError


@dataclass
class Properties:
    uuid: str
    name: str = "NVIDIA H200"
    total_memory: int = 139 * 2**30


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The GPUs that this process sees, by the identities they have for every process."""
    seen = ["GPU-b", "GPU-a", "GPU-c"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(seen))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(seen[index]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return seen


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({"path": "model", **changes})


def locked(identity: str) -> bool:
    """Whether another process could not have the GPU now."""
    (folder,) = Path(tempfile.gettempdir()).glob("pytest-layerguard-*")
    lock = FileLock(folder / f"{identity}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_workers_are_dealt_what_the_caller_sees(gpus: list[str], wanted: str) -> None:
    conditions = Conditions(device=wanted)
    dealt = [devices.resolve(replace(conditions, worker=worker)) for worker in range(4)]
    assert dealt == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert [devices.identity(each) for each in dealt] == ["GPU-b", "GPU-a", "GPU-c", "GPU-b"]


@pytest.mark.parametrize("named", ["cuda:2", "cpu"])
def test_a_device_that_is_named_is_every_workers(gpus: list[str], named: str) -> None:
    assert gpus
    assert devices.resolve(Conditions(device=named, worker=1)) == named


def test_the_callers_list_is_only_read(gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
    # Older versions of torch do not have the identity.
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: object())
    worker = Conditions(device="auto", worker=1)
    assert devices.identity(devices.resolve(worker)) == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,3,7"
    assert gpus


def test_one_gpu_or_all_or_none(gpus: list[str]) -> None:
    worker = Conditions(device="auto", worker=1)
    assert devices.taken(spec(), worker) == ("cuda:1",)
    assert devices.taken(spec(device_map="auto"), worker) == ("cuda:0", "cuda:1", "cuda:2")
    assert devices.taken(spec(), Conditions(device="cpu")) == ()
    gpus.clear()
    assert devices.taken(spec(device_map="auto"), worker) == ()


def test_a_gpu_is_held_until_it_is_let_go(gpus: list[str]) -> None:
    assert gpus
    lease = DeviceLock(Conditions())
    lease.take(["cuda:1"])
    assert locked("GPU-a")
    assert not locked("GPU-b")
    lease.take(["cuda:0", "cuda:2"])
    assert (locked("GPU-a"), locked("GPU-b"), locked("GPU-c")) == (False, True, True)
    lease.end()
    assert not locked("GPU-b")
    lease.take([])
    assert not locked("GPU-b")


def test_who_waits_says_so_and_goes_on(gpus: list[str]) -> None:
    assert gpus
    said: list[str] = []
    first, second = DeviceLock(Conditions()), DeviceLock(Conditions(progress=said.append))
    first.take(["cuda:0"])
    threading.Timer(0.2, first.end).start()
    second.take(["cuda:0"])
    assert locked("GPU-b")
    assert len(said) == 1
    assert said[0].startswith("waiting for cuda:0, which another run holds (")
    second.end()


def test_who_waits_too_long_gets_advice_and_holds_nothing(gpus: list[str]) -> None:
    assert gpus
    first, second = DeviceLock(Conditions()), DeviceLock(Conditions(device_wait=0.1))
    first.take(["cuda:0"])
    with pytest.raises(
        UnavailableError, match=r"held by another run for 0.1 seconds .*-device-wait"
    ):
        second.take(["cuda:0", "cuda:1"])
    assert not locked("GPU-a")
    assert locked("GPU-b")
    first.end()


def test_a_folder_of_somebody_else_is_not_trusted(gpus: list[str]) -> None:
    import os

    assert gpus
    user = os.getuid()
    Path(tempfile.gettempdir(), f"pytest-layerguard-{user}").symlink_to(tempfile.gettempdir())
    with pytest.raises(UnavailableError, match="somebody else"):
        DeviceLock(Conditions()).take(["cuda:0"])
