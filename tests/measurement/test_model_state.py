"""What a model keeps between blocks, passes or bets never reaches another variant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.tiny import WORDS, tokenizer
from support import causal_families, family_matrix, plain
from support.workshop import bench_of, carried_out

from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.sanity_checks import check_model
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch

BASE = Plan.untouched(causal_families.LAYERS)


def refused(outcomes: dict[str, str]) -> dict[str, str]:
    return {name: outcome for name, outcome in outcomes.items() if outcome != "agrees"}


def test_layers_that_share_keys_and_values() -> None:
    """Gemma's later layers use the keys and values of earlier ones, from a container of the forward pass."""
    found = refused(family_matrix.outcomes("gemma4_text"))
    assert set(found) == {"skip-0", "skip-1", "interchange-1-2", "cache-channel"}
    for name, key in (("skip-0", "sliding_attention"), ("skip-1", "full_attention")):
        assert found[name] == (
            "refused: the model cannot run like this: its own code fails with "
            f"KeyError: '{key}' (the plain model fails, too)"
        )


def test_blocks_that_are_given_the_embeddings_of_their_tokens() -> None:
    model = causal_families.model("zamba2")
    runner = Runner(Anatomy.of(model))
    prompt = causal_families.text(3)
    layers = range(causal_families.LAYERS)
    plans = [BASE.without(frozenset([layer])) for layer in layers]
    wanted = [
        plain.continued(family_matrix.skipped(model, layer), prompt, 4, []) for layer in layers
    ]
    assert [text for (text,) in generate(runner, plans, [prompt], 4, greedy)] == wanted
    assert len(set(map(tuple, wanted))) == len(wanted)


def test_a_weight_that_layers_share_is_not_changed_by_the_inputs_of_each() -> None:
    bench = bench_of(Runner(Anatomy.of(causal_families.model("zamba"))))
    with pytest.raises(InterventionError, match="layers 1 and 3 share the weight shared_transf"):
        carried_out(bench, ("prune_weights", {"sparsity": 0.5, "by": "wanda"}))


def test_shared_experts_in_one_stack_are_linear_maps() -> None:
    model = causal_families.model("inkling_text")
    parts = Anatomy.of(model).parts[0]
    stack = "mlp.shared_experts.down_proj"
    assert stack in parts.linear
    assert stack not in parts.expert_weights
    assert parts.transposed(stack) is False


def test_a_cache_forgets_nothing_that_the_model_still_reads() -> None:
    """Moshi states a sliding window, and attends to everything."""
    model = causal_families.model("moshi")
    prompt = causal_families.text(5, 7)
    ((text,),) = generate(Runner(Anatomy.of(model)), [BASE], [prompt], 8, greedy)
    assert text == plain.continued(model, prompt, 8, [])


def test_blocks_that_hand_on_more_than_hidden_states() -> None:
    """GLM's blocks say which tokens they attended to, and later ones attend to the same."""
    types = {"indexer_types": ["full", "full", "shared", "shared"]}
    found = refused(family_matrix.outcomes("glm_moe_dsa", **types))
    assert set(found) == {"interchange-1-2", "cache", "cache-channel"}
    assert "indexer" in found["interchange-1-2"]
    assert "cannot be given other keys and values" in found["cache"]


@pytest.mark.slow
@pytest.mark.parametrize("family", causal_families.ALL)
def test_every_family_agrees_with_a_plain_loop_or_is_refused(family: str) -> None:
    try:
        found = family_matrix.outcomes(family)
    except causal_families.NotSmallError as error:
        pytest.skip(str(error))
    assert not [outcome for outcome in found.values() if outcome.startswith("differs")]


def test_a_rotary_embedding_that_grew_with_a_longer_text() -> None:
    """Up to its context it is what it was before, whatever was run in between."""
    grows = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = causal_families.model("llama", rope_parameters=grows)
    runner = Runner(Anatomy.of(model))
    windows = torch.tensor([causal_families.text(64)])

    def perplexity() -> torch.Tensor:
        frame = runner.begin(windows)
        state = frame.start
        for slot in range(len(runner.anatomy)):
            state = runner.step(frame, slot, state)
        return runner.finish(frame, state)

    before = perplexity()
    runner.begin(torch.tensor([causal_families.text(100)]))
    assert torch.equal(perplexity(), before)


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", {"is_causal": False}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("bert", {"is_decoder": False}),
    ],
)
def test_a_model_that_sees_the_token_it_is_to_predict(
    family: str, changed: dict[str, object]
) -> None:
    runner = Runner(Anatomy.of(causal_families.model(family, **changed)))
    with pytest.raises(MeasurementError, match="what it predicts depends on later tokens"):
        check_model(runner, family_matrix.BATCHES[0])


def test_a_sample_that_is_not_what_a_variant_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(Anatomy.of(causal_families.model("llama")))
    check_model(runner, family_matrix.BATCHES[0])

    def mixed_up(*given: Any) -> list[list[list[int]]]:
        return generate(*given)[::-1]

    monkeypatch.setattr(sanity_checks, "generate", mixed_up)
    with pytest.raises(
        MeasurementError, match="sampled together do not continue a text as they do"
    ):
        check_model(runner, family_matrix.BATCHES[0])


def test_what_a_block_writes_stays_with_the_variant() -> None:
    runner = Runner(Anatomy.of(causal_families.model("gemma4_text")))
    with torch.no_grad():
        frame = runner.begin(family_matrix.BATCHES[0].input_ids)
        states = [frame.start]
        for slot in range(2):
            states.append(runner.step(frame, slot, states[-1]))
    kept = [[list(content) for content in state.carried.values()] for state in states]
    assert kept == [[[]], [["sliding_attention"]], [["sliding_attention", "full_attention"]]]


