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
    from collections.abc import Callable, Sequence

DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
REQUIREMENTS: Final = ("all", "records")


@dataclass(frozen=True)
class Settings:
    """The options of a run; each field stands in `OPTIONS`."""

    bets: tuple[PurePosixPath, ...]
    """Folders that hold bet files, as written: a name or a relative path."""
    device: str
    json: Path | None
    html: Path | None
    markdown: Path | None
    roots: tuple[Path, ...]
    """Folders outside a bet's own tree from which models and texts may be read."""
    require: frozenset[str]
    """What must not be missing: of `REQUIREMENTS`."""
    record: bool
    cache: Path | None
    """Where results are kept from run to run; `None` for below pytest's own cache directory."""
    fresh: bool
    device_wait: float
    timeout: float
    """Seconds that a bet may be measured; 0 for as long as it takes."""
    limits: tuple[tuple[str, int], ...]
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
    """One option of the command line and the ini file; `read` turns its words into a value.

    `read` gets every word given and the folder that relative paths start from, and raises
    `ValueError` with what is wrong and what is allowed. Without `read` the option is a flag.
    """

    name: str
    """The field of `Settings`."""
    help: str
    read: Callable[[Sequence[str], Path], Any] | None = None
    metavar: str = ""
    several: bool = False
    default: tuple[str, ...] = ()
    flag: str | None = None
    """The option on the command line, or `None` if only the ini file has it."""

    @property
    def ini(self) -> str:
        """The option's name in the ini file."""
        return f"layerguard_{self.name}"


def read_folders(words: Sequence[str], _start: Path) -> tuple[PurePosixPath, ...]:
    """Read the names of bet folders."""
    folders = tuple(PurePosixPath(word) for word in words)
    for folder in folders:
        if folder.is_absolute() or ".." in folder.parts or not folder.parts:
            raise ValueError(
                f"{str(folder)!r} is not the name of a bet folder; "
                "allowed: a folder name or a path below the root directory, such as 'quality/bets'"
            )
    return folders


def read_device(words: Sequence[str], _start: Path) -> str:
    """Read the device to measure on; whether it exists is checked when it is needed."""
    if not DEVICE.fullmatch(words[-1]):
        raise ValueError(f"{words[-1]!r} is not a device; allowed: auto, cpu, cuda, cuda:N, mps")
    return words[-1]


def read_report_path(words: Sequence[str], start: Path) -> Path | None:
    """Read the path of a file to be written."""
    if not words or not words[-1]:
        return None
    path = start / Path(words[-1]).expanduser()
    if path.is_dir():
        raise ValueError(f"{words[-1]!r} is a directory; allowed: the path of a file to write")
    return path


def read_folder_path(words: Sequence[str], start: Path) -> Path | None:
    """Read the path of a folder that is created when it is needed."""
    if not words or not words[-1]:
        return None
    path = start / Path(words[-1]).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{words[-1]!r} is a file; allowed: the path of a folder")
    return path


def read_page_path(words: Sequence[str], start: Path) -> Path | None:
    """Read the path of the page, and check before anything runs that Jinja2 is installed."""
    path = read_report_path(words, start)
    if path is not None and importlib.util.find_spec("jinja2") is None:
        raise ValueError("needs Jinja2, which is not here; pip install 'pytest-layerguard[html]'")
    return path


def read_roots(words: Sequence[str], start: Path) -> tuple[Path, ...]:
    """Read folders that must exist, so that a misspelt one is reported once and not bet by bet."""
    roots = tuple(start / Path(word).expanduser() for word in words)
    for word, root in zip(words, roots, strict=True):
        if not root.is_dir():
            raise ValueError(f"{word!r} is not a directory; allowed: a folder that exists")
    return roots


def read_seconds(words: Sequence[str], _start: Path) -> float:
    """Read a number of seconds."""
    try:
        seconds = float(words[-1])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{words[-1]!r} is not a time; allowed: a number of seconds, such as 600")
    return seconds


def read_limits(words: Sequence[str], _start: Path) -> tuple[tuple[str, int], ...]:
    """Read limits, each as `NAME=NUMBER`; the later one of a name counts."""
    if not words:
        return ()
    from pytest_layerguard.environment.budget import NAMES

    limits = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in NAMES or not re.fullmatch(r"[0-9]{1,15}", number.replace("_", "")):
            raise ValueError(
                f"{word!r} is not a limit; allowed: NAME=NUMBER, where NAME is {', '.join(NAMES)}"
            )
        limits[name] = int(number)
    return tuple(limits.items())


