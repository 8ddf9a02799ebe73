from __future__ import annotations

import pytest
from pydantic import ValidationError

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, Intervention, variants
from pytest_layerguard.bet.targets import LayersTarget, PairsTarget, TargetError


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("all", ((0, 1, 2, 3),)),
        (2, ((2,),)),
        (-1, ((3,),)),
        (2.0, ((2,),)),
        ([0, -1], ((0, 3),)),
        ({"each": "all"}, ((0,), (1,), (2,), (3,))),
        ({"each": [3, 0]}, ((3,), (0,))),
        ({"each": [-1]}, ((3,),)),
    ],
)
def test_layers(written, resolved):
    assert LayersTarget.parse(written).resolve(4) == resolved


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ([[1, 2]], (((1, 2),),)),
        ([1, 2], (((1, 2),),)),
        ([[2, 1], [0, -1]], (((1, 2), (0, 3)),)),
        ({"each": "all"}, (((0, 1),), ((0, 2),), ((0, 3),), ((1, 2),), ((1, 3),), ((2, 3),))),
        ({"each": "adjacent"}, (((0, 1),), ((1, 2),), ((2, 3),))),
        ({"each": {"max_gap": 1}}, (((0, 1),), ((1, 2),), ((2, 3),))),
        ({"each": {"max_gap": 2}}, (((0, 1),), ((0, 2),), ((1, 2),), ((1, 3),), ((2, 3),))),
        ({"each": [[1, 2], [2, 3]]}, (((1, 2),), ((2, 3),))),
    ],
)
def test_pairs(written, resolved):
    assert PairsTarget.parse(written).resolve(4) == resolved


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (LayersTarget.parse(4), "layer 4 is out of range: the model has 4 layer"),
        (LayersTarget.parse([-5]), "layer -5 is out of range"),
        (LayersTarget.parse([3, -1]), "the same layer twice"),
        (LayersTarget.parse({"each": [3, -1]}), "the same layer twice"),
        (PairsTarget.parse([[3, -1]]), "is layer 3 twice"),
        (PairsTarget.parse([[0, 4]]), "layer 4 is out of range"),
        (PairsTarget.parse([[0, 3], [1, -1]]), "the same layer twice"),
        (PairsTarget.parse({"each": [[0, 3], [0, -1]]}), "the same layer twice"),
    ],
)
def test_what_the_model_does_not_have(target, message):
    with pytest.raises(TargetError, match=message):
        target.resolve(4)


def test_a_model_of_one_layer_has_no_pair():
    with pytest.raises(TargetError, match="has no such pair"):
        PairsTarget.parse({"each": "all"}).resolve(1)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("all", "must not be 'all'; allowed: a list of pairs"),
        ([], "must not be empty"),
        ([[1]], "must be a pair of layers"),
        ([[1, 2, 3]], "must be a pair of layers"),
        ([[1, 1]], "pairs layer 1 with itself"),
        ([[1, 2], [2, 1]], "names the pair [1, 2] twice"),
        ([[1, 2], [2, 3]], "names layer 2 in two pairs of one variant"),
        ([[1, "x"]], "must be a layer's index"),
        ({"each": "adjacnt"}, "did you mean 'adjacent'?"),
        ({"each": {"gap": 2}}, "must be {max_gap: n}"),
        ({"each": {"max_gap": 0}}, "1 or more"),
        ({"each": {"max_gap": True}}, "1 or more"),
        ({"each": None}, "must not be null"),
        ({}, "must not be an empty mapping"),
        (None, "must not be null"),
    ],
)
def test_what_are_no_pairs(written, message):
    with pytest.raises(ValidationError) as caught:
        PairsTarget.parse(written)
    assert message in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LayersTarget.parse(3), LayersTarget.parse([3])),
        (LayersTarget.parse([5, 3]), LayersTarget.parse([3, 5])),
        (LayersTarget.parse({"each": [5, 3]}), LayersTarget.parse({"each": [3, 5]})),
        (PairsTarget.parse([[5, 3], [1, 2]]), PairsTarget.parse([[1, 2], [3, 5]])),
        (PairsTarget.parse({"each": {"max_gap": 1}}), PairsTarget.parse({"each": "adjacent"})),
    ],
)
def test_one_meaning_is_written_in_one_way(one, other):
    assert one.written() == other.written()


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ({"each": "all"}, {"each": [0, 1]}, True),
        ({"each": [0, 1]}, {"each": [1, 0]}, True),
        ({"each": [0, 1]}, {"each": [0, 2]}, False),
        ({"each": [0, -1]}, {"each": [0, 2]}, True),
    ],
)
def test_sweeps_that_may_have_the_same_variants(one, other, may):
    assert LayersTarget.parse(one).may_equal(LayersTarget.parse(other)) is may
    assert not LayersTarget.parse(one).may_equal(PairsTarget.parse({"each": "all"}))


ONE = {"dataset": "a/b", "split": "train", "revision": "unpinned"}

