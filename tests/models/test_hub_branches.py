"""Checkpoints whose commits nobody knows, by the names of their branches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_layerguard.bet.bet import ModelSpec
from pytest_layerguard.bet.model_source import ModelSource
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import UnavailableError
from pytest_layerguard.models.hub import Repository
from pytest_layerguard.models.loading import load

COMMIT = "0123456789abcdef" * 2 + "01234567"
SPEC = ModelSpec.model_validate(
    {"hub": "ORG/NAME", "revisions": {"step0": "unpinned", "step9": COMMIT}}
)


def test_an_unpinned_checkpoint_takes_the_branch_of_its_name() -> None:
    assert SPEC.checkpoints() == {
        "step0": ModelSource("hub", "ORG/NAME", "unpinned", "step0"),
        "step9": ModelSource("hub", "ORG/NAME", COMMIT),
    }
    alone = ModelSpec.model_validate({"hub": "ORG/NAME", "revision": "unpinned"})
    assert alone.checkpoints() == {None: ModelSource("hub", "ORG/NAME", "unpinned")}


@pytest.mark.parametrize(("name", "asked"), [("step0", (None, "step0")), ("step9", (COMMIT, None))])
def test_it_is_that_branch_that_is_fetched(
    name: str, asked: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[object] = []

    def fetch(_name: str, revision: object, _conditions: object, branch: object) -> Path:
        seen.append((revision, branch))
        raise UnavailableError("stop here")

    monkeypatch.setattr("pytest_layerguard.models.hub.fetch_model", fetch)
    source = SPEC.checkpoints()[name]
    with pytest.raises(UnavailableError, match="stop here"):
        load(
            SPEC,
            source,
            bet_file=tmp_path / "bets" / "a.yaml",
            bets=tmp_path / "bets",
            conditions=Conditions(device="cpu", allow_unpinned=True),
        )
    assert seen == [asked]


def test_the_hub_is_asked_for_the_branch_and_gives_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def info(_self: object, _name: str, *, revision: object, **_options: object) -> object:
        asked.append(revision)
        return SimpleNamespace(
            sha=COMMIT, siblings=[SimpleNamespace(rfilename="config.json", size=9)]
        )

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    repository = Repository("model", "ORG/NAME", None, "step0")
    assert repository.listing() == (COMMIT, {"config.json": 9})
    assert asked == ["step0"]
    assert str(repository) == "model ORG/NAME@step0"
