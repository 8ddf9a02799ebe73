from __future__ import annotations

import pytest

ARMS = """\
arms:
  r: {replace_layers: {pairs: {each: adjacent}}}
  i: {interchange_layers: {pairs: {each: adjacent}}}
"""
ALONE = """\
arms:
  a: {skip_layers: {layers: 1}}
  b: {prune_weights: {sparsity: 0.5}}
"""
INTERVENTION = "intervention:\n  skip_layers: {layers: {each: all}}\n"
STRICT = "  strict: any(perplexity_ratio <= 1.5)\n"
CATASTROPHIC = "  catastrophic: all(perplexity_ratio >= 10)\n"
LENIENT = "any(perplexity_ratio <= 3)"
TEXTS = "  texts: {wiki: {reference: heldout}, web: {file: a.txt}}\n"
TEXT = "  text: {reference: heldout}\n"
MODEL = "model: reference\n"
MODELS = "model: {reference: reference, revisions: {first: init, last: trained}}\n"

GOOD_CRITERIA = [
    (ARMS, "any(i.swap_kl * 2 <= r.swap_kl)"),
    (ARMS, "mean(protocol_gap) >= 0.05"),
    (ARMS, "max(swap_kl) <= 0.1"),
    (ARMS, "any(i.kl < r.kl) and min(base_perplexity) < 100"),
    (ALONE, "a.perplexity_ratio * 2 <= b.perplexity_ratio"),
    (ALONE, "b.size_ratio <= 0.6 and max(perplexity_ratio) <= 3"),
    (INTERVENTION, "any(unique_tokens >= 5 and perplexity_ratio <= 3)"),
]


@pytest.mark.parametrize(("done", "criterion"), GOOD_CRITERIA)
def test_what_a_bet_measures_can_be_named(edited, read, done, criterion):
    text = edited((INTERVENTION, done), (STRICT, ""), (CATASTROPHIC, ""), (LENIENT, criterion))
    assert str(read(text).bet.criteria.lenient) == criterion


BAD_CRITERIA = [
    (ARMS, "i.swap_kl <= 1", "'i.swap_kl' has a value for each variant of the sweep"),
    (ARMS, "any(r.protocol_gap <= 1)", "belongs to two arms; write it without an arm"),
    (ARMS, "any(r.i.kl <= 1)", "names two arms, 'r' and 'i'; one at most"),
    (ARMS, "any(s.kl <= 1)", "'s' is no arm, text, task or checkpoint of this bet; allowed: r, i"),
    (ARMS, "any(r <= 1)", "'r' is no metric; write 'r.perplexity_ratio'"),
    (ARMS, "any(size_ratio <= 1)", "'size_ratio' is not measured in arm 'r'"),
    (ALONE, "kl <= 1", "'kl' has a value for each arm; name one (a.kl, b.kl)"),
    (ALONE, "a.size_ratio <= 1", "'size_ratio' is not measured in arm 'a'"),
    (ALONE, "a.swap_kl <= 1", "'swap_kl' is not measured in arm 'a'"),
    (ALONE, "any(protocol_gap <= 1)", "it needs two arms, one with replace_layers"),
    (ARMS.replace("each: adjacent", "each: all", 1), "any(i.kl <= r.kl) and any(protocol_gap < 1)",
     "'protocol_gap' is not measured"),
    ("arms:\n  x: {skip_layers: {layers: {each: [0, 1]}}}\n"
     "  y: {zero_layers: {layers: {each: [0, 2]}}}\n", "any(x.kl <= y.kl)",
     "'x' and 'y' sweep over different targets"),
    ("arms:\n  x: {skip_layers: {layers: {each: all}}}\n"
     "  y: {replace_layers: {pairs: {each: all}}}\n", "any(x.kl <= y.kl)",
     "'x' and 'y' sweep over different targets"),
    ("intervention:\n  - interchange_layers: {pairs: [[0, 1]]}\n  - average_experts: {}\n",
     "swap_kl <= 1", "it needs replace_layers or interchange_layers alone"),
]  # fmt: skip


@pytest.mark.parametrize(("done", "criterion", "message"), BAD_CRITERIA)
def test_what_a_bet_does_not_measure_is_an_error(edited, reported, done, criterion, message):
    problems = reported(
        edited((INTERVENTION, done), (STRICT, ""), (CATASTROPHIC, ""), (LENIENT, criterion))
    )
    assert {problem.key for problem in problems} == {"criteria.lenient"}
    assert any(message in problem.message for problem in problems), problems


