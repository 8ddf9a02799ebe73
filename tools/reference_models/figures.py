"""Figures of the shipped models that are measured after training, for their cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.reference import folder
from pytest_layerguard.reference.initial_weights import weights_digest
from tools.reference_models import damage
from tools.reference_models.checkpoint import load, read_json
from tools.reference_models.evaluate import (
    TOKENS,
    WINDOW,
    expert_shares,
    one_thread,
    perplexity,
    sample,
    token_losses,
)
from tools.reference_models.overlap import overlap, training_stories
from tools.reference_models.recipe import LAYERS
from tools.reference_models.text import batches, heldout_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUNS: Final = Path(__file__).parent / "runs"
"""The figures of the shipped models and of everything else that was trained."""


def figures(name: str) -> Path:
    """Return the folder of a shipped model's figures.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        A folder that holds ``training.json``, ``measured.json`` and ``again.json``.
    """
    return RUNS / folder(name).name


def measure(name: str) -> dict[str, Any]:
    """Measure a shipped model and damaged copies of it.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The content of ``measured.json``: perplexities and their ratios to the base, distinct tokens
        of a greedy sample, shares of tokens by layer and expert, shares of overlap.
    """
    training = read_json(figures(name) / "training.json")
    model, tokenizer = load(folder(name))
    text_seed = 2 * training["seed"]
    ids = heldout_ids(tokenizer)
    with one_thread():
        base = perplexity(model, ids)
        sampled = sample(model, tokenizer)
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
            "base": {"perplexity": base, "unique_tokens": len(set(sampled))},
            "perplexity_on_its_training_text": perplexity(model, seen),
            "variants": variants,
            "expert_shares": [
                [round(share, 4) for share in shares] for shares in expert_shares(model, ids)
            ],
            "stories_read": stories_read,
            "overlap": overlap(text_seed, stories_read),
            "heldout_tokens": len(ids),
            "sample": tokenizer.decode(sampled),
        }


def losses(name: str) -> dict[str, Any]:
    """Measure a shipped model on the held-out text, under any version of transformers.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The mean ``loss`` in nats per token, the versions, and a digest of all token losses, which
        is the same for two versions that compute the same bits.
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


def compare(name: str, run: Path) -> dict[str, Any]:
    """Compare a run of the recipe with the shipped model.

    Args:
        name: ``reference`` or ``reference-wide``.
        run: The model's folder in the run, with its ``training.json``.

    Returns:
        ``identical`` (the trained weights, bit for bit, before they are rounded for storage),
        ``largest_difference`` (of two stored weights), ``heldout_loss_difference`` (in nats per
        token), and the ``seconds`` and ``seeds`` of both runs.
    """
    reports = [read_json(home / "training.json") for home in (figures(name), run)]
    shipped, again = (load(home)[0].state_dict() for home in (folder(name), run))
    losses = [report["heldout_loss_by_stored_dtype"]["float32"] for report in reports]
    return {
        "identical": reports[0]["trained_weights"] == reports[1]["trained_weights"],
        "largest_difference": max(
            float((tensor - again[key]).abs().max()) for key, tensor in shipped.items()
        ),
        "heldout_loss_difference": losses[1] - losses[0],
        "seconds": [report["seconds"] for report in reports],
        "seeds": [report["seed"] for report in reports],
    }


def _variants(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, PreTrainedModel]]:
    averaged = damage.with_mean_experts(model)
    return [
        *((f"skip-{layer}", damage.without_layer(model, layer)) for layer in range(LAYERS)),
        ("experts-averaged", averaged),
        ("experts-averaged-recovered", damage.recovered(averaged, tokenizer)),
        ("ternary-per-row", damage.ternary(model)),
        ("half-pruned", damage.half_pruned(model)),
        ("half-pruned-at-random", damage.half_pruned_at_random(model)),
    ]
