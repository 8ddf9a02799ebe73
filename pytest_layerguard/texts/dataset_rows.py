"""Read rows of datasets: of local files, and of the hub's, file by file as far as they are needed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.atomic_write import write_if_possible
from pytest_layerguard.environment.captured_output import first_line, quiet
from pytest_layerguard.environment.conditions import UNPINNED_FLAG
from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.models.hub import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from pytest_layerguard.bet.text_sources import DatasetText, LocalDatasetText
    from pytest_layerguard.environment.conditions import Conditions

_README: Final = "README.md"
_AT_A_TIME: Final = 1_000
_READERS: Final = ("parquet", "json", "csv", "text", "arrow")
"""Formats that are data and nothing else; others may hold pickles."""
_PATTERN: Final = frozenset("*?[]{}")
_NOT_FOR_READER: Final = frozenset({"name", "version", "data_dir", "data_files", "description"})


@dataclass(frozen=True)
class Split:
    """The files of a commit that make up a split, and how to read them.

    Attributes:
        reader: The ``datasets`` builder: parquet, json, csv, text or arrow.
        options: Its options, where the repository sets them.
        files: The split's files, in order.
        commit: The full commit hash.
    """

    reader: str
    options: Mapping[str, Any]
    files: tuple[str, ...]
    commit: str


def of_file(source: LocalDatasetText, path: Path) -> Iterator[str]:
    """Yield the rows of a local file.

    Raises:
        MeasurementError: If the file is not of that format, or has no such column of text.
        UnavailableError: If the datasets package is missing.
    """
    return _read(source.dataset, {}, path, source.column, f"dataset {quoted(source.file)}")


def of_hub(source: DatasetText, conditions: Conditions) -> Iterator[str]:
    """Yield the rows of a hub dataset's split; fetch a file when its first row is needed.

    Raises:
        MeasurementError: If there is no such dataset, revision, configuration, split or column.
        UnavailableError: If it cannot be downloaded here.
    """
    if source.revision == UNPINNED and not conditions.allow_unpinned:
        raise UnavailableError(
            f"text.revision: {source.dataset} is not pinned to a commit, so the text may change any "
            f"day; pin it to a full commit hash, or allow it with {UNPINNED_FLAG}"
        )
    revision = None if source.revision == UNPINNED else source.revision
    repository = Repository("dataset", source.dataset, revision)
    split = _split(repository, source)
    for file in split.files:
        conditions.progress(f"fetching {file} of {repository}")
        path = repository.fetch(file, split.commit)
        yield from _read(split.reader, split.options, path, source.column, str(repository))


def _split(repository: Repository, source: DatasetText) -> Split:
    """Find a split's files; keep them in the cache, since those of a commit never change."""
    note = _note(source)
    if repository.revision is not None and note.is_file():
        return _from_note(note)
    try:
        split = _resolved(repository, source)
    except UnavailableError:
        if note.is_file():
            return _from_note(note)
        raise
    write_if_possible(note, json.dumps(dataclasses.asdict(split)))
    return split


def _note(source: DatasetText) -> Path:
    from huggingface_hub import cached_assets_path

    folder = cached_assets_path(
        "pytest-layerguard", namespace=source.dataset, subfolder=source.revision
    )
    words = json.dumps([source.config, source.split])
    return folder / f"{file_digests.of_text(words).removeprefix('sha256:')}.json"


def _from_note(note: Path) -> Split:
    content = json.loads(note.read_text(encoding="utf-8"))
    return Split(**content | {"files": tuple(content["files"])})


