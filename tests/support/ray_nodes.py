"""A Ray cluster of several nodes on this machine, each a process of its own."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cluster:
    """A cluster and the processes that started its nodes, the head first."""

    address: str
    nodes: list[subprocess.Popen[bytes]]


@contextmanager
def cluster(*, nodes: int, head_processors: int) -> Iterator[Cluster]:
    """Start a head and more nodes of one processor each, which nobody outside can reach, and connect to them."""
    ray = importlib.import_module("ray")
    port = _free_port()
    # Not below pytest's own folder: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lg-ray-", dir="/tmp") as folder:
        address = f"127.0.0.1:{port}"
        head = _start(
            folder,
            head_processors,
            "--head",
            f"--port={port}",
            "--include-dashboard=false",
            f"--temp-dir={folder}",
        )
        started = [head]
        try:
            # A client that comes before the head ends the process after a minute.
            until(lambda: _listens(port), "a head")
            _connect(ray, address, head, Path(folder, "node.log"))
            # One by one: on a busy machine nodes that start together time out.
            for number in range(1, nodes + 1):
                started.append(_start(folder, 1, f"--address={address}"))
                until(lambda number=number: alive(ray) > number, f"{number + 1} nodes")
            yield Cluster(address, started)
        finally:
            ray.shutdown()
            for node in reversed(started):
                node.send_signal(signal.SIGTERM)
            for node in started:
                node.wait(60)


def alive(ray: Any) -> int:
    """Return how many nodes the cluster has."""
    return sum(node["Alive"] for node in ray.nodes())


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait for something for two minutes."""
    for _ in range(240):
        if reached():
            return
        time.sleep(0.5)
    raise AssertionError(f"there were never {what}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _start(folder: str, processors: int, *args: str) -> subprocess.Popen[bytes]:
    """Start a node in a process of its own, which on a signal ends all that it started."""
    command = [
        sys.executable,
        "-c",
        "from ray.scripts.scripts import main; main()",
        "start",
        "--block",
        f"--num-cpus={processors}",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        *args,
    ]
    with Path(folder, "node.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def _connect(ray: Any, address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    def connected() -> bool:
        assert head.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError):
            return False
        return True

    until(connected, "a cluster")
