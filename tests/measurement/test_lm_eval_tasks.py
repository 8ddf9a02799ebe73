"""Tasks of lm-evaluation-harness: to the last question what it finds itself on saved copies of the variants."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import TemplateError
from support import plain
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pytest_layerguard import reference
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.metrics.task_metrics import TaskAnswers
from pytest_layerguard.measurement.results import BetResult
from pytest_layerguard.measurement.session import ModelSession
from pytest_layerguard.measurement.tasks import lm_eval_task
from pytest_layerguard.measurement.tasks.asked_model import AskedModel
from pytest_layerguard.measurement.tasks.lm_eval_task import load_task
from pytest_layerguard.models.loading import LoadedModel
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.report.words import how_measured

lm_eval = pytest.importorskip("lm_eval", reason="the extra tasks is not installed")
pytestmark = [
    pytest.mark.slow,
    # Of lm-evaluation-harness itself, where it runs without the measurer.
    pytest.mark.filterwarnings("ignore"),
]

SKIPPED = (0, 2)
ASKED = 8
DOCUMENTS = 9


def copies(folder: Path, answers: Mapping[str, str]) -> None:
    """Write local copies in the layout of the hub's data sets, with the package's questions in them."""
    import pyarrow
    from pyarrow import parquet

    lines = reference.QUESTIONS.read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines[:ASKED]]
    rows = {
        ("ai2_arc", "ARC-Easy", "train validation test"): [
            {
                "id": str(place),
                "question": each["context"],
                "choices": {"text": each["choices"], "label": list("ABCD")},
                "answerKey": "ABCD"[each["answer"]],
            }
            for place, each in enumerate(asked)
        ],
        ("nq_open", "nq_open", "train validation"): [
            {"question": each["context"], "answer": [answers.get(each["context"], "Nobody")]}
            for each in asked
        ],
        ("wiki", "wikitext-2-raw-v1", "train validation test"): [
            {"page": "\n".join(each["context"] for each in asked[place:] * times)}
            # The last one is longer than the model's context.
            for place, times in [*((place, 1) for place in range(ASKED)), (0, 3)]
        ],
    }
    for (name, config, splits), content in rows.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        head = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
        for split in splits.split():
            parquet.write_table(
                pyarrow.Table.from_pylist(content), folder / name / f"{split}.parquet"
            )
            head += [f"  - split: {split}", f"    path: {split}.parquet"]
        (folder / name / "README.md").write_text("\n".join([*head, "---", ""]))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A small model with room for long answers; untrained, so that its answers are hard to hit by chance."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=640,
        bos_token_id=0,
        eos_token_id=0,
    )
    made = LlamaForCausalLM(config).eval()
    for layer in made.model.layers:
        for weight in layer.parameters():
            weight.data *= 6
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: PreTrainedModel) -> Path:
    made = tmp_path_factory.mktemp("lm-eval")
    model.save_pretrained(made / "model")
    tokenizer = AutoTokenizer.from_pretrained(reference.folder("reference"))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made / "model")
    copies(made / "bets", {})
    # Half of the answers to generate are what the model says, so that it is right on those.
    results = evaluated(model, made, "nq_open")
    said = {
        each["doc"]["question"]: each["resps"][0][0].strip()
        for each in results["samples"]["nq_open"][: ASKED // 2]
    }
    copies(made / "bets", {context: answer for context, answer in said.items() if answer})
    return made


def config_of(folder: Path, task: str) -> dict[str, Any]:
    """The task's own configuration, with the local copy for its data set."""
    from lm_eval.tasks._yaml_loader import load_yaml

    name = {"arc_easy": "ai2_arc", "nq_open": "nq_open", "wikitext": "wiki"}[task]
    own = load_yaml(lm_eval_task._manager().task_index[task].yaml_path, resolve_func=True)
    # A cache of its own: the library's does not notice that a local file holds something else.
    cache = {"cache_dir": tempfile.mkdtemp(dir=folder)}
    return {
        **own,
        "dataset_path": str(folder / "bets" / name),
        "dataset_kwargs": cache,
        "tag": None,
    }


FILTERS = {"nq_open": "remove_whitespace"}


