"""Requests to GitHub's REST API, as few as a comment on a pull request takes."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pytest_layerguard.bet.errors import printable
from pytest_layerguard.cli.command_output import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_SECONDS: Final = 30
_PAGE: Final = 100
_LARGEST: Final = 32 * 2**20
"""Bytes of an answer of the API itself."""


class NotThereError(Exception):
    """An answer of 404: there is no such thing, or the token does not show it."""


class TooLargeError(Exception):
    """An answer of more bytes than were allowed."""


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: the host that an artifact lies on must not get the token."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


class GitHub:
    """One repository at GitHub's API."""

    def __init__(self, api: str, repository: str, token: str) -> None:
        self._start = f"{api}/repos/{repository}"
        self._token = token
        self._opener = build_opener(_Stay)

    def get(self, path: str, **query: str | int) -> Any:
        """Return the answer to GET; raises NotThereError or UserError."""
        asked = f"?{urlencode(query)}" if query else ""
        return json.loads(self._send("GET", path + asked, _LARGEST))

    def pages(self, path: str, **query: str | int) -> Iterator[Any]:
        """Yield what a list has, over all pages."""
        page = 1
        while True:
            found = self.get(path, **query, per_page=_PAGE, page=page)
            yield from found
            if len(found) < _PAGE:
                return
            page += 1

    def raw(self, path: str, largest: int, **query: str) -> bytes:
        """Return a file of the repository; raises NotThereError, TooLargeError or UserError."""
        return self._send("GET", f"{path}?{urlencode(query)}", largest, kind="raw+json")

    def artifact(self, number: int, largest: int) -> bytes:
        """Return an artifact as a zip file; raises NotThereError, TooLargeError or UserError."""
        return self._send("GET", f"/actions/artifacts/{number}/zip", largest)

    def send(self, method: str, path: str, data: Any) -> None:
        """Create or change something; raises NotThereError or UserError."""
        self._send(method, path, _LARGEST, json.dumps(data).encode())

    def _send(
        self, method: str, path: str, largest: int, data: bytes | None = None, kind: str = "json"
    ) -> bytes:
        headers = {
            "Accept": f"application/vnd.github.{kind}",
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "User-Agent": "pytest-layerguard",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        request = Request(f"{self._start}{path}", data, headers, method=method)
        try:
            try:
                answer = self._opener.open(request, timeout=_SECONDS)
            except HTTPError as error:
                if error.code != 302:
                    raise
                answer = self._opener.open(Request(error.headers["Location"]), timeout=_SECONDS)
            with answer:
                return _read(answer, largest)
        except HTTPError as error:
            if error.code == 404:
                raise NotThereError from None
            why = printable(error.read(1_000).decode("utf-8", "replace"))
            raise UserError(f"GitHub answers {error.code} to {method} {path}: {why}") from None
        except (URLError, OSError, http.client.HTTPException) as error:
            raise UserError(
                f"GitHub does not answer to {method} {path}: {printable(str(error))}"
            ) from None


def _read(answer: IO[bytes], largest: int) -> bytes:
    data = answer.read(largest + 1)
    if len(data) > largest:
        raise TooLargeError
    return data
