"""The interventions on structures that no other family of the tests has, against deep copies: layers that share keys,
values and inputs of their own, and layers of which some have no attention."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
from support import causal_families, plain
from support.workshop import WINDOWS, planned, swept, unchanged
from torch import Tensor
from transformers import PreTrainedModel

from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.runner import Runner

pytestmark = pytest.mark.slow

Change = Callable[[PreTrainedModel], PreTrainedModel]


def least(scores: Tensor) -> list[int]:
    """The places of the two fifths that a row loses."""
    order: list[int] = scores.argsort(stable=True).tolist()
    return order[: int(0.4 * len(order))]


REPEATED = (
    "repeat_layers",
    {"layers": [1], "times": 3},
    partial(plain.repeated, layers=[1], times=3),
)
CACHED = ("quantize_kv_cache", {"bits": 4}, partial(plain.with_rounded_cache, to=plain.in_steps(4)))
CASES: dict[str, list[tuple[str, dict[str, object], Change]]] = {
    "gemma3n_text": [
        REPEATED,
        CACHED,
        (
            "quantize_activations",
            {"bits": 8},
            partial(plain.with_rounded_inputs, to=plain.nearest(8)),
        ),
        (
            "prune_weights",
            {"sparsity": 0.4, "by": "wanda"},
            partial(plain.pruned_in_rows, windows=WINDOWS, least=least),
        ),
        (
            "low_rank",
            {"rank": 4, "by": "activations"},
            partial(plain.truncated, windows=WINDOWS, rank_of=lambda rows, columns: 4),
        ),
    ],
    "jamba": [
        REPEATED,
        CACHED,
        *(
            (
                "skip_layers",
                {"layers": 1, "part": part},
                partial(plain.without_branch, layers=[1], part=part),
            )
            for part in ("attention", "feed_forward")
        ),
    ],
}


@pytest.mark.parametrize("family", CASES)
def test_odd_structures_agree_with_deep_copies(family: str) -> None:
    # Every other layer of Jamba's attends.
    sizes = {"attn_layer_period": 2, "attn_layer_offset": 1} if family == "jamba" else {}
    model = copy.deepcopy(causal_families.model(family, **sizes)).double()
    model.set_experts_implementation("eager")
    runner = Runner(Anatomy.of(model))
    with unchanged(model):
        plans = [planned(runner, kind, arguments)[0] for kind, arguments, _ in CASES[family]]
        result = swept(runner, *plans)
    for scores, (_, _, change) in zip(result.variants, CASES[family], strict=True):
        wanted = float(plain.losses(change(model), WINDOWS).mean())
        assert float(scores.losses.double().mean()) == pytest.approx(wanted, abs=1e-6)
        assert float(scores.kl.mean()) > 1e-6
