"""A real HTTP server on 127.0.0.1 that answers as the Hugging Face hub does.

Two servers in fact: the hub, and what the hub calls its CDN, where large files are redirected to; it is
another origin, so that clients can be seen to keep their token to themselves there.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["models", "datasets"]

TOKEN = "hf_loopbackSecret0123456789"
LARGE = (".safetensors", ".parquet", ".bin")

_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(?P<rest>/.*)?")
_RESOLVE = re.compile(
    r"(/(?P<kind>datasets))?/(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)"
)


@dataclass
class Repository:
    """Commits by hash, each a mapping of file names to bytes; ``main`` is the latest.

    A gated one is open to whoever has the token once access is ``granted``.
    """

    gated: bool = False
    granted: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return next(reversed(self.commits))


@dataclass
class Trouble:
    """What goes wrong at paths that match, so many times.

    Either an answer with ``status`` and ``headers``, or, with ``drop_after``, a connection that ends after so
    many bytes of the body, or, with ``stall``, one that says nothing for so many seconds.
    """

    path: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    stall: float | None = None
    times: int = 1_000_000


@dataclass(frozen=True)
class ScoredTokens:
    """A request as it arrived."""

    origin: Literal["hub", "cdn"]
    method: str
    path: str
    authorized: bool
    range: str | None


class Hub:
    """The server; a context manager that ends with its threads ended."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.troubles: list[Trouble] = []
        self.seen: list[ScoredTokens] = []
        self.lock = threading.Lock()
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            for server in self._servers
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(timeout=10)

    @property
    def url(self) -> str:
        return self._servers[0].url

    @property
    def cdn(self) -> str:
        return self._servers[1].url

    def environment(
        self, home: Any, *, offline: bool = False, token: str | None = None
    ) -> dict[str, str]:
        """Return the variables under which a fresh process talks to this hub and to nothing else."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def add(self, kind: Kind, name: str, files: Mapping[str, bytes]) -> str:
        """Commit files, all that the revision has; returns the commit's hash."""
        repository = self.repositories.setdefault((kind, name), Repository())
        content = json.dumps(
            {file: hashlib.sha256(data).hexdigest() for file, data in sorted(files.items())}
        )
        commit = hashlib.sha1(f"{len(repository.commits)} {name} {content}".encode()).hexdigest()
        repository.commits[commit] = dict(files)
        return commit

    def reset(self) -> None:
        """Forget troubles and requests, and open what was closed."""
        self.troubles.clear()
        self.seen.clear()
        for repository in self.repositories.values():
            repository.gated = repository.granted = repository.private = False

    def trouble_for(self, method: str, path: str) -> Trouble | None:
        with self.lock:
            for trouble in self.troubles:
                head_of_drop = method == "HEAD" and trouble.drop_after is not None
                if trouble.times > 0 and re.search(trouble.path, path) and not head_of_drop:
                    trouble.times -= 1
                    return trouble
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, origin: Literal["hub", "cdn"]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.origin: Literal["hub", "cdn"] = origin

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        self.authorized = self.headers.get("Authorization") is not None
        with hub.lock:
            hub.seen.append(
                ScoredTokens(
                    self.server.origin,
                    self.command,
                    path,
                    self.authorized,
                    self.headers.get("Range"),
                )
            )
        self.drop_after = None
        if trouble := hub.trouble_for(self.command, path):
            if trouble.status is not None:
                self._send(trouble.status, b'{"error": "trouble"}', trouble.headers)
                return
            if trouble.stall is not None:
                time.sleep(trouble.stall)
                self.close_connection = True
                return
            self.drop_after = trouble.drop_after
        if self.server.origin == "cdn":
            self._blob(path.removeprefix("/"))
        elif match := _API.fullmatch(path):
            self._api(match)
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match)
        else:
            self._error(404, None, "no such page")

    def _repository(self, kind: str, name: str) -> Repository | None:
        """Return a repository that this caller may see; else answer as the hub does."""
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            self._error(401, None, "Invalid credentials in Authorization header")
            return None
        repository = self.server.hub.repositories.get((kind, name))
        if repository is None or (repository.private and given is None):
            # An unknown caller does not learn whether it exists.
            self._error(404 if given else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def _commit(self, repository: Repository, revision: str) -> str | None:
        commit = repository.main if revision == "main" else revision
        if commit not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _api(self, match: re.Match[str]) -> None:
        kind, name, rest = match["kind"], match["name"], match["rest"] or ""
        repository = self._repository(kind, name)
        if repository is None:
            return
        what, _, revision = rest.removeprefix("/").partition("/")
        commit = self._commit(repository, revision.split("/")[0] or "main")
        if commit is None:
            return
        files = repository.commits[commit]
        if what in ("", "revision"):
            self._json(
                {
                    "_id": "0" * 24,
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "private": repository.private,
                    "gated": "auto" if repository.gated else False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [
                        {"rfilename": file, "size": len(data)} for file, data in files.items()
                    ],
                }
            )
        elif what == "tree":
            self._json([_entry(file, data) for file, data in files.items()])
        else:
            self._error(404, None, "no such page")

    def _resolve(self, match: re.Match[str]) -> None:
        name = match["name"]
        repository = self._repository(match["kind"] or "models", name)
        if repository is None:
            return
        if repository.gated and not (self.authorized and repository.granted):
            self._error(
                403 if self.authorized else 401, "GatedRepo", f"Access to {name} is restricted"
            )
            return
        commit = self._commit(repository, match["rev"])
        if commit is None:
            return
        data = repository.commits[commit].get(match["file"])
        headers = {"X-Repo-Commit": commit}
        if data is None:
            self._error(404, "EntryNotFound", "Entry not found", headers)
        elif match["file"].endswith(LARGE):
            digest = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = (
                f"{self.server.hub.cdn}/{match['kind'] or 'models'}/{name}/{commit}/{match['file']}"
            )
            self._send(302, b"", headers)
        else:
            self._content(data, headers | {"ETag": f'"{_git_id(data)}"'})

    def _blob(self, path: str) -> None:
        kind, org, name, commit, file = path.split("/", 4)
        data = self.server.hub.repositories[kind, f"{org}/{name}"].commits[commit][file]
        self._content(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, headers | {"Accept-Ranges": "bytes"})
            return
        start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
        part = data[start : end + 1]
        self._send(
            206,
            part,
            headers | {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"},
        )

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(
        self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        reported = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), {**reported, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.drop_after is not None and self.drop_after < len(body):
            self.wfile.write(body[: self.drop_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)


def _entry(file: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": _git_id(data)}
    if file.endswith(LARGE):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 128}
    return entry


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