BET = """\
id: {id}
title: A bet
claim: It can go.
status: proposed
model: {{path: ../model{how}}}
intervention: {intervention}
measure: {{text: {{file: ../text.txt}}, tokens: 64, window: 16, max_base_perplexity: none{more}}}
criteria: {{lenient: any(perplexity_ratio <= 1e6)}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 4 with a tokenizer, as a checkpoint."""
    root = tmp_path_factory.mktemp("gemma")
    (root / "bets").mkdir()
    causal_families.model("gemma4_text").save_pretrained(root / "model")
    tokenizer().save_pretrained(root / "model")
    words = [WORDS[token % 26 + 3] for token in causal_families.text(80)]
    (root / "text.txt").write_text(" ".join(words))
    return root


def document(
    folder: Path, id_: str, intervention: str, how: str = "", more: str = ""
) -> BetDocument:
    text = BET.format(id=id_, intervention=intervention, how=how, more=more)
    (found,) = parse_bets(text, folder / "bets" / f"{id_}.yaml")
    return found


SAMPLE = ', sample: {prompts: ["a b c"], tokens: 8}'


@pytest.mark.parametrize("more", ["", SAMPLE])
@pytest.mark.parametrize("how", ["", ", placement: stream"])
def test_the_variant_that_cannot_run_is_named_in_one_line(
    folder: Path, how: str, more: str
) -> None:
    bet = document(folder, "skip", "{skip_layers: {layers: {each: all}}}", how, more)
    with pytest.raises(MeasurementError) as caught:
        LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(bet, bets=folder / "bets")
    text = str(caught.value)
    assert re.match(
        "skip-[01]: the model cannot run like this: its own code fails with KeyError", text
    )
    assert len(text.splitlines()) == 1


def test_what_another_bet_cannot_run_is_not_this_bets_error(folder: Path) -> None:
    bets = folder / "bets"
    sound = document(folder, "sound", "{skip_layers: {layers: {each: [2, 3]}}}", more=SAMPLE)
    broken = document(folder, "broken", "{skip_layers: {layers: {each: [0, 2]}}}", more=SAMPLE)
    alone = LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(sound, bets=bets)
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    measurer.expect([(sound, bets), (broken, bets)])
    beside = measurer.measure(sound, bets=bets)
    assert [each.metrics for each in beside.variants] == [each.metrics for each in alone.variants]
    with pytest.raises(MeasurementError, match="skip-0: the model cannot run like this"):
        measurer.measure(broken, bets=bets)


def test_training_a_model_whose_layers_share_state(folder: Path) -> None:
    bets = folder / "bets"
    trained = document(
        folder,
        "trained",
        "[{skip_layers: {layers: 3}}, {train: {steps: 1, batch: 1, text: {file: ../text.txt}}}]",
        more=SAMPLE,
    )
    (variant,) = (
        LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(trained, bets=bets).variants
    )
    assert variant.samples[0].unique_tokens


@pytest.mark.parametrize("answer", ["return_dict", "output_attentions", "output_hidden_states"])
def test_what_a_configuration_asks_to_be_returned_changes_nothing(
    tmp_path: Path, answer: str
) -> None:
    model = causal_families.model("llama", vocab_size=len(WORDS))
    (tmp_path / "bets").mkdir()
    words = [WORDS[token % 26 + 3] for token in causal_families.text(80)]
    (tmp_path / "text.txt").write_text(" ".join(words))
    bet = document(tmp_path, "skip", "{skip_layers: {layers: 1}}", more=SAMPLE)
    found = []
    for value in (None, answer != "return_dict"):
        model.save_pretrained(tmp_path / "model")
        tokenizer().save_pretrained(tmp_path / "model")
        if value is not None:
            file = tmp_path / "model" / "config.json"
            file.write_text(
                file.read_text().replace("{", f'{{"{answer}": {str(value).lower()},', 1)
            )
        measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
        found.append(measurer.measure(bet, bets=tmp_path / "bets").variants[0].metrics)
    assert found[0] == found[1]


def test_no_text_is_longer_than_the_context(folder: Path) -> None:
    bets = folder / "bets"
    for tokens in (61, 62):
        more = f', sample: {{prompts: ["a b c"], tokens: {tokens}}}'
        bet = document(folder, f"sample-{tokens}", "{skip_layers: {layers: 3}}", more=more)
        measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
        if tokens == 61:
            measurer.measure(bet, bets=bets)
        else:
            with pytest.raises(MeasurementError, match="allowed: up to 61 new tokens after this"):
                measurer.measure(bet, bets=bets)


def test_the_checks_of_a_model_cost_little() -> None:
    """At most 5 % of skipping each of five layers on 4,096 tokens, counted in tokens through a block."""
    model = causal_families.model("llama", num_hidden_layers=5)
    runner = Runner(Anatomy.of(model))
    tokens = 0

    def count(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal tokens
        tokens += (args[0] if args else kwargs["hidden_states"]).shape[:2].numel()

    for layer in runner.anatomy.layers:
        layer.register_forward_pre_hook(count, with_kwargs=True)
    windows = torch.tensor([causal_families.text(256)] * 8)
    check_model(runner, Batch(windows, windows, tuple(range(8))))
    assert 0 < tokens <= 0.05 * 15 * 4096