def _resolved(repository: Repository, source: DatasetText) -> Split:
    """Find a split's files by their names, as ``datasets`` does.

    Give it a folder of empty files of these names beside the dataset's own README, so that it
    needs no network and no file that is not read later.
    """
    datasets = _library()
    commit, files = repository.listing()
    readme = _readme(repository, commit) if _README in files else None
    with tempfile.TemporaryDirectory(prefix="layerguard-") as folder:
        root = Path(folder, source.dataset.partition("/")[2]).resolve()
        for file in files:
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if readme is not None:
            shutil.copyfile(readme, root / _README)
        with quiet():
            try:
                builder = datasets.load_dataset_builder(str(root), source.config)
            except Exception as error:
                message = first_line(error).replace(str(root), source.dataset)
                raise MeasurementError(f"{repository}: {message}") from None
        found = builder.config.data_files or {}
        if source.split not in found:
            raise MeasurementError(
                f"{repository}: has no split {quoted(source.split)}; there are: "
                f"{', '.join(sorted(map(str, found))) or 'none'}"
            )
        reader = type(builder).__module__.split(".")[-1]
        if reader not in _READERS:
            raise MeasurementError(
                f"{repository}: is read as {quoted(reader)}; allowed: {', '.join(_READERS)}"
            )
        paths = [Path(file).resolve() for file in found[source.split]]
        if not all(path.is_relative_to(root) for path in paths):
            raise _elsewhere(repository)
        return Split(
            reader=reader,
            options=_options(builder.config),
            files=tuple(path.relative_to(root).as_posix() for path in paths),
            commit=commit,
        )


def _readme(repository: Repository, commit: str) -> Path:
    """Fetch the README, which may name the files of each split.

    Raises:
        MeasurementError: If it cannot be read, or names an address: the library would go there.
    """
    from huggingface_hub import metadata_load

    path = repository.fetch(_README, commit)
    try:
        stated = json.dumps((metadata_load(path) or {}).get("configs"), default=str)
    except Exception as error:
        raise MeasurementError(
            f"{repository}: the head of its {_README} cannot be read: {first_line(error)}"
        ) from None
    if "://" in stated:
        raise _elsewhere(repository)
    return path


def _elsewhere(repository: Repository) -> MeasurementError:
    return MeasurementError(
        f"{repository}: its {_README} names files elsewhere; allowed: files of its own"
    )


def _options(config: Any) -> dict[str, Any]:
    """Return what the repository's README sets for the reader, such as a separator."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _NOT_FOR_READER or value == field.default:
            continue
        if isinstance(value, str | int | float | bool):
            options[field.name] = value
    return options


def _read(
    reader: str, options: Mapping[str, Any], path: Path, column: str, what: str
) -> Iterator[str]:
    datasets = _library()
    if _PATTERN & set(str(path)) or "::" in str(path):
        raise MeasurementError(
            f"{what}: the path has characters that stand for patterns; rename the file"
        )
    if reader == "text":
        # This reader alone takes a byte order mark for a part of the first row.
        options = {"encoding": "utf-8-sig", **options}
    with quiet():
        try:
            rows = datasets.load_dataset(
                reader, data_files={"train": [str(path)]}, split="train", streaming=True, **options
            )
            batches = iter(rows.iter(batch_size=_AT_A_TIME))
        except Exception as error:
            raise MeasurementError(
                f"{what}: cannot be read as {reader}: {first_line(error)}"
            ) from None
    while True:
        with quiet():
            try:
                batch = next(batches, None)
            except Exception as error:
                raise MeasurementError(
                    f"{what}: cannot be read as {reader}: {first_line(error)}"
                ) from None
        if batch is None:
            return
        if column not in batch:
            raise MeasurementError(
                f"{what}: has no column {quoted(column)}; there are: {', '.join(map(quoted, batch))}"
            )
        for row in batch[column]:
            if row is not None and not isinstance(row, str):
                raise MeasurementError(
                    f"{what}: column {quoted(column)} holds {type(row).__name__}, not text"
                )
            yield row or ""


def _library() -> ModuleType:
    try:
        with quiet():
            import datasets
    except ImportError:
        raise UnavailableError(
            "datasets are read by the datasets package, which is not installed; "
            "pip install 'pytest-layerguard[datasets]'",
            Lack("package", "datasets"),
        ) from None
    return datasets  # type: ignore[no-any-return]
