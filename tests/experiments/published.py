"""Holds the records of `bets/published` to plain loops over deep copies, and shows the largest difference.

    PYTHONPATH=tests python tests/experiments/published.py WIKITEXT [BET...]

Run from the root of a checkout, after ``python -m pytest_layerguard fetch smollm2 --to models/smollm2``. WIKITEXT
is a folder with ``test.parquet`` and ``validation.parquet`` of WikiText-2 raw v1. Of each record, or of those named,
at least four variants are measured again: perplexity, ratio and KL, and the text of one that has fewer than five unique
tokens.
Exits with 1 if a figure is off by more than 1e-5 of itself. With ``--states`` it measures nothing again, and shows how
large the hidden states are that each layer gives.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from support import plain
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pytest_layerguard.models.published import PUBLISHED
from pytest_layerguard.texts.windows import Contract, cut

BETS = Path(__file__).parents[2] / "bets"
FOLDER = Path(__file__).parents[2] / "models" / "smollm2"
FILE = PUBLISHED["smollm2"].file
ALLOWED = 1e-5
FEW = 5
"""Unique tokens below which a text is continued again, which takes longest."""

Windows = Sequence[tuple[Tensor, Tensor]]


class Measured:
    """A model on the windows of one text, and its differences from the base's.

    Torch's fp32 log-softmax loses up to 7e-6 where it sums 49,152 terms, and the measurer's perplexities and KL with
    it; in a ratio it cancels out. Here all is float64 from the logits on.
    """

    def __init__(self, base: PreTrainedModel, windows: Windows) -> None:
        self.inputs = torch.stack([inputs for inputs, _ in windows])
        self.labels = torch.stack([labels for _, labels in windows])
        self.logits = self._run(base)
        losses = [self._losses(rows, k) for k, rows in enumerate(self.logits)]
        self.perplexity = float(torch.cat(losses).mean().exp())

    @torch.no_grad()
    def _run(self, model: PreTrainedModel) -> Tensor:
        return model(input_ids=self.inputs, use_cache=False).logits

    def _losses(self, logits: Tensor, window: int) -> Tensor:
        return nn.functional.cross_entropy(logits.double(), self.labels[window], reduction="none")

    def of(self, model: PreTrainedModel) -> dict[str, float]:
        """Return perplexity, ratio and KL, in float64 from the logits on."""
        losses, differences, kls = [], [], []
        for window, (base, found) in enumerate(zip(self.logits, self._run(model), strict=True)):
            losses.append(self._losses(found, window))
            differences.append(losses[-1] - self._losses(base, window))
            rows = base.double().log_softmax(-1)
            kls.append((rows.exp() * (rows - found.double().log_softmax(-1))).sum(-1))
        mean = (torch.cat(each).mean() for each in (losses, differences, kls))
        perplexity, ratio, kl = mean
        return {
            "perplexity": float(perplexity.exp()),
            "perplexity_ratio": float(ratio.exp()),
            "kl": float(kl),
        }


def initialised(model: PreTrainedModel, layer: int, seed: int = 0) -> PreTrainedModel:
    """A copy with a layer drawn anew by the model's initialiser."""
    changed = copy.deepcopy(model)
    torch.manual_seed(seed * 10_007 + layer)
    plain.layers_of(changed)[layer].apply(changed._init_weights)
    return changed


class _ReachedError(Exception):
    """The layer that is trained was reached; nothing after it need run."""


