"""`comment`, from the event that starts it to what a stand-in of GitHub was made to show."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support import tales
from support.github_server import BASE, COMMIT, REPOSITORY, TOKEN, GitHubServer, pull, zipped
from support.hostile import FORBIDDEN, HOSTILE
from support.hostile_bet import hostile

from pytest_layerguard.catalogue.records import Record, laid_out
from pytest_layerguard.cli import comment
from pytest_layerguard.cli.main import main
from pytest_layerguard.report import markdown, pull_request, run_file
from pytest_layerguard.report.bet_report import BetReport, UnreadableFile

FAILED = tales.every()["training"]
HELD = tales.judged(tales.ARMS, tales.arms())
RUN = pull_request.Run("https://github.com/r", COMMIT, f"https://github.com/f/blob/{COMMIT}")


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    with GitHubServer() as server:
        monkeypatch.setenv("GITHUB_API_URL", server.api)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
        monkeypatch.chdir(tmp_path)
        event()
        yield server


def event(**changes: Any) -> None:
    run = {
        "id": 55,
        "event": "pull_request",
        "conclusion": "failure",
        "head_sha": COMMIT,
        "head_branch": "idea",
        "html_url": f"https://github.com/{REPOSITORY}/actions/runs/55",
        "pull_requests": [],
        "head_repository": {
            "id": 2,
            "full_name": "stranger/models",
            "html_url": "https://github.com/stranger/models",
            "owner": {"login": "stranger"},
        },
    }
    Path("event.json").write_text(json.dumps({"workflow_run": run | changes}), encoding="utf-8")


def report(*bets: BetReport, unreadable: tuple[UnreadableFile, ...] = ()) -> bytes:
    """An artifact with what a run found."""
    text = run_file.render(bets, unreadable)
    return zipped({comment.FILE: text.encode("utf-8", "replace")})


def record(text: str, found: Any) -> bytes:
    """A record of the base branch."""
    document = tales.document(text)
    judged = tales.judge(document.bet.criteria, found.rows())
    made = Record.of(document.bet, judged.verdict, found, bars={}, facts={}, before=None)
    return laid_out(made.to_json()).encode()


def only(server: GitHubServer, number: int = 7) -> str:
    (found,) = server.comments[number]
    body: str = found["body"]
    return body


class TestACommentIs:
    def test_written_once_and_then_changed(
        self, github: GitHubServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        github.upload(report(FAILED))
        assert main(["comment"]) == 0
        assert "training: FALSIFIED" in only(github)
        github.upload(report(HELD))
        assert main(["comment"]) == 0
        assert "training" not in only(github)
        assert main(["comment"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "pull request 7: commented",
            "pull request 7: changed the comment",
            "pull request 7: the comment is up to date",
        ]
        assert github.written == [
            f"POST /repos/{REPOSITORY}/issues/7/comments",
            f"PATCH /repos/{REPOSITORY}/issues/comments/7000",
        ]

    def test_short_and_has_what_failed_with_its_picture(self, github: GitHubServer) -> None:
        github.upload(report(FAILED, HELD))
        github.files["bets/records/other.json"] = b"{}"
        main(["comment"])
        head, _, rest = only(github).partition("<details><summary>1 bet that did not fail")
        assert head.startswith(f"{pull_request.MARKER}\n## layerguard: 1 failed, 1 passed\n")
        assert f"[the run](https://github.com/{REPOSITORY}/actions/runs/55) of cccccccccc" in head
        assert "77 \\[70, 84.7\\] \\<= 3 is false" in head
        assert "█" in head
        assert f"](https://github.com/stranger/models/blob/{COMMIT}/bets/some.yaml#L1)" in head
        assert "magnitude" not in head.partition("### Against")[0]
        assert "arms: LENIENT" in rest
        assert rest.endswith("</details>\n")
        assert rest.count("<details>") + 1 == rest.count("</details>") == 2

    def test_not_made_where_nothing_failed_or_changed(
        self, github: GitHubServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        github.files["bets/records/arms.json"] = record(tales.ARMS, tales.arms())
        github.upload(report(HELD))
        main(["comment"])
        assert github.written == []
        assert "nothing failed or changed: no comment" in capsys.readouterr().out

    def test_never_put_in_the_place_of_somebody_elses(self, github: GitHubServer) -> None:
        github.say(7, pull_request.MARKER, "stranger")
        github.comments[7].append({"id": 1, "body": pull_request.MARKER, "user": None})
        for at in range(150):
            github.say(7, f"words {at}", "github-actions[bot]")
        github.upload(report(FAILED))
        main(["comment"])
        main(["comment"])
        assert [each.split()[0] for each in github.written] == ["POST"]
        assert len(github.comments[7]) == 153


class TestChanges:
    def test_are_distinguished_from_what_is_as_recorded(self, github: GitHubServer) -> None:
        worse = replace(tales.sweep(), variants=tales.sweep().variants[:1])
        new = tales.judged(tales.PAIRS, tales.pairs())
        github.upload(report(tales.judged(tales.SWEEP, worse), HELD, new))
        github.files |= {
            "bets/records/sweep.json": record(tales.SWEEP, tales.sweep()),
            "bets/records/arms.json": record(tales.ARMS, tales.arms()),
            "bets/records/training.json": record(tales.TRAINING, tales.training()),
            "bets/records/damaged.json": b"\xff",
            "bets/records/README.md": b"",
        }
        main(["comment"])
        table = only(github).partition("### Against the records of `main`\n")[2].split("\n\n")[0]
        assert table.strip().splitlines() == [
            "| bet | `main` | here |",
            "|---|---|---|",
            "| sweep | falsified, FALSIFIED: perplexity\\_ratio of skip-2 4 \\[3.64, 4.4\\] | "
            "falsified, CATASTROPHIC: perplexity\\_ratio of skip-0 80 \\[72.7, 88\\] |",
            "| pairs | no record | proposed, FALSIFIED: interchange.swap\\_kl of "
            "interchange.interchange-0-1 0.2 \\[0.182, 0.22\\] |",
            "| damaged | recorded | no bet |",
            "| training | proposed, FALSIFIED: perplexity\\_ratio of "
            "average-experts-then-train-20 77 \\[70, 84.7\\] | no bet |",
        ]

    def test_of_what_could_not_be_read_are_not_known(self, github: GitHubServer) -> None:
        github.files["bets/records/arms.json"] = record(tales.ARMS, tales.arms())
        github.upload(report(unreadable=(UnreadableFile("bets/a.yaml", "bets/a.yaml:1:2: no"),)))
        main(["comment"])
        assert "`bets/a.yaml:1`](" in only(github)
        assert "Nothing that was measured is otherwise" in only(github)

    def test_are_looked_for_in_the_bet_folder(self, github: GitHubServer) -> None:
        github.files["quality/bets/records/arms.json"] = record(tales.ARMS, tales.arms())
        github.upload(report(HELD))
        main(["comment", "--bets", "quality/bets/"])
        assert github.written == []


class TestThePullRequest:
    @pytest.mark.parametrize(
        "pulls",
        [
            [],
            [pull(head={"ref": "idea", "sha": "d" * 40, "repo": {"id": 2, "full_name": "stranger/models"}})],
            [pull(head={"ref": "idea", "sha": COMMIT, "repo": {"id": 3, "full_name": "stranger/other"}})],
            [pull(head={"ref": "idea", "sha": COMMIT, "repo": None})],
        ],
        ids=["none", "a newer commit", "another repository", "a fork that is gone"],
    )  # fmt: skip
    def test_is_one_that_has_the_head_of_the_run(
        self, github: GitHubServer, pulls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        github.pulls = pulls
        github.upload(report(FAILED))
        assert main(["comment"]) == 0
        assert github.written == []
        assert "no open pull request has the head cccc" in capsys.readouterr().out

    def test_is_never_the_one_that_the_artifact_names(self, github: GitHubServer) -> None:
        text = json.loads(run_file.render([FAILED], []))
        named = text | {"number": 1, "pull_request": 1}
        github.upload(zipped({comment.FILE: json.dumps(named).encode(), "number": b"1"}))
        main(["comment"])
        assert list(github.comments) == [7]

    def test_has_any_name_of_a_branch(self, github: GitHubServer) -> None:
        branch = "a&state=closed#x y\u00e9"
        event(head_branch=branch)
        repo = {"id": 2, "full_name": "stranger/models"}
        github.pulls = [pull(head={"ref": branch, "sha": COMMIT, "repo": repo})]
        github.upload(report(FAILED))
        main(["comment"])
        assert list(github.comments) == [7]

    @pytest.mark.parametrize("changes", [{"event": "push"}, {"head_repository": None}])
    def test_is_needed(self, github: GitHubServer, changes: dict[str, Any]) -> None:
        event(**changes)
        github.upload(report(FAILED))
        assert main(["comment"]) == 0
        assert github.written == []


def lying() -> bytes:
    """A file of a megabyte that says that it has ten bytes."""
    kept = zipped({comment.FILE: b" " * 2**20})
    end = kept.index(b"PK\x01\x02")
    size = struct.pack("<I", 10)
    return kept[:22] + size + kept[26 : end + 24] + size + kept[end + 28 :]


def edited(**changes: Any) -> bytes:
    """A report with one bet that has other keys than a run writes."""
    text = json.loads(run_file.render([FAILED], []))
    text["bets"][0] |= changes
    return zipped({comment.FILE: json.dumps(text).encode()})


REFUSED: dict[str, tuple[bytes, str]] = {
    "ten megabytes": (os.urandom(10 * 2**20), "its report has more than 4,194,304 bytes"),
    "a bomb": (zipped({comment.FILE: b" " * 2**28}), "it has more than 16,777,216 bytes"),
    "a bomb that lies": (lying(), "Bad CRC-32 for file"),
    "no zip": (b"<html>", "cannot be unpacked (BadZipFile: File is not a zip file)"),
    "nothing": (b"", "cannot be unpacked (BadZipFile: File is not a zip file)"),
    "a path": (zipped({f"../../{comment.FILE}": b"{}"}), "its report has no comment.json"),
    "an absolute path": (zipped({f"/tmp/{comment.FILE}": b"{}"}), "its report has no comment.json"),
    "no JSON": (zipped({comment.FILE: b"::error::owned"}), "expected value at line 1"),
    "depth": (zipped({comment.FILE: b"[" * 10**6}), "recursion limit exceeded"),
    "another form": (zipped({comment.FILE: b'{"schema": 2, "bets": []}'}), "schema: Input should be 1"),
    "text for a number": (edited(line="1"), "bets.0.line: Input should be a valid integer"),
    "a word that is none": (edited(word="**OWNED**"), "bets.0.word is not what a run writes"),
    "an outcome that is none": (edited(outcome="won"), "bets.0.outcome is not"),
    "a status that is none": (edited(status="<img src=x>"), "bets.0.status is not"),
    "markup in an id": (edited(id="[x](//evil.example)"), "bets.0.id is not"),
    "a place elsewhere": (edited(file="../../../evil/repo"), "bets.0.file is not"),
    "a place of its own": (edited(file="/etc/passwd"), "bets.0.file is not"),
    "a line far away": (edited(line=10**80), "bets.0.file is not"),
    "a variant that is not there": (edited(shown=[99]), "bets.0.shown is not"),
    "a level that is none": (
        edited(criteria=[{"level": "*", "written": "x"}]), "bets.0.criteria is not",
    ),
    "a sign that is none": (
        edited(thresholds=[{"level": "strict", "prefix": [], "metric": "kl", "sign": "*", "value": 1}]),
        "bets.0.thresholds is not",
    ),
    "a mention in a key": (
        edited(evidence=[{"source": "s", "model": None, "text": None, "verdict": None, "note": None,
                          "figures": {"@everyone #1": 3}}]),
        "bets.0.evidence.0.figures.\\@\u200beveryone \\#\u200b1: ",
    ),
}  # fmt: skip


class TestAnArtifact:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_that_is_no_report_is_refused(
        self, github: GitHubServer, kind: str, tmp_path: Path
    ) -> None:
        data, why = REFUSED[kind]
        github.upload(data)
        before = sorted(tmp_path.rglob("*"))
        assert main(["comment"]) == 0
        body = only(github)
        assert "## layerguard: no verdict" in body
        assert why in body.replace("\\_", "_")
        assert len(body) < 1_000
        assert sorted(tmp_path.rglob("*")) == before
        assert_harmless(body)

    def test_that_was_encrypted_is_refused(self, github: GitHubServer) -> None:
        data = bytearray(report(FAILED))
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(header) + flags] |= 1
        github.upload(bytes(data))
        main(["comment"])
        assert "its report cannot be unpacked (RuntimeError: " in only(github)

    def test_that_is_missing_says_that_there_is_no_verdict(self, github: GitHubServer) -> None:
        github.upload(report(FAILED), expired=True)
        github.upload(report(FAILED), name="layerguard-report")
        main(["comment"])
        assert "The run ended in failure: it left no report." in only(github)

    def test_that_is_missing_is_no_news_of_a_run_that_was_not_to_have_one(
        self, github: GitHubServer
    ) -> None:
        event(conclusion="cancelled")
        main(["comment"])
        assert github.written == []

    def test_of_an_earlier_attempt_is_left(self, github: GitHubServer) -> None:
        github.upload(report(FAILED))
        github.upload(report(HELD))
        main(["comment"])
        assert "arms: LENIENT" in only(github)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(edit=st.tuples(st.integers(0, 10**6), st.binary(max_size=8)))
    def test_of_any_damage_is_read_or_refused(self, edit: tuple[int, bytes]) -> None:
        data = bytearray(report(HELD))
        at = edit[0] % len(data)
        data[at : at + len(edit[1])] = edit[1]
        try:
            found = run_file.read(comment._unzipped(bytes(data)))
        except (run_file.RunFileError, comment._NoReportError):
            return
        assert_harmless(pull_request.body(found, [], "main", RUN))


HTML = {"<br>", "<details>", "</details>", "</summary>", pull_request.MARKER}
MARKDOWN = MarkdownIt("commonmark").enable("table")


def assert_harmless(body: str) -> None:
    """Assert that a comment brings no HTML, image, link, mention or reference of a stranger's."""
    assert len(body) < 65_536
    assert "@" not in re.sub("@\u200b", "", body)
    assert not set(FORBIDDEN) & set(body)
    assert "##[" not in body
    for token in (
        each for block in MARKDOWN.parse(body) for each in (block, *(block.children or ()))
    ):
        assert token.type != "image"
        if token.type in {"html_block", "html_inline"}:
            for tag in re.findall(r"<!--.*?-->|<[^>]*>", token.content):
                assert tag in HTML or tag == "<summary>", tag
        elif token.type == "link_open":
            assert str(token.attrs["href"]).startswith("https://github.com/"), token.attrs
        elif token.type == "text":
            assert not re.search(r"#\d|(?<![\w/-])gh-\d", token.content, re.IGNORECASE), (
                token.content
            )


