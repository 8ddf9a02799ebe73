"""The sources of the text that a bet is measured or trained on."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from pytest_layerguard.bet.validation import BetPart, RelativePath

UNPINNED: Final = "unpinned"
HUB_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
REVISION: Final = rf"^([0-9a-f]{{40}}|{UNPINNED})$"
_LOCAL: Final = ("parquet", "json", "csv", "text")
_FORMS: Final = (
    "{reference: heldout}, {file: PATH, sha256: ...}, "
    "{dataset: ORG/NAME, split: ..., revision: <40 hex>} or {dataset: parquet, file: PATH}"
)

Sha256 = Annotated[
    Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None,
    Field(description="the file's digest: 64 lower-case hexadecimal digits"),
]
Column = Annotated[
    str, Field(min_length=1, max_length=200, description="the column that holds the text")
]
Separator = Annotated[
    Annotated[str, Field(max_length=100)] | None,
    Field(description="what stands between two rows"),
]
Revision = Annotated[str, Field(pattern=REVISION)]


class ReferenceText(BetPart):
    """Text that the package ships or generates for its reference models."""

    reference: Literal["heldout", "training"] = Field(
        description="heldout (shipped, never trained on) or training (what the recipe generates)"
    )


class FileText(BetPart):
    """A text file beside the bet file."""

    file: RelativePath = Field(description="a text file, relative to the bet file")
    sha256: Sha256 = None


class DatasetText(BetPart):
    """A dataset of the hub; its rows are joined by their own newlines, or by ``join``."""

    dataset: str = Field(pattern=HUB_NAME, description="ORG/NAME on the hub")
    config: str | None = Field(
        default=None, min_length=1, max_length=200, description="the dataset's configuration"
    )
    split: str = Field(
        min_length=1, max_length=200, description="the dataset's split, such as test"
    )
    column: Column = "text"
    revision: Revision = Field(
        description=f"a full commit hash (40 lower-case hexadecimal digits), or {UNPINNED}"
    )
    join: Separator = None


class LocalDatasetText(BetPart):
    """A dataset in a local file, read by the ``datasets`` library's builder of that name."""

    dataset: Literal["parquet", "json", "csv", "text"] = Field(
        description="the file's format: parquet, json, csv or text"
    )
    file: RelativePath = Field(description="the file, relative to the bet file")
    sha256: Sha256 = None
    column: Column = "text"
    join: Separator = None


def _form(value: Any) -> str | None:
    if isinstance(value, BetPart):
        return _TAGS.get(type(value))
    if not isinstance(value, dict):
        return None
    if "reference" in value:
        return _TAGS[ReferenceText]
    if "dataset" in value:
        local = "split" not in value and "revision" not in value and "file" in value
        named = value["dataset"] in _LOCAL
        return _TAGS[LocalDatasetText if named or local else DatasetText]
    return _TAGS[FileText] if "file" in value or "sha256" in value else None


_TAGS: Final[dict[type[BetPart], str]] = {
    ReferenceText: "<reference>",
    FileText: "<file>",
    DatasetText: "<dataset>",
    LocalDatasetText: "<local>",
}

TextSource = Annotated[
    Annotated[ReferenceText, Tag("<reference>")]
    | Annotated[FileText, Tag("<file>")]
    | Annotated[DatasetText, Tag("<dataset>")]
    | Annotated[LocalDatasetText, Tag("<local>")],
    Discriminator(
        _form,
        custom_error_type="text_form",
        custom_error_message=f"must say where the text is; allowed: {_FORMS}",
    ),
]
"""One of the four forms above."""
