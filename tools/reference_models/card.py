"""The text of a reference model's card."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COMMAND = "python -m tools.reference_models"

_VARIANTS = {
    "skip-0": "layer 0 skipped",
    "skip-1": "layer 1 skipped",
    "skip-2": "layer 2 skipped",
    "skip-3": "layer 3 skipped",
    "experts-averaged": "every expert the mean of its layer's",
    "experts-averaged-recovered": "the same after 200 steps of AdamW at 5e-5 on new text",
    "ternary-per-row": "experts ternary, one scale per row",
    "half-pruned": "experts: the smaller half of each matrix zeroed",
    "half-pruned-at-random": "experts: a random half of each matrix zeroed",
}


def render(
    name: str,
    training: Mapping[str, Any],
    measured: Mapping[str, Any],
    shipped: Mapping[str, Any],
    tried: Sequence[Mapping[str, Any]],
    again: Sequence[Mapping[str, Any]],
    losses: Sequence[Mapping[str, Any]],
) -> str:
    """Return a model card.

    Args:
        name: The model's name.
        training: Its ``training.json``.
        measured: Its ``measured.json``.
        shipped: The content of ``manifest.json``.
        tried: Every shape and seed that was tried, as in ``tried.json``.
        again: The comparisons of further runs of this model, as ``compare`` returns them.
        losses: The output of the command ``loss`` under several versions of transformers.

    Returns:
        Markdown.
    """
    sections = (
        _what(name, training, measured),
        _how(training, shipped["models"][name]),
        _again(training, again),
        _versions(losses),
        _text(measured, shipped["heldout"]),
        _experts(measured),
        _harm(measured),
        _tried(tried),
        _sample(measured),
    )
    return "\n".join(sections)


def _what(name: str, training: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    return f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A small mixture of experts that writes children's stories, trained so that bets on harming language
models can be judged offline. It is good for nothing else: it knows {_count(1024)} tokens, one
generator's stories and no fact.

| | |
|---|---|
| architecture | Qwen3-MoE of transformers, no remote code |
| layers, experts in each, experts per token | 4, 16, 1 |
| width of the residual stream, of an expert | {training["width"]}, 256 |
| attention | 4 heads of 16 |
| context | 256 tokens, as in training |
| parameters | {_count(training["parameters"])} |
| stored | float16, meant to be computed in fp32 |
| perplexity on held-out text | {measured["base"]["perplexity"]:.4f} |

Two choices matter. The weight of the one chosen expert is the router's own probability
(`norm_topk_prob=False`); normalised it would always be 1, and the router would learn nothing from
the text. And no beginning-of-text token is added by default: training windows are cut anywhere
from one stream, so a window without one is what the model knows.

The widths of the two reference models were chosen after verdicts of a feasibility study had been
seen: the narrow one because published findings could be seen at its width, the wide one because
some of them turned there. Seed and text were not chosen so: seed 0 was fixed before the first run
and is shipped. Everything that was tried stands [below](#everything-that-was-tried).
"""


def _how(training: Mapping[str, Any], shipped: Mapping[str, Any]) -> str:
    versions = training["versions"]
    stored = training["heldout_loss_by_stored_dtype"]
    rounding = ", ".join(
        f"{dtype} {stored[dtype] - stored['float32']:+.6f}" for dtype in ("float16", "bfloat16")
    )
    return f"""\
## How it was made

```
{training["command"]}
```

| | |
|---|---|
| time | {training["seconds"]:.0f} s, {_count(training["tokens_per_second"])} tokens/s |
| machine | {training["machine"]}, of two that other work shared |
| versions | Python {versions["python"]}, torch {versions["torch"]}, transformers \
{versions["transformers"]}, tokenizers {versions["tokenizers"]} |
| tokens seen, each once | {_count(training["tokens"])} |
| steps of {training["batch"]} windows of 256 | {_count(training["steps"])} |
| AdamW, peak learning rate, warm-up, weight decay | {training["learning_rate"]}, \
{training["warmup"]} steps, {training["weight_decay"]} on matrices |
| balancing loss, of each layer on its own | {training["balance"]} |
| training loss, mean of the last 50 steps | {training["training_loss"]:.4f} nats per token |
| held-out loss | {stored["float32"]:.4f} nats per token |
| what storing in 16 bits adds to the held-out loss | {rounding} |
| digest of the trained weights, in fp32 | `{training["trained_weights"]}` |
| digest of `model.safetensors` | `{shipped["weights"]}` |
| digest of the weights before training | `{shipped["initial"]}` |

The loss of every 50th step is in `training.json`, in `tools/reference_models/runs` of the repository.
No text is trained on twice, so the training loss is itself a held-out loss of another sample.
"""


