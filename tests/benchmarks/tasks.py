"""Five variants of one task together, against five runs of it in one process with one loaded model.

    python tests/benchmarks/tasks.py [--layers 16] [--questions 24] [--rounds 3]

A random Llama answers the package's questions without one of its layers, five times another one. Together, layers are
shared and the base is asked once; one by one, each run asks the base and one variant, as a bet does. Where the extra
`tasks` is installed, `lm_eval.simple_evaluate` asks the same questions of the same five variants, the layer taken out
of the loaded model. Sides take turns, round by round; ratios are of the least processor time.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import plain

from pytest_layerguard import reference
from pytest_layerguard.bet.task_sources import ReferenceQuestions
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.measurement.session import MICRO_BATCH, ModelSession
from pytest_layerguard.measurement.tasks import question_task
from pytest_layerguard.measurement.tasks.asked_model import AskedModel
from pytest_layerguard.models.loading import LoadedModel
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.texts.questions import read_questions

VARIANTS = 5


def harness(model: Any, tokenizer: Any, layer: int, questions: int) -> float:
    """The accuracy that lm-evaluation-harness finds without a layer, which is put back."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    blocks = plain.layers_of(model)
    kept = list(blocks)
    del blocks[layer]
    try:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu"),
            tasks=[
                {
                    "task": "stories",
                    "dataset_path": "json",
                    "dataset_kwargs": {"data_files": {"test": str(reference.QUESTIONS)}},
                    "test_split": "test",
                    "output_type": "multiple_choice",
                    "doc_to_text": "{{context}}",
                    "doc_to_choice": "{{choices}}",
                    "doc_to_target": "{{answer}}",
                    "metric_list": [{"metric": "acc"}],
                }
            ],
            task_manager=TaskManager(include_defaults=False),
            limit=questions,
            bootstrap_iters=0,
        )
    finally:
        del blocks[:]
        blocks.extend(kept)
    return float(found["results"]["stories"]["acc,none"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=1024, num_hidden_layers=chosen.layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(reference.folder("reference"))
    loaded = LoadedModel(model=LlamaForCausalLM(config).eval(), tokenizer=tokenizer, provenance={})
    runner = ModelSession(loaded).runner
    source = ReferenceQuestions(reference="questions", limit=chosen.questions)
    here = Path()
    asked = read_questions(source, "questions", AllowedPaths(here, (here,)), 1)
    base = Plan.untouched(chosen.layers)
    layers = [(place + 1) * chosen.layers // (VARIANTS + 1) for place in range(VARIANTS)]
    plans = [base.without(frozenset([layer])) for layer in layers]

    def ask(*variants: Plan) -> list[float]:
        model = AskedModel(
            runner=runner, loaded=loaded, variants=variants, micro_batch=MICRO_BATCH["cpu"]
        )
        found = question_task.ask(model, asked).answers
        return [sum(each.right for each in found[plan]) / len(found[plan]) for plan in variants]

    sides: dict[str, Callable[[], list[float]]] = {
        "five variants together": lambda: ask(*plans),
        "five runs, base and variant each": lambda: [ask(plan)[0] for plan in plans],
    }
    if find_spec("lm_eval"):
        sides["lm_eval.simple_evaluate five times, without the base"] = lambda: [
            harness(loaded.model, tokenizer, layer, chosen.questions) for layer in layers
        ]
    least = dict.fromkeys(sides, float("inf"))
    found: dict[str, list[float]] = {}
    for _ in range(chosen.rounds):
        for name, side in sides.items():
            started, before = time.process_time(), runner.evaluations
            found[name] = side()
            least[name] = min(least[name], time.process_time() - started)
            print(f"{name}: {runner.evaluations - before:,} layer evaluations", file=sys.stderr)
    assert len({tuple(each) for each in found.values()}) == 1, found
    first = next(iter(least.values()))
    print("| | processor | together / this |\n|---|---:|---:|")
    for name, seconds in least.items():
        print(f"| {name} | {seconds:.1f} s | {first / seconds:.2f} |")


if __name__ == "__main__":
    main()
