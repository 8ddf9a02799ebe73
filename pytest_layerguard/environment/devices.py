"""Choose the device that a bet is measured on, and check that it is what the bet needs."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.conditions import DEVICE_FLAG, Conditions
from pytest_layerguard.environment.measurement_errors import Lack, UnavailableError

if TYPE_CHECKING:
    from pytest_layerguard.bet.bet import ModelSpec, Needs

_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")
_MODEL: Final = re.compile(r"(?m)^Model:(.*)$")
_OTHER_GPUS: Final = ("/dev/kfd", "/dev/dxg")
"""Where AMD's cards and those of Windows are reached, which are not listed there."""


def resolve(conditions: Conditions) -> str:
    """Return the device to measure on, as torch names it: ``cpu``, ``cuda:N`` or ``mps``.

    ``auto`` takes a GPU where there is one. ``auto`` and ``cuda`` distribute the visible GPUs by the
    worker's number.

    Raises:
        UnavailableError: If the requested device does not exist.
    """
    import torch

    wanted = conditions.device
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    metal = torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if gpus else "mps" if metal else "cpu"
    if wanted == "cuda" and gpus:
        return f"cuda:{conditions.worker % gpus}"
    if wanted in ("cpu", *(["mps"] if metal else []), *(f"cuda:{each}" for each in range(gpus))):
        return wanted
    raise UnavailableError(
        f"{DEVICE_FLAG} {conditions.device}: there is no such device here. There is: "
        f"{', '.join(['cpu', *(['mps'] if metal else []), *map(_described, range(gpus))])}."
    )


def expected(wanted: str) -> str:
    """Return a device as a reader knows it, without importing torch: ``auto`` with what it will come to.

    It stays ``auto`` where only torch can say.
    """
    if wanted != "auto":
        return wanted
    if metadata.version("torch").endswith("+cpu"):
        return "auto (cpu)"
    if sys.platform != "linux" or any(Path(node).exists() for node in _OTHER_GPUS):
        return wanted
    return f"auto ({', '.join(nvidia_cards() or ()) or 'cpu'})"


def nvidia_cards() -> list[str] | None:
    """Return the names of NVIDIA's GPUs as their driver lists them, without importing torch; None without a driver."""
    if not _NVIDIA.is_dir():
        return None
    files = sorted(_NVIDIA.glob("*/information"))
    found = (_MODEL.search(file.read_text("utf-8", "replace")) for file in files)
    return [each[1].strip() for each in found if each]


def identity(gpu: str) -> str:
    """Return an identifier of a GPU that is the same in all processes.

    ``cuda:1`` is not: it is the second of the GPUs that ``CUDA_VISIBLE_DEVICES`` lists.
    """
    import torch

    index = int(gpu.removeprefix("cuda:"))
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if uuid is not None:
        return str(uuid)
    listed = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return listed[index] if index < len(listed) and listed[index] else str(index)


def taken(spec: ModelSpec, conditions: Conditions) -> tuple[str, ...]:
    """Return the GPUs that a model will lie on, as torch names them; none for any other device.

    Raises:
        UnavailableError: If the requested device does not exist.
    """
    import torch

    device = resolve(conditions)
    if not device.startswith("cuda"):
        return ()
    if spec.device_map is None:
        return (device,)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def require(needs: Needs | None, conditions: Conditions) -> None:
    """Raise UnavailableError if the machine has less than a bet needs."""
    if needs is None:
        return
    if needs.memory is not None and _host_memory() < needs.memory:
        raise UnavailableError(
            f"needs {_size(needs.memory)} of memory; this machine has {_size(_host_memory())}",
            Lack("memory", _size(needs.memory)),
        )
    if needs.gpu is not None:
        _require_gpu(needs.gpu, resolve(conditions))


def _require_gpu(needed: int, device: str) -> None:
    import torch

    lack = Lack("gpu", _size(needed))
    if not device.startswith("cuda"):
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = (
            f"this run measures on {device}, though there is {', '.join(map(_described, range(gpus)))}"
            if gpus
            else f"this machine has no CUDA GPU (it measures on {device})"
        )
        raise UnavailableError(f"needs a GPU of {_size(needed)}; {there}", lack)
    index = int(device.removeprefix("cuda:"))
    if torch.cuda.get_device_properties(index).total_memory < needed:
        raise UnavailableError(
            f"needs a GPU of {_size(needed)}; there is {_described(index)}", lack
        )


def free_memory(device: str) -> int:
    """Return how many bytes are free on a device, as torch names it; on the host what it could give up besides."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _host_memory() // 2
    sizes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return int(sizes["MemAvailable"]) * 1024


def vacate() -> None:
    """Give the memory of models that are no longer referenced back to the device and to the host."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
    # transformers loads in threads, whose arenas glibc keeps once they are freed, and gives to no other thread.
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def name(device: str) -> str:
    """Return the name of the GPU, or the processor's architecture."""
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.machine()


def _described(index: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return f"cuda:{index} ({properties.name}, {_size(properties.total_memory)})"


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
