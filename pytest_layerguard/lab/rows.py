"""Rows of datasets: of local files, and of the hub's, file by file as far as they are needed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import yaml

from pytest_layerguard.bet.texts import UNPINNED
from pytest_layerguard.lab import digests
from pytest_layerguard.lab.bombs import refuse_bomb, rows_at_a_time
from pytest_layerguard.lab.conditions import UNPINNED_FLAG
from pytest_layerguard.lab.errors import LabError, UnavailableError
from pytest_layerguard.lab.hub import Repository
from pytest_layerguard.lab.paths import quoted
from pytest_layerguard.lab.quiet import first_line, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from pytest_layerguard.bet.texts import DatasetText, LocalDatasetText
    from pytest_layerguard.lab.conditions import Conditions

_README: Final = "README.md"
_AT_A_TIME: Final = 1_000
_LONGEST_HEAD: Final = 1_000_000
_ELSEWHERE: Final = re.compile(r"::|://|^[/~]|(^|/)\.\.(/|$)")
_MOST_FILES: Final = 100_000
_READERS: Final = ("parquet", "json", "csv", "text", "arrow")
"""Formats that are data and nothing else; others may hold pickles."""
_PATTERN: Final = frozenset("*?[]{}")


@dataclass(frozen=True)
class Split:
    """Which files of a commit make up a split, and how they are read.

    Attributes:
        reader: The ``datasets`` builder: parquet, json, csv, text, ...
        options: Its options, where the repository says so.
        files: The split's files, in order.
        commit: The full commit hash.
    """

    reader: str
    options: Mapping[str, Any]
    files: tuple[str, ...]
    commit: str


def of_file(source: LocalDatasetText, path: Path, largest: int) -> Iterator[str]:
    """Yield the rows of a local file that holds at most ``largest`` bytes of text.

    Raises:
        LabError: If the file is not of that format, or has no such column of text.
        UnavailableError: If the datasets package is missing.
    """
    what = f"dataset {quoted(source.file)}"
    refuse_bomb(path, what, largest, fetched=False)
    yield from _read(source.dataset, {}, path, source.column, what)


def of_hub(source: DatasetText, conditions: Conditions) -> Iterator[str]:
    """Yield the rows of a hub dataset's split; a file is fetched when its first row is wanted.

    Raises:
        LabError: If there is no such dataset, revision, configuration, split or column.
        UnavailableError: If it cannot be had here.
    """
    if source.revision == UNPINNED and not conditions.allow_unpinned:
        raise UnavailableError(
            f"text.revision: {source.dataset} is not pinned to a commit, so the text may change any "
            f"day; pin it to a full commit hash, or allow it with {UNPINNED_FLAG}"
        )
    revision = None if source.revision == UNPINNED else source.revision
    repository = Repository("dataset", source.dataset, revision, conditions)
    split = _split(repository, source)
    largest = conditions.budget.text_bytes
    for file in split.files:
        conditions.progress(f"fetching {file} of {repository}")
        path = repository.fetch(file, split.commit)
        refuse_bomb(path, f"{repository}: {quoted(file)}", largest, fetched=True)
        yield from _read(split.reader, split.options, path, source.column, str(repository))


def _split(repository: Repository, source: DatasetText) -> Split:
    """Find a split's files: known from an earlier run, for a commit never changes; or anew."""
    note = _note(source)
    if repository.revision is not None and note.is_file():
        return _from_note(note)
    try:
        commit, files = repository.listing()
    except UnavailableError:
        if note.is_file():
            return _from_note(note)
        raise
    split = _resolved(repository, source, commit, files)
    draft = note.with_suffix(f".{os.getpid()}.draft")
    try:
        draft.write_text(json.dumps(dataclasses.asdict(split)), encoding="utf-8")
        draft.replace(note)
    except OSError:
        # Without it the hub is asked again the next time, that is all.
        draft.unlink(missing_ok=True)
    return split


def _note(source: DatasetText) -> Path:
    from huggingface_hub import cached_assets_path

    folder = cached_assets_path(
        "pytest-layerguard", namespace=source.dataset, subfolder=source.revision
    )
    words = json.dumps([source.config, source.split])
    return folder / f"{digests.of_text(words).removeprefix('sha256:')}.json"


def _from_note(note: Path) -> Split:
    content = json.loads(note.read_text(encoding="utf-8"))
    return Split(**content | {"files": tuple(content["files"])})