def evaluated(model: PreTrainedModel, folder: Path, task: str, **given: Any) -> Any:
    """What lm-evaluation-harness itself finds, with its own model of transformers."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    # Its cache of logits takes two windows of the same tokens for one, also where they score other parts of them.
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", logits_cache=False)
    return lm_eval.simple_evaluate(
        model=lm,
        tasks=[config_of(folder, task)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        **given,
    )


def saved(model: PreTrainedModel, layer: int, folder: Path) -> PreTrainedModel:
    """A copy without a layer, saved and loaded."""
    import copy

    changed = copy.deepcopy(model)
    del plain.layers_of(changed)[layer]
    changed.config.num_hidden_layers -= 1
    for place, block in enumerate(plain.layers_of(changed)):
        block.self_attn.layer_idx = place
    changed.save_pretrained(folder / f"without-{layer}")
    return LlamaForCausalLM.from_pretrained(folder / f"without-{layer}", dtype=torch.float32).eval()


TEMPLATE = (
    "{{ eos_token }}{% for m in messages %}"
    "{% if m.role == 'system' and 'no system' in messages[-1].content %}{{ raise_exception('none') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
BET = """\
id: asked
title: Tasks
claim: Layers can be skipped without a wrong answer.
status: proposed
model: {{path: ../model}}
intervention: {{skip_layers: {{layers: {{each: [0, 2]}}}}}}
measure:
  text: {{reference: heldout}}
  tokens: 64
  window: 8
  max_base_perplexity: none
  tasks: {{{tasks}}}
criteria: {{lenient: any({criterion})}}
"""


ELSEWHERE = """\
id: elsewhere
title: Tasks
claim: Layers can be skipped without a wrong answer.
status: proposed
model: {{path: ../model}}
intervention:
  load_results:
    base: {{folder: ../out/{task}/base}}
    candidate: {{folder: ../out/{task}/without}}
