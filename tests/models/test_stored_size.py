"""What weights take to store, by formulas that can be worked out on paper."""

from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.workshop import bench_of, carried_out, runner_of

from pytest_layerguard.measurement.metrics.variant_metrics import size_ratios
from pytest_layerguard.models.layer_parts import Form
from pytest_layerguard.models.stored_size import packed, sparse, trits

# One layer of the llama: q and o 32 x 32, k and v 16 x 32, gate and up 48 x 32, down 32 x 48.
LLAMA = [(32, 32)] * 2 + [(16, 32)] * 2 + [(48, 32)] * 2 + [(32, 48)]
# The experts of mixtral: gate and up in one, 96 x 32, and down, 32 x 48; four of each.
EXPERTS = [(96, 32), (32, 48)]


def ratio(
    family: str, *steps: tuple[str, dict[str, object]], dtype: str = "float16"
) -> float | None:
    runner = runner_of(family)
    plans = carried_out(bench_of(runner), *steps)
    found = size_ratios(plans, runner.anatomy, dtype)
    return max(found.values(), default=None)


def of_each(shapes: list[tuple[int, int]], stored: object, item: int = 2) -> float:
    assert callable(stored)
    total = sum(rows * columns for rows, columns in shapes) * item
    return sum(stored(rows, columns) for rows, columns in shapes) / total