# kind, arguments, and the slugs and targets on a model of three layers
NAMED = [
    ("skip_layers", {"layers": 1}, ["skip-1"], ["1"]),
    ("skip_layers", {"layers": [0, -1]}, ["skip-0-2"], ["0-2"]),
    ("skip_layers", {"layers": "all"}, ["skip-all"], [""]),
    ("skip_layers", {"layers": {"each": "all"}}, ["skip-0", "skip-1", "skip-2"], ["0", "1", "2"]),
    ("skip_layers", {"layers": [0, 1], "part": "attention"}, ["skip-attention-0-1"], ["0-1"]),
    ("zero_layers", {"layers": 1, "part": "feed_forward"}, ["zero-feed-forward-1"], ["1"]),
    ("zero_layers", {"layers": 1, "keep": "none"}, ["zero-1"], ["1"]),
    ("reinitialize_layers", {"layers": 1, "seed": 7}, ["reinitialize-1"], ["1"]),
    ("repeat_layers", {"layers": {"each": [0, 2]}}, ["repeat-0", "repeat-2"], ["0", "2"]),
    ("repeat_layers", {"layers": 1, "times": 3}, ["repeat-1-3-times"], ["1"]),
    ("merge_layers", {"layers": 0, "count": 2}, ["merge-2-into-0"], ["0"]),
    ("replace_layers", {"pairs": [[2, 1]]}, ["replace-1-2"], ["1-2"]),
    ("interchange_layers", {"pairs": {"each": "adjacent"}},
     ["interchange-0-1", "interchange-1-2"], ["0-1", "1-2"]),
    ("remove_layers", {"layers": [-1]}, ["remove-2"], ["2"]),
    ("remove_layers", {"count": 2, "guided_by": "block_influence"},
     ["remove-2-by-block-influence"], [""]),
    ("remove_layers", {"count": 1, "guided_by": "kl", "protect": [0, -1]}, ["remove-1-by-kl"], [""]),
    ("average_experts", {}, ["average-experts"], [""]),
    ("average_experts", {"layers": {"each": [0, 2]}}, ["average-experts-0", "average-experts-2"],
     ["0", "2"]),
    ("drop_experts", {"count": 4}, ["drop-4-experts"], [""]),
    ("drop_experts", {"count": 4, "layers": 1}, ["drop-4-experts-1"], ["1"]),
    ("drop_experts", {"count": 4, "by": "reap"}, ["drop-4-experts-by-reap"], [""]),
    ("merge_experts", {"count": 8}, ["merge-experts-into-8"], [""]),
    ("merge_experts", {"count": 8, "layers": 1}, ["merge-experts-into-8-1"], ["1"]),
    ("ternary_weights", {}, ["ternary-tensor"], [""]),
    ("prune_weights", {"sparsity": 0.5}, ["prune-magnitude-50"], [""]),
    ("prune_weights", {"sparsity": 0.125, "by": "random", "layers": 1},
     ["prune-random-12p5-1"], ["1"]),
    ("prune_weights", {"pattern": "2:4", "by": "wanda"}, ["prune-wanda-2-4"], [""]),
    ("quantize_weights", {"bits": 4, "scale": "group", "group_size": 64}, ["quantize-4"], [""]),
    ("quantize_weights", {"format": "nf4", "layers": 1}, ["quantize-nf4-1"], ["1"]),
    ("quantize_activations", {"bits": 8}, ["quantize-activations-8"], [""]),
    ("quantize_activations", {"format": "fp8", "layers": 1}, ["quantize-activations-fp8-1"], ["1"]),
    ("quantize_kv_cache", {"bits": 4}, ["quantize-kv-cache-4"], [""]),
    ("quantize_kv_cache", {"bits": 2, "keys": "channel", "group_size": 32, "layers": 1},
     ["quantize-kv-cache-2-by-channel-1"], ["1"]),
    ("low_rank", {"rank": 16, "layers": 2}, ["low-rank-16-2"], ["2"]),
    ("low_rank", {"ratio": 0.125, "by": "activations"}, ["low-rank-12p5-percent"], [""]),
    ("train", {"steps": 200, "text": ONE}, ["train-200"], [""]),
    ("train", {"steps": 1, "text": [ONE, ONE], "objective": "layer_output",
               "layers": {"each": [0, 2]}}, ["train-1", "train-1"], ["0", "2"]),
    ("load_checkpoint", {"path": "../models/W4A16_g32"}, ["load-w4a16-g32"], [""]),
    ("load_checkpoint", {"adapter": "lora", "as": "stored"}, ["load-lora-stored"], [""]),
    (
        "load_results",
        {"base": {"file": "a.jsonl"}, "candidate": {"file": "b.jsonl"}},
        ["load-results"],
        [""],
    ),
    ("cast", {"dtype": "bfloat16"}, ["cast-bfloat16"], [""]),
]  # fmt: skip


def made(kind: str, arguments: dict[str, object]) -> Intervention:
    return Intervention(kind, BUILTIN_KINDS[kind].model_validate(arguments))


@pytest.mark.parametrize(("kind", "arguments", "slugs", "targets"), NAMED)
def test_variants_of_every_kind(kind, arguments, slugs, targets):
    found = variants([made(kind, arguments)], 3)
    assert [variant.slug for variant in found] == slugs
    assert [variant.target for variant in found] == targets
    assert not any(variant.interventions[0].arguments.is_sweep for variant in found)


def test_every_kind_is_tried():
    assert {kind for kind, *_ in NAMED} == set(BUILTIN_KINDS)


def test_sweeps_in_one_list_go_in_step():
    steps = [
        made("reinitialize_layers", {"layers": {"each": [0, -1]}}),
        made("train", {"steps": 9, "text": ONE, "objective": "layer_output",
                       "layers": {"each": [0, -1]}}),
        made("average_experts", {}),
    ]  # fmt: skip
    found = variants(steps, 3)
    assert [variant.slug for variant in found] == [
        "reinitialize-0-then-train-9-then-average-experts",
        "reinitialize-2-then-train-9-then-average-experts",
    ]
    assert [variant.target for variant in found] == ["0", "2"]


def test_a_long_list_has_a_short_name():
    label = LayersTarget.parse(list(range(40))).label()
    assert label == "0-1-2-3-4-5-and-34-more"
