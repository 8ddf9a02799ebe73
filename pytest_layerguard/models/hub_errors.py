"""Say in one line why a hub does not give a file, without addresses and secrets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.library_output import first_line
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE: Final = "HF_HOME says where the cache is"


def explained(error: Exception, what: str) -> Exception:
    """Return the error to raise in place of one that a request raised.

    Args:
        error: The error; its causes count too.
        what: The repository, for the message.

    Returns:
        A ``MeasurementError`` where the bet names what does not exist, an ``UnavailableError`` where it
        may be right but the hub cannot be reached from here.
    """
    for cause in _chain(error):
        if problem := _of_kind(cause, what) or _of_disk(cause, what):
            return problem
    status = _status_of(error)
    if status is not None:
        return _of_status(status, what)
    for cause in _chain(error):
        if problem := _of_network(cause, what):
            return problem
    return MeasurementError(f"{what}: cannot be fetched: {first_line(error)}")


def _status_of(error: BaseException) -> int | None:
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


def _of_kind(error: BaseException, what: str) -> Exception | None:
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return UnavailableError(
            f"{what}: is gated. Accept its conditions on its page on the hub, then set HF_TOKEN to a "
            "token of that account."
        )
    if isinstance(error, RevisionNotFoundError):
        return MeasurementError(
            f"{what}: there is no such revision; give a full commit hash that exists"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return MeasurementError(f"{what}: a file that it should have does not exist")
    if isinstance(error, RepositoryNotFoundError):
        if _status_of(error) == 404:
            return MeasurementError(
                f"{what}: the hub has nothing of that name that this account may see"
            )
        return UnavailableError(
            f"{what}: does not exist, or is private. If it is private, set HF_TOKEN to a token "
            "that may read it."
        )
    return None


def _of_disk(error: BaseException, what: str) -> Exception | None:
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MeasurementError(f"{what}: the disk is full; {_CACHE}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return MeasurementError(f"{what}: the hub's cache cannot be written to; {_CACHE}")
    return None


def _of_status(status: int, what: str) -> Exception:
    if status == 401:
        return UnavailableError(f"{what}: the hub does not accept the token in HF_TOKEN (401)")
    if status == 403:
        return UnavailableError(
            f"{what}: forbidden (403). Accept its conditions on its page on the hub, and give the "
            "token in HF_TOKEN the right to read it."
        )
    if status == 404:
        return MeasurementError(f"{what}: not found (404)")
    if status == 429:
        return UnavailableError(
            f"{what}: the hub answers with too many requests (429); run again later. With HF_TOKEN "
            "set its limits are higher."
        )
    return UnavailableError(f"{what}: the hub fails with status {status}; run again later")


def _of_network(error: BaseException, what: str) -> Exception | None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return UnavailableError(
            f"{what}: is not in the cache, and HF_HUB_OFFLINE forbids to fetch it; {_CACHE}"
        )
    kinds = {base.__name__ for base in type(error).__mro__}
    # The library's HTTP client was httpx and is httpx2; its errors have the same names in both.
    if "TimeoutException" in kinds:
        return UnavailableError(f"{what}: the hub does not answer in time; run again later")
    if kinds & {"TransportError", "ConnectionError"}:
        return UnavailableError(f"{what}: the hub is out of reach; check the network")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return UnavailableError(f"{what}: the hub sent only a part of a file; run again later")
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is None:
        return UnavailableError(f"{what}: is not in the cache; {_CACHE}")
    return None