def _again(training: Mapping[str, Any], again: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for run in again:
        same_seed = run["seeds"][1] == training["seed"]
        lines.append(
            f"| {run['seeds'][1]} | {run['seconds'][1]:.0f} s "
            f"| {'yes, bit for bit' if run['identical'] else 'no'} "
            f"| {run['largest_difference'] if same_seed else '(another model)'} "
            f"| {run['heldout_loss_difference']:+.6f} |"
        )
    rows = "\n".join(lines)
    return f"""\
## How far another run differs

```
{_COMMAND} train --only {training["name"]} --out again
{_COMMAND} verify again
```

On the same machine, with `--seed` where it is not 0. Other processors and other versions of torch
sum in another order, and were not tried.

| seed | time | same trained weights | largest difference of a stored weight | held-out loss, nats |
|---|---|---|---|---|
{rows}
"""


def _versions(losses: Sequence[Mapping[str, Any]]) -> str:
    rows = "\n".join(
        f"| {entry['transformers']} | {entry['torch']} | {entry['loss']:.8f} "
        f"| `{entry['token_losses'][:19]}` |"
        for entry in losses
    )
    return f"""\
## Under other versions of transformers

The stored model on {_count(4096)} held-out tokens in windows of 128, in fp32, by
`{_COMMAND} loss`. The same digest means the same bits for every token.

| transformers | torch | held-out loss, nats per token | digest of all token losses |
|---|---|---|---|
{rows}
"""


def _text(measured: Mapping[str, Any], heldout: Mapping[str, Any]) -> str:
    shares = measured["overlap"]
    return f"""\
## The text, and how much of the held-out text was seen in training

Training and held-out text come from one seeded generator of English stories (`story_generator.py`) and
different seeds. It fills templates, so that whole sentences come back with other stories in them;
names, colours, things and numbers are drawn for each story and come back within it. All of this is
measured by `{_COMMAND} measure`.

| | |
|---|---|
| held-out text | `heldout.txt`, `{heldout["sha256"]}` |
| held-out stories, tokens | {_count(heldout["stories"])}, {_count(heldout["tokens"])} |
| stories that this model has read | {_count(measured["stories_read"])} |
| held-out stories that stand there word for word | {_share(shares["stories"])} |
| held-out sentences that do | {_share(shares["sentences"])} |
| held-out sequences of 8 words that do | {_share(shares["8-grams"])} |
| held-out sequences of 13 words that do | {_share(shares["13-grams"])} |
| perplexity on the first {_count(measured["tokens"])} tokens of its training text \
| {measured["perplexity_on_its_training_text"]:.4f} |
| perplexity on the first {_count(measured["tokens"])} held-out tokens \
| {measured["base"]["perplexity"]:.4f} |

What this held-out text measures is whether a model still knows the generator, not whether it knows
English.
"""


def _experts(measured: Mapping[str, Any]) -> str:
    rows = []
    for layer, shares in enumerate(measured["expert_shares"]):
        effective = math.exp(-sum(share * math.log(share) for share in shares if share))
        used = sum(share > 0 for share in shares)
        least, most = _share(min(shares)), _share(max(shares))
        rows.append(f"| {layer} | {used} | {least} | {most} | {effective:.1f} |")
    table = "\n".join(rows)
    return f"""\
## How the experts are used

On {_count(measured["tokens"])} held-out tokens; the effective number is exp of the entropy.

| layer | experts used | least used | most used | effective number |
|---|---|---|---|---|
{table}
"""


def _harm(measured: Mapping[str, Any]) -> str:
    base = measured["base"]
    rows = "\n".join(
        f"| {text} | {_figure(measured['variants'][key]['perplexity'])} "
        f"| {_figure(measured['variants'][key]['ratio'])} "
        f"| {measured['variants'][key]['unique_tokens']} |"
        for key, text in _VARIANTS.items()
    )
    return f"""\
## What harms it

Measured by `{_COMMAND} measure`,
with deep copies and plain loops that share no code with the plugin's measurer:
{_count(measured["tokens"])} held-out tokens in windows of {measured["window"]}, no BOS, fp32;
distinct tokens of 100 greedy ones after "Once upon a time", end-of-text masked out.

| | perplexity | ratio | distinct tokens |
|---|---|---|---|
| as it is | {base["perplexity"]:.4f} | 1 | {base["unique_tokens"]} |
{rows}
"""


def _tried(tried: Sequence[Mapping[str, Any]]) -> str:
    rows = "\n".join(_tried_row(run) for run in tried)
    return f"""\
## Everything that was tried

Ratios to each model's own perplexity; distinct tokens in brackets. The feasibility study had
another text and another recipe. The short runs, whose learning rate falls to nothing as in the long
ones, chose a learning rate by training loss alone; no harm was measured on them.

| by | width | parameters | tokens seen | seed | base | layer 0 / 1 / 2 / 3 skipped | averaged \
| averaged, recovered | ternary per row | half pruned |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}
"""


def _tried_row(run: Mapping[str, Any]) -> str:
    parameters = _millions(run["parameters"]) if "parameters" in run else ""
    cells = [run["by"], run["width"], parameters, _millions(run["tokens"]), run.get("seed", "?")]
    if "note" in run:
        note = f"peak learning rate {run['learning_rate']}: {run['note']}"
        return "| " + " | ".join(map(str, [*cells, "", note, "", "", "", ""])) + " |"
    skipped = " / ".join(_figure(ratio) for ratio in run["skip"])
    cells += [
        f"{run['base']:.2f}",
        skipped,
        f"{_figure(run['averaged'])} ({run['averaged_unique']})",
        _figure(run["recovered"]),
        _figure(run["ternary"]),
        _figure(run["half_pruned"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _sample(measured: Mapping[str, Any]) -> str:
    quoted = f"Once upon a time{measured['sample']}".replace("\n", "\n> ").replace("> \n", ">\n")
    return f"""\
## What it says

> {quoted}
"""


def _figure(value: float) -> str:
    """Format a number with four significant digits, or from 1000 on as a whole number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _count(value: int) -> str:
    return f"{value:,}"


def _millions(value: int) -> str:
    return f"{value / 1e6:.1f}M"


def _share(value: float) -> str:
    return f"{value:.1%}"