class TestAStrangersWords:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_stay_words(self, kind: str) -> None:
        bets = [hostile(HOSTILE[kind])]
        refused = [UnreadableFile.of("bets/a.yaml", HOSTILE[kind])]
        found = run_file.read(run_file.render(bets, refused).encode("utf-8", "replace"))
        change = pull_request.Change("x", HOSTILE[kind][:300], HOSTILE[kind][:300])
        assert_harmless(pull_request.body(found, [change], "main", RUN))

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_stay_words_where_only_a_reader_of_the_file_bounds_them(self, kind: str) -> None:
        """A run cuts and escapes what it writes; a file may come from elsewhere."""
        words = HOSTILE[kind][:100_000].encode("utf-8", "replace").decode()
        data = run_file.render([hostile("PLACE")], []).replace("PLACE", json.dumps(words)[1:-1])
        text = json.loads(data)
        named = ("title", "claim", "model", "intervention", "digest", "notes")
        listed = {"messages": [words], "warnings": [words], "metrics": [words, "perplexity_ratio"]}
        text["bets"][0] |= dict.fromkeys(named, words) | listed
        assert_harmless(
            pull_request.body(run_file.read(json.dumps(text).encode()), [], "main", RUN)
        )

    def test_do_not_end_the_fold(self) -> None:
        found = run_file.RunFile(1, (hostile("</details>\n</details>"), *[HELD] * 300), ())
        body = pull_request.body(found, [], "main", RUN)
        assert "left out for want of room" in body
        assert body.endswith("</details>\n")
        assert_harmless(body)

    def test_every_fold_ends_however_little_room_there_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = run_file.RunFile(1, (FAILED, HELD), ())
        for limit in range(0, 4_000, 40):
            monkeypatch.setattr(markdown, "COMMENT", limit)
            body = pull_request.body(found, [], "main", RUN)
            assert body.count("<details>") == body.count("</details>")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in items:
        yield from places(each, (*path, key))


