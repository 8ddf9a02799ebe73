"""Silence the model libraries, and turn their messages and panics into ours."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBRARIES: Final = (
    "transformers",
    "huggingface_hub",
    "datasets",
    "accelerate",
    "fsspec",
    "torch",
    "bitsandbytes",
    "compressed_tensors",
    "peft",
    "lm_eval",
    "evaluate",
    "torchao",
)
_TOKEN: Final = re.compile(r"(?<=[Bb]earer )\S+")
_LONGEST: Final = 300


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Silence logs, warnings and progress bars of the model libraries within a block.

    Yields:
        The messages that they log at warning level or above, to explain a later error.
    """
    kept = _Kept()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _LIBRARIES:
            stack.enter_context(_diverted(logging.getLogger(name), kept))
        _without_bars(stack)
        yield kept.lines


def scrubbed(text: str) -> str:
    """Return a library's text without access tokens and without terminal control characters."""
    text = _TOKEN.sub("***", without_secrets(text))
    return "".join(character for character in text if character.isprintable() or character == "\n")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message without secrets, with its type where needed."""
    lines = [line.strip() for line in scrubbed(str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[1]}"
    kind = type(error).__name__
    if not lines:
        return kind
    line = lines[0][:_LONGEST]
    return line if isinstance(error, OSError | ValueError | RuntimeError) else f"{kind}: {line}"


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise MeasurementError if a library written in Rust panics, which ``except Exception`` misses."""
    try:
        yield
    except BaseException as error:
        # Each extension module has its own class, which it does not export.
        if type(error).__name__ != "PanicException":
            raise
        raise MeasurementError(
            f"a tokenizer or a weights file made its library give up: {first_line(error)}. "
            "It is probably damaged; fetch or save it again."
        ) from None


@contextmanager
def _diverted(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    # A user's TRANSFORMERS_VERBOSITY=error must not keep from us why a model cannot be loaded.
    logger.setLevel(handler.level)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def _without_bars(stack: ExitStack) -> None:
    """Disable progress bars until ``stack`` closes."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers

    if transformers.is_progress_bar_enabled():
        transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
        stack.callback(transformers.enable_progress_bar)
    if not are_progress_bars_disabled():
        disable_progress_bars()
        stack.callback(enable_progress_bars)