def test_samples_are_needed_for_unique_tokens(edited, reported):
    sample = '  sample: {prompts: ["Once upon a time"], tokens: 100}\n'
    problems = reported(edited((sample, ""), (LENIENT, "any(unique_tokens > 5)"), (STRICT, "")))
    assert "it needs measure.sample" in problems[0].message


TASKS = (
    "  tokens: 1024\n",
    "  tokens: 1024\n  tasks: {q: {reference: questions}, arc: {lm_eval: arc_easy, shots: 0}}\n",
)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("any(accuracy > 0.5)", "is measured on a task; write 'q.accuracy', 'arc.accuracy'"),
        ("any(q > 0.5)", "'q' is no metric; write 'q.accuracy' or another metric of a task"),
        ("any(q.kl > 0.5)", "'kl' is not measured on the task 'q'; write it without the task"),
        ("any(q.arc.accuracy > 0.5)", "names two tasks, 'q' and 'arc'; one at most"),
        ("any(w.accuracy > 0.5)", "'w' is no arm, text, task or checkpoint of this bet; allowed: q, arc"),
        ("q.flips > 0.5", "'q.flips' has a value for each variant of the sweep"),
        ("any(q.accuracy > 1)", "can never hold"),
    ],
)  # fmt: skip
def test_a_metric_of_a_task_is_named_with_its_task(edited, reported, criterion, message):
    problems = reported(edited(TASKS, (LENIENT, criterion), (STRICT, ""), (CATASTROPHIC, "")))
    assert message in problems[0].message


def test_tasks_are_needed_for_their_metrics(edited, reported, read):
    criterion = "any(arc.accuracy_change >= -0.1 and q.accuracy > 0.5) and any(kl <= 3)"
    changes = (LENIENT, criterion), (STRICT, ""), (CATASTROPHIC, "")
    document = read(edited(TASKS, *changes))
    assert document.bet.measure.tasks["arc"].shots == 0
    problems = reported(edited((LENIENT, "any(accuracy > 0.5)"), *changes[1:]))
    assert "'accuracy' is not measured; it needs measure.tasks" in problems[0].message


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{}", "must name a task; allowed: {lm_eval: TASK"),
        ("{file: q.jsonl, shots: 3}", "unknown key"),
        ("{file: q.jsonl, limit: 0}", "must be at least 1"),
        ("{lm_eval: ../task.yaml}", "the task's name in lm-evaluation-harness"),
        ("{lm_eval: arc_easy, revision: main}", "must not be 'main'"),
        (f"{{lm_eval: arc_easy, path: a, revision: {'a' * 40}}}", "does not go with path"),
    ],
)
def test_a_task_that_is_none_is_an_error_at_its_place(edited, reported, task, message):
    tasks = ("  tokens: 1024\n", f"  tokens: 1024\n  tasks: {{q: {task}}}\n")
    problems = reported(edited(tasks))
    assert message in problems[0].message
    assert problems[0].key.startswith("measure.tasks.q")


@pytest.mark.parametrize("metric", ["repetition", "stop_rate", "first_divergence"])
def test_free_text_is_needed_for_the_metrics_of_generation(edited, reported, read, metric):
    criterion = f"any({metric} > 0.5)"
    problems = reported(edited((LENIENT, criterion), (STRICT, ""), (CATASTROPHIC, "")))
    assert f"'{metric}' is not measured; it needs measure.generate" in problems[0].message
    measured = ("  tokens: 1024\n", "  tokens: 1024\n  generate: {prompts: [Once], chat: true}\n")
    document = read(edited(measured, (LENIENT, criterion), (STRICT, ""), (CATASTROPHIC, "")))
    assert document.bet.measure.generate.tokens == 100