WHOLE = json.loads(run_file.render([*tales.every().values(), hostile("word")], []))
PLACES = [path for path in places(WHOLE) if path]


@given(path=st.sampled_from(PLACES), put=PLAIN)
def test_whatever_stands_somewhere_in_a_report_is_refused_or_harmless(
    path: tuple[Any, ...], put: Any
) -> None:
    text = json.loads(json.dumps(WHOLE))
    *before, last = path
    inner = text
    for key in before:
        inner = inner[key]
    inner[last] = put
    data = json.dumps(text).encode()
    try:
        found = run_file.read(data)
    except run_file.RunFileError as error:
        body = pull_request.without_report(str(error), RUN)
    else:
        body = pull_request.body(found, [], "main", RUN)
    assert_harmless(body)


def test_what_a_run_writes_comes_back_as_it_was() -> None:
    bets = sorted(tales.every().values(), key=lambda bet: (bet.file, bet.line))
    refused = (UnreadableFile("bets/a.yaml", "bets/a.yaml:1:2: no"),)
    found = run_file.read(run_file.render(bets, refused).encode())
    assert found == run_file.RunFile(1, tuple(bets), refused)


class TestWhatGoesWrong:
    def test_is_described_in_a_line(
        self, github: GitHubServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        github.upload(report(FAILED))
        github.broken["/comments"] = 403
        assert main(["comment"]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: GitHub answers 403 to GET /issues/7/comments")
        assert TOKEN not in said

    def test_is_a_host_that_does_not_answer(
        self,
        github: GitHubServer,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:1")
        assert main(["comment"]) == 1
        assert "GitHub does not answer to GET /pulls" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("GITHUB_TOKEN", "GITHUB_TOKEN is not set"),
            ("GITHUB_EVENT_PATH", "GITHUB_EVENT_PATH is not set"),
        ],
    )
    def test_is_that_no_workflow_runs_it(
        self, github: GitHubServer, name: str, said: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.delenv(name)
        assert main(["comment"]) == 1
        assert said in capsys.readouterr().err

    def test_is_that_another_event_started_it(
        self, github: GitHubServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("event.json").write_text("{}", encoding="utf-8")
        assert main(["comment"]) == 1
        assert "is no event of workflow_run" in capsys.readouterr().err


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "transformers", "numpy", "scipy", "tokenizers", "safetensors", "huggingface_hub",
            "filelock", "pytest", "_pytest", "jinja2",
        }:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Absent())
from pytest_layerguard.cli.main import main
sys.exit(main(["comment"]))
"""


def test_it_needs_no_more_than_the_workflow_installs(github: GitHubServer) -> None:
    """The workflow installs the package without its dependencies, and pydantic and PyYAML."""
    github.files["bets/records/arms.json"] = record(tales.ARMS, tales.arms())
    github.upload(report(FAILED, HELD))
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "pull request 7: commented\n"
    assert BASE not in only(github)
