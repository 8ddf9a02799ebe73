"""The cards: rendered from the measured figures, and the figures' own arithmetic."""

import json
import shutil

import pytest
import torch

from pytest_layerguard.reference import HELDOUT, MANIFEST, NAMES, folder, harming, manifest
from pytest_layerguard.reference.__main__ import main
from pytest_layerguard.reference.loading import load
from pytest_layerguard.reference.measuring import heldout_ids, token_losses
from pytest_layerguard.reference.overlap import overlap, training_stories
from pytest_layerguard.reference.shipping import card, losses_measured
from pytest_layerguard.reference.stories import STORIES_PER_BOOK


@pytest.fixture(scope="module")
def loaded():
    return load(folder("reference"))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_what_was_measured(name):
    shipped = (folder(name) / "README.md").read_text(encoding="utf-8")
    assert shipped == card(name, MANIFEST.parent, manifest())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_what_must_be_told(name):
    text = (folder(name) / "README.md").read_text(encoding="utf-8")
    for said in (
        f"python -m pytest_layerguard.reference --only {name}",
        manifest()["models"][name]["weights"],
        manifest()["heldout"]["sha256"],
        "chosen after verdicts",
        "feasibility study",
        "13 words",
        "bit for bit",
    ):
        assert said in text, said


def test_writing_the_cards_again_changes_nothing(tmp_path):
    here = MANIFEST.parent
    copied = ("narrow", "wide", "tried.json", "losses.jsonl")
    for each in copied:
        source = here / each
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / each)
    for name in NAMES:
        (tmp_path / folder(name).name / "README.md").unlink()
    assert main(["--card", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "manifest.json").read_bytes() == MANIFEST.read_bytes()
    for name in NAMES:
        written = tmp_path / folder(name).name / "README.md"
        assert written.read_bytes() == (folder(name) / "README.md").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_transformers_4_and_5_compute_alike(name):
    measured = losses_measured(name, MANIFEST.parent)
    assert {entry["transformers"].split(".")[0] for entry in measured} == {"4", "5"}
    assert max(e["loss"] for e in measured) - min(e["loss"] for e in measured) < 1e-6


def test_the_loss_command_measures_the_shipped_models(capsys):
    assert main(["--loss"]) == 0
    for name, line in zip(NAMES, capsys.readouterr().out.splitlines(), strict=True):
        entry = json.loads(line)
        assert entry["model"] == name
        recorded = losses_measured(name, MANIFEST.parent)[0]
        assert entry["loss"] == pytest.approx(recorded["loss"], abs=1e-3)


def test_a_skipped_layer_is_gone_and_the_model_stays(loaded):
    model, tokenizer = loaded
    ids = heldout_ids(tokenizer)
    before = token_losses(model, ids)
    changed = harming.without_layer(model, 1)
    assert len(changed.get_decoder().layers) == 3
    assert changed.get_decoder().layers[1].self_attn.layer_idx == 2
    assert token_losses(changed, ids).mean() > before.mean()
    assert torch.equal(token_losses(model, ids), before)


def test_experts_become_their_mean(loaded):
    experts = harming.with_mean_experts(loaded[0]).get_decoder().layers[2].mlp.experts
    mean = loaded[0].get_decoder().layers[2].mlp.experts.down_proj.mean(dim=0)
    for expert in experts.down_proj:
        assert torch.allclose(expert, mean)


@pytest.mark.parametrize("prune", [harming.half_pruned, harming.half_pruned_at_random])
def test_half_of_each_projection_is_zeroed(loaded, prune):
    experts = prune(loaded[0]).get_decoder().layers[0].mlp.experts
    for matrix in (*experts.gate_up_proj[3].chunk(2), experts.down_proj[3]):
        assert (matrix == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
    kept = experts.down_proj[3]
    original = loaded[0].get_decoder().layers[0].mlp.experts.down_proj[3]
    assert torch.equal(kept[kept != 0], original[kept != 0])
    if prune is harming.half_pruned:
        assert original[kept == 0].abs().max() <= kept[kept != 0].abs().min()


def test_ternary_rows_have_three_values(loaded):
    weights = harming.ternary(loaded[0]).get_decoder().layers[0].mlp.experts.gate_up_proj
    for matrix_row in weights[5][:8]:
        values = matrix_row.abs().unique()
        assert len(values) <= 2
    original = loaded[0].get_decoder().layers[0].mlp.experts.gate_up_proj[5][0]
    assert weights[5][0].abs().max().item() == pytest.approx(original.abs().mean().item())


def test_overlap_finds_what_it_should():
    # The held-out text overlaps wholly with itself, and its stories with no other seed's.
    assert overlap(1, 110) == {"stories": 1, "sentences": 1, "8-grams": 1, "13-grams": 1}
    other = overlap(0, 400)
    assert other["stories"] == 0
    assert 0 < other["13-grams"] < other["8-grams"] < 1
    assert overlap(0, 800)["8-grams"] > other["8-grams"]


def test_stories_read_are_counted_by_tokens(loaded):
    tokens = len(heldout_ids(loaded[1]))
    stories = HELDOUT.read_text(encoding="utf-8").count("\n\n") + 1
    counted = training_stories(loaded[1], 1, tokens)
    assert 0 <= counted - stories < 2 * STORIES_PER_BOOK


def test_too_short_a_text_is_an_error(loaded):
    with pytest.raises(ValueError, match="more than 4096 are needed"):
        token_losses(loaded[0], [1] * 4096)