@pytest.mark.parametrize(
    ("replaced", "names", "what"),
    [((TEXT, TEXTS), "wiki, web", "text"), ((MODEL, MODELS), "first, last", "checkpoint")],
)
def test_texts_and_checkpoints_are_named(edited, read, reported, replaced, names, what):
    done = "intervention:\n  skip_layers: {layers: 1}\n"
    first, second = names.split(", ")
    common = [replaced, (INTERVENTION, done), (STRICT, ""), (CATASTROPHIC, "")]
    for good in (f"{first}.kl <= {second}.kl", "max(kl) <= 1", f"{first}.kl < 1"):
        read(edited(*common, (LENIENT, good)))
    (problem,) = reported(edited(*common, (LENIENT, "kl <= 1")))
    assert (
        f"'kl' has a value for each {what}; name one ({first}.kl, {second}.kl)" in problem.message
    )
    (problem,) = reported(edited(*common, (LENIENT, f"{first}x.kl <= 1")))
    assert f"did you mean '{first}'?" in problem.message


def test_one_name_means_one_thing(edited, reported):
    arms = "arms:\n  wiki: {skip_layers: {layers: 1}}\n"
    text = edited((INTERVENTION, arms), (TEXT, TEXTS), (MODEL, MODELS.replace("first", "web")))
    messages = {problem.key: problem.message for problem in reported(text)}
    assert messages["measure.texts.wiki"] == "is already the name of an arm; another name"
    assert messages["model.revisions.web"] == "is already the name of a text; another name"


def test_neither_intervention_nor_arms(edited, reported):
    (problem,) = reported(edited((INTERVENTION, "")))
    assert (problem.key, problem.line) == ("intervention", 1)


def test_a_whole_model_stands_alone(edited, reported):
    done = "intervention:\n  - skip_layers: {layers: 1}\n  - load_checkpoint: {path: a}\n"
    (problem,) = reported(edited((INTERVENTION, done)))
    assert (problem.line, problem.column) == (8, 5)
    assert "stands alone or in an arm" in problem.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{}", "must name a checkpoint; allowed: one of path, hub, gguf, adapter"),
        ("{path: a, adapter: b}", "does not go with path; one checkpoint"),
        ("{hub: a/b}", "is missing; a full commit hash"),
        ("{gguf: a.gguf}", "is missing; the file's digest"),
        ("{path: a, as: quick}", "must not be 'quick'; allowed: served, stored"),
        ("{path: a, form: stored}", "unknown key"),
        ("{path: ~/a}", "must not start with '~'"),
    ],
)
def test_a_candidate_is_one_checkpoint(edited, reported, arguments, message):
    done = f"intervention: {{load_checkpoint: {arguments}}}\n"
    text = edited((INTERVENTION, done), (STRICT, ""), (CATASTROPHIC, ""), (LENIENT, "kl <= 1"))
    assert any(message in problem.message for problem in reported(text))


