"""A model that stays on disk: the same numbers, every weight read once per sweep, few of them at a time."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from support import families
from support.held_weights import HeldWeights
from torch import Tensor

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.bet.bet import ModelSpec
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import Swept, sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan, evaluations
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.models.streaming import ConvertedWeights, LayerStore, load_streamed
from pytest_layerguard.texts.windows import Contract, batched, cut

BATCHES = batched(cut(families.text(41), Contract(40, 16, 16, start=())), 2)

FAMILIES = ["llama", "gemma2", "gpt2", "opt", "qwen3_moe", "mixtral", "qwen2_moe-mixed"]


@pytest.fixture(scope="module", params=families.each(FAMILIES))
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Runner, Runner]:
    """A runner of a model in memory, and one of the same model on disk."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = families.model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)

    def load(**options: object) -> object:
        return AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **options
        )

    streamed, _, store = load_streamed(AutoModelForCausalLM, config, "cpu", load)
    streamed.eval().requires_grad_(False)
    return Runner(Anatomy.of(model)), Runner(Anatomy.of(streamed), store)


def plans_of(runner: Runner, *reported: tuple[str, dict[str, object]]) -> list[Plan]:
    bench = Workbench(runner, BATCHES, families.VOCABULARY, lambda _: [], lambda _: BATCHES)
    layers = len(runner.anatomy)
    return [
        plan
        for kind, arguments in reported
        for each in BUILTIN_KINDS[kind].model_validate(arguments).variants(layers)
        for plan in Registry.of()[kind].load()(Plan.untouched(layers), each, bench)
    ]


def swept(runner: Runner, plans: list[Plan]) -> Swept:
    return sweep(runner, BATCHES, Plan.untouched(len(runner.anatomy)), plans, families.VOCABULARY)


def store_of(runner: Runner) -> LayerStore:
    assert runner.store is not None
    return runner.store


SWEEP = (
    ("skip_layers", {"layers": {"each": "all"}}),
    ("zero_layers", {"layers": {"each": "all"}}),
    ("quantize_weights", {"bits": 4}),
    ("prune_weights", {"sparsity": 0.5}),
    ("reinitialize_layers", {"layers": {"each": "all"}}),
)


OTHERS = (
    ("skip_layers", {"layers": {"each": "all"}, "part": "attention"}),
    ("repeat_layers", {"layers": {"each": [1, 3]}, "times": 3}),
    ("quantize_kv_cache", {"bits": 4, "layers": {"each": [0, 2]}}),
)


@pytest.mark.parametrize("steps", [SWEEP, OTHERS])
def test_a_streamed_sweep_gives_the_same_numbers_bit_for_bit(
    both: tuple[Runner, Runner], steps: tuple[tuple[str, dict[str, object]], ...]
) -> None:
    memory, disk = both
    here, there = swept(memory, plans_of(memory, *steps)), swept(disk, plans_of(disk, *steps))
    assert torch.equal(here.base, there.base)
    for ours, theirs in zip(here.variants, there.variants, strict=True):
        assert torch.equal(ours.losses, theirs.losses)
        assert torch.equal(ours.kl, theirs.kl)


def test_converted_weights_of_killed_runs_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = ConvertedWeights()
    killed = tmp_path / "layerguard-weights-killed"
    (killed / "plain").mkdir(parents=True)
    (killed / "lock").touch()
    for folder in (living.path, killed):
        os.utime(folder / "lock", (0, 0))
    new = ConvertedWeights()
    assert set(tmp_path.iterdir()) == {living.path, new.path}
    living.remove()
    new.remove()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("both", ["llama"], indirect=True)
def test_layers_on_disk_merge_as_layers_in_memory(both: tuple[Runner, Runner]) -> None:
    merge = ("merge_layers", {"layers": {"each": [0, 2]}})
    here, there = (swept(runner, plans_of(runner, merge)) for runner in both)
    for ours, theirs in zip(here.variants, there.variants, strict=True):
        assert torch.equal(ours.losses, theirs.losses)


def outer_tensors(runner: Runner) -> tuple[list[Tensor], list[Tensor]]:
    """What is on disk outside the layers: the tensors of the decoder, and the head, which may be one of them."""
    kept = {id(each) for each in store_of(runner).outer.values()}
    modules = runner.anatomy.decoder, runner.anatomy.model.get_output_embeddings()
    embeddings, head = (
        [each for each in module.parameters() if id(each) in kept] for module in modules
    )
    return embeddings, head


def test_every_weight_is_read_once_per_sweep(both: tuple[Runner, Runner]) -> None:
    disk = both[1]
    store = store_of(disk)
    plans = plans_of(disk, *SWEEP)
    before = store.bytes_read
    store.reads.clear()
    swept(disk, plans)
    embeddings, head = outer_tensors(disk)
    # Of embeddings the rows of the text's tokens, before the first layer. The head after the last one; and embeddings
    # once more where nothing but the model's own forward pass runs what is between the layers and the head.
    once_more = embeddings if disk._tail is None else []
    ends = {id(each): each for each in (*once_more, *head)}.values()
    found = Counter(
        {id(store.outer[name]): store.reads.pop(name) for name in store.outer.keys() & store.reads}
    )
    assert found == Counter(map(id, (*embeddings, *ends)))
    assert store.reads == dict.fromkeys(range(4), 1)
    of_layers = (each for parts in disk.anatomy.parts for each in parts.tensors.values())
    on_disk = [*(each for each in of_layers if each.is_meta), *embeddings, *ends]
    assert store.bytes_read - before == sum(each.nbytes for each in on_disk)


def test_no_more_than_a_layer_or_the_head_is_in_memory(
    both: tuple[Runner, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = both[1]
    plans = plans_of(disk, *SWEEP)
    held = HeldWeights(monkeypatch)
    swept(disk, plans)
    layers = [[*layer.parameters()] for layer in disk.anatomy.layers]
    assert held.most == max(
        sum(each.nbytes for each in part) for part in (*layers, *outer_tensors(disk))
    )
    assert held.now == 0


def test_a_streamed_sweep_makes_no_more_layer_evaluations(both: tuple[Runner, Runner]) -> None:
    disk = both[1]
    plans = plans_of(disk, *SWEEP)
    before = disk.evaluations
    swept(disk, plans)
    fewest = evaluations([Plan.untouched(4), *plans]) * len(BATCHES)
    assert disk.evaluations - before == fewest


def test_a_streamed_model_speaks_alike(both: tuple[Runner, Runner]) -> None:
    said = [
        generate(
            runner,
            [Plan.untouched(4), *plans_of(runner, SWEEP[0], SWEEP[2])],
            [families.text(4)],
            8,
            greedy,
        )
        for runner in both
    ]
    assert said[0] == said[1]


def test_training_a_streamed_model_is_refused(both: tuple[Runner, Runner]) -> None:
    reported = ("train", {"steps": 1, "text": {"reference": "training"}})
    with pytest.raises(ValueError, match="placement: memory"):
        plans_of(both[1], reported)


def test_placement_is_a_key_of_the_model() -> None:
    assert (
        ModelSpec.model_validate({"reference": "reference", "placement": "stream"}).placement
        == "stream"
    )
