"""Models from a hub: every way in which they can be had, and in which they cannot."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hub.server import TOKEN, Hub, Trouble
from hub.tiny import files, model, save, tokenizer

from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models.hub import Repository, explained, fetch_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hub.visitor import Visitor

WEIGHTS = r"model\.safetensors$"
API = r"^/api/models/"
Ask = Callable[..., dict[str, Any]]
FILE = r"/config\.json$"


def pinned(name: str, revision: str) -> dict[str, str]:
    return {"hub": name, "revision": revision}


def test_a_pinned_revision_is_the_one_that_is_loaded(
    hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    first = hub.add("models", "acme/two", tiny_files)
    second = hub.add("models", "acme/two", files(save(tmp_path, seed=1)))

    one, two = (visitor.ask(model=pinned("acme/two", revision)) for revision in (first, second))

    assert one["logits"] != two["logits"]
    assert one["provenance"]["model"] == {
        "kind": "hub",
        "name": "acme/two",
        "revision": first,
        "commit": first,
    }
    assert one["provenance"]["digests"]["weights"] != two["provenance"]["digests"]["weights"]
    assert one["reported"] == [
        f"fetching model acme/two@{first}",
        f"loading model acme/two@{first}",
    ]


def test_what_is_not_needed_is_not_fetched(
    hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
) -> None:
    extra = {
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"again",
        "run.py": b"raise",
    }
    commit = hub.add("models", "acme/extra", tiny_files | extra)

    assert "error" not in visitor.ask(model=pinned("acme/extra", commit))
    assert not [seen for seen in hub.seen if seen.path.endswith(tuple(extra))]


def test_a_model_larger_than_the_limit_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0" * 40
    sizes = {"config.json": 9, "model.safetensors": 100}
    fetched: list[str] = []

    def snapshot(_self: object, _commit: str, names: Iterable[str]) -> Path:
        fetched.extend(names)
        return tmp_path

    monkeypatch.setattr(Repository, "listing", lambda _self: (commit, sizes))
    monkeypatch.setattr(Repository, "snapshot", snapshot)
    conditions = Conditions(device="cpu", budget=Budget(model_bytes=99))

    with pytest.raises(MeasurementError, match="bytes of weights: 100; this run allows 99"):
        fetch_model("acme/large", commit, conditions)

    assert "config.json" in fetched
    assert "model.safetensors" not in fetched


def test_a_sharded_model(hub: Hub, visitor: Visitor, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path, max_shard_size="8KB")
    tokenizer().save_pretrained(tmp_path)
    content = files(tmp_path)
    commit = hub.add("models", "acme/shards", content)

    assert len([name for name in content if name.endswith(".safetensors")]) > 1
    assert "error" not in visitor.ask(model=pinned("acme/shards", commit))


def test_an_unpinned_revision_needs_the_users_leave(
    hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
) -> None:
    commit = hub.add("models", "acme/moving", tiny_files)
    question = {"hub": "acme/moving", "revision": "unpinned"}

    refused = visitor.ask(model=question)
    allowed = visitor.ask(model=question, conditions={"allow_unpinned": True})

    assert refused["error"] == "UnavailableError"
    assert "--layerguard-allow-unpinned" in refused["message"]
    assert allowed["provenance"]["model"]["commit"] == commit


class TestCandidates:
    @pytest.fixture
    def ask(self, tiny_folder: Path, tmp_path: Path) -> Ask:
        """Judge a revision against the tiny model."""
        (tmp_path / "text.txt").write_text("a b c d e f g h " * 40, encoding="utf-8")

        def asked(visitor: Visitor, name: str, revision: str, token: str = "") -> dict[str, Any]:
            bet = {
                "model": {"path": str(tiny_folder)},
                "intervention": {"load_checkpoint": pinned(name, revision)},
                "measure": {
                    "text": {"file": str(tmp_path / "text.txt")},
                    "tokens": 256,
                    "window": 32,
                    "max_base_perplexity": "none",
                },
                "criteria": {"lenient": "kl <= 1"},
            }
            roots = [str(tiny_folder), str(tmp_path)]
            return visitor.ask(bet=bet, roots=roots, environment={"HF_TOKEN": token})

        return asked

    def test_a_pinned_revision_is_judged_from_the_files_it_needs(
        self,
        hub: Hub,
        visitor: Visitor,
        ask: Ask,
        tiny_files: dict[str, bytes],
        tmp_path: Path,
    ) -> None:
        extra = {"pytorch_model.bin": b"pickle", "recipe.yaml": b"a: b", "model-Q4_0.gguf": b"GGUF"}
        same = hub.add("models", "acme/candidate", tiny_files | extra)
        other = hub.add("models", "acme/candidate", files(save(tmp_path / "other", seed=1)))

        one, two = (ask(visitor, "acme/candidate", revision) for revision in (same, other))

        assert (one["metrics"]["perplexity_ratio"], one["metrics"]["kl"]) == (1, 0)
        assert two["metrics"]["kl"] > 0
        assert two["candidate"]["model"]["revision"] == other
        assert one["candidate"]["digests"]["weights"] != two["candidate"]["digests"]["weights"]
        assert not [seen for seen in hub.seen if seen.path.endswith(tuple(extra))]

    def test_a_revision_that_is_not_there(
        self, hub: Hub, visitor: Visitor, ask: Ask, tiny_files: dict[str, bytes]
    ) -> None:
        hub.add("models", "acme/candidate-too", tiny_files)

        found = ask(visitor, "acme/candidate-too", "0" * 40)

        assert found["error"] == "MeasurementError"
        assert "no such revision" in found["message"]

    def test_without_a_network(
        self,
        hub: Hub,
        visitor: Visitor,
        offline_visitor: Visitor,
        ask: Ask,
        tiny_files: dict[str, bytes],
    ) -> None:
        commit = hub.add("models", "acme/candidate-offline", tiny_files)

        never = ask(offline_visitor, "acme/candidate-offline", commit)
        before = ask(visitor, "acme/candidate-offline", commit)
        hub.seen.clear()
        after = ask(offline_visitor, "acme/candidate-offline", commit)

        assert never["error"] == "UnavailableError"
        assert "HF_HUB_OFFLINE" in never["message"]
        assert after["metrics"] == before["metrics"]
        assert hub.seen == []

    def test_a_private_one_is_open_to_its_token_alone(
        self, hub: Hub, visitor: Visitor, ask: Ask, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/candidate-private", tiny_files)
        hub.repositories["models", "acme/candidate-private"].private = True

        refused = ask(visitor, "acme/candidate-private", commit)
        allowed = ask(visitor, "acme/candidate-private", commit, TOKEN)

        assert refused["error"] == "UnavailableError"
        assert "does not exist, or is private" in refused["message"]
        assert allowed["metrics"]["kl"] == 0
        assert TOKEN not in json.dumps(allowed)


class TestDoors:
    def test_gated_without_a_token(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/gated", tiny_files)
        hub.repositories["models", "acme/gated"].gated = True

        found = visitor.ask(model=pinned("acme/gated", commit), environment={"HF_TOKEN": ""})

        assert found["error"] == "UnavailableError"
        assert "is gated" in found["message"]
        assert "HF_TOKEN" in found["message"]

    def test_gated_with_a_token_that_was_not_granted_access(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/gated-too", tiny_files)
        hub.repositories["models", "acme/gated-too"].gated = True

        found = visitor.ask(model=pinned("acme/gated-too", commit), environment={"HF_TOKEN": TOKEN})

        assert found["error"] == "UnavailableError"
        assert "Accept its conditions" in found["message"]
        assert TOKEN not in json.dumps(found)

    def test_a_token_opens_and_stays_with_the_hub(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/granted", tiny_files)
        repository = hub.repositories["models", "acme/granted"]
        repository.gated = repository.granted = True

        found = visitor.ask(model=pinned("acme/granted", commit), environment={"HF_TOKEN": TOKEN})

        assert "error" not in found
        assert TOKEN not in json.dumps(found)
        assert {seen.authorized for seen in hub.seen if seen.origin == "hub"} == {True}
        assert {seen.authorized for seen in hub.seen if seen.origin == "cdn"} == {False}

    @pytest.mark.parametrize(
        ("token", "error", "reported"),
        [
            ("", "UnavailableError", "does not exist, or is private"),
            (TOKEN, "MeasurementError", "nothing of that name"),
            ("hf_wrongSecret987654321", "UnavailableError", "does not accept the token"),
        ],
    )
    def test_no_such_model(
        self, hub: Hub, visitor: Visitor, token: str, error: str, reported: str
    ) -> None:
        found = visitor.ask(model=pinned("acme/nowhere", "0" * 40), environment={"HF_TOKEN": token})

        assert found["error"] == error
        assert reported in found["message"]
        assert not token or token not in json.dumps(found)

    def test_no_such_revision(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        hub.add("models", "acme/other", tiny_files)

        found = visitor.ask(model=pinned("acme/other", "0" * 40), environment={"HF_TOKEN": ""})

        assert found["error"] == "MeasurementError"
        assert "no such revision" in found["message"]


class TestTrouble:
    def test_a_busy_hub_is_given_the_time_it_asks_for(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/busy", tiny_files)
        hub.troubles.append(Trouble(FILE, status=429, headers={"Retry-After": "7"}, times=3))

        found = visitor.ask(model=pinned("acme/busy", commit))

        assert "error" not in found
        assert found["slept"] == [8, 8]

    @pytest.mark.parametrize("path", [API, FILE])
    def test_a_hub_that_stays_busy(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], path: str
    ) -> None:
        name = f"acme/busier-{len(path)}"
        commit = hub.add("models", name, tiny_files)
        hub.troubles.append(Trouble(path, status=429, headers={"Retry-After": "25"}))

        found = visitor.ask(model=pinned(name, commit))

        assert found["error"] == "UnavailableError"
        assert "too many requests (429)" in found["message"]

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_passing_failure(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], status: int
    ) -> None:
        commit = hub.add("models", f"acme/passing-{status}", tiny_files)
        hub.troubles.append(Trouble(FILE, status=status, times=2))

        assert "error" not in visitor.ask(model=pinned(f"acme/passing-{status}", commit))

    @pytest.mark.parametrize("path", [API, FILE, WEIGHTS])
    def test_a_lasting_failure(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], path: str
    ) -> None:
        name = f"acme/lasting-{len(path)}"
        commit = hub.add("models", name, tiny_files)
        hub.troubles.append(Trouble(path, status=500))

        found = visitor.ask(model=pinned(name, commit))

        assert found["error"] == "UnavailableError"
        assert "500" in found["message"]

    def test_a_connection_that_drops_is_taken_up_again(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/drops", tiny_files)
        hub.troubles.append(Trouble(WEIGHTS, drop_after=1_000, times=1))

        assert "error" not in visitor.ask(model=pinned("acme/drops", commit))
        assert len([seen for seen in hub.seen if seen.origin == "cdn"]) == 2

    def test_half_a_file_is_no_file(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], hub_home: Path
    ) -> None:
        commit = hub.add("models", "acme/half", tiny_files)
        hub.troubles.append(Trouble(WEIGHTS, drop_after=0))

        found = visitor.ask(model=pinned("acme/half", commit))

        assert found["error"] == "UnavailableError"
        assert not list(hub_home.rglob("models--acme--half/**/*.incomplete"))
        hub.troubles.clear()
        assert "error" not in visitor.ask(model=pinned("acme/half", commit))

    def test_silence(self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]) -> None:
        commit = hub.add("models", "acme/silent", tiny_files)
        hub.troubles.append(Trouble(API, stall=3))

        found = visitor.ask(model=pinned("acme/silent", commit))

        assert found["error"] == "UnavailableError"
        assert "does not answer in time" in found["message"]

    def test_a_connection_that_is_closed_at_once(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/closed", tiny_files)
        hub.troubles.append(Trouble(API, stall=0))

        found = visitor.ask(model=pinned("acme/closed", commit))

        assert found["error"] == "UnavailableError"
        assert "out of reach" in found["message"]


class TestCache:
    def test_a_hub_that_fails_does_not_matter(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]
    ) -> None:
        commit = hub.add("models", "acme/kept", tiny_files)
        before = visitor.ask(model=pinned("acme/kept", commit))
        hub.troubles.append(Trouble(".", status=429, headers={"Retry-After": "5"}))

        after = visitor.ask(model=pinned("acme/kept", commit))

        assert after["logits"] == before["logits"]
        assert after["slept"] == []

    def test_offline(
        self,
        hub: Hub,
        visitor: Visitor,
        offline_visitor: Visitor,
        tiny_files: dict[str, bytes],
    ) -> None:
        commit = hub.add("models", "acme/offline", tiny_files)

        never = offline_visitor.ask(model=pinned("acme/offline", commit))
        before = visitor.ask(model=pinned("acme/offline", commit))
        hub.seen.clear()
        after = offline_visitor.ask(model=pinned("acme/offline", commit))

        assert never["error"] == "UnavailableError"
        assert "HF_HUB_OFFLINE" in never["message"]
        assert after["logits"] == before["logits"]
        assert hub.seen == []

    def test_another_revision_in_the_cache_does_not_count(
        self,
        hub: Hub,
        visitor: Visitor,
        offline_visitor: Visitor,
        tiny_files: dict[str, bytes],
        tmp_path: Path,
    ) -> None:
        first = hub.add("models", "acme/newer", tiny_files)
        second = hub.add("models", "acme/newer", files(save(tmp_path, seed=2)))
        visitor.ask(model=pinned("acme/newer", first))

        assert (
            offline_visitor.ask(model=pinned("acme/newer", second))["error"] == "UnavailableError"
        )

    def test_a_part_of_a_model_does_not_count(
        self,
        hub: Hub,
        visitor: Visitor,
        offline_visitor: Visitor,
        tiny_files: dict[str, bytes],
    ) -> None:
        commit = hub.add("models", "acme/part", tiny_files)
        hub.troubles.append(Trouble(WEIGHTS, status=404))
        visitor.ask(model=pinned("acme/part", commit))

        assert offline_visitor.ask(model=pinned("acme/part", commit))["error"] == "UnavailableError"

    def test_a_flipped_bit_is_found(
        self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes], hub_home: Path
    ) -> None:
        commit = hub.add("models", "acme/flipped", tiny_files)
        visitor.ask(model=pinned("acme/flipped", commit))
        (blob,) = (
            path for path in hub_home.rglob("models--acme--flipped/blobs/*") if len(path.name) == 64
        )
        content = bytearray(blob.read_bytes())
        content[-3] ^= 1
        blob.write_bytes(content)

        found = visitor.ask(model=pinned("acme/flipped", commit))

        assert found["error"] == "MeasurementError"
        assert "is damaged in the cache" in found["message"]


class TestRefused:
    def test_pickles(self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]) -> None:
        content = {name: data for name, data in tiny_files.items() if name != "model.safetensors"}
        commit = hub.add("models", "acme/pickle", content | {"pytorch_model.bin": b"pickle"})

        found = visitor.ask(model=pinned("acme/pickle", commit))

        assert found["error"] == "CheckpointError"
        assert "pickled" in found["message"]
        assert not [seen for seen in hub.seen if seen.path.endswith(".bin")]

    def test_code(self, hub: Hub, visitor: Visitor, tiny_files: dict[str, bytes]) -> None:
        config = json.loads(tiny_files["config.json"])
        config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
        content = {"config.json": json.dumps(config).encode(), "evil.py": b"raise SystemExit(1)"}
        commit = hub.add("models", "acme/code", tiny_files | content)

        found = visitor.ask(model=pinned("acme/code", commit))

        assert found["error"] == "MeasurementError"
        assert "--layerguard-allow-remote-code" in found["message"]
        assert not [seen for seen in hub.seen if seen.path.endswith(".py")]

    def test_what_is_no_model(self, hub: Hub, visitor: Visitor) -> None:
        commit = hub.add("models", "acme/empty", {"README.md": b"nothing"})

        found = visitor.ask(model=pinned("acme/empty", commit))

        assert found["error"] == "MeasurementError"
        assert "has no config.json" in found["message"]


@pytest.mark.parametrize(
    ("error", "kind", "reported"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), MeasurementError, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), MeasurementError, "cannot be written"),
        (PermissionError(errno.EACCES, "denied"), MeasurementError, "cannot be written"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), UnavailableError, "out of reach"),
        (ValueError("hf_abcdefSecret1234 is odd"), MeasurementError, "*** is odd"),
    ],
)
def test_what_the_machine_does_to_a_download(error: Exception, kind: type, reported: str) -> None:
    problem = explained(error, "model a/b@c")

    assert type(problem) is kind
    assert str(problem).startswith("model a/b@c: ")
    assert reported in str(problem)
