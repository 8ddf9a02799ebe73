"""The recipe: that it learns, that it does so alike each time, and what it writes."""

import dataclasses
import json
from itertools import islice

import pytest
import torch

from pytest_layerguard.reference import saving
from pytest_layerguard.reference.__main__ import main
from pytest_layerguard.reference.loading import load
from pytest_layerguard.reference.shape import CONTEXT, SHAPES
from pytest_layerguard.reference.stories import books
from pytest_layerguard.reference.stream import batches
from pytest_layerguard.reference.tokenizer import train_tokenizer
from pytest_layerguard.reference.training import balancing_loss, learning_rate, train

TINY = dataclasses.replace(SHAPES["reference"], steps=12, batch=2, warmup=4)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(0)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


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
    shape = dataclasses.replace(SHAPES["reference"], steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(shape, step) for step in range(1, 101)]
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
    assert main(["--only", "reference", "--steps", "2", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "narrow")
    assert "reference: step 2/2, loss" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["narrow"]
    report = json.loads((tmp_path / "narrow" / "training.json").read_text())
    assert report["command"].endswith("--only reference --steps 2")
    assert report["tokens"] == 2 * 16 * 256
    model, _ = load(tmp_path / "narrow")
    assert sum(p.numel() for p in model.parameters()) == report["parameters"] == 836_880
    # It is not what is shipped, and verifying says so.
    assert main(["--verify", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["reference"]["identical"] is False


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, tokenizer, monkeypatch):
    target = tmp_path / "narrow"
    target.mkdir()
    (target / "old").touch()
    trained = train(dataclasses.replace(TINY, steps=1), tokenizer, seed=0)
    with monkeypatch.context() as patched:
        patched.setattr(saving, "_suit_both_versions", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            saving.save(trained.model, tokenizer, {}, target, dtype=torch.float16)
    assert [path.name for path in tmp_path.rglob("*")] == ["narrow", "old"]
    saving.save(trained.model, tokenizer, {}, target, dtype=torch.float16)
    assert not (target / "old").exists()
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}


def test_verifying_nothing_is_no_success(tmp_path, capsys):
    assert main(["--verify", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out) == {}
