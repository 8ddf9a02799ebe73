"""Options of the command line and the ini file, read into one frozen `Settings`."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
REQUIREMENTS: Final = ("all", "records")


@dataclass(frozen=True)
class Settings:
    """The options of a run; each field is one of `OPTIONS`."""

    bets: tuple[PurePosixPath, ...]
    """Folders that hold bet files, as written: a name or a relative path."""
    device: str
    json: Path | None
    csv: Path | None
    html: Path | None
    markdown: Path | None
    comment: Path | None
    """The file from which the command `comment` comments on a pull request."""
    roots: tuple[Path, ...]
    """Folders outside a bet's own tree from which models and texts may be read."""
    require: frozenset[str]
    """What must not be missing, from `REQUIREMENTS`."""
    record: bool
    cache: Path | None
    """Where results are kept from run to run; `None` for below pytest's own cache directory."""
    fresh: bool
    device_wait: float
    timeout: float
    """Seconds that a bet may be measured; 0 for as long as it takes."""
    limits: Mapping[str, int]
    """How much one bet may use, where that is not the default."""
    shard: tuple[int, int] | None
    """Which part of the bets is judged here, counted from 1, and of how many."""
    merge: Path | None
    """A folder with the JSON reports of all parts, which are joined here."""
    ray: str | None
    """The address of a Ray cluster that measures."""
    allow_unpinned: bool
    allow_remote_code: bool


@dataclass(frozen=True)
class Option:
    """One option of the command line and the ini file; `read` converts a word into a value.

    `read` gets a word and the folder that relative paths start from, and raises `ValueError` with
    the error and what is allowed. Without `read` the option is a flag.
    """

    name: str
    """The field of `Settings`."""
    help: str
    read: Callable[[str, Path], Any] | None = None
    metavar: str = ""
    several: Callable[[Iterable[Any]], Any] | None = None
    """Collects the values of an option that may be given several times; `read` returns several."""
    default: str = ""
    """The word that is read if the option is not given; empty for no value."""
    flag: str | None = None
    """The option on the command line, or `None` if only the ini file has it."""

    @property
    def ini(self) -> str:
        """The option's name in the ini file."""
        return f"layerguard_{self.name}"

    def values(self, words: Sequence[str], start: Path) -> list[Any]:
        """Return the values of all words, or that of the last one where only one counts."""
        assert self.read is not None
        if self.several is not None:
            return [value for word in words for value in self.read(word, start)]
        return [self.read(word, start) for word in words[-1:] if word or self.default]

    def joined(self, values: Sequence[Any]) -> Any:
        """Return the value in `Settings`; None for an option that was not given."""
        if self.several is not None:
            return self.several(values)
        return values[0] if values else None


def read_folder_name(word: str, _start: Path) -> tuple[PurePosixPath]:
    """Read the name of a bet folder."""
    folder = PurePosixPath(word)
    if folder.is_absolute() or ".." in folder.parts or not folder.parts:
        raise ValueError(
            f"{str(folder)!r} is not the name of a bet folder; "
            "allowed: a folder name or a path below the root directory, such as 'quality/bets'"
        )
    return (folder,)


def read_device(word: str, _start: Path) -> str:
    """Read the device to measure on; whether it exists is checked when it is needed."""
    if not DEVICE.fullmatch(word):
        raise ValueError(f"{word!r} is not a device; allowed: auto, cpu, cuda, cuda:N, mps")
    return word


def _path(word: str, start: Path) -> Path:
    from pytest_layerguard.environment.allowed_paths import expanded

    return start / expanded(word)


def read_report_path(word: str, start: Path) -> Path:
    """Read the path of a file to be written."""
    path = _path(word, start)
    if path.is_dir():
        raise ValueError(f"{word!r} is a directory; allowed: the path of a file to write")
    return path


def read_page_path(word: str, start: Path) -> Path:
    """Read the path of the page, and check before anything runs that Jinja2 is installed."""
    path = read_report_path(word, start)
    if importlib.util.find_spec("jinja2") is None:
        raise ValueError("needs Jinja2, which is not here; pip install 'pytest-layerguard[html]'")
    return path


def read_new_folder(word: str, start: Path) -> Path:
    """Read the path of a folder that is created when it is needed."""
    path = _path(word, start)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{word!r} is a file; allowed: the path of a folder")
    return path


def read_folder(word: str, start: Path) -> Path:
    """Read the path of a folder that exists."""
    path = _path(word, start)
    if not path.is_dir():
        raise ValueError(f"{word!r} is not a directory; allowed: a folder that exists")
    return path