def test_sweeps_in_one_list_must_be_over_the_same(edited, reported):
    done = (
        "intervention:\n  - skip_layers: {layers: {each: all}}\n"
        "  - zero_layers: {layers: {each: [0]}}\n"
    )
    (problem,) = reported(edited((INTERVENTION, done)))
    assert "sweeps over different targets in one list" in problem.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("remove_layers: {count: 3}", "count and guided_by together, or layers"),
        ("remove_layers: {count: 3, layers: 1}", "does not go with layers"),
        ("remove_layers: {layers: {each: all}}", "sweep with skip_layers"),
        ("remove_layers: {count: 3, guided_by: replacment}", "did you mean 'replacement'?"),
        ("remove_layers: {layers: 1, spacing: 2}", "does not go with layers"),
        ("remove_layers: {count: 1, guided_by: kl, protect: all}", "must be an index or a list"),
        (
            "remove_layers: {count: 1, guided_by: interchange, contiguous: true}",
            "has no meaning with guided_by: interchange",
        ),
        (
            "remove_layers: {count: 1, guided_by: kl, contiguous: true, spacing: 2}",
            "does not go with contiguous",
        ),
        ("drop_experts: {count: 0}", "must be at least 1"),
        ("ternary_weights: {scale: group}", "with scale: group, how many weights share one"),
        ("quantize_weights: {bits: 4, group_size: 8}", "allowed with scale: group only; add it"),
        ("quantize_weights: {bits: 4, scale: row, group_size: 8}", "with scale: group only"),
        ("quantize_weights: {bits: 9}", "must be at most 8"),
        ("quantize_weights: {}", "is missing; bits per weight"),
        ("quantize_weights: {format: fp8, bits: 8}", "allowed with format: int only"),
        ("quantize_weights: {format: nf4, symmetric: true}", "allowed with format: int only"),
        ("quantize_weights: {format: mxfp4, scale: row}", "mxfp4 has groups of 32"),
        ("quantize_weights: {format: nvfp4, clip: mse}", "allowed with format: int and fp8 only"),
        ("quantize_weights: {format: nf4, group_size: 64}", "allowed with scale: group only"),
        ("quantize_weights: {format: int4}", "allowed: int, fp8, mxfp4, nvfp4, nf4"),
        ("prune_weights: {sparsity: 1.01}", "must be at most 1"),
        ("prune_weights: {sparsity: 0.5, by: magnitud}", "did you mean 'magnitude'?"),
        ("prune_weights: {sparsity: 0.5, seed: -1}", "must be at least 0"),
        ("prune_weights: {by: magnitude}", "must have one of sparsity (a share) and pattern"),
        ("prune_weights: {sparsity: 0.5, pattern: 2:4}", "must have one of sparsity"),
        ("prune_weights: {pattern: 4:4}", "fewer before the colon than after it"),
        ("prune_weights: {pattern: half}", "how many of how many neighbours in a row stay"),
        ("prune_weights: {sparsity: 0.5, text: {reference: training}}", "allowed with by: wanda"),
        ("quantize_activations: {}", "is missing; bits per number"),
        ("quantize_activations: {format: fp8, bits: 8}", "allowed with format: int only"),
        ("quantize_kv_cache: {}", "is missing; bits per number, 2 to 8"),
        ("quantize_kv_cache: {bits: 2, keys: channel}", "how many tokens share one scale"),
        ("low_rank: {by: svd}", "must have one of rank (a number) and ratio (a share)"),
        ("low_rank: {rank: 4, ratio: 0.5}", "must have one of rank"),
        ("low_rank: {rank: 4, text: {reference: training}}", "allowed with by: activations"),
        ("train: {steps: 9, text: {reference: training}, lr: 0}", "must be more than 0"),
        ("train: {steps: 1e6, text: {reference: training}}", "must be at most 100000"),
        ("train: {steps: 9, text: {reference: training}, layers: 1}", "objective: layer_output"),
        ("train: {steps: 9, text: {reference: a}, objective: layer_output}", "heldout, training"),
        ("train: {steps: 9, text: []}", "must not be empty"),
        ("zero_layers: {layers: 1, keep: all}", "allowed: post_norms, none"),
    ],
)
def test_arguments_are_checked(edited, reported, arguments, message):
    text = edited((INTERVENTION, f"intervention:\n  {arguments}\n"), (STRICT, ""))
    problems = reported(text.replace("any(", "max(perplexity_ratio) < 5 or any("))
    assert any(message in problem.message for problem in problems), problems


def test_presets_measure_all_of_a_text(edited, read):
    text = edited(("  tokens: 1024\n  window: 128\n", "  preset: gptq-2048\n"))
    assert read(text).bet.measure.tokens is None


def test_sizes_are_bytes(good, read):
    needs = read(f"{good}needs: {{gpu: 24GiB, memory: 1.5GB}}\n").bet.needs
    assert (needs.gpu, needs.memory) == (24 * 2**30, 1_500_000_000)


@pytest.mark.parametrize(
    ("model", "checkpoints"),
    [
        ("reference-wide@init", {None: ("reference", "reference-wide@init", None)}),
        ("{path: ./a//b}", {None: ("path", "a/b", None)}),
        ("{hub: a/b, revision: unpinned}", {None: ("hub", "a/b", "unpinned")}),
        (f"{{hub: a/b, revisions: {{s0: {'a' * 40}, s1: {'b' * 40}}}}}",
         {"s0": ("hub", "a/b", "a" * 40), "s1": ("hub", "a/b", "b" * 40)}),
        ("{paths: {s0: a, s1: b}}", {"s0": ("path", "a", None), "s1": ("path", "b", None)}),
        ("{reference: reference, revisions: {s0: init, s1: trained}}",
         {"s0": ("reference", "reference@init", None), "s1": ("reference", "reference", None)}),
    ],
)  # fmt: skip
def test_models_and_their_checkpoints(edited, read, model, checkpoints):
    found = read(edited(("model: reference", f"model: {model}"))).bet.model.checkpoints()
    assert {
        name: (source.kind, source.name, source.revision) for name, source in found.items()
    } == checkpoints
