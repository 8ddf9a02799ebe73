"""The audit of a git history."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import BET_40

from pytest_layerguard import reference
from pytest_layerguard.catalogue.audit import Audit, audit
from pytest_layerguard.catalogue.git import GitError
from pytest_layerguard.catalogue.records import path_of, read_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.catalogue import Bets

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
LOOSE = {**BET_40["criteria"], "lenient": "any(perplexity_ratio <= 30)"}


@pytest.fixture
def git(bets: Bets, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")

    def run(*words: str) -> None:
        subprocess.run(["git", *words], cwd=bets.root, check=True, capture_output=True)

    run("init", "-q", "-b", "main")
    return run


def commit(git: Callable[..., None], subject: str) -> None:
    git("add", "-A")
    git("commit", "-qm", subject)


@pytest.fixture
def recorded(bets: Bets, git: Callable[..., None]) -> Callable[..., None]:
    """Commit bet 40, then its record."""
    bets.put(BET_40)
    commit(git, "Bet")
    bets.record("bet-40", 80)
    commit(git, "Record")
    return git


def said(bets: Bets) -> list[tuple[str, str, str]]:
    found: Audit = audit([bets.path])
    return [(each.bet, each.what, each.commit.subject) for each in found.findings]


CHANGED = "criteria or conditions were changed after the result"


@pytest.mark.parametrize(
    ("changes", "what", "details"),
    [
        ({"criteria": LOOSE}, [CHANGED], "any(perplexity_ratio <= 3)"),
        ({"claim": "Else."}, [CHANGED], "claim: "),
        ({"title": "Else"}, [], ""),
        ({"status": "upheld", "closes": None}, ["status was", "closes was"], "falsified -> upheld"),
    ],
)
def test_a_change_after_the_record_is_listed_with_its_commit(
    bets: Bets,
    recorded: Callable[..., None],
    changes: dict[str, Any],
    what: list[str],
    details: str,
) -> None:
    bets.put(BET_40, **changes)
    commit(recorded, "Sneak")
    found = audit([bets.path])
    assert len(found.findings) == len(what)
    for finding, words in zip(found.findings, what, strict=True):
        assert words in finding.what
        assert finding.commit.subject == "Sneak"
    text = "\n".join(found.lines())
    assert details in text
    assert f"{found.findings[0].commit.id[:10]} 20" in text if what else True
    assert found.is_clean == (not what)


def test_a_change_before_the_record_is_nobodys_business(
    bets: Bets, git: Callable[..., None]
) -> None:
    bets.put(BET_40)
    commit(git, "Bet")
    bets.put(BET_40, criteria=LOOSE)
    commit(git, "Think again")
    bets.record("bet-40", 80)
    commit(git, "Record")
    bets.put(BET_40, criteria=LOOSE, notes="Tidied.")
    commit(git, "Tidy")
    found = audit([bets.path])
    assert (found.findings, found.recorded, found.commits) == ((), 1, 4)


def test_one_commit_is_one(bets: Bets, git: Callable[..., None]) -> None:
    bets.put(BET_40)
    bets.record("bet-40", 80)
    commit(git, "Bet and record")
    *_, reported = audit([bets.path]).lines()
    assert (
        reported
        == "1 commit of bets, 1 bet ever recorded, 0 of them changed after the first record"
    )


def test_a_history_without_bets_has_nothing_to_report(bets: Bets, git: Callable[..., None]) -> None:
    (bets.root / "README").write_text("nothing yet", encoding="utf-8")
    commit(git, "Start")
    *_, reported = audit([bets.path]).lines()
    assert reported.startswith("0 commits of bets, 0 bets ever recorded")


@pytest.mark.parametrize("committed", [False, True])
def test_recording_anew_reports_a_record_that_was_deleted(
    bets: Bets, recorded: Callable[..., None], committed: bool
) -> None:
    assert bets.judge("bet-40", 80, recording=True).warnings == ()
    path_of(bets.path, "bet-40").unlink()
    if committed:
        commit(recorded, "Forget")
    (reported,) = bets.judge("bet-40", 80, recording=True).warnings
    assert "recorded anew, but git knows an earlier record" in reported
    assert ("Forget" if committed else "Record") in reported


def test_the_first_record_is_made_without_a_note(bets: Bets, git: Callable[..., None]) -> None:
    bets.put(BET_40)
    commit(git, "Bet")
    assert bets.judge("bet-40", 80, recording=True).warnings == ()


def test_there_and_back_again_is_listed_twice(bets: Bets, recorded: Callable[..., None]) -> None:
    bets.put(BET_40, criteria=LOOSE)
    commit(recorded, "There")
    bets.put(BET_40)
    commit(recorded, "Back")
    assert [subject for _, _, subject in said(bets)] == ["There", "Back"]


def test_an_amendment_is_listed_as_one(bets: Bets, recorded: Callable[..., None]) -> None:
    digest = read_record(path_of(bets.path, "bet-40")).digest
    bets.put(BET_40, criteria=LOOSE, amends={"digest": digest, "because": "Too strict."})
    commit(recorded, "Amend")
    assert said(bets) == [("bet-40", f"{CHANGED}, by an amendment", "Amend")]
    assert audit([bets.path]).is_clean


def test_a_bet_may_move_and_is_followed(bets: Bets, recorded: Callable[..., None]) -> None:
    (bets.path / "deep").mkdir()
    recorded("mv", "bets/bet-40.yaml", "bets/deep/forty.yml")
    commit(recorded, "Move")
    assert said(bets) == []
    bets.put(BET_40, criteria=LOOSE, file="deep/forty.yml")
    commit(recorded, "Sneak")
    assert said(bets) == [("bet-40", CHANGED, "Sneak")]


def test_files_that_moved_and_files_that_were_swapped_are_listed_as_done_in_the_open(
    bets: Bets, git: Callable[..., None]
) -> None:
    for folder in ("model", "deep/model"):
        shutil.copytree(reference.folder("reference"), bets.root / folder)

    def record(weights: str) -> None:
        made = {"checkpoints": [{"digests": {"weights": weights}, "texts": [{"text": "sha256:t"}]}]}
        bets.judge("bet-40", 80, recording=True, provenance=made)
        commit(git, f"Record {weights}")

    bets.put(BET_40, model={"path": "../model"})
    record("sha256:a")
    bets.put(BET_40, model={"path": "../deep/model"})
    commit(git, "Move")
    record("sha256:b")
    found = audit([bets.path])
    assert found.is_clean
    assert [(each.what, each.commit.subject) for each in found.findings] == [
        ("files were moved after the result, or their digests written down", "Move"),
        ("recorded anew on other files", "Record sha256:b"),
    ]
    assert found.findings[1].details == ("weights: sha256:a -> sha256:b",)


def test_what_was_taken_away_is_listed(bets: Bets, recorded: Callable[..., None]) -> None:
    path_of(bets.path, "bet-40").unlink()
    commit(recorded, "Forget")
    (bets.path / "bet-40.yaml").unlink()
    commit(recorded, "Remove")
    assert said(bets) == [
        ("bet-40", "the record was removed", "Forget"),
        ("bet-40", "the bet was removed after its result", "Remove"),
    ]


def test_another_verdict_under_the_same_record_is_listed(
    bets: Bets, recorded: Callable[..., None]
) -> None:
    bets.record("bet-40", 5)
    commit(recorded, "Again")
    assert said(bets) == [("bet-40", "the recorded verdict was changed", "Again")]


def test_a_merge_counts_only_for_what_it_changed_itself(
    bets: Bets, recorded: Callable[..., None]
) -> None:
    recorded("checkout", "-qb", "side")
    bets.put(BET_40, criteria=LOOSE)
    commit(recorded, "Sneak aside")
    recorded("checkout", "-q", "main")
    bets.put(id="other", intervention={"average_experts": {}})
    commit(recorded, "Something else")
    recorded("merge", "-q", "--no-commit", "--no-ff", "side")
    commit(recorded, "Merge")
    assert said(bets) == [("bet-40", CHANGED, "Sneak aside")]
    recorded("checkout", "-qb", "third", "HEAD~1")
    bets.put(id="more", intervention={"average_experts": {}})
    commit(recorded, "More")
    recorded("checkout", "-q", "main")
    recorded("merge", "-q", "--no-commit", "--no-ff", "third")
    bets.put(BET_40, claim="Smuggled into a merge.")
    commit(recorded, "Evil merge")
    assert said(bets)[-1] == ("bet-40", CHANGED, "Evil merge")


def test_a_side_branch_that_was_not_recorded_may_change(
    bets: Bets, git: Callable[..., None]
) -> None:
    bets.put(BET_40)
    commit(git, "Bet")
    git("checkout", "-qb", "side")
    bets.put(BET_40, criteria=LOOSE)
    commit(git, "Not yet recorded here")
    git("checkout", "-q", "main")
    bets.record("bet-40", 80)
    commit(git, "Record")
    assert said(bets) == []
    git("merge", "-q", "-m", "Merge", "side")
    assert said(bets) == [("bet-40", CHANGED, "Merge")]


def test_what_cannot_be_read_is_reported(bets: Bets, recorded: Callable[..., None]) -> None:
    (bets.path / "bet-40.yaml").write_text("id: [", encoding="utf-8")
    commit(recorded, "Break")
    found = audit([bets.path])
    (limit,) = found.limits
    assert limit.startswith("bets/bet-40.yaml at ")


def test_a_shallow_clone_says_so(bets: Bets, recorded: Callable[..., None]) -> None:
    recorded("clone", "-q", "--depth", "1", f"file://{bets.root}", "clone")
    found = audit([bets.root / "clone" / "bets"])
    assert any("shallow clone" in limit for limit in found.limits)
    assert "not all could be read: this is a shallow clone" in "\n".join(found.lines())


def test_replaced_commits_deceive_nobody(bets: Bets, recorded: Callable[..., None]) -> None:
    bets.put(BET_40, criteria=LOOSE)
    commit(recorded, "Sneak")
    recorded("commit", "-q", "--allow-empty", "-m", "Empty")
    recorded("replace", "HEAD~1", "HEAD~2")
    assert said(bets) == [("bet-40", CHANGED, "Sneak")]


def test_where_there_is_no_history_that_is_told(
    bets: Bets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(bets.root.parent))
    with pytest.raises(GitError, match="not a git repository"):
        audit([bets.path])
    monkeypatch.setenv("PATH", str(bets.root))
    with pytest.raises(GitError, match="git cannot be run"):
        audit([bets.path])


def test_bet_folders_of_two_checkouts_are_audited_one_by_one(
    bets: Bets, recorded: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "bets"
    other.mkdir()
    with pytest.raises(GitError, match=f"{other} is not in the checkout of {bets.path}"):
        audit([bets.path, other])


def test_a_hook_or_filter_of_the_repository_is_not_run(
    bets: Bets, recorded: Callable[..., None]
) -> None:
    proof = bets.root / "proof"
    for key in ("diff.x.textconv", "diff.external", "core.fsmonitor", "filter.x.smudge"):
        recorded("config", key, f"touch {proof}; cat")
    (bets.root / ".gitattributes").write_text("*.yaml diff=x filter=x\n", encoding="utf-8")
    recorded("config", "filter.x.clean", "cat")
    bets.put(BET_40, criteria=LOOSE)
    commit(recorded, "Sneak")
    proof.unlink(missing_ok=True)
    assert len(said(bets)) == 1
    assert not proof.exists()