@pytest.mark.parametrize(
    ("reported", "scales"),
    [
        ({"scale": "tensor"}, lambda rows, columns: 1),
        ({"scale": "row"}, lambda rows, columns: rows),
        ({"scale": "group", "group_size": 8}, lambda rows, columns: rows * columns // 8),
    ],
)
def test_rounded_weights_take_their_bits_and_scales(
    reported: dict[str, object], scales: object
) -> None:
    assert callable(scales)
    ternary = of_each(LLAMA, lambda r, c: ceil(r * c / 5) + 2 * scales(r, c))
    assert ratio("llama", ("ternary_weights", reported)) == pytest.approx(ternary, rel=1e-12)
    for bits in (2, 3, 4, 8):
        whole = of_each(LLAMA, lambda r, c, bits=bits: ceil(r * c * bits / 8) + 2 * scales(r, c))
        found = ratio("llama", ("quantize_weights", {**reported, "bits": bits}))
        assert found == pytest.approx(whole, rel=1e-12)
        shifted = of_each(
            LLAMA,
            lambda r, c, bits=bits: (
                ceil(r * c * bits / 8) + 2 * scales(r, c) + ceil(scales(r, c) * bits / 8)
            ),
        )
        found = ratio("llama", ("quantize_weights", {**reported, "bits": bits, "symmetric": False}))
        assert found == pytest.approx(shifted, rel=1e-12)


@pytest.mark.parametrize(
    ("reported", "stored"),
    [
        ({"format": "fp8"}, lambda r, c: r * c + 2 * r),
        ({"format": "mxfp4"}, lambda r, c: r * c // 2 + r * ceil(c / 32)),
        ({"format": "nvfp4"}, lambda r, c: r * c // 2 + r * ceil(c / 16) + 4),
        ({"format": "nf4"}, lambda r, c: r * c // 2 + 4 * ceil(r * c / 64)),
        # Rows of 32 and 48 inputs have five and seven groups of 7.
        (
            {"bits": 4, "scale": "group", "group_size": 7},
            lambda r, c: r * c // 2 + 2 * r * ceil(c / 7),
        ),
    ],
)
def test_a_format_takes_its_bits_and_its_own_scales(
    reported: dict[str, object], stored: object
) -> None:
    found = ratio("llama", ("quantize_weights", reported))
    assert found == pytest.approx(of_each(LLAMA, stored), rel=1e-12)


def test_a_sum_of_rounded_layers_is_stored_as_plain_numbers() -> None:
    quantize = ("quantize_weights", {"bits": 4})
    alone, merged = (
        ratio("llama", quantize),
        ratio("llama", quantize, ("merge_layers", {"layers": 1})),
    )
    assert alone is not None
    assert merged == pytest.approx((2 * alone + 1) / 3, rel=1e-12)


def test_a_mean_of_experts_that_takes_up_other_experts_is_stored_as_all_of_them() -> None:
    average = ("average_experts", {"layers": 0})
    assert ratio("mixtral", average, ("merge_layers", {"layers": 0})) == 1.0
    both = ("average_experts", {"layers": [0, 1]})
    assert ratio("mixtral", both, ("merge_layers", {"layers": 0})) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "step",
    [
        ("prune_weights", {"sparsity": 0.5, "by": "random", "parts": "experts"}),
        ("prune_weights", {"sparsity": 0.5, "by": "wanda", "parts": "experts"}),
        ("low_rank", {"rank": 4, "by": "activations", "parts": "experts"}),
    ],
    ids=str,
)
def test_what_treats_each_expert_otherwise_leaves_no_single_mean(
    step: tuple[str, dict[str, object]],
) -> None:
    drop = ("drop_experts", {"count": 1})
    for before in ((), (drop,)):
        assert ratio("mixtral", *before, ("average_experts", {}), step) == ratio(
            "mixtral", *before, step
        )


def test_experts_that_are_drawn_anew_are_no_single_mean() -> None:
    anew = ("reinitialize_layers", {"layers": "all"})
    assert ratio("mixtral", ("average_experts", {}), anew) == 1.0


def test_five_trits_fit_a_byte() -> None:
    assert 3**5 <= 2**8 < 3**6
    assert [trits(n) for n in (0, 1, 5, 6)] == [0, 1, 1, 2]
    assert [packed(n, 3) for n in (0, 1, 8, 9)] == [0, 1, 3, 4]


def test_rows_are_outputs_whichever_way_round_a_matrix_is_kept() -> None:
    # One layer of GPT-2 in Conv1D's [in, out]: 96, 32, 48 and 32 outputs.
    shapes = [(96, 32), (32, 32), (48, 32), (32, 48)]
    wanted = of_each(shapes, lambda r, c: r * c + 2 * r)
    found = ratio("gpt2", ("quantize_weights", {"bits": 8, "scale": "row"}))
    assert found == pytest.approx(wanted, rel=1e-12)


@given(sparsity=st.floats(0, 1), item=st.sampled_from([2, 4]))
def test_pruned_weights_take_what_stays_and_its_places(sparsity: float, item: int) -> None:
    def stored(rows: int, columns: int) -> int:
        n = rows * columns
        left = n - int(sparsity * n + 1e-9)
        if left == n:
            return n * item
        return left * item + min(ceil(n / 8), ceil(left * ceil(log2(n)) / 8))

    dtype = {2: "bfloat16", 4: "float32"}[item]
    found = ratio("llama", ("prune_weights", {"sparsity": sparsity}), dtype=dtype)
    assert found == pytest.approx(of_each(LLAMA, stored, item), rel=1e-12)


def test_half_the_weights_of_16_bits_take_nine_sixteenths() -> None:
    assert ratio("llama", ("prune_weights", {"sparsity": 0.5})) == 0.5 + 1 / 16
    assert ratio("llama", ("prune_weights", {"sparsity": 0})) == 1
    assert ratio("llama", ("prune_weights", {"sparsity": 1})) == 0
    # One in a hundred: its places are fewer than a mask of them all.
    assert sparse(Form(1, 100, 100, 2), 100, 10_000) == 100 * 2 + ceil(100 * 14 / 8)


def test_a_pattern_takes_what_stays_and_its_places_among_neighbours() -> None:
    half = 0.5 + 1 / 16
    assert ratio("llama", ("prune_weights", {"pattern": "2:4"})) == half
    # Of 7 neighbours 1 stays, at one of 7 places, which take 3 bits; 32 inputs are 4 groups and 4 more.
    wanted = of_each(
        LLAMA,
        lambda r, c: (left := r * ceil(c / 7)) * 2 + min(r * c // 8, ceil(left * 3 / 8)),
    )
    assert ratio("llama", ("prune_weights", {"pattern": "1:7"})) == pytest.approx(wanted, rel=1e-12)
    # A share of each row, not of the matrix: 0.3 of 32 is 9, and of 48 it is 14.
    reported = {"sparsity": 0.3, "by": "wanda"}
    wanted = of_each(LLAMA, lambda r, c: (r * c - r * int(0.3 * c)) * 2 + r * c // 8)
    assert ratio("llama", ("prune_weights", reported)) == pytest.approx(wanted, rel=1e-12)


def test_a_lower_rank_takes_its_factors_where_they_are_fewer() -> None:
    wanted = of_each(LLAMA, lambda r, c: 4 * (r + c) * 2)
    assert ratio("llama", ("low_rank", {"rank": 4})) == pytest.approx(wanted, rel=1e-12)
    # Two factors of rank 16 have more numbers than 32 x 32 matrices, and those of 16 x 32 keep their rank.
    assert ratio("llama", ("low_rank", {"rank": 20})) == 1


def test_the_mean_of_the_experts_takes_one_of_them() -> None:
    assert ratio("mixtral", ("average_experts", {})) == 1 / 4
    assert ratio("mixtral", ("average_experts", {"layers": 2})) == 1 / 4


def test_dropped_experts_take_nothing_nor_do_their_routers_rows() -> None:
    for count in (1, 2):
        assert ratio("mixtral", ("drop_experts", {"count": count})) == (4 - count) / 4
    for count in (1, 2, 3):
        assert ratio("qwen3_moe", ("drop_experts", {"count": count})) == (4 - count) / 4


def test_an_expert_is_a_matrix_of_its_own() -> None:
    reported = {"parts": "experts", "scale": "tensor"}
    wanted = of_each(EXPERTS, lambda r, c: ceil(r * c / 5) + 2)
    assert ratio("mixtral", ("ternary_weights", reported)) == pytest.approx(wanted, rel=1e-12)


def test_the_base_is_in_the_dtype_of_the_files() -> None:
    eight = ("quantize_weights", {"bits": 8, "scale": "tensor"})
    half, whole = ratio("llama", eight), ratio("llama", eight, dtype="float32")
    assert half is not None
    assert whole == pytest.approx(half / 2, rel=1e-12)


def test_later_interventions_count_on_what_earlier_ones_left() -> None:
    average, drop = ("average_experts", {}), ("drop_experts", {"count": 1})
    ternary = ("ternary_weights", {"parts": "experts", "scale": "tensor"})
    prune = ("prune_weights", {"parts": "experts", "sparsity": 0.5})
    alone = ratio("mixtral", ternary)
    assert alone is not None
    assert ratio("mixtral", average, ternary) == pytest.approx(alone / 4, rel=1e-12)
    assert ratio("mixtral", prune, ternary) == alone
    # The mean of ternary experts is not ternary.
    assert ratio("mixtral", ternary, average) == 1 / 4
    router, experts = 4 * 32, 4 * sum(rows * columns for rows, columns in EXPERTS)
    packed_experts = sum(ceil(rows * columns / 5) + 2 for rows, columns in EXPERTS)
    wanted = (3 * packed_experts + 2 * 3 * 32) / (2 * (experts + router))
    assert ratio("mixtral", ternary, drop) == pytest.approx(wanted, rel=1e-12)
    assert ratio("mixtral", drop, ternary) == pytest.approx(wanted, rel=1e-12)


def test_training_keeps_what_it_holds_and_frees_what_it_does_not() -> None:
    train = ("train", {"steps": 1, "text": {"reference": "training"}, "batch": 1})
    ternary = ("ternary_weights", {"scale": "row"})
    assert ratio("llama", ternary, train) == ratio("llama", ternary)
    assert ratio("mixtral", ("average_experts", {}), train) == 1 / 4
    assert ratio("mixtral", ("drop_experts", {"count": 1}), train) == 3 / 4
    # Drawing a layer anew after rounding it undoes the rounding.
    draw = ("reinitialize_layers", {"layers": "all"})
    assert ratio("llama", ternary, draw) == ratio("llama", ternary, draw, train) == 1


def test_layers_that_do_not_run_are_not_counted() -> None:
    prune, skip = ("prune_weights", {"sparsity": 0.5, "layers": 1}), ("skip_layers", {"layers": 1})
    assert ratio("llama", prune, skip) is None
    assert ratio("llama", skip) is None
