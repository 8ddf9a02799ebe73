"""Getting files of one commit from a hub, or from its cache, and telling why they cannot be had.

Everything that the network does happens here, before transformers or datasets see a file: they are
then given a folder and may look at nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pytest_layerguard.lab import digests
from pytest_layerguard.lab.errors import LabError, UnavailableError
from pytest_layerguard.lab.hub_errors import explained
from pytest_layerguard.lab.model_folder import (
    CONFIG,
    INDEX,
    OTHER_FILES,
    TOKENIZER_FILES,
    VOCABULARIES,
    WEIGHTS,
    weight_files,
)
from pytest_layerguard.lab.patience import Patience
from pytest_layerguard.lab.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from huggingface_hub import DatasetInfo, ModelInfo

    from pytest_layerguard.lab.conditions import Conditions

    T = TypeVar("T")

Kind = Literal["model", "dataset"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ADAPTER: Final = "adapter_config.json"


class Repository:
    """One repository of the hub at one commit.

    Args:
        kind: ``model`` or ``dataset``.
        name: ``ORG/NAME``.
        revision: A full commit hash, or ``None`` for what the hub has today.
        conditions: Says how long the hub may keep us waiting.
        branch: The branch or tag whose commit of today is meant where ``revision`` is ``None``.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        revision: str | None,
        conditions: Conditions,
        branch: str | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.name = name
        self.revision = revision
        self._asked_for = revision or branch
        self._conditions = conditions

    def listing(self, *, patience: float | None = None) -> tuple[str, tuple[str, ...]]:
        """Ask the hub for the commit and the names of its files.

        Raises:
            LabError: If there is no such repository or revision.
            UnavailableError: If the hub cannot be asked, or does not let us in.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT as SECONDS

        ask = HfApi().model_info if self.kind == "model" else HfApi().dataset_info
        info: ModelInfo | DatasetInfo = self._asked(
            lambda: ask(self.name, revision=self._asked_for, timeout=SECONDS), patience
        )
        # The hub may resolve a hash that is also the name of a branch; what was asked for counts.
        if info.sha is None or (self.revision is not None and info.sha != self.revision):
            raise LabError(
                f"{self}: the hub has commit {info.sha} under this revision; "
                "give the full commit hash itself"
            )
        return info.sha, tuple(sibling.rfilename for sibling in info.siblings or ())

    def fetch(self, file: str, commit: str) -> Path:
        """Download a file, unless the cache has it; returns its path in the cache.

        Raises:
            LabError: If it does not exist, or if the cache holds something else under its name.
            UnavailableError: If it cannot be had.
        """
        from huggingface_hub import hf_hub_download

        path = Path(
            self._asked(
                lambda: hf_hub_download(self.name, file, repo_type=self.kind, revision=commit)
            )
        )
        # Large files lie in the cache under their digest, which tells a damaged one from a whole.
        stored = path.resolve()
        if _SHA256.fullmatch(stored.name) and digests.of_file(stored) != f"sha256:{stored.name}":
            raise LabError(
                f"{self}: {file} is damaged in the cache (its digest is not its name); "
                f"delete {stored} and run again"
            )
        return path

    def cached(self, file: str) -> Path | None:
        """Return a file's path in the cache, or ``None``."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.name, file, repo_type=self.kind, revision=self._asked_for
        )
        return Path(found) if isinstance(found, str) else None

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"{self.kind} {self.name}@{self._asked_for or 'main'}"

    def _asked(self, call: Callable[[], T], patience: float | None = None) -> T:
        limit = self._conditions.patience if patience is None else patience
        with quiet():
            try:
                return Patience(str(self), limit).call(call)
            except (LabError, UnavailableError):
                raise
            except Exception as error:
                problem = explained(error, str(self))
        raise problem


def fetch_model(
    name: str, revision: str | None, conditions: Conditions, branch: str | None = None
) -> Path:
    """Bring what a model needs into the hub's cache: configuration, tokenizer, safetensors.

    Returns:
        The folder of that commit; it is named after it.

    Raises:
        LabError: If there is no such model or revision, or it has no safetensors.
        UnavailableError: If it cannot be had, and the cache does not have it.
    """
    repository = Repository("model", name, revision, conditions, branch)
    whole = _whole_in_cache(repository)
    try:
        commit, files = repository.listing(patience=0 if whole is not None else None)
    except UnavailableError:
        if whole is None:
            raise
        return whole
    conditions.progress(f"fetching {repository}")
    small = [CONFIG, *TOKENIZER_FILES, *OTHER_FILES, _ADAPTER]
    if conditions.allow_remote_code:
        small += [file for file in files if file.endswith(".py")]
    if CONFIG not in files:
        raise LabError(f"{repository}: has no {CONFIG}; it is no model that transformers loads")
    paths = {file: repository.fetch(file, commit) for file in small if file in files}
    if WEIGHTS not in files and INDEX in files:
        paths[INDEX] = repository.fetch(INDEX, commit)
    fetched = 0
    for file in weight_files(
        {file: paths.get(file, Path(file)) for file in files}, str(repository)
    ):
        fetched += repository.fetch(file, commit).stat().st_size
        conditions.budget.check("model_bytes", fetched, f"{repository}: bytes of weights")
    return paths[CONFIG].parent


def _whole_in_cache(repository: Repository) -> Path | None:
    """Return the model's folder in the cache if all that loading needs is there."""
    config = repository.cached(CONFIG)
    if config is None:
        return None
    files: Mapping[str, Path] = {path.name: path for path in config.parent.iterdir()}
    try:
        weight_files(files, str(repository))
    except LabError:
        return None
    return config.parent if VOCABULARIES & files.keys() else None
