"""Read the texts that bets are measured on.

Rows of a dataset are joined by their own newlines: a row that is not empty and does not end with
one gets one before the next row; empty rows leave no trace. With ``join`` that text stands between
every two rows instead, empty ones included, and nothing else is added. Rows as paragraphs have an empty line between
them, and blank rows leave no trace.

A text may be endless, or larger than the disk. Where its first N tokens are needed, whole rows are
read until there are at least 262,144 characters and at least eight for every token. If these make
too few tokens, twice as much is read. So the first 4,096 tokens of a corpus do not need all of it,
the place where reading stopped does not change the last of them, and how much is read depends only
on the text, the tokenizer and N.
"""

from __future__ import annotations

from io import StringIO
from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.text_sources import FileText, LocalDatasetText, ReferenceText
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths, quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.tokenization import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.conditions import Conditions

_TRAINING_SEED: Final = 0
"""The seed of the text that the shipped models were trained on."""
_TRAINING_BOOKS: Final = 4_096
"""The number of its books that a bet may use: some 25 million characters."""
_FIRST: Final = 2**18
_PER_TOKEN: Final = 8
_MARGIN: Final = 64
"""Tokens at the end that may differ from those of the whole text."""


class Texts:
    """Read the texts that one bet file names.

    Args:
        conditions: The limits and permissions of the run.
        bet_file: The bet's file.
        bets: The bet folder; files are read below the folder that holds it.
    """

    def __init__(self, conditions: Conditions, bet_file: Path, bets: Path) -> None:
        self._conditions = conditions
        self._reach = AllowedPaths.of(bet_file, bets, conditions)

    def read(
        self,
        source: TextSource,
        tokenizer: PreTrainedTokenizerBase | None = None,
        tokens: int | None = None,
        *,
        paragraphs: bool = False,
    ) -> str:
        """Return a text, or as much of its beginning as is needed.

        Args:
            source: The place of the text.
            tokenizer: The model's tokenizer; needed with ``tokens``.
            tokens: The number of tokens needed; ``None`` for the whole text.
            paragraphs: Whether a dataset's rows are paragraphs, where its ``join`` does not say otherwise.

        Returns:
            Text of at least that many tokens, or all of it where there are fewer.

        Raises:
            MeasurementError: If the text is missing, has another digest than the bet says, or is not text.
            UnavailableError: If it cannot be downloaded here.
        """
        pieces = self._pieces(source, paragraphs=paragraphs)
        largest = self._conditions.budget.text_bytes
        if tokens is None or tokenizer is None:
            text, ended = _taken(pieces, "", largest)
            if not ended:
                raise MeasurementError(
                    f"the text has more than {largest:,} characters; say with measure.tokens how "
                    "much of it is wanted"
                )
            return text
        text, budget = "", max(_FIRST, _PER_TOKEN * tokens)
        while True:
            text, ended = _taken(pieces, text, min(budget, largest))
            enough = ended or len(encode(tokenizer, text)) >= tokens + _MARGIN
            if enough or len(text) >= largest:
                return text
            budget *= 2

    def check(self, source: TextSource, tokens: int | None) -> None:
        """Check a local text without a tokenizer; accept every other text unread.

        Args:
            source: The place of the text.
            tokens: The number of tokens that will be scored, if it is known.

        Raises:
            MeasurementError: If the text is missing, has another digest than the bet says, is not text, or
                has too few bytes for that many tokens with any tokenizer.
        """
        if isinstance(source, LocalDatasetText):
            self._digest(source)
        elif isinstance(source, FileText):
            size = len(self._file(source).encode())
            # A tokenizer may put a space before the text, which is a token too.
            if tokens is not None and size + 1 < tokens:
                raise MeasurementError(
                    f"file: {quoted(source.file)} has {size:,} bytes, too few for {tokens:,} tokens; "
                    "lower measure.tokens or take a longer text"
                )

    def digest(self, source: TextSource) -> str | None:
        """Return the digest of a text's local file, or None for a text that its name fixes.

        Raises:
            MeasurementError: If the file is missing, or has another digest than the bet says.
        """
        return self._digest(source) if isinstance(source, FileText | LocalDatasetText) else None

    def _pieces(self, source: TextSource, *, paragraphs: bool) -> Iterator[str]:
        if isinstance(source, ReferenceText):
            return _reference(source)
        if isinstance(source, FileText):
            # By lines, so that no more of a long file is tokenised than is needed.
            return iter(StringIO(self._file(source)))
        from pytest_layerguard.texts import dataset_rows

        if isinstance(source, LocalDatasetText):
            self._digest(source)
            rows = dataset_rows.of_file(source, self._path(source))
        else:
            rows = dataset_rows.of_hub(source, self._conditions)
        if paragraphs and source.join is None:
            return joined(filter(str.strip, rows), "\n\n")
        return joined(rows, source.join)

    def _digest(self, source: FileText | LocalDatasetText) -> str:
        digest = file_digests.of_file(self._path(source))
        file_digests.check(digest, source.sha256, f"file: {quoted(source.file)}")
        return digest

    def _path(self, source: FileText | LocalDatasetText) -> Path:
        return self._reach.file(source.file, "file", largest=self._conditions.budget.text_bytes)

    def _file(self, source: FileText) -> str:
        # The digest is that of the very bytes that are measured.
        content = self._path(source).read_bytes()
        digest = file_digests.of_bytes(content)
        file_digests.check(digest, source.sha256, f"file: {quoted(source.file)}")
        try:
            # A byte order mark is of the file, not of its text, and would be scored as a token.
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MeasurementError(
                f"file: {quoted(source.file)} is not UTF-8: byte {error.start:,} is "
                f"0x{content[error.start]:02x}. Save it as UTF-8."
            ) from None


def joined(rows: Iterable[str], join: str | None) -> Iterator[str]:
    """Yield a dataset's rows with ``join``, or the newlines of the module's docstring, between them."""
    if join is not None:
        for number, row in enumerate(rows):
            yield f"{join}{row}" if number else row
        return
    gap = ""
    for row in rows:
        if row:
            yield gap + row
            gap = "" if row.endswith("\n") else "\n"


def _reference(source: ReferenceText) -> Iterator[str]:
    if source.reference == "heldout":
        content = reference.HELDOUT.read_bytes()
        if file_digests.of_bytes(content) != reference.manifest()["heldout"]["sha256"]:
            raise MeasurementError(
                "reference: heldout is not the text that was shipped; reinstall pytest-layerguard"
            )
        return iter([content.decode("utf-8")])
    from pytest_layerguard.reference.story_generator import books

    return joined(islice(books(_TRAINING_SEED), _TRAINING_BOOKS), "\n\n")


def _taken(pieces: Iterator[str], text: str, size: int) -> tuple[str, bool]:
    """Add pieces to a text until it is longer than ``size``; return it and whether none are left."""
    taken = [text]
    length = len(text)
    for piece in pieces:
        taken.append(piece)
        length += len(piece)
        if length > size:
            return "".join(taken), False
    return "".join(taken), True
