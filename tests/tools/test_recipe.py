"""The recipe of the reference models: training, its texts and what it writes."""

import dataclasses
import json
from itertools import islice

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pytest_layerguard.reference import HELDOUT, NAMES, QUESTIONS, folder
from pytest_layerguard.reference.initial_weights import build, initial_weights
from pytest_layerguard.reference.story_generator import books
from tools.reference_models.__main__ import main
from tools.reference_models.checkpoint import load, save
from tools.reference_models.questions import QUESTIONS_SEED, question_lines
from tools.reference_models.recipe import RECIPES, configuration
from tools.reference_models.text import (
    CONTEXT,
    HELDOUT_SEED,
    batches,
    heldout_text,
    train_tokenizer,
)
from tools.reference_models.train import balancing_loss, learning_rate, train

TINY = dataclasses.replace(RECIPES["reference"], steps=12, batch=2, warmup=4)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_few_steps_learn_and_learn_alike(tokenizer, threads):
    seen = []
    first = train(TINY, tokenizer, seed=0, progress=lambda step, loss: seen.append((step, loss)))
    second = train(TINY, tokenizer, seed=0)
    other = train(TINY, tokenizer, seed=1)
    assert torch.get_num_threads() == threads
    assert sum(first.losses[-3:]) < sum(first.losses[:3]) - 0.5
    assert first.losses == second.losses != other.losses
    assert seen == list(enumerate(first.losses, start=1))
    assert first.loss == pytest.approx(sum(first.losses) / 12)
    assert not first.model.training
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_stream_is_the_books_with_an_end_after_each(tokenizer):
    windows = list(islice(batches(tokenizer, seed=4, batch=3), 4))
    assert all(window.shape == (3, CONTEXT + 1) for window in windows)
    text = tokenizer.decode(torch.cat(windows).flatten())
    shelf = books(4)
    assert text.startswith(f"{next(shelf)}<|endoftext|>{next(shelf)}"[: len(text)])


def test_the_learning_rate_rises_and_falls():
    recipe = dataclasses.replace(RECIPES["reference"], steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_each_layer_must_balance_by_itself():
    even = 10 * torch.eye(16).repeat(4, 1)
    left, right = even.clone(), even.clone()
    left[:, 8:], right[:, :8] = -10, -10
    assert balancing_loss([even, even]).item() == pytest.approx(1, abs=1e-3)
    # Pooled over both layers, each expert here would be used alike.
    assert balancing_loss([left, right]).item() > 1.4


def test_the_balancing_loss_reaches_the_router():
    logits = torch.randn(32, 16, generator=torch.manual_seed(0)).requires_grad_()
    balancing_loss([logits]).backward()
    assert logits.grad.abs().sum() > 0


def test_the_command_writes_a_whole_folder(tmp_path, capsys):
    assert main(["train", "--only", "reference", "--steps", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "narrow")
    assert "reference: step 2/2, loss" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["narrow"]
    report = json.loads((tmp_path / "narrow" / "training.json").read_text())
    assert report["command"].endswith("train --only reference --steps 2")
    assert report["tokens"] == 2 * 16 * 256
    model, _ = load(tmp_path / "narrow")
    assert sum(p.numel() for p in model.parameters()) == report["parameters"] == 836_880
    # It is not what is shipped, and verifying says so.
    assert main(["verify", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["reference"]["identical"] is False


def test_saving_changes_no_model_and_stores_half_precision(tmp_path, tokenizer):
    config = configuration(TINY)
    model = build(config, initial_weights(config, seed=0))
    save(model, tokenizer, tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(tmp_path).parameters()} == {
        torch.float16
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_configurations_are_the_recipes(name):
    shipped = AutoConfig.from_pretrained(folder(name), local_files_only=True).to_dict()
    recipe = configuration(RECIPES[name]).to_dict()
    of_a_stored_model = ("architectures", "dtype", "transformers_version", "_name_or_path")
    for key in recipe.keys() - set(of_a_stored_model):
        assert shipped[key] == recipe[key], key


def test_verifying_nothing_is_no_success(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out) == {}


def test_the_heldout_file_is_the_text_of_its_seed():
    assert HELDOUT.read_bytes() == heldout_text().encode()


def test_the_questions_are_those_of_their_seed_and_fit_the_models():
    assert QUESTIONS.read_bytes() == question_lines().encode()
    tokenizer = AutoTokenizer.from_pretrained(folder("reference"))
    for line in question_lines().splitlines():
        question = json.loads(line)
        whole = [f"{question['context']} {choice}" for choice in question["choices"]]
        assert max(map(len, tokenizer(whole)["input_ids"])) <= CONTEXT
    # Neither that of training, of any run that was tried, nor that of the held-out text.
    assert QUESTIONS_SEED not in {0, 1, HELDOUT_SEED}


def test_the_tokenizer_is_the_recipes(tokenizer):
    shipped = AutoTokenizer.from_pretrained(folder("reference"), local_files_only=True)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    text = HELDOUT.read_text(encoding="utf-8")[:5000]
    assert shipped(text).input_ids == tokenizer(text).input_ids
    assert shipped.decode(shipped(text).input_ids) == text
