"""What is asked on the command line and in the ini file, and what is refused."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from pytest_layerguard.pytest_plugin.options import OPTIONS, SETTINGS, Settings


def settings(pytester: pytest.Pytester, *args: str, ini: str = "") -> Settings:
    if ini:
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}\n")
    return pytester.parseconfigure(*args).stash[SETTINGS]


def refusal(pytester: pytest.Pytester, *args: str, ini: str = "") -> str:
    with pytest.raises(pytest.UsageError) as refused:
        settings(pytester, *args, ini=ini)
    return str(refused.value)


def test_nothing_asked(pytester: pytest.Pytester) -> None:
    assert settings(pytester) == Settings(
        bets=(PurePosixPath("bets"),),
        device="auto",
        json=None,
        html=None,
        markdown=None,
        roots=(),
        require=frozenset(),
        record=False,
        cache=None,
        fresh=False,
        device_wait=3600.0,
        timeout=0.0,
        limits=(),
        shard=None,
        merge=None,
        ray=None,
        allow_unpinned=False,
        allow_remote_code=False,
    )


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
def test_a_device(pytester: pytest.Pytester, device: str) -> None:
    assert settings(pytester, f"--layerguard-device={device}").device == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", "cpu "])
def test_no_device(pytester: pytest.Pytester, device: str) -> None:
    assert refusal(pytester, f"--layerguard-device={device}") == (
        f"--layerguard-device: {device!r} is not a device; allowed: auto, cpu, cuda, cuda:N, mps"
    )


def test_the_command_line_goes_before_the_ini_file(pytester: pytest.Pytester) -> None:
    ini = 'layerguard_device = "mps"'
    assert settings(pytester, ini=ini).device == "mps"
    assert settings(pytester, "--layerguard-device", "cpu", ini=ini).device == "cpu"


def test_an_ini_value_is_refused_by_its_ini_name(pytester: pytest.Pytester) -> None:
    told = refusal(pytester, ini='layerguard_device = "gpu"')
    assert told.startswith("ini option layerguard_device: 'gpu' is not a device")


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
    assert settings(pytester).roots == (pytester.path / "models",)


def test_a_root_must_exist(pytester: pytest.Pytester) -> None:
    assert refusal(pytester, "--layerguard-root=nowhere") == (
        "--layerguard-root: 'nowhere' is not a directory; allowed: a folder that exists"
    )


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--layerguard-require=all"], {"all"}),
        (["--layerguard-require=all,records"], {"all", "records"}),
        (["--layerguard-require=all", "--layerguard-require=records"], {"all", "records"}),
    ],
)
def test_requirements(pytester: pytest.Pytester, args: list[str], expected: set[str]) -> None:
    assert settings(pytester, *args).require == expected


def test_no_requirement(pytester: pytest.Pytester) -> None:
    assert refusal(pytester, "--layerguard-require=all,record") == (
        "--layerguard-require: 'record' is not a requirement; allowed: all, records, or both"
    )


@pytest.mark.parametrize("name", ["record", "fresh", "allow_unpinned", "allow_remote_code"])
def test_a_flag(pytester: pytest.Pytester, name: str) -> None:
    assert not getattr(settings(pytester), name)
    assert getattr(settings(pytester, f"--layerguard-{name.replace('_', '-')}"), name)
    assert getattr(settings(pytester, ini=f"layerguard_{name} = true"), name)


def test_a_report_path_starts_from_here(pytester: pytest.Pytester) -> None:
    assert settings(pytester, "--layerguard-json=out/a.json").json == pytester.path / "out/a.json"


def test_a_cache_folder_starts_from_here_and_need_not_exist(pytester: pytest.Pytester) -> None:
    assert settings(pytester, "--layerguard-cache=kept").cache == pytester.path / "kept"


def test_a_report_cannot_be_a_directory(pytester: pytest.Pytester) -> None:
    assert "'.' is a directory" in refusal(pytester, "--layerguard-json=.")


@pytest.mark.parametrize("folder", ["/bets", "../bets", "."])
def test_a_bet_folder_lies_below_the_root_directory(pytester: pytest.Pytester, folder: str) -> None:
    told = refusal(pytester, ini=f"layerguard_bets = {folder!r}")
    assert told.startswith(f"ini option layerguard_bets: {folder!r} is not the name of a bet")


def test_a_refusal_ends_the_run_before_it_starts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest("--layerguard-device=gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --layerguard-device: 'gpu' is not a device; allowed: *"])


def test_help_tells_every_option(pytester: pytest.Pytester) -> None:
    told = pytester.runpytest("--help").stdout.str()
    for option in OPTIONS:
        assert option.flag is None or f"  {option.flag}" in told
        assert f"  layerguard_{option.name} (" in told


def test_every_option_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "options.md"
    told = page.read_text(encoding="utf-8")
    for option in OPTIONS:
        assert f"`{option.ini}`" in told
        assert option.flag is None or f"`{option.flag}" in told
