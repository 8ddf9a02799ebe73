"""The cards of the reference models, and the arithmetic of their figures."""

import json
from pathlib import Path

import pytest
import torch

from pytest_layerguard.reference import HELDOUT, MANIFEST, NAMES, folder, manifest
from pytest_layerguard.reference.story_generator import STORIES_PER_BOOK
from tools.reference_models import damage
from tools.reference_models.__main__ import main
from tools.reference_models.checkpoint import load
from tools.reference_models.evaluate import token_losses
from tools.reference_models.overlap import overlap, training_stories
from tools.reference_models.publish import card, losses_measured
from tools.reference_models.text import heldout_ids


@pytest.fixture(scope="module")
def loaded():
    return load(folder("reference"))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_what_was_measured(name):
    shipped = (folder(name) / "README.md").read_text(encoding="utf-8")
    assert shipped == card(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_states_how_the_model_was_chosen_and_made(name):
    text = (folder(name) / "README.md").read_text(encoding="utf-8")
    for statement in (
        f"python -m tools.reference_models train --only {name}",
        manifest()["models"][name]["weights"],
        manifest()["heldout"]["sha256"],
        "chosen after verdicts",
        "feasibility study",
        "13 words",
        "bit for bit",
    ):
        assert statement in text


def test_writing_the_cards_again_changes_nothing(monkeypatch):
    written = {}
    monkeypatch.setattr(
        Path, "write_text", lambda path, text, **options: written.update({path: text})
    )
    assert main(["card"]) == 0
    assert set(written) == {MANIFEST, *(folder(name) / "README.md" for name in NAMES)}
    for path, text in written.items():
        assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("name", NAMES)
def test_transformers_4_and_5_compute_alike(name):
    measured = losses_measured(name)
    assert {entry["transformers"].split(".")[0] for entry in measured} == {"4", "5"}
    assert max(e["loss"] for e in measured) - min(e["loss"] for e in measured) < 1e-6


def test_the_loss_command_measures_the_shipped_models(capsys):
    assert main(["loss"]) == 0
    for name, line in zip(NAMES, capsys.readouterr().out.splitlines(), strict=True):
        entry = json.loads(line)
        assert entry["model"] == name
        recorded = losses_measured(name)[0]
        assert entry["loss"] == pytest.approx(recorded["loss"], abs=1e-3)


def test_a_skipped_layer_is_gone_and_the_model_stays(loaded):
    model, tokenizer = loaded
    ids = heldout_ids(tokenizer)
    before = token_losses(model, ids)
    changed = damage.without_layer(model, 1)
    assert len(changed.get_decoder().layers) == 3
    assert changed.get_decoder().layers[1].self_attn.layer_idx == 2
    assert token_losses(changed, ids).mean() > before.mean()
    assert torch.equal(token_losses(model, ids), before)


def test_experts_become_their_mean(loaded):
    experts = damage.with_mean_experts(loaded[0]).get_decoder().layers[2].mlp.experts
    mean = loaded[0].get_decoder().layers[2].mlp.experts.down_proj.mean(dim=0)
    for expert in experts.down_proj:
        assert torch.allclose(expert, mean)


@pytest.mark.parametrize("prune", [damage.half_pruned, damage.half_pruned_at_random])
def test_half_of_each_projection_is_zeroed(loaded, prune):
    experts = prune(loaded[0]).get_decoder().layers[0].mlp.experts
    for matrix in (*experts.gate_up_proj[3].chunk(2), experts.down_proj[3]):
        assert (matrix == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
    kept = experts.down_proj[3]
    original = loaded[0].get_decoder().layers[0].mlp.experts.down_proj[3]
    assert torch.equal(kept[kept != 0], original[kept != 0])
    if prune is damage.half_pruned:
        assert original[kept == 0].abs().max() <= kept[kept != 0].abs().min()


def test_ternary_rows_have_three_values(loaded):
    weights = damage.ternary(loaded[0]).get_decoder().layers[0].mlp.experts.gate_up_proj
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
