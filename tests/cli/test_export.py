"""A variant as a file: judged as a candidate it has the same numbers, and is recognised as what was done."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.tiny import WORDS, tokenizer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import pytest_layerguard
from pytest_layerguard.cli.main import main

CRITERIA = {"lenient": "max(perplexity_ratio) <= 1e9"}
MEASURE = {
    "text": {"reference": "heldout"},
    "tokens": 512,
    "window": 64,
    "sample": {"prompts": ["Once upon a time"], "tokens": 10},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bets").mkdir()
    return tmp_path


def put(done: Any, **more: Any) -> str:
    bet = {
        "id": "tried",
        "title": "Tried",
        "claim": "It can be done.",
        "status": "proposed",
        "model": "reference",
        "measure": MEASURE,
        "criteria": CRITERIA,
        **({"arms": done} if "one" in done else {"intervention": done}),
        **more,
    }
    Path("bets/tried.yaml").write_text(json.dumps(bet))
    return "bets/tried.yaml"


TWICE = [{"interchange_layers": {"pairs": [[1, 2]]}}] * 2
"""What does nothing."""


def recognised_beside(file: str, done: Any, model: Any, measure: dict[str, Any]) -> set[str]:
    """Measure a file beside what was done, and return what it is recognised as; their numbers are equal."""
    measured = pytest_layerguard.measure(
        {
            "model": model,
            "arms": {"file": {"load_checkpoint": {"path": file}}, "done": done},
            "measure": measure,
            "criteria": CRITERIA,
        },
        device="cpu",
    )
    candidate, variant = measured.result.variants
    others = ("size_ratio", "swap_kl")
    one, other = (
        {name: each for name, each in one.metrics.items() if name not in others}
        for one in (candidate, variant)
    )
    assert one == other
    assert candidate.samples == variant.samples
    (made,) = measured.result.provenance["checkpoints"][0]["candidates"]
    return {each["kind"] for each in made["recognised"]}


@pytest.mark.parametrize(
    ("done", "kind"),
    [
        ([{"skip_layers": {"layers": 2}}], "remove_layers"),
        (TWICE, "identical"),
        ([{"average_experts": {}}], "average_experts"),
        ([{"drop_experts": {"count": 4}}], "drop_experts"),
        pytest.param(
            [{"prune_weights": {"sparsity": 0.5}}], "prune_weights", marks=pytest.mark.slow
        ),
        pytest.param(
            [{"quantize_weights": {"bits": 4}}], "quantize_weights", marks=pytest.mark.slow
        ),
        pytest.param(TWICE[:1], "interchange_layers", marks=pytest.mark.slow),
        pytest.param(
            [{"skip_layers": {"layers": 1}}, {"prune_weights": {"sparsity": 0.25}}],
            "prune_weights",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_an_exported_variant_has_the_same_numbers(done: Any, kind: str) -> None:
    assert main(["export", put(done), "--to", "made"]) == 0
    assert kind in recognised_beside("made", done, "reference", MEASURE)


def made(
    kind: str, recognised: str | None = None, **arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[tuple[str, str, dict[str, Any]]]:
    """Draw an intervention: what it is recognised as, its kind and its arguments."""
    return st.tuples(st.just(recognised or kind), st.just(kind), st.fixed_dictionaries(arguments))


LAYERS = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(sorted)
MOVED = st.one_of(
    made("skip_layers", "remove_layers", layers=LAYERS),
    made("remove_layers", layers=LAYERS),
    made("repeat_layers", layers=LAYERS, times=st.integers(2, 3)),
    made("interchange_layers", pairs=st.permutations(range(4)).map(lambda each: [each[:2]])),
)
CHANGED = st.one_of(
    made("zero_layers", layers=LAYERS),
    made("skip_layers", layers=LAYERS, part=st.sampled_from(["attention", "feed_forward"])),
    made("reinitialize_layers", layers=LAYERS, seed=st.integers(1, 9)),
    made("average_experts", layers=LAYERS),
    made("drop_experts", count=st.integers(1, 3), by=st.sampled_from(["frequency", "reap"])),
    made("merge_experts", layers=LAYERS, count=st.integers(2, 3)),
    made(
        "prune_weights",
        layers=LAYERS,
        sparsity=st.sampled_from([0.1, 0.5, 0.9]),
        parts=st.sampled_from(["linear", "experts"]),
        by=st.sampled_from(["magnitude", "random"]),
    ),
    made("prune_weights", layers=LAYERS, pattern=st.just("2:4")),
    made("quantize_weights", layers=LAYERS, bits=st.integers(3, 6), symmetric=st.booleans()),
    made("ternary_weights", layers=LAYERS, scale=st.sampled_from(["tensor", "row"])),
)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a base of four layers and four experts, and a text."""
    project = tmp_path_factory.mktemp("mixture")
    config = Qwen3MoeConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=1,
        max_position_embeddings=64,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(project / "base")
    tokenizer().save_pretrained(project / "base")
    words = random.Random(0).choices(WORDS[3:], k=300)
    (project / "text.txt").write_text(" ".join(words), encoding="utf-8")
    (project / "bets").mkdir()
    return project


