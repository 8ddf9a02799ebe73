"""A file stands in a door by what was done to it, whatever it is called, and unmeasured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hub.tiny import save
from safetensors.torch import load_file, save_file
from support.catalogue import BET_40, Bets

from pytest_layerguard import reference
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.records import path_of
from pytest_layerguard.checkpoints import recognition
from pytest_layerguard.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pytest_layerguard.cli.main import main
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.report.make_report import make_report

BETS = Path(__file__).parents[2] / "bets"
AVERAGED = {
    **BET_40,
    "id": "bet-38",
    "title": "Average the experts",
    "intervention": {"average_experts": {}},
    "criteria": {"lenient": "perplexity_ratio <= 3"},
    "closes": {"interventions": ["average_experts"], "models": "parameters <= 1e8"},
}


@pytest.fixture
def bets(tmp_path: Path) -> Bets:
    return Bets(tmp_path)


def rewritten(bets: Bets, change: object) -> Path:
    """Write a copy of the reference model with other weights, in the bets' tree."""
    folder = bets.root / "candidate"
    shutil.copytree(reference.folder("reference"), folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)  # type: ignore[operator]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def average(weights: dict[str, torch.Tensor]) -> None:
    """Make all experts of a layer their mean."""
    groups: dict[str, list[str]] = {}
    for name in weights:
        before, found, after = name.partition(".experts.")
        if found:
            groups.setdefault(before + after.partition(".")[2], []).append(name)
    for names in groups.values():
        mean = torch.stack([weights[name] for name in names]).mean(0)
        weights.update({name: mean.clone() for name in names})