def _resolved(
    repository: Repository, source: DatasetText, commit: str, files: tuple[str, ...]
) -> Split:
    """Let the datasets library say which files make up the split, from their names alone.

    It is shown a folder of empty files of these names beside the dataset's own README.
    """
    datasets = _library()
    if len(files) > _MOST_FILES:
        raise LabError(f"{repository}: has {len(files):,} files; allowed: {_MOST_FILES:,}")
    with tempfile.TemporaryDirectory(prefix="layerguard-") as folder:
        root = Path(folder, source.dataset.partition("/")[2])
        for file in files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise LabError(f"{repository}: has a file named {quoted(file)}")
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if _README in files:
            readme = repository.fetch(_README, commit)
            refuse_elsewhere(readme.read_bytes(), str(repository))
            shutil.copyfile(readme, root / _README)
        with quiet():
            try:
                builder = datasets.load_dataset_builder(str(root), source.config)
            except Exception as error:
                told = first_line(error).replace(str(root), source.dataset)
                raise LabError(f"{repository}: {told}") from None
        found = builder.config.data_files or {}
        if source.split not in found:
            raise LabError(
                f"{repository}: has no split {quoted(source.split)}; there are: "
                f"{', '.join(sorted(map(str, found))) or 'none'}"
            )
        reader = type(builder).__module__.split(".")[-1]
        if reader not in _READERS:
            raise LabError(
                f"{repository}: is read as {quoted(reader)}; allowed: {', '.join(_READERS)}"
            )
        return Split(
            reader=reader,
            options=_options(builder.config),
            files=tuple(
                Path(file).resolve().relative_to(root.resolve()).as_posix()
                for file in found[source.split]
            ),
            commit=commit,
        )


def refuse_elsewhere(readme: bytes, what: str) -> None:
    """Refuse a README that says a split's files lie elsewhere, before they are looked for.

    Raises:
        LabError: If its head names an address, or a path that leaves the repository.
    """
    if not readme.startswith(b"---"):
        return
    head = readme[3:_LONGEST_HEAD].decode("utf-8", "replace").partition("\n---")[0]
    try:
        stated = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise LabError(f"{what}: the head of its {_README} is not YAML") from None
    if not isinstance(stated, dict):
        return
    configs = stated.get("configs")
    for entry in [stated, *(configs if isinstance(configs, list) else [])]:
        places = (
            [entry.get(key) for key in ("data_files", "data_dir")]
            if isinstance(entry, dict)
            else []
        )
        for place in _strings(places, set()):
            if _ELSEWHERE.search(place):
                raise LabError(
                    f"{what}: its {_README} names {quoted(place)}; allowed: files of its own"
                )


def _strings(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield every text in a value, those below an alias once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, seen)


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


_NOT_FOR_READER: Final = frozenset({"name", "version", "data_dir", "data_files", "description"})


def _read(
    reader: str, options: Mapping[str, Any], path: Path, column: str, what: str
) -> Iterator[str]:
    datasets = _library()
    if _PATTERN & set(str(path)) or "::" in str(path):
        raise LabError(f"{what}: the path has characters that stand for patterns; rename the file")
    at_a_time = _AT_A_TIME
    if reader == "parquet":
        at_a_time = rows_at_a_time(path, _AT_A_TIME)
        options = {**options, "batch_size": at_a_time}
    with quiet():
        try:
            rows = datasets.load_dataset(
                reader, data_files={"train": [str(path)]}, split="train", streaming=True, **options
            )
            batches = iter(rows.iter(batch_size=at_a_time))
        except Exception as error:
            raise LabError(f"{what}: cannot be read as {reader}: {first_line(error)}") from None
    while True:
        with quiet():
            try:
                batch = next(batches, None)
            except Exception as error:
                raise LabError(f"{what}: cannot be read as {reader}: {first_line(error)}") from None
        if batch is None:
            return
        if column not in batch:
            raise LabError(
                f"{what}: has no column {quoted(column)}; there are: {', '.join(map(quoted, batch))}"
            )
        for row in batch[column]:
            if row is not None and not isinstance(row, str):
                raise LabError(
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
            "pip install 'pytest-layerguard[datasets]'"
        ) from None
    return datasets  # type: ignore[no-any-return]