def retrained(
    model: PreTrainedModel, layer: int, windows: Windows, steps: int, batch: int, lr: float
) -> PreTrainedModel:
    """A copy with a layer drawn anew and trained towards the output of the one that was there."""
    changed = initialised(model, layer)
    original, block = plain.layers_of(model)[layer], plain.layers_of(changed)[layer]
    given: list[tuple[Any, Any]] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        given.append((args, kwargs))
        raise _ReachedError

    generator = torch.Generator().manual_seed(0)
    order: list[int] = []
    block.requires_grad_(True)
    optimiser = torch.optim.AdamW(block.parameters(), lr=lr)
    for _ in range(steps):
        while len(order) < batch:
            order += torch.randperm(len(windows), generator=generator).tolist()
        taken, order = order[:batch], order[batch:]
        handle = original.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                model(input_ids=torch.stack([windows[i][0] for i in taken]), use_cache=False)
        except _ReachedError:
            pass
        handle.remove()
        args, kwargs = given.pop()
        with torch.no_grad():
            wanted = original(*args, **kwargs)
        loss = nn.functional.mse_loss(block(*args, **kwargs), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    block.requires_grad_(False)
    return changed


def halved_by_magnitude(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with the least half of each matrix set to zero.

    The file has many weights of one magnitude in a block; which of those at the threshold go is a matter of how they
    are sorted, and moves the perplexity by 0.2 %. They are taken as the package takes them, by ``topk``.
    """
    changed = copy.deepcopy(model)
    for block in plain.layers_of(changed):
        for _, matrix in plain.matrices(block):
            flat = matrix.view(-1)
            flat[flat.abs().topk(flat.numel() // 2, largest=False, sorted=False).indices] = 0
    return changed


def halved_at_random(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with half of each matrix set to zero, where the package's random scores are least."""
    from pytest_layerguard.interventions.weights import _random_like

    changed = copy.deepcopy(model)
    for layer, block in enumerate(plain.layers_of(changed)):
        for name, matrix in plain.matrices(block):
            scores = _random_like(matrix.unsqueeze(0), 0, layer, name).flatten()
            matrix.view(-1)[scores.argsort()[: matrix.numel() // 2]] = 0
    return changed


def replaced_both_ways(measured: Measured, model: PreTrainedModel, i: int, j: int) -> float:
    """The larger of the two directed means."""
    return max(measured.of(plain.replaced(model, *pair))["kl"] for pair in ((i, j), (j, i)))


Make = Callable[[PreTrainedModel], PreTrainedModel]
PAIRS = ((3, 4), (14, 15), (20, 21), (28, 29))
FURTHER = ((0, 2), (12, 15), (20, 22), (26, 29))


def made(training: Windows) -> Mapping[str, Mapping[tuple[str | None, str], Make]]:
    """The variants of each bet that are measured again, by arm and name."""
    of = functools.partial

    @functools.cache
    def to_output(model: PreTrainedModel, layer: int) -> PreTrainedModel:
        return retrained(model, layer, training, steps=100, batch=4, lr=1e-3)

    return {
        "bet-40-smollm2": {
            (None, f"skip-{layer}"): of(plain.skipped, layers=[layer]) for layer in (0, 11, 14, 29)
        },
        "bet-13-smollm2": {
            ("matrix", "ternary-tensor"): of(
                plain.rounded, scale="tensor", group=None, to=plain.absmean
            ),
            ("row", "ternary-row"): of(plain.rounded, scale="row", group=None, to=plain.absmean),
            ("group", ""): of(plain.rounded, scale="group", group=64, to=plain.absmean),
        },
        "bet-48-smollm2": {
            ("magnitude", ""): halved_by_magnitude,
            ("random", ""): halved_at_random,
        },
        "degeneration-smollm2": {
            ("first_zeroed", "zero-0"): of(plain.zeroed, layer=0),
            ("first_random", "reinitialize-0"): of(initialised, layer=0),
            ("middle_random", "reinitialize-14"): of(initialised, layer=14),
            ("last_zeroed", "zero-29"): of(plain.zeroed, layer=29),
        },
        "degeneration-smollm2-retrained": {
            ("first_retrained", ""): of(to_output, layer=0),
            ("middle_retrained", ""): of(to_output, layer=14),
        },
    }


def wikitext(folder: Path, split: str) -> str:
    rows = pyarrow.parquet.read_table(folder / f"{split}.parquet")["text"].to_pylist()
    assert all(row.endswith("\n") for row in rows if row)
    return "".join(rows)


def variants(record: Mapping[str, Any], name: str | None) -> Iterator[Mapping[str, Any]]:
    return (each for each in record["result"]["variants"] if each["text"] == name)


class Comparison:
    """Prints each figure beside the record's, and counts those that differ."""

    def __init__(self) -> None:
        self.wrong = 0

    def see(self, what: str, recorded: float, found: float) -> None:
        difference = abs(recorded - found) / max(abs(found), 1e-9)
        self.wrong += difference > ALLOWED
        print(f"| {what} | {recorded:.7g} | {found:.7g} | {difference:.1e} |", flush=True)


def compare(
    record: Mapping[str, Any],
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    seen: Comparison,
) -> None:
    """Measure variants of a record again."""
    measure = record["bet"]["measure"]
    contract = Contract(measure["tokens"], measure["window"], measure["window"], ())

    def windows(text: str, count: int) -> Windows:
        ids = tokenizer(text[: 20 * count], add_special_tokens=False)["input_ids"]
        return cut(ids, Contract(count, contract.window, contract.stride, ()))

    texts = {
        None: wikitext(folder, "test"),
        "wikitext": wikitext(folder, "test"),
        "documentation": (BETS / "published" / "documentation.txt").read_text(encoding="utf-8"),
    }
    training = windows(wikitext(folder, "validation"), 400 * contract.window)
    ways = made(training).get(record["id"], {})
    for base in record["result"]["bases"]:
        name = base["text"]
        print(f"\n{record['id']}{f', {name}' if name else ''}\n")
        print("| figure | recorded | plain loop | difference |\n|---|---|---|---|")
        measured = Measured(model, windows(texts[name], contract.tokens))
        seen.see("base perplexity", base["metrics"]["perplexity"]["value"], measured.perplexity)
        rows = {(each["arm"], each["name"]): each for each in variants(record, name)}
        for (arm, variant), make in ways.items():
            found = next(
                row for key, row in rows.items() if key[0] == arm and variant in ("", key[1])
            )
            changed = make(model)
            for metric, value in measured.of(changed).items():
                seen.see(
                    f"{arm or ''} {found['name']} {metric}",
                    found["metrics"][metric]["value"],
                    value,
                )
            if found["metrics"].get("unique_tokens", {"value": FEW})["value"] < FEW:
                (sample,) = found["samples"]
                prompt = tokenizer(sample["prompt"])["input_ids"]
                ends = [tokenizer.eos_token_id, tokenizer.bos_token_id]
                ids = plain.continued(changed, prompt, measure["sample"]["tokens"], ends)
                unique = found["metrics"]["unique_tokens"]["value"]
                seen.see(f"{arm or ''} {found['name']} unique tokens", unique, len(set(ids)))
        if record["id"].startswith("no-free-swap") and "removal" not in record["id"]:
            for i, j in PAIRS if "adjacent" in record["id"] else FURTHER:
                inter = rows["interchange", f"interchange-{i}-{j}"]["metrics"]
                repl = rows["replacement", f"replace-{i}-{j}"]["metrics"]
                kl = measured.of(plain.exchanged(model, i, j))["kl"]
                seen.see(f"interchange {i} {j} swap_kl", inter["swap_kl"]["value"], kl)
                seen.see(
                    f"replacement {i} {j} swap_kl",
                    repl["swap_kl"]["value"],
                    replaced_both_ways(measured, model, i, j),
                )
        if "removal" in record["id"]:
            for row in rows.values():
                gone = (
                    json.loads(f"[{row['target'].replace('-', ',')}]")
                    if isinstance(row["target"], str)
                    else row["target"]
                )
                for metric, value in measured.of(plain.skipped(model, gone)).items():
                    seen.see(f"{row['arm']} {metric}", row["metrics"][metric]["value"], value)


@torch.no_grad()
def states(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Show the largest value and the median magnitude of what each layer gives, on the first 64 tokens."""
    ids = tokenizer(wikitext(folder, "test")[:1000], add_special_tokens=False)["input_ids"][:64]
    given: list[Tensor] = []
    for block in plain.layers_of(model):
        block.register_forward_hook(lambda _, args, output: given.append(output))
    model(input_ids=torch.tensor([ids]), use_cache=False)
    print("| layer | largest | at token, coordinate | median |\n|---|---|---|---|")
    for layer, hidden in enumerate(given):
        size = hidden[0].abs()
        token, coordinate = divmod(int(size.argmax()), size.shape[1])
        print(
            f"| {layer} | {float(size.max()):,.0f} | {token}, {coordinate} | {float(size.median()):.2f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wikitext", type=Path)
    parser.add_argument("bets", nargs="*")
    parser.add_argument("--states", action="store_true")
    chosen = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE, dtype=torch.float32)
    model.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE)
    if chosen.states:
        states(model, tokenizer, chosen.wikitext)
        return 0
    seen = Comparison()
    for path in sorted((BETS / "records").glob("*smollm2*.json")):
        if not chosen.bets or path.stem in chosen.bets:
            compare(
                json.loads(path.read_text(encoding="utf-8")),
                model,
                tokenizer,
                chosen.wikitext,
                seen,
            )
    print(f"\n{seen.wrong} figures differ by more than {ALLOWED}")
    return 1 if seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