def prune(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.dim() == 2 and ".layers." in name:
            least = tensor.abs().flatten().kthvalue(tensor.numel() // 2).values
            tensor[tensor.abs() <= least] = 0


def shallow(bets: Bets) -> Path:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        last = max(int(name.split(".")[2]) for name in weights if ".layers." in name)
        for name in [name for name in weights if f".layers.{last}." in name]:
            del weights[name]

    folder = rewritten(bets, drop)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CANDIDATE = {"load_checkpoint": {"path": "../candidate"}}


def test_a_candidate_without_a_layer_is_crossed_unmeasured(bets: Bets) -> None:
    shallow(bets)
    bets.put(BET_40)
    outcome = bets.judge(bets.put(intervention=CANDIDATE))
    assert outcome.word is Word.CROSSED
    assert bets.measured == []
    message = "\n".join(outcome.messages)
    assert (
        "load_checkpoint, recognised as remove_layers: keeps 3 of 4 layers, bit for bit" in message
    )


def test_a_file_of_this_catalogue_is_refused_where_it_is_proposed(bets: Bets) -> None:
    shutil.copytree(BETS / "candidates", bets.path / "candidates")
    shutil.copy(BETS / "40-skip-each-layer.yaml", bets.path)
    text = (BETS / "candidates.yaml").read_text(encoding="utf-8")
    proposed = text.replace("status: falsified", "status: proposed")
    assert proposed != text
    (bets.path / "candidates.yaml").write_text(proposed, encoding="utf-8")
    outcome = bets.judge("ship-without-a-layer")
    assert outcome.word is Word.CROSSED
    assert bets.measured == []
    assert [each.id for each in outcome.crossed] == ["bet-40"]


def test_a_candidate_that_is_fetched_to_be_measured_is_crossed_all_the_same(bets: Bets) -> None:
    hub = {"hub": "acme/shallow", "revision": "0" * 40}
    bets.put(BET_40)
    id_ = bets.put(intervention={"load_checkpoint": hub})
    made = {
        "arm": None,
        "variant": "load-shallow",
        "model": {"kind": "hub", "name": "acme/shallow", "revision": "0" * 40},
        "recognised": [{"kind": "remove_layers", "sentence": "keeps 3 of 4 layers"}],
    }
    outcome = bets.judge(id_, provenance={"checkpoints": [{"candidates": [made]}]}, recording=True)
    assert outcome.word is Word.CROSSED
    assert "recognised as remove_layers: keeps 3 of 4 layers" in "\n".join(outcome.messages)
    assert not path_of(bets.path, id_).exists()


def test_a_candidate_of_averaged_experts_is_crossed_unmeasured(bets: Bets) -> None:
    rewritten(bets, average)
    bets.put(AVERAGED)
    outcome = bets.judge(bets.put(intervention=CANDIDATE))
    assert outcome.word is Word.CROSSED
    assert "recognised as average_experts" in "\n".join(outcome.messages)


def test_a_candidate_stands_in_no_other_door(bets: Bets) -> None:
    rewritten(bets, prune)
    bets.put(BET_40)
    bets.put(AVERAGED)
    assert bets.judge(bets.put(intervention=CANDIDATE)).word is Word.STRICT
    closes = {"interventions": ["prune_weights"], "models": "parameters <= 1e8"}
    bets.put(BET_40, id="bet-48", closes=closes)
    outcome = bets.judge("drop-one")
    assert outcome.word is Word.CROSSED
    assert "recognised as prune_weights" in "\n".join(outcome.messages)


def ternary(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if ".experts." in name:
            scale = tensor.float().abs().mean()
            weights[name] = ((tensor / scale).round().clamp(-1, 1) * scale).half()


def without_attention(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if ".layers.1.self_attn." in name:
            tensor.zero_()


@pytest.mark.parametrize(
    ("change", "kind", "other"),
    [
        (ternary, "ternary_weights", "prune_weights"),
        (without_attention, "skip_layers", "remove_layers"),
    ],
)
def test_a_file_stands_in_the_doors_of_what_was_done_and_of_no_more(
    bets: Bets, change: object, kind: str, other: str
) -> None:
    rewritten(bets, change)
    closes = {"interventions": [other], "models": "parameters <= 1e8"}
    bets.put(BET_40, closes=closes)
    assert bets.judge(bets.put(intervention=CANDIDATE)).word is Word.STRICT
    bets.put(BET_40, closes={**closes, "interventions": [kind]})
    outcome = bets.judge("drop-one")
    assert outcome.word is Word.CROSSED
    assert f"recognised as {kind}" in "\n".join(outcome.messages)


def test_only_the_arm_with_the_candidate_stands_in_the_door(bets: Bets) -> None:
    shallow(bets)
    bets.put(BET_40)
    arms = {"file": [CANDIDATE], "cast": [{"cast": {"dtype": "bfloat16"}}]}
    id_ = bets.put(intervention=None, arms=arms, criteria={"lenient": "max(kl) <= 1"})
    (crossed,) = bets.judge(id_).crossed
    assert crossed.arms == {"file"}


def test_what_was_recognised_is_kept_by_the_files_digests(bets: Bets, tmp_path: Path) -> None:
    shallow(bets)
    bets.put(BET_40)
    bets.conditions = Conditions(cache=tmp_path / "cache")
    id_ = bets.put(intervention=CANDIDATE)
    first = bets.judge(id_).messages
    (kept,) = (tmp_path / "cache" / "recognised").iterdir()
    found = json.loads(kept.read_text())
    found["findings"][0][1] = "kept from the last run"
    kept.write_text(json.dumps(found))
    assert "kept from the last run" in "\n".join(bets.judge(id_).messages)
    kept.write_text("damaged")
    assert bets.judge(id_).messages == first


def test_files_of_the_same_digests_are_compared_once(
    bets: Bets, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shallow(bets)
    base = reference.folder("reference")
    compared = []
    whole = recognition.recognise

    def counted(*checkpoints: Checkpoint) -> recognition.Recognition:
        compared.append(checkpoints)
        return whole(*checkpoints)

    monkeypatch.setattr(recognition, "recognise", counted)
    monkeypatch.setattr(recognition, "_known", {})
    bets.put(BET_40)
    assert bets.judge(bets.put(intervention=CANDIDATE)).word is Word.CROSSED
    copied = shutil.copytree(folder, bets.root / "copied")
    for path in (folder, copied):
        recognition.recognise_once(open_checkpoint(base), open_checkpoint(path))
    assert len(compared) == 1
    prune(weights := load_file(copied / "model.safetensors"))
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    found = recognition.recognise_once(open_checkpoint(base), open_checkpoint(copied))
    assert "prune_weights" in found.kinds


def test_another_architecture_and_a_damaged_file_are_errors(bets: Bets) -> None:
    folder = save(bets.root / "candidate")
    bets.put(BET_40)
    outcome = bets.judge(bets.put(intervention=CANDIDATE))
    assert outcome.word is Word.ERROR
    assert "no tensor has a name and shape that both have" in outcome.messages[0]
    (folder / "model.safetensors").write_bytes(b"")
    outcome = bets.judge("drop-one")
    assert outcome.word is Word.ERROR
    assert "truncated or damaged" in outcome.messages[0]
    assert bets.measured == []


def test_explain_shows_the_files_and_what_was_done(
    bets: Bets, capsys: pytest.CaptureFixture[str]
) -> None:
    shallow(bets)
    id_ = bets.put(intervention=CANDIDATE)
    assert main(["explain", str(bets.path / f"{id_}.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "candidate   Qwen3MoeForCausalLM, 3 layers" in shown
    assert "recognised  remove_layers: keeps 3 of 4 layers, bit for bit; layer 3 is gone" in shown


def test_reports_say_what_a_measured_candidate_is(bets: Bets) -> None:
    id_ = bets.put(intervention=CANDIDATE)
    rewritten(bets, prune)
    made = {
        "arm": None,
        "variant": "load-candidate",
        "model": {"kind": "path", "name": "../candidate", "revision": None},
        "facts": ["safetensors; dtype bfloat16", "experts: not quantised"],
        "recognised": [{"kind": "prune_weights", "sentence": "half of the weights are zero"}],
        "dtype": "bfloat16",
        "floor": {"dtype": "bfloat16", "perplexity_ratio": 1.001, "kl": 0.0002},
    }
    cast = {**made, "model": {"kind": "cast", "name": "bfloat16"}}
    provenance = {"checkpoints": [{"candidates": [made, cast]}]}
    outcome = bets.judge(id_, 1.2, provenance=provenance)
    assert "load-candidate: experts: not quantised" in outcome.warnings
    (candidate,) = make_report(bets.document(id_), outcome, bets.root).candidates
    assert [*candidate.lines()] == [
        "load-candidate is safetensors; dtype bfloat16; experts: not quantised",
        "load-candidate is recognised as prune_weights: half of the weights are zero",
        "load-candidate: computes in bfloat16, and so does its floor: the base in bfloat16 has a "
        "perplexity ratio of 1.001 and a KL of 0.0002",
    ]


def test_a_missing_library_is_a_skip_and_no_traceback(
    bets: Bets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (bets.root / "base.gguf").write_bytes(b"GGUF")
    digest = file_digests.of_file(bets.root / "base.gguf").removeprefix("sha256:")
    bets.put(BET_40)
    id_ = bets.put(model={"gguf": "../base.gguf", "sha256": digest})
    assert bets.judge(id_).word is Word.SKIPPED
    main(["explain", str(bets.path / f"{id_}.yaml")])
    assert "pip install 'pytest-layerguard[gguf]'" in " ".join(capsys.readouterr().out.split())
