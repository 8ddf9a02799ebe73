"""Every figure of a model's card that is measured after its training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_layerguard.reference import folder, harming
from pytest_layerguard.reference.initial import weights_digest
from pytest_layerguard.reference.loading import load
from pytest_layerguard.reference.measuring import (
    TOKENS,
    WINDOW,
    expert_shares,
    heldout_ids,
    perplexity,
    sample,
    token_losses,
)
from pytest_layerguard.reference.overlap import overlap, training_stories
from pytest_layerguard.reference.shape import LAYERS
from pytest_layerguard.reference.stream import batches
from pytest_layerguard.reference.threads import one_thread

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def measure(name: str, out: Path) -> dict[str, Any]:
    """Measures a model that stands in a folder of models.

    Args:
        name: ``reference`` or ``reference-wide``.
        out: The folder that holds the model's.

    Returns:
        What becomes ``measured.json``: perplexities and their ratios to the base, distinct tokens
        of a greedy sample, shares of tokens by layer and expert, shares of overlap.
    """
    home = out / folder(name).name
    training = json.loads((home / "training.json").read_text(encoding="utf-8"))
    model, tokenizer = load(home)
    text_seed = 2 * training["seed"]
    ids = heldout_ids(tokenizer)
    with one_thread():
        base = perplexity(model, ids)
        spoken = sample(model, tokenizer)
        variants = {}
        for label, variant in _variants(model, tokenizer):
            changed = perplexity(variant, ids)
            variants[label] = {
                "perplexity": changed,
                "ratio": changed / base,
                "unique_tokens": len(set(sample(variant, tokenizer))),
            }
        stories_read = training_stories(tokenizer, text_seed, training["tokens"])
        seen = next(batches(tokenizer, text_seed, 17)).flatten().tolist()
        return {
            "tokens": TOKENS,
            "window": WINDOW,
            "base": {"perplexity": base, "unique_tokens": len(set(spoken))},
            "perplexity_on_its_training_text": perplexity(model, seen),
            "variants": variants,
            "expert_shares": [
                [round(share, 4) for share in shares] for shares in expert_shares(model, ids)
            ],
            "stories_read": stories_read,
            "overlap": overlap(text_seed, stories_read),
            "heldout_tokens": len(ids),
            "sample": tokenizer.decode(spoken),
        }


def losses(name: str) -> dict[str, Any]:
    """Measures a shipped model on the held-out text, under any version of transformers.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The mean ``loss`` in nats per token, a digest of all token losses, which tells whether two
        versions compute the same bits, and the versions.
    """
    import torch
    import transformers

    model, tokenizer = load(folder(name))
    with one_thread():
        found = token_losses(model, heldout_ids(tokenizer))
    return {
        "model": name,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "loss": found.double().mean().item(),
        "token_losses": weights_digest({"losses": found}),
    }


def compare(name: str, first: Path, second: Path) -> dict[str, Any]:
    """Says how far two runs of the recipe lie apart.

    Args:
        name: ``reference`` or ``reference-wide``.
        first: A folder that holds the model's.
        second: Another one.

    Returns:
        ``identical`` (the trained weights, bit for bit, before they are rounded for storage),
        ``largest_difference`` (of two stored weights), ``heldout_loss_difference`` (nats per
        token) and both runs' ``seconds``.
    """
    homes = [out / folder(name).name for out in (first, second)]
    reports = [json.loads((home / "training.json").read_text(encoding="utf-8")) for home in homes]
    models = [load(home)[0].state_dict() for home in homes]
    losses = [report["heldout_loss_by_stored_dtype"]["float32"] for report in reports]
    return {
        "identical": reports[0]["trained_weights"] == reports[1]["trained_weights"],
        "largest_difference": max(
            float((tensor - models[1][key]).abs().max()) for key, tensor in models[0].items()
        ),
        "heldout_loss_difference": losses[1] - losses[0],
        "seconds": [report["seconds"] for report in reports],
        "seeds": [report["seed"] for report in reports],
    }


def _variants(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, PreTrainedModel]]:
    averaged = harming.with_mean_experts(model)
    return [
        *((f"skip-{layer}", harming.without_layer(model, layer)) for layer in range(LAYERS)),
        ("experts-averaged", averaged),
        ("experts-averaged-recovered", harming.recovered(averaged, tokenizer)),
        ("ternary-per-row", harming.ternary(model)),
        ("half-pruned", harming.half_pruned(model)),
        ("half-pruned-at-random", harming.half_pruned_at_random(model)),
    ]