def read_root(word: str, start: Path) -> tuple[Path]:
    """Read a folder that must exist, so that a misspelt one is reported once and not bet by bet."""
    return (read_folder(word, start),)


def read_seconds(word: str, _start: Path) -> float:
    """Read a number of seconds."""
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{word!r} is not a time; allowed: a number of seconds, such as 600")
    return seconds


def read_limit(word: str, _start: Path) -> tuple[tuple[str, int]]:
    """Read a limit, as `NAME=NUMBER`."""
    from pytest_layerguard.environment.budget import NAMES

    name, _, number = word.partition("=")
    if name not in NAMES or not re.fullmatch(r"[0-9]{1,15}", number.replace("_", "")):
        raise ValueError(
            f"{word!r} is not a limit; allowed: NAME=NUMBER, where NAME is {', '.join(NAMES)}"
        )
    return ((name, int(number.replace("_", ""))),)


def read_shard(word: str, _start: Path) -> tuple[int, int]:
    """Read a part and the number of parts, as `I/N`."""
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", word)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{word!r} is not a part; allowed: i/n from 1/n to n/n, such as 2/3")
    return int(found[1]), int(found[2])


def read_address(word: str, _start: Path) -> str:
    """Read the address of a Ray cluster; whether one answers is checked when it is needed."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "Ray is not installed; it comes with an extra: pip install 'pytest-layerguard[ray]'"
        )
    return word


def read_require(word: str, _start: Path) -> frozenset[str]:
    """Read requirements, also several in one word: `all,records`."""
    required = frozenset(part.strip() for part in word.split(","))
    for part in sorted(required):
        if part not in REQUIREMENTS:
            raise ValueError(
                f"{part!r} is not a requirement; allowed: {', '.join(REQUIREMENTS)}, or both"
            )
    return required


OPTIONS: Final = (
    Option(
        "bets",
        "folders that hold bet files: names, or paths below the root directory",
        read=read_folder_name,
        several=tuple,
        default="bets",
    ),
    Option(
        "device",
        "device to measure on: auto (default), cpu, cuda, cuda:N or mps",
        read=read_device,
        metavar="DEVICE",
        default="auto",
        flag="--layerguard-device",
    ),
    Option(
        "json",
        "create a JSON file with the results of this run at the given path",
        read=read_report_path,
        metavar="PATH",
        flag="--layerguard-json",
    ),
    Option(
        "csv",
        "create a table of every number of this run at the given path: a row for each variant, text, "
        "checkpoint and metric",
        read=read_report_path,
        metavar="PATH",
        flag="--layerguard-csv",
    ),
    Option(
        "html",
        "create a page for a browser with every bet of this run at the given path",
        read=read_page_path,
        metavar="PATH",
        flag="--layerguard-html",
    ),
    Option(
        "markdown",
        "create a Markdown summary of this run at the given path, short enough for a comment",
        read=read_report_path,
        metavar="PATH",
        flag="--layerguard-markdown",
    ),
    Option(
        "comment",
        "create a file with all of this run at the given path, for 'python -m pytest_layerguard comment'",
        read=read_report_path,
        metavar="PATH",
        flag="--layerguard-comment",
    ),
    Option(
        "roots",
        "folder outside the bets' own tree from which they may read models and texts "
        "(multi-allowed)",
        read=read_root,
        metavar="DIR",
        several=tuple,
        flag="--layerguard-root",
    ),
    Option(
        "require",
        "make a failure of: all (a bet that cannot be measured here), "
        "records (an upheld or falsified bet without a record); multi-allowed, or comma-separated",
        read=read_require,
        metavar="WHAT",
        several=frozenset,
        flag="--layerguard-require",
    ),
    Option(
        "record",
        "write bets/records/<id>.json for each bet that is measured",
        flag="--layerguard-record",
    ),
    Option(
        "cache",
        "keep the results of unchanged bets in this folder (default: below pytest's cache directory)",
        read=read_new_folder,
        metavar="DIR",
        flag="--layerguard-cache",
    ),
    Option(
        "fresh",
        "measure also what was measured before and has not changed since",
        flag="--layerguard-fresh",
    ),
    Option(
        "device_wait",
        "wait so long for a GPU that another run holds (default: 3600)",
        read=read_seconds,
        metavar="SECONDS",
        default="3600",
        flag="--layerguard-device-wait",
    ),
    Option(
        "timeout",
        "let a bet be measured for so long; one that hangs even in native code ends its process "
        "(default: 0, for as long as it takes)",
        read=read_seconds,
        metavar="SECONDS",
        default="0",
        flag="--layerguard-timeout",
    ),
    Option(
        "limits",
        "let a bet use so much, as in tokens=100000 or variants=500 (multi-allowed)",
        read=read_limit,
        metavar="NAME=NUMBER",
        several=dict,
        flag="--layerguard-limit",
    ),
    Option(
        "shard",
        "judge only part I of N of the bets; with --layerguard-json, for --layerguard-merge",
        read=read_shard,
        metavar="I/N",
        flag="--layerguard-shard",
    ),
    Option(
        "merge",
        "join the JSON reports of all parts in this folder; measures and judges nothing",
        read=read_folder,
        metavar="DIR",
        flag="--layerguard-merge",
    ),
    Option(
        "ray",
        "measure on the Ray cluster at this address (auto: the one of this machine)",
        read=read_address,
        metavar="ADDRESS",
        flag="--layerguard-ray",
    ),
    Option(
        "allow_unpinned",
        "measure models whose hub revision is not pinned; such a bet can have no record",
        flag="--layerguard-allow-unpinned",
    ),
    Option(
        "allow_remote_code",
        "run the Python code that a model brings with it; only for models that you trust",
        flag="--layerguard-allow-remote-code",
    ),
)

SETTINGS: Final[pytest.StashKey[Settings]] = pytest.StashKey()


def add_options(parser: pytest.Parser) -> None:
    """Declare every option of `OPTIONS` on the command line and in the ini file."""
    group = parser.getgroup("layerguard", "bets on compressing language models")
    for option in OPTIONS:
        on_line: dict[str, Any] = {"metavar": option.metavar}
        in_file: dict[str, Any]
        if option.read is None:
            on_line = {"action": "store_true", "default": None}
            in_file = {"type": "bool", "default": False}
        elif option.several:
            on_line["action"] = "append"
            in_file = {"type": "args", "default": option.default.split()}
        else:
            in_file = {"type": "string", "default": option.default}
        if option.flag is not None:
            group.addoption(option.flag, dest=option.ini, help=option.help, **on_line)
        parser.addini(option.ini, option.help, **in_file)


def bet_folder_names(config: pytest.Config) -> tuple[PurePosixPath, ...]:
    """Return the names of bet folders, before the other settings are read."""
    names: tuple[PurePosixPath, ...] = _value(config, OPTIONS[0])
    return names


def configure(config: pytest.Config) -> None:
    """Read the settings once, so that wrong ones are refused before anything runs.

    Raises:
        pytest.UsageError: with the option, what is wrong with its value, and what is allowed.
    """
    values = {option.name: _value(config, option) for option in OPTIONS}
    settings = config.stash[SETTINGS] = Settings(**values)
    if settings.merge is not None and (settings.shard is not None or settings.ray is not None):
        raise pytest.UsageError(
            "--layerguard-merge joins what was judged elsewhere; "
            "it cannot be given together with --layerguard-shard or --layerguard-ray"
        )
    for name in ("record", "require"):
        if settings.merge is not None and config.getoption(f"layerguard_{name}"):
            raise pytest.UsageError(
                f"--layerguard-merge judges nothing; give --layerguard-{name} to the parts"
            )
    if config.getoption("dist", "no") != "no" and (settings.ray or settings.merge):
        flag = "--layerguard-ray" if settings.ray else "--layerguard-merge"
        raise pytest.UsageError(
            f"{flag} has no use for the workers of pytest-xdist; run it without, as by -n 0"
        )


def _value(config: pytest.Config, option: Option) -> Any:
    given = config.getoption(option.ini) if option.flag is not None else None
    in_file = config.getini(option.ini)
    if option.read is None:
        return bool(given or in_file)
    start = config.invocation_params.dir
    ini_start = config.inipath.parent if config.inipath is not None else start
    several = option.several is not None
    sources = [(f"ini option {option.ini}", in_file if several else [in_file], ini_start)]
    if given is not None:
        on_line = (str(option.flag), given if several else [given], start)
        sources = [*sources, on_line] if several else [on_line]
    values: list[Any] = []
    for source, words, folder in sources:
        try:
            values += option.values(words, folder)
        except ValueError as error:
            raise pytest.UsageError(f"{source}: {error}") from None
    return option.joined(values)
