"""Get files of one commit from a hub or from its cache.

Everything that uses the network is here. transformers and datasets are given files of the cache
and may look at nothing else.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pytest_layerguard.checkpoints.files import ADAPTER, CONFIG, INDEX, weight_files
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.captured_output import first_line, quiet
from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.models.model_folder import (
    GENERATION_CONFIG,
    TOKENIZER_FILES,
    VOCABULARIES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from huggingface_hub import DatasetInfo, ModelInfo

    from pytest_layerguard.environment.conditions import Conditions

    T = TypeVar("T")

Kind = Literal["model", "dataset"]

_CACHE: Final = "HF_HOME says where the cache is"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SMALL_FILES: Final = (CONFIG, INDEX, *TOKENIZER_FILES, GENERATION_CONFIG, ADAPTER)


class Repository:
    """One repository of the hub at one commit.

    Args:
        kind: ``model`` or ``dataset``.
        name: ``ORG/NAME``.
        revision: A full commit hash, or ``None`` for the commit that the branch has today.
        branch: A branch or tag, used where ``revision`` is ``None``; ``None`` for ``main``.
    """

    def __init__(
        self, kind: Kind, name: str, revision: str | None, branch: str | None = None
    ) -> None:
        self.kind: Kind = kind
        self.name = name
        self.revision = revision
        self._asked_for = revision or branch

    def listing(self) -> tuple[str, dict[str, int]]:
        """Ask the hub for the commit, the names of all its files and their sizes in bytes.

        Raises:
            MeasurementError: If there is no such repository or revision.
            UnavailableError: If the hub cannot be asked, or refuses access.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT as SECONDS

        # The one request of huggingface_hub that does not wait and retry for minutes: that a hub
        # cannot be reached is noticed at once.
        ask = HfApi().model_info if self.kind == "model" else HfApi().dataset_info
        info: ModelInfo | DatasetInfo = self._asked(
            lambda: ask(self.name, revision=self._asked_for, timeout=SECONDS, files_metadata=True)
        )
        # The hub may have a branch whose name is this hash.
        if info.sha is None or (self.revision is not None and info.sha != self.revision):
            raise MeasurementError(
                f"{self}: the hub has commit {info.sha} under this revision; "
                "give the full commit hash itself"
            )
        return info.sha, {each.rfilename: each.size or 0 for each in info.siblings or ()}

    def snapshot(self, commit: str, files: Iterable[str]) -> Path:
        """Download those of the files that exist and are not in the cache; return their folder.

        Args:
            commit: The full commit hash.
            files: Names of files, or patterns such as ``*.py``.

        Raises:
            MeasurementError: If there is no such repository or revision.
            UnavailableError: If they cannot be downloaded here.
        """
        from huggingface_hub import snapshot_download

        return Path(
            self._asked(
                lambda: snapshot_download(
                    self.name, repo_type=self.kind, revision=commit, allow_patterns=list(files)
                )
            )
        )

    def fetch(self, file: str, commit: str) -> Path:
        """Download a file unless it is in the cache; return its path there.

        Raises:
            MeasurementError: If it does not exist or is damaged in the cache.
            UnavailableError: If it cannot be downloaded here.
        """
        from huggingface_hub import hf_hub_download

        path = Path(
            self._asked(
                lambda: hf_hub_download(self.name, file, repo_type=self.kind, revision=commit)
            )
        )
        self.check_digest(path)
        return path

    def check_digest(self, path: Path) -> None:
        """Check a file of the cache against its digest, under which large files are stored.

        Raises:
            MeasurementError: If it is damaged.
        """
        stored = path.resolve()
        if (
            _SHA256.fullmatch(stored.name)
            and file_digests.of_file(stored) != f"sha256:{stored.name}"
        ):
            raise MeasurementError(
                f"{self}: {path.name} is damaged in the cache (its digest is not its name); "
                f"delete {stored} and run again"
            )

    def cached(self, file: str) -> Path | None:
        """Return a file's path in the cache, or ``None``."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.name, file, repo_type=self.kind, revision=self._asked_for
        )
        return Path(found) if isinstance(found, str) else None

    def __str__(self) -> str:
        """Return the name that messages use."""
        return f"{self.kind} {self.name}@{self._asked_for or 'main'}"

    def _asked(self, call: Callable[[], T]) -> T:
        with quiet():
            try:
                return call()
            except Exception as error:
                problem = explained(error, str(self))
                refused = _status_of(error) in (401, 403)
        if isinstance(problem, UnavailableError):
            problem.lack = Lack("access" if refused else "network", self.name)
        raise problem


def fetch_model(
    name: str, revision: str | None, conditions: Conditions, branch: str | None = None
) -> Path:
    """Download a model's configuration, tokenizer and safetensors files into the hub's cache.

    Use no network if the cache has all files of a pinned revision.

    Returns:
        The folder of that commit; its name is the commit hash.

    Raises:
        MeasurementError: If there is no such model or revision, or it has no safetensors files.
        UnavailableError: If it cannot be downloaded here and is not in the cache.
    """
    repository = Repository("model", name, revision, branch)
    small = [*_SMALL_FILES, *(["*.py"] if conditions.allow_remote_code else [])]
    folder = whole_in_cache(repository)
    if folder is None or revision is None or conditions.allow_remote_code:
        try:
            folder = _downloaded(repository, small, conditions)
        except UnavailableError:
            if folder is None:
                raise
    for path in folder.iterdir():
        if path.suffix == ".safetensors" or path.name in small:
            repository.check_digest(path)
    return folder


def _downloaded(repository: Repository, small: list[str], conditions: Conditions) -> Path:
    """Download the small files first, so that a folder with all weights is complete."""
    commit, sizes = repository.listing()
    if CONFIG not in sizes:
        raise MeasurementError(
            f"{repository}: has no {CONFIG}; it is no model that transformers loads"
        )
    conditions.progress(f"fetching {repository}")
    folder = repository.snapshot(commit, small)
    weights = weight_files({file: folder / file for file in sizes}, str(repository))
    size = sum(sizes[file] for file in weights)
    conditions.budget.check("model_bytes", size, f"{repository}: bytes of weights")
    return repository.snapshot(commit, weights)


def whole_in_cache(repository: Repository) -> Path | None:
    """Return the model's folder in the cache if every file that loading needs is there."""
    config = repository.cached(CONFIG)
    if config is None:
        return None
    files = {path.name: path for path in config.parent.iterdir()}
    try:
        weight_files(files, str(repository))
    except MeasurementError:
        return None
    return config.parent if VOCABULARIES & files.keys() else None


def explained(error: Exception, what: str) -> Exception:
    """Return the error to raise in place of one that a request raised; its causes count too.

    Messages hold neither addresses nor secrets.

    Args:
        error: The error of the request.
        what: The repository, for the message.

    Returns:
        A ``MeasurementError`` if the bet names something that does not exist, an
        ``UnavailableError`` if it may exist but is not available from here.
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