@settings(
    max_examples=settings().max_examples // 5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moved=st.none() | MOVED, changed=CHANGED)
def test_what_is_drawn_is_exported_recognised_and_judged_the_same(
    mixture: Path, moved: Any, changed: Any
) -> None:
    drawn = [changed] if moved is None else [changed, moved]
    touched = [
        {*each.get("layers", ()), *itertools.chain(*each.get("pairs", ()))} for *_, each in drawn
    ]
    # A layer of zeros, or drawn anew, shows no more where it was.
    assume(len(touched) == 1 or not touched[0] & touched[1])
    done = [{kind: arguments} for _, kind, arguments in drawn]
    measure = {
        **MEASURE,
        "text": {"file": "text.txt"},
        "tokens": 192,
        "window": 24,
        "max_base_perplexity": "none",
        "sample": {"prompts": ["a b"], "tokens": 5},
    }
    with contextlib.chdir(mixture):
        shutil.rmtree("made", ignore_errors=True)
        shared = {
            "model": {"path": "../base"},
            "measure": {**measure, "text": {"file": "../text.txt"}},
        }
        assert main(["export", put(done, **shared), "--to", "made"]) == 0
        found = recognised_beside("made", done, {"path": "base"}, measure)
    assert {recognised for recognised, *_ in drawn} <= found


def test_its_readme_names_the_bet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put({"one": {"skip_layers": {"layers": {"each": "all"}}}})
    assert main(["export", path, "--to", "made", "--variant", "one.skip-1"]) == 0
    assert "wrote made: one.skip-1 of tried" in capsys.readouterr().out
    readme = (here / "made" / "README.md").read_text()
    assert readme.startswith("# one.skip-1 of tried\n")
    assert "- verdict: not recorded\n" in readme
    assert "- digest of the bet: sha256:" in readme


@pytest.mark.parametrize(
    ("done", "options", "message"),
    [
        (
            {"skip_layers": {"layers": {"each": "all"}}},
            (),
            "the bet has 4 variants; say which one: skip-0",
        ),
        (
            {"skip_layers": {"layers": 1}},
            ("--variant", "skip-2"),
            "has no variant 'skip-2'; its variants: skip-1",
        ),
        ({"replace_layers": {"pairs": [[0, 1]]}}, (), "is 2 directed changes and no one model"),
        (
            {"drop_experts": {"count": 2, "layers": [1]}},
            (),
            "its layers have 14 and 16 experts left",
        ),
        ({"quantize_activations": {"bits": 8}}, (), "changes what its layers do while they run"),
        ({"cast": {"dtype": "bfloat16"}}, (), "is a checkpoint already"),
        ({"skip_layers": {"layers": 1}}, ("--to", "bets"), "bets exists and is not overwritten"),
        (
            {"skip_layers": {"layers": 1}},
            ("--id", "other"),
            "bets/tried.yaml has no bet 'other'; its bets: tried",
        ),
    ],
)
def test_what_cannot_be_written_is_reported_in_one_line(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    done: Any,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert main(["export", put(done), "--to", "made", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {each.name for each in here.iterdir()} == {"bets"}


def test_a_variant_of_a_model_on_disk_is_written_as_one_in_memory() -> None:
    files = []
    for placement in ("memory", "stream"):
        bet = put(
            [{"skip_layers": {"layers": 2}}],
            model={"reference": "reference", "placement": placement},
        )
        assert main(["export", bet, "--to", placement]) == 0
        files.append(Path(placement, "model.safetensors").read_bytes())
    assert files[0] == files[1]