measure: {{tasks: {{asked: {{lm_eval: {task}}}}}}}
criteria: {{lenient: asked.{criterion}}}
"""


def measured(folder: Path, of: str = "accuracy_change >= -0.1", **tasks: str) -> BetResult:
    written = ", ".join(f"{name}: {source}" for name, source in tasks.items())
    text = BET.format(tasks=written, criterion=f"{next(iter(tasks))}.{of}")
    (document,) = parse_bets(text, folder / "bets" / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(
        document, bets=folder / "bets"
    )


ARC = "{lm_eval: arc_easy, path: ai2_arc}"
NORM = "{lm_eval: arc_easy, path: ai2_arc, metric: acc_norm}"
OPEN = "{lm_eval: nq_open, path: nq_open}"
WIKI = "{lm_eval: wikitext, path: wiki}"


@pytest.fixture(scope="module")
def result(folder: Path) -> BetResult:
    return measured(folder, arc=ARC, norm=NORM, open=OPEN)


@pytest.mark.parametrize(
    ("name", "task", "metric"),
    [
        ("arc", "arc_easy", "acc"),
        ("norm", "arc_easy", "acc_norm"),
        ("open", "nq_open", "exact_match"),
    ],
)
def test_base_and_variants_answer_as_on_saved_copies(
    result: BetResult, folder: Path, model: PreTrainedModel, name: str, task: str, metric: str
) -> None:
    models = [model, *(saved(model, layer, folder) for layer in SKIPPED)]
    found = [evaluated(one, folder, task) for one in models]
    rights = [[each[metric] for each in one["samples"][task]] for one in found]
    named = f"{metric},{FILTERS.get(task, 'none')}"
    expected = [one["results"][task][named] for one in found]
    before = result.bases[0].metrics[f"{name}.accuracy"].value
    after = [each.metrics[f"{name}.accuracy"].value for each in result.variants]
    assert [before, *after] == expected
    for variant, variants in zip(result.variants, rights[1:], strict=True):
        pairs = list(zip(rights[0], variants, strict=True))
        change = variant.tasks[name]
        assert (change.lost, change.gained) == (pairs.count((1, 0)), pairs.count((0, 1)))
    assert 0 < sum(rights[0]) < ASKED


def test_rolling_perplexity_is_that_of_saved_copies(folder: Path, model: PreTrainedModel) -> None:
    byte = "{lm_eval: wikitext, path: wiki, metric: byte_perplexity}"
    result = measured(folder, wiki=WIKI, byte=byte, of="perplexity_ratio <= 3")
    models = [model, *(saved(model, layer, folder) for layer in SKIPPED)]
    theirs = [evaluated(one, folder, "wikitext")["results"]["wikitext"] for one in models]
    rows = [result.bases[0].metrics, *(each.metrics for each in result.variants)]
    for ours, expected in zip(rows, theirs, strict=True):
        for name, metric in (
            ("wiki.perplexity", "word_perplexity"),
            ("byte.perplexity", "byte_perplexity"),
            ("wiki.bits_per_byte", "bits_per_byte"),
            ("byte.bits_per_byte", "bits_per_byte"),
        ):
            assert ours[name].value == pytest.approx(expected[f"{metric},none"], rel=1e-6)
    for ours, expected in zip(rows[1:], theirs[1:], strict=True):
        ratio = expected["word_perplexity,none"] / theirs[0]["word_perplexity,none"]
        found = ours["wiki.perplexity_ratio"]
        assert found.value == pytest.approx(ratio, rel=1e-6)
        assert found.low < found.value < found.high
        assert ours["wiki.base_perplexity"] == rows[0]["wiki.perplexity"]
    assert result.variants[0].documents == {"wiki": DOCUMENTS, "byte": DOCUMENTS}
    assert "9 documents of wiki, intervals clustered by document" in how_measured(result)
    made = result.provenance["checkpoints"][0]["tasks"][0]
    assert (made["documents"], made["metric"]) == (DOCUMENTS, "word_perplexity,none")
    assert BetResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize(
    ("task", "given", "asked"),
    [
        ("arc_easy", {}, {"fewshot_as_multiturn": True}),
        ("arc_easy", {"multiturn": False}, {"fewshot_as_multiturn": False}),
        ("arc_easy", {"system": "Be kind."}, {"system_instruction": "Be kind."}),
        ("arc_easy", {"chat": False, "system": "Be kind."}, {"system_instruction": "Be kind."}),
        ("nq_open", {"system": "Be kind."}, {"system_instruction": "Be kind."}),
    ],
)  # fmt: skip
def test_a_chat_template_is_applied_as_it_does(
    folder: Path, model: PreTrainedModel, task: str, given: dict[str, Any], asked: dict[str, Any]
) -> None:
    path = {"arc_easy": "bets/ai2_arc", "nq_open": "bets/nq_open"}[task]
    source = LmEvalTask.model_validate(
        {"lm_eval": task, "path": path, "shots": 2, "chat": True, **given}
    )
    asked_model = with_chat(folder, model)
    loaded = load_task(
        source, "key", AllowedPaths(folder, (folder,)), Conditions(), asked_model.loaded.tokenizer
    )
    ours = loaded.ask(asked_model)
    theirs = evaluated(model, folder, task, apply_chat_template=source.chat, num_fewshot=2, **asked)
    prompts = [[list(each.args) for each in requests] for requests in loaded._by_question]
    samples = theirs["samples"][task]
    assert prompts == [[list(each) for each in sample["arguments"]] for sample in samples]
    text = prompts[0][0][0]
    assert ("[user] " in text, "Be kind." in text) == (source.chat, source.system is not None)
    assert text.count("[user] ") == (3 if source.chat and source.multiturn else int(source.chat))
    assert isinstance(ours, TaskAnswers)
    metric = loaded.metric
    assert [each.right for each in ours.answers[asked_model.base]] == [
        each[metric] for each in samples
    ]
    for answer, sample in zip(ours.answers[asked_model.base], samples, strict=True):
        if task == "arc_easy":
            found = [ast.literal_eval(each) for each in answer.evidence]
            for (one, greedy), (other, same) in zip(found, sample["filtered_resps"], strict=True):
                assert one == pytest.approx(other, rel=1e-5)
                assert greedy == same
        else:
            assert list(answer.evidence) == [str(each) for each in sample["filtered_resps"]]
    assert ours.provenance.get("chat") == (
        None
        if not source.chat
        else "examples as turns"
        if source.multiturn
        else "examples in one message"
    )
    assert ours.provenance.get("system") == source.system


def with_chat(folder: Path, model: PreTrainedModel) -> AskedModel:
    loaded = LoadedModel(
        model=model, tokenizer=AutoTokenizer.from_pretrained(folder / "model"), provenance={}
    )
    return AskedModel(
        runner=ModelSession(loaded).runner, loaded=loaded, variants=(), micro_batch=2048
    )


def test_a_template_that_takes_no_system_message_leaves_out_but_the_bets_own(
    folder: Path, model: PreTrainedModel
) -> None:
    tokenizer = with_chat(folder, model).loaded.tokenizer
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "no system"}]
    assert lm_eval_task._apply(tokenizer, None, messages).endswith("[user] no system\n[assistant]")
    with pytest.raises(TemplateError):
        lm_eval_task._apply(tokenizer, "s", messages)
    tokenizer.chat_template = None
    reach = AllowedPaths(folder, (folder,))
    source = LmEvalTask(lm_eval="arc_easy", path="bets/ai2_arc", chat=True)
    with pytest.raises(MeasurementError, match=r"^key.chat: the tokenizer has no chat template"):
        load_task(source, "key", reach, Conditions(), tokenizer)


def test_criteria_name_what_a_task_gives(folder: Path) -> None:
    with pytest.raises(MeasurementError, match=r"'arc.perplexity' is not measured; .* accuracy, "):
        measured(folder, arc=ARC, of="perplexity <= 30")
    with pytest.raises(MeasurementError, match="the task gives perplexity, base_perplexity, "):
        measured(folder, wiki=WIKI)


def test_a_folder_that_it_wrote_is_judged_with_its_numbers(
    folder: Path, model: PreTrainedModel
) -> None:
    from lm_eval.loggers import EvaluationTracker

    found: dict[str, Any] = {}
    for name, one in (("base", model), ("without", saved(model, 2, folder))):
        found[name] = {task: evaluated(one, folder, task) for task in ("arc_easy", "wikitext")}
        for task, results in found[name].items():
            tracker = EvaluationTracker(output_path=str(folder / "out" / task / name))
            tracker.general_config_tracker.model_name_sanitized = "model"
            samples = results.pop("samples")
            tracker.save_results_aggregated(results=results, samples=samples)
            tracker.save_results_samples(task, samples[task])
    for task, metric, ours, criterion in (
        ("arc_easy", "acc,none", "accuracy", "accuracy >= 0.1"),
        ("wikitext", "word_perplexity,none", "perplexity", "perplexity_ratio <= 3"),
    ):
        text = ELSEWHERE.format(task=task, criterion=criterion)
        (document,) = parse_bets(text, folder / "bets" / "bet.yaml")
        result = LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(
            document, bets=folder / "bets"
        )
        before, after = (found[each][task]["results"][task][metric] for each in found)
        assert result.bases[0].metrics[f"asked.{ours}"].value == pytest.approx(before, rel=1e-9)
        assert result.variants[0].metrics[f"asked.{ours}"].value == pytest.approx(after, rel=1e-9)


def test_what_was_asked_is_in_the_provenance(result: BetResult, folder: Path) -> None:
    arc, norm, opened = result.provenance["checkpoints"][0]["tasks"]
    assert arc["digest"] == norm["digest"] != opened["digest"]
    assert (arc["questions"], arc["shots"], arc["metric"]) == (ASKED, 0, "acc,none")
    assert norm["metric"] == "acc_norm,none"
    assert arc["lm_eval"] == lm_eval.__version__
    shown = result.variants[0].tasks["arc"].examples[0]
    assert shown.question.endswith("Answer:")
    assert shown.right in (shown.base, shown.variant)
    fewer = measured(folder, arc="{lm_eval: arc_easy, path: ai2_arc, limit: 3, shots: 1}")
    (made,) = fewer.provenance["checkpoints"][0]["tasks"]
    assert (made["questions"], made["shots"]) == (3, 1)
    assert made["digest"] != arc["digest"]


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("{lm_eval: arc_eazy}", "has no task 'arc_eazy', did you mean 'arc_easy'"),
        ("{lm_eval: mmlu}", "is no single task"),
        ("{lm_eval: arc_easy, path: nowhere}", r"measure.tasks.asked.path: 'nowhere' does not exist"),
        ("{lm_eval: arc_easy, path: empty}", "arc_easy cannot be loaded"),
        ("{lm_eval: arc_easy, path: elsewhere}", "names files elsewhere"),
        ("{lm_eval: arc_easy, path: ai2_arc, metric: f1}", "has no measure 'f1'; allowed: acc"),
        ("{lm_eval: arc_easy, path: ai2_arc, metric: 'acc,strict'}", "has no filter 'strict'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_an_error_with_its_place(
    folder: Path, task: str, what: str
) -> None:
    (folder / "bets" / "empty").mkdir(exist_ok=True)
    other = folder / "bets" / "elsewhere"
    other.mkdir(exist_ok=True)
    (other / "README.md").write_text("---\nconfigs: [{data_files: 'https://example.org/x'}]\n---\n")
    with pytest.raises(MeasurementError, match=what) as caught:
        measured(folder, asked=task)
    assert str(caught.value).startswith("measure.tasks.asked")


def test_a_data_set_that_cannot_be_reached_is_a_skip(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def unreachable(*_: Any, **given: Any) -> Iterator[Any]:
        assert given["revision"] == "a" * 40
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UnavailableError, match="cannot be fetched: no network"):
        measured(folder, asked=f"{{lm_eval: arc_easy, revision: {'a' * 40}}}")
    with pytest.raises(UnavailableError, match="is not pinned to a commit"):
        measured(folder, asked="{lm_eval: arc_easy, revision: unpinned}")


@pytest.mark.parametrize(
    ("results", "what"),
    [
        (lambda doc, answers: {"acc": 0.5}, "acc of a question is 0.5, and not 0 or 1"),
        (lambda doc, answers: {"acc": [1]}, r"acc of a question is \[1\], and not 0 or 1"),
        (lambda doc, answers: {"f1": 1}, "the task gives no acc of a question; it gives f1"),
        (lambda doc, answers: answers[9], "its answers cannot be scored: "),
    ],
)
def test_a_task_that_scores_its_answers_otherwise_is_an_error_of_one_line(
    folder: Path, model: PreTrainedModel, results: Any, what: str
) -> None:
    source = LmEvalTask(lm_eval="arc_easy", path="bets/ai2_arc", limit=2)
    task = load_task(source, "key", AllowedPaths(folder, (folder,)), Conditions())
    task.task.process_results = results
    with pytest.raises(MeasurementError, match=what) as caught:
        task.ask(with_chat(folder, model))
    assert "\n" not in str(caught.value)


def test_a_task_that_runs_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.task import ConfigurableTask

    monkeypatch.setattr(ConfigurableTask, "UNSAFE_CODE", True, raising=False)
    with pytest.raises(MeasurementError, match="arc_easy runs code that the model writes"):
        measured(folder, asked=ARC)


def test_each_plan_is_asked_once(folder: Path, model: PreTrainedModel) -> None:
    """Prompts are built and filtered once for all variants, and layers are shared."""
    loaded = LoadedModel(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(reference.folder("reference")),
        provenance={},
    )
    base = Plan.untouched(4)
    skips = tuple(base.without(frozenset([layer])) for layer in range(4))
    source = LmEvalTask(lm_eval="arc_easy", path="bets/ai2_arc")
    task = load_task(source, "key", AllowedPaths(folder, (folder,)), Conditions())
    asked = AskedModel(
        runner=ModelSession(loaded).runner, loaded=loaded, variants=skips, micro_batch=2048
    )
    together = task.ask(asked)
    shared = asked.runner.evaluations
    alone = 0
    for plan in skips:
        asked.runner.evaluations = 0
        one = task.ask(replace(asked, variants=(plan,)))
        assert one.answers[plan] == together.answers[plan]
        alone += asked.runner.evaluations
    assert shared <= 0.6 * alone


def test_a_local_copy_that_holds_something_else_is_read_anew(tmp_path: Path) -> None:
    from pyarrow import parquet

    copies(tmp_path, {})
    source = LmEvalTask(lm_eval="arc_easy", path="ai2_arc")
    reach = AllowedPaths(tmp_path, (tmp_path,))
    assert load_task(source, "key", reach, Conditions()).questions == ASKED
    file = tmp_path / "ai2_arc" / "test.parquet"
    parquet.write_table(parquet.read_table(file).slice(0, 3), file)
    assert load_task(source, "key", reach, Conditions()).questions == 3
