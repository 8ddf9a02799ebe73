"""A stand-in of GitHub on 127.0.0.1: its REST API as far as a comment needs it, and the host of its artifacts.

The two are servers of their own, since GitHub sends whoever asks for an artifact to another host, which must not see
the token.
"""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_loopbackSecret0123456789"
REPOSITORY = "acme/models"
COMMIT = "c" * 40
BASE = "b" * 40


def zipped(files: dict[str, bytes], **how: Any) -> bytes:
    """A zip file with these members."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", **{"compression": zipfile.ZIP_DEFLATED, **how}) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return kept.getvalue()


def pull(number: int = 7, **changes: Any) -> dict[str, Any]:
    """An open pull request from a fork, as the API lists it."""
    return {
        "number": number,
        "state": "open",
        "head": {"ref": "idea", "sha": COMMIT, "repo": {"id": 2, "full_name": "stranger/models"}},
        "base": {"ref": "main", "sha": BASE, "repo": {"id": 1, "full_name": REPOSITORY}},
        **changes,
    }


@dataclass
class GitHubServer:
    """GitHub with one repository; a context manager."""

    pulls: list[dict[str, Any]] = field(default_factory=lambda: [pull()])
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    zips: dict[int, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """The files of the base branch."""
    requests: list[str] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)
    """Status codes that are answered to paths that match."""

    def __enter__(self) -> Self:
        self._servers = [_Server(self, answer) for answer in (_api, _storage)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def api(self) -> str:
        return self._servers[0].url

    @property
    def storage(self) -> str:
        return self._servers[1].url

    def upload(
        self, data: bytes, *, name: str = "layerguard-comment", expired: bool = False
    ) -> None:
        """Add an artifact of the run."""
        number = len(self.artifacts) + 100
        self.artifacts.append({"id": number, "name": name, "expired": expired})
        self.zips[number] = data

    def say(self, number: int, body: str, login: str) -> None:
        """Add a comment of somebody."""
        there = self.comments.setdefault(number, [])
        made = {"id": 1_000 * number + len(there), "body": body, "user": {"login": login}}
        there.append(made)

    @property
    def written(self) -> list[str]:
        """The requests that changed something."""
        return [each for each in self.requests if not each.startswith("GET")]


class _Server(ThreadingHTTPServer):
    def __init__(self, github: GitHubServer, answer: Any) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, body = answer(github, self, json.loads(sent) if sent else None)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PATCH = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


Answer = tuple[int, dict[str, str], bytes]


def _json(data: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(data).encode()


def _api(github: GitHubServer, asked: BaseHTTPRequestHandler, data: Any) -> Answer:
    split = urlsplit(asked.path)
    query = {name: values[0] for name, values in parse_qs(split.query).items()}
    github.requests.append(f"{asked.command} {asked.path}")
    for pattern, status in github.broken.items():
        if re.search(pattern, asked.path):
            return _json({"message": "broken\n::error::owned"}, status)
    if asked.headers["Authorization"] != f"Bearer {TOKEN}":
        return _json({"message": "Bad credentials"}, 401)
    start = f"/repos/{REPOSITORY}"
    assert split.path.startswith(start)
    path = split.path.removeprefix(start)
    if path == "/pulls":
        assert query["state"] == "open"
        owner, _, branch = query["head"].partition(":")
        return _json(
            [
                each
                for each in github.pulls
                if each["head"]["ref"] == branch
                and (each["head"]["repo"] or {}).get("full_name", "").startswith(f"{owner}/")
            ]
        )
    if path == "/actions/runs/55/artifacts":
        found = [each for each in github.artifacts if each["name"] == query["name"]]
        return _json({"total_count": len(found), "artifacts": found})
    if found := re.fullmatch(r"/actions/artifacts/(\d+)/zip", path):
        return 302, {"Location": f"{github.storage}/{found[1]}"}, b""
    if found := re.fullmatch(r"/contents/(.+)", path):
        assert query["ref"] == BASE
        return _contents(github, found[1], asked.headers["Accept"])
    if found := re.fullmatch(r"/issues/(\d+)/comments", path):
        if asked.command == "POST":
            github.say(int(found[1]), data["body"], "github-actions[bot]")
            return _json({}, 201)
        page, size = int(query["page"]), int(query["per_page"])
        there = github.comments.get(int(found[1]), [])
        return _json(there[(page - 1) * size : page * size])
    if found := re.fullmatch(r"/issues/comments/(\d+)", path):
        assert asked.command == "PATCH"
        for each in (each for those in github.comments.values() for each in those):
            if each["id"] == int(found[1]):
                each["body"] = data["body"]
                return _json({})
    return _json({"message": "Not Found"}, 404)


def _contents(github: GitHubServer, path: str, accept: str) -> Answer:
    if path in github.files:
        assert accept == "application/vnd.github.raw+json"
        return 200, {}, github.files[path]
    below = [name for name in github.files if name.startswith(f"{path}/")]
    if not below:
        return _json({"message": "Not Found"}, 404)
    return _json([{"name": name.rpartition("/")[2], "type": "file"} for name in below])


def _storage(github: GitHubServer, asked: BaseHTTPRequestHandler, _data: Any) -> Answer:
    # The real one answers 400 to a request with the token of another host.
    if asked.headers["Authorization"] is not None:
        return 400, {}, b"a token that is none of mine"
    return 200, {"Content-Type": "application/zip"}, github.zips[int(asked.path[1:])]