def read_shard(words: Sequence[str], _start: Path) -> tuple[int, int] | None:
    """Read a part and the number of parts, as `I/N`."""
    if not words or not words[-1]:
        return None
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", words[-1])
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{words[-1]!r} is not a part; allowed: i/n from 1/n to n/n, such as 2/3")
    return int(found[1]), int(found[2])


def read_folder(words: Sequence[str], start: Path) -> Path | None:
    """Read the path of a folder that exists."""
    return read_roots(words[-1:], start)[0] if words and words[-1] else None


def read_address(words: Sequence[str], _start: Path) -> str | None:
    """Read the address of a Ray cluster; whether one answers is checked when it is needed."""
    if not words or not words[-1]:
        return None
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "Ray is not installed; it comes with an extra: pip install 'pytest-layerguard[ray]'"
        )
    return words[-1]


def read_require(words: Sequence[str], _start: Path) -> frozenset[str]:
    """Read requirements, also several in one word: `all,records`."""
    required = frozenset(part.strip() for word in words for part in word.split(","))
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
        read=read_folders,
        several=True,
        default=("bets",),
    ),
    Option(
        "device",
        "device to measure on: auto (default), cpu, cuda, cuda:N or mps",
        read=read_device,
        metavar="DEVICE",
        default=("auto",),
        flag="--layerguard-device",
    ),
    Option(
        "json",
        "create a JSON file with what this run saw at the given path",
        read=read_report_path,
        metavar="PATH",
        flag="--layerguard-json",
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
        "roots",
        "folder outside the bets' own tree from which they may read models and texts "
        "(multi-allowed)",
        read=read_roots,
        metavar="DIR",
        several=True,
        flag="--layerguard-root",
    ),
    Option(
        "require",
        "fail what would else pass over: all (a bet that cannot be measured here), "
        "records (an upheld or falsified bet without a record); multi-allowed, or comma-separated",
        read=read_require,
        metavar="WHAT",
        several=True,
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
        read=read_folder_path,
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
        default=("3600",),
        flag="--layerguard-device-wait",
    ),
    Option(
        "timeout",
        "let a bet be measured for so long; one that hangs even in native code ends its process "
        "(default: 0, for as long as it takes)",
        read=read_seconds,
        metavar="SECONDS",
        default=("0",),
        flag="--layerguard-timeout",
    ),
    Option(
        "limits",
        "let a bet use so much, as in tokens=100000 or variants=500 (multi-allowed)",
        read=read_limits,
        metavar="NAME=NUMBER",
        several=True,
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
        if option.flag is not None and option.read is None:
            group.addoption(
                option.flag, dest=option.ini, action="store_true", default=None, help=option.help
            )
        elif option.flag is not None:
            action = "append" if option.several else "store"
            group.addoption(
                option.flag,
                dest=option.ini,
                action=action,
                metavar=option.metavar,
                help=option.help,
            )
        if option.read is None:
            parser.addini(option.ini, option.help, type="bool", default=False)
        elif option.several:
            parser.addini(option.ini, option.help, type="args", default=list(option.default))
        else:
            parser.addini(option.ini, option.help, type="string", default=" ".join(option.default))


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
    if option.read is None:
        return bool(given or config.getini(option.ini))
    start = config.invocation_params.dir
    ini_start = config.inipath.parent if config.inipath is not None else start
    ini = config.getini(option.ini)
    sources: list[tuple[str, list[str], Path]] = []
    if option.several:
        sources = [
            (f"ini option {option.ini}", list(ini), ini_start),
            (str(option.flag), given or [], start),
        ]
        parts = [_read(option, *source) for source in sources]
        return type(parts[0])([*parts[0], *parts[1]])
    if given is not None:
        return _read(option, str(option.flag), [given], start)
    return _read(option, f"ini option {option.ini}", [ini], ini_start)


def _read(option: Option, source: str, words: list[str], start: Path) -> Any:
    assert option.read is not None
    try:
        return option.read(words, start)
    except ValueError as error:
        raise pytest.UsageError(f"{source}: {error}") from None
