"""What is asked on the command line and in the ini file, and what is refused."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pytest_layerguard.pytest_plugin import options
from pytest_layerguard.pytest_plugin.options import OPTIONS, SETTINGS, Settings

BY_NAME = {option.name: option for option in OPTIONS}
FLAGS = [option for option in OPTIONS if option.read is None]
DEVICES = "allowed: auto, cpu, cuda, cuda:N, mps"
A_FOLDER = "allowed: a folder name or a path below the root directory"
A_PART = "allowed: i/n from 1/n to n/n, such as 2/3"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The folder that paths start from."""
    for name in ("one", "two three"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def read(name: str, words: list[str], start: Path) -> Any:
    option = BY_NAME[name]
    return option.joined(option.values(words, start))


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("bets", ["bets", "quality/bets"], (PurePosixPath("bets"), PurePosixPath("quality/bets"))),
        *(("device", [each], each) for each in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps")),
        *((name, [], None) for name in ("json", "html", "markdown", "cache", "shard", "merge")),
        *((name, [""], None) for name in ("json", "html", "markdown", "cache", "shard", "merge")),
        ("roots", [], ()),
        ("require", [], frozenset()),
        ("require", ["all"], {"all"}),
        ("require", ["all,records"], {"all", "records"}),
        ("require", ["all", "records"], {"all", "records"}),
        ("device_wait", ["0.5"], 0.5),
        ("timeout", ["600"], 600.0),
        ("limits", [], {}),
        ("limits", ["tokens=9", "variants=1_000", "tokens=7"], {"tokens": 7, "variants": 1000}),
        ("shard", ["2/3"], (2, 3)),
        ("shard", ["1/1"], (1, 1)),
        ("ray", [""], None),
    ],
)
def test_what_words_mean(name: str, words: list[str], value: object, start: Path) -> None:
    assert read(name, words, start) == value


def test_the_home_of_nobody_is_a_name_like_any_other(start: Path) -> None:
    assert read("json", ["~nobody-here/o.json"], start) == start / "~nobody-here" / "o.json"


@pytest.mark.parametrize(
    ("name", "word", "below"),
    [
        ("json", "out/a.json", "out/a.json"),
        ("html", "a.html", "a.html"),
        ("markdown", "file", "file"),
        ("cache", "kept", "kept"),
        ("cache", "one", "one"),
        ("merge", "two three", "two three"),
    ],
)
def test_a_path_starts_from_a_folder(name: str, word: str, below: str, start: Path) -> None:
    assert read(name, [word], start) == start / below


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        *(
            ("device", each, f"{each!r} is not a device; {DEVICES}")
            for each in ("", "gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", "cpu ")
        ),
        *(
            ("bets", each, f"{each!r} is not the name of a bet folder; {A_FOLDER}")
            for each in ("/bets", "../bets", ".")
        ),
        ("json", ".", "'.' is a directory; allowed: the path of a file to write"),
        ("cache", "file", "'file' is a file; allowed: the path of a folder"),
        ("roots", "nowhere", "'nowhere' is not a directory; allowed: a folder that exists"),
        ("merge", "file", "'file' is not a directory; allowed: a folder that exists"),
        ("require", "all,record", "'record' is not a requirement; allowed: all, records, or both"),
        *(
            ("timeout", each, f"{each!r} is not a time; allowed: a number of seconds")
            for each in ("soon", "-1", "inf", "nan")
        ),
        *(
            ("limits", each, f"{each!r} is not a limit; allowed: NAME=NUMBER, where NAME is ")
            for each in ("tokens", "tokens=", "tokens=-1", "tokens=1e9", "wings=2")
        ),
        *(
            ("shard", each, f"{each!r} is not a part; {A_PART}")
            for each in ("2", "0/2", "3/2", "1/0", "-1/2", "a/b")
        ),
    ],
)
def test_what_is_refused_says_what_is_allowed(
    name: str, word: str, message: str, start: Path
) -> None:
    with pytest.raises(ValueError, match=r"\A") as refused:
        read(name, [word], start)
    assert str(refused.value).startswith(message)


def settings(pytester: pytest.Pytester, *args: str, ini: str = "") -> Settings:
    if ini:
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}\n")
    config = pytester.parseconfig(*args)
    options.configure(config)
    return config.stash[SETTINGS]


def test_nothing_asked(pytester: pytest.Pytester) -> None:
    assert settings(pytester) == Settings(
        bets=(PurePosixPath("bets"),),
        device="auto",
        json=None,
        csv=None,
        html=None,
        markdown=None,
        comment=None,
        roots=(),
        require=frozenset(),
        record=False,
        cache=None,
        fresh=False,
        device_wait=3600.0,
        timeout=0.0,
        limits={},
        shard=None,
        merge=None,
        ray=None,
        allow_unpinned=False,
        allow_remote_code=False,
    )


def test_the_command_line_goes_before_the_ini_file(pytester: pytest.Pytester) -> None:
    ini = 'layerguard_device = "mps"'
    assert settings(pytester, ini=ini).device == "mps"
    assert settings(pytester, "--layerguard-device", "cpu", ini=ini).device == "cpu"


@pytest.mark.parametrize(
    ("args", "ini", "source"),
    [
        (["--layerguard-device=gpu"], "", "--layerguard-device: 'gpu' is not a device"),
        ([], 'layerguard_device = "gpu"', "ini option layerguard_device: 'gpu' is not a device"),
    ],
)
def test_a_refusal_begins_with_who_asked(
    pytester: pytest.Pytester, args: list[str], ini: str, source: str
) -> None:
    with pytest.raises(pytest.UsageError) as refused:
        settings(pytester, *args, ini=ini)
    assert str(refused.value).startswith(source)


def test_roots_of_the_command_line_and_the_ini_file_both_count(pytester: pytest.Pytester) -> None:
    for name in ("one", "two three", "sub"):
        pytester.mkdir(name)
    ini = "layerguard_roots = ['one', 'two three']"
    found = settings(pytester, "--layerguard-root", "sub", "--layerguard-root=.", ini=ini).roots
    here = pytester.path
    assert found == (here / "one", here / "two three", here / "sub", here)


def test_an_ini_path_starts_from_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.mkdir("models")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nlayerguard_roots = 'models'\n")
    monkeypatch.chdir(pytester.mkdir("sub"))
    found = settings(pytester, "--layerguard-json=a.json")
    assert found.roots == (pytester.path / "models",)
    assert found.json == pytester.path / "sub" / "a.json"


def test_flags(pytester: pytest.Pytester) -> None:
    asked = settings(pytester, *(str(option.flag) for option in FLAGS))
    assert all(getattr(asked, option.name) is True for option in FLAGS)
    asked = settings(pytester, ini="\n".join(f"{option.ini} = true" for option in FLAGS))
    assert all(getattr(asked, option.name) is True for option in FLAGS)


def test_a_refusal_ends_the_run_before_it_starts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest("--layerguard-device=gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --layerguard-device: 'gpu' is not a device; allowed: *"])


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    reported = pytester.runpytest("--help").stdout.str()
    for option in OPTIONS:
        assert option.flag is None or f"  {option.flag}" in reported
        assert f"  layerguard_{option.name} (" in reported


def test_every_option_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "options.md"
    reported = page.read_text(encoding="utf-8")
    for option in OPTIONS:
        assert f"`{option.ini}`" in reported
        assert option.flag is None or f"`{option.flag}" in reported
