from __future__ import annotations

from pathlib import Path

import pytest

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, LayersArguments
from pytest_layerguard.bet.criteria.metrics import METRICS, Metric
from pytest_layerguard.bet.errors import BetFileError, excerpt, printable
from pytest_layerguard.bet.reader import duplicate_ids, parse_bets, read_bets


def test_a_good_bet_says_what_it_says(good, read):
    document = read(good)
    bet = document.bet
    assert bet.id == "bet-40"
    assert bet.is_sweep
    assert bet.intervention[0].kind == "skip_layers"
    assert bet.measure.sample.tokens == 100
    assert str(bet.criteria.strict) == "any(perplexity_ratio <= 1.5)"
    assert bet.evidence[0].variants == {"skip-0": {"perplexity": 7120}}
    assert bet.closes.models.canonical == "parameters <= 100000000"
    assert list(bet.arm_interventions) == [None]
    assert [source.name for source in bet.model.checkpoints().values()] == ["reference"]


def test_positions_are_those_of_keys_and_items(good, read):
    document = read("# a comment first\n\n" + good)
    assert document.line == 3
    assert document.position("id") == (3, 1)
    assert document.position("criteria", "lenient") == (17, 3)
    assert document.position("closes", "interventions", 1) == (20, 32)
    assert document.position("criteria", "nothing") == (15, 1)
    assert document.position("nothing") == (3, 1)


# What is replaced, by what, the place and key of the error, and its message.
SINGLE = [
    # keys
    ("title:", "titel:", (2, 1), "titel", "unknown key, did you mean 'title'? allowed: id, title"),
    ("measure:", "measre:", (8, 1), "measre", "did you mean 'measure'?"),
    ("criteria:", "criterias:", (13, 1), "criterias", "did you mean 'criteria'?"),
    ("intervention:", "interventions:", (6, 1), "interventions", "did you mean 'intervention'?"),
    ("  tokens: 1024", "  token: 1024", (10, 3), "measure.token", "did you mean 'tokens'?"),
    ("  strict:", "  strickt:", (14, 3), "criteria.strickt", "did you mean 'strict'?"),
    ("{layers: {each: all}}", "{layer: 3, layers: 3}", (7, 17), "intervention.skip_layers.layer",
     "did you mean 'layers'?"),
    ("{each: all}", "{eac: all}", (7, 26), "intervention.skip_layers.layers.eac",
     "did you mean 'each'?"),
    ("status: falsified", "status: falsified\n<<: {a: b}", (5, 1), "<<", "merge keys"),
    ("status: falsified", "status: falsified\nstatus: upheld", (5, 1), "status",
     "is given twice, first in line 4; each key once"),
    ("status: falsified", "status: falsified\n1: upheld", (5, 1), "", "the key 1, which is not text"),
    ("status: falsified", "status: falsified\n? [a]\n: b", (5, 3), "", "list or mapping as a key"),
    ("status: falsified", "status: falsified\n~: b", (5, 1), "", "the key null"),
    # id and words
    ("id: bet-40", "id: Bet 40", (1, 5), "id", "must not be 'Bet 40'; lower-case letters"),
    ("id: bet-40", "id: -bet", (1, 5), "id", "lower-case letters"),
    ("id: bet-40", "id: 40", (1, 5), "id", "must be text (in quotes"),
    ("id: bet-40", "id: " + "a" * 81, (1, 5), "id", "at most 80"),
    ("id: bet-40", "id: nul", (1, 5), "id", "must not be 'nul', the name of a device on Windows"),
    ("id: bet-40", "id: 'bet-40\n\n  '", (1, 5), "id", "lower-case letters"),
    ("id: bet-40", "id:", (1, 4), "id", "must be text"),
    ("title: Skip each layer", "title: ''", (2, 8), "title", "at least 1 character"),
    ("title: Skip each layer", 'title: "a\\e[31m"', (2, 8), "title", "U+001B"),
    ("title: Skip each layer", 'title: "a\\u202eb"', (2, 8), "title", "U+202E"),
    ("title: Skip each layer", 'title: "\\ud800"', (2, 8), "title", "U+D800"),
    ("title: Skip each layer", "title: [a]", (2, 8), "title", "must be text"),
    ("status: falsified", "status: falsifed", (4, 9), "status",
     "must not be 'falsifed', did you mean 'falsified'? allowed: proposed, upheld, falsified"),
    ("status: falsified", "status: true", (4, 9), "status", "must not be true; allowed"),
    # model
    ("model: reference", "model: refrence", (5, 8), "model", "did you mean 'reference'?"),
    ("model: reference", "model: org/name", (5, 8), "model", "{hub: ORG/NAME, revision:"),
    ("model: reference", "model: {}", (5, 8), "model", "must name a model; allowed: one of"),
    ("model: reference", "model: 7", (5, 8), "model", "must be a mapping"),
    ("model: reference", "model: {hub: org/name}", (5, 1), "model.revision", "is missing; give a full"),
    ("model: reference", "model: {hub: org/name, revision: main}", (5, 34), "model.revision",
     "must not be 'main'; a full commit hash"),
    ("model: reference", "model: {hub: gpt2, revision: unpinned}", (5, 14), "model.hub",
     "must not be 'gpt2'; ORG/NAME"),
    ("model: reference", "model: {path: a, hub: b/c}", (5, 23), "model.hub", "does not go with path"),
    ("model: reference", "model: {path: a, revision: unpinned}", (5, 28), "model.revision",
     "allowed with hub only"),
    ("model: reference", "model: {path: a, revisions: {b: c}}", (5, 29), "model.revisions",
     "allowed with hub or reference"),
    ("model: reference", "model: {reference: reference, revisions: {a: inti}}", (5, 46),
     "model.revisions.a", "did you mean 'init'? allowed: init, trained"),
    ("model: reference", "model: {reference: reference@init, revisions: {a: init}}", (5, 20),
     "model.reference", "without @init"),
    ("model: reference", "model: {hub: a/b, revisions: {any: unpinned}}", (5, 31),
     "model.revisions.any", "must not be named 'any'"),
    ("model: reference", "model: {hub: a/b, revisions: {x: main}}", (5, 34),
     "model.revisions.x", "40 lower-case hexadecimal digits"),
    ("model: reference", "model: {path: a, dtype: float8}", (5, 25), "model.dtype",
     "allowed: float32, bfloat16, float16"),
    ("model: reference", "model: {path: a, attn_implementation: org/kernel}", (5, 39),
     "model.attn_implementation", "allowed: eager, sdpa"),
    ("model: reference", 'model: {path: "a\\nb"}', (5, 15), "model.path", "one line"),
    ("model: reference", "model: {path: 'C:\\x'}", (5, 15), "model.path", "written with '/'"),
    ("model: reference", "model: {path: ~/x}", (5, 15), "model.path", "must not start with '~'"),
    # interventions
    ("skip_layers: {layers: {each: all}}", "skip_layer: {layers: 3}", (7, 3),
     "intervention.skip_layer", "unknown intervention 'skip_layer', did you mean 'skip_layers'?"),
    ("skip_layers: {layers: {each: all}}", "prune: {}", (7, 3), "intervention.prune",
     "unknown intervention 'prune', did you mean 'prune_weights'?"),
    ("skip_layers: {layers: {each: all}}", "quantize: {}", (7, 3), "intervention.quantize",
     "unknown intervention 'quantize', did you mean 'quantize_weights'?"),
    ("skip_layers: {layers: {each: all}}", "gptq: {}", (7, 3), "intervention.gptq",
     "unknown intervention 'gptq', a method that calibrates; 'quantize_weights' rounds"),
    ("  skip_layers: {layers: {each: all}}", "  skip_layers", (7, 3), "intervention",
     "must be a mapping such as"),
    ("  skip_layers: {layers: {each: all}}", "  []", (7, 3), "intervention",
     "must not be empty"),
    ("skip_layers: {layers: {each: all}}", "skip_layers: 3", (7, 16), "intervention.skip_layers",
     "must be a mapping with the keys layers, part, not 3"),
    ("skip_layers: {layers: {each: all}}", "skip_layers: {}", (7, 3),
     "intervention.skip_layers.layers", "is missing; the layers: all, an index"),
    ("skip_layers: {layers: {each: all}}",
     "merge_experts: {count: 2, by: weights, weighted: uniform, text: {file: a}}", (7, 67),
     "intervention.merge_experts.text", "allowed with by: output or weighted: frequency"),
    ("{each: all}", "al", (7, 25), "intervention.skip_layers.layers", "did you mean 'all'?"),
    ("{each: all}", "[]", (7, 25), "intervention.skip_layers.layers", "must not be empty"),
    ("{each: all}", "[1, 1]", (7, 29), "intervention.skip_layers.layers[1]", "names layer 1 twice"),
    ("{each: all}", "[1, x]", (7, 29), "intervention.skip_layers.layers[1]", "whole number"),
    ("{each: all}", "{each: 3}", (7, 32), "intervention.skip_layers.layers.each",
     "must be all or a list of indices"),
    ("{each: all}", "100000", (7, 25), "intervention.skip_layers.layers", "must lie between"),
    ("{each: all}", "true", (7, 25), "intervention.skip_layers.layers", "must not be true"),
    ("{each: all}", "1.5", (7, 25), "intervention.skip_layers.layers", "must not be 1.5"),
    # measure
    ("{reference: heldout}", "{reference: heldot}", (9, 21), "measure.text.reference",
     "did you mean 'heldout'?"),
    ("{reference: heldout}", "{}", (9, 9), "measure.text", "must name a text"),
    ("{reference: heldout}", "heldout", (9, 9), "measure.text", "must name a text"),
    ("{reference: heldout}", "{file: a, sha256: abc}", (9, 27), "measure.text.sha256",
     "64 lower-case hexadecimal digits"),
    ("{reference: heldout}", "{dataset: wikitext, split: test, revision: unpinned}", (9, 19),
     "measure.text.dataset", "ORG/NAME on the hub"),
    ("{reference: heldout}", "{dataset: a/b, revision: unpinned}", (9, 3), "measure.text.split",
     "is missing; the dataset's split"),
    ("{reference: heldout}", "{dataset: parquets, file: a}", (9, 19), "measure.text.dataset",
     "did you mean 'parquet'?"),
    ("tokens: 1024", "tokens: 0", (10, 11), "measure.tokens", "must be at least 1, not 0"),
    ("tokens: 1024", "tokens: 1.5", (10, 11), "measure.tokens", "must be a whole number"),
    ("tokens: 1024", "tokens: '1024'", (10, 11), "measure.tokens", "must be a whole number"),
    ("tokens: 1024", "tokens: true", (10, 11), "measure.tokens", "must be a whole number"),
    ("tokens: 1024", "tokens: 1e9", (10, 11), "measure.tokens", "must be at most 10000000"),
    ("tokens: 1024", "tokens: .inf", (10, 11), "measure.tokens", "must be a finite number"),
    ("tokens: 1024", "tokens: .nan", (10, 11), "measure.tokens", "must be a finite number"),
    ("tokens: 1024", "tokens: 1e999", (10, 11), "measure.tokens", "must be a finite number"),
    ("tokens: 1024", "tokens: 99999999999999999999", (10, 11), "measure.tokens", "beyond 2^63"),
    ("tokens: 1024", "tokens: " + "9" * 50, (10, 11), "measure.tokens", "more than 40 digits"),
    ("  tokens: 1024\n", "", (8, 1), "measure.tokens", "is missing; how many tokens"),
    ("window: 128", "window: -1", (11, 11), "measure.window", "must be at least 1"),
    ("window: 128", "window: 128\n  stride: 129", (12, 11), "measure.stride", "at most the window"),
    ("window: 128", "stride: 128\n  preset: lm-eval", (11, 11), "measure.stride", "fixed by preset"),
    ("window: 128", "positions: last\n  preset: lm-eval", (11, 14), "measure.positions",
     "fixed by preset lm-eval"),
    ("window: 128", "window: 3\n  preset: lm-eval", (11, 11), "measure.window",
     "must be at least 4 beside a preset"),
    ("window: 128", "preset: lm-evla", (11, 11), "measure.preset", "did you mean 'lm-eval'?"),
    ("window: 128", "max_base_perplexity: 1", (11, 24), "measure.max_base_perplexity",
     "must be a number above 1, or none"),
    ("window: 128", "stop: exact", (11, 3), "measure.stop",
     "is gone: every variant is scored on the whole text; leave it out"),
    ('["Once upon a time"]', "[]", (12, 21), "measure.sample.prompts", "must not be empty"),
    ('["Once upon a time"]', "hello", (12, 21), "measure.sample.prompts", "must be a list"),
    ("tokens: 100}", "tokens: 100000}", (12, 51), "measure.sample.tokens", "at most 4096"),
    # criteria
    ("any(perplexity_ratio <= 1.5)", "any(perplexity_ratio =< 1.5)", (14, 32), "criteria.strict",
     "'=' is not part of an expression; write =="),
    ("any(perplexity_ratio <= 1.5)", '"any(perplexity_ratio $ 1.5)"', (14, 33), "criteria.strict",
     "'$' is not part of an expression"),
    ("any(perplexity_ratio <= 1.5)", ">-\n    any(perplexity_ratio\n    $ 1.5)", (16, 5),
     "criteria.strict", "'$' is not part"),
    ("any(perplexity_ratio <= 1.5)", "any(perplexty_ratio <= 1.5)", (14, 15), "criteria.strict",
     "unknown metric 'perplexty_ratio', did you mean 'perplexity_ratio'?"),
    ("any(perplexity_ratio <= 1.5)", "3", (14, 11), "criteria.strict", "must be an expression"),
    ("any(perplexity_ratio <= 1.5)", "''", (14, 11), "criteria.strict", "must not be empty"),
    ("any(perplexity_ratio <= 1.5)", "perplexity_ratio <= 1.5", (14, 11), "criteria.strict",
     "put it inside any(...)"),
    ("any(perplexity_ratio <= 1.5)", "any(swap_kl <= 1)", (14, 15), "criteria.strict",
     "'swap_kl' is not measured in this bet; it needs replace_layers or interchange_layers"),
    ("any(perplexity_ratio <= 1.5)", "any(size_ratio <= 1)", (14, 15), "criteria.strict",
     "'size_ratio' is not measured in this bet; it needs an intervention that stores weights"),
    ("any(perplexity_ratio <= 1.5)", "any(protocol_gap <= 1)", (14, 15), "criteria.strict",
     "it needs two arms"),
    ("any(perplexity_ratio <= 1.5)", "any(a.kl <= 1)", (14, 15), "criteria.strict",
     "'a' is no arm, text, task or checkpoint of this bet"),
    ("any(perplexity_ratio <= 3)", "any(perplexity_ratio <= 1.2)", (15, 12), "criteria.lenient",
     "is stricter than strict: where perplexity_ratio is 1.35"),
    ("all(perplexity_ratio >= 10)", "any(perplexity_ratio <= 10)", (16, 17),
     "criteria.catastrophic", "is true wherever lenient is"),
    # the rest
    ("[skip_layers, remove_layers]", "[skip_layrs]", (18, 19), "closes.interventions[0]",
     "unknown intervention 'skip_layrs', did you mean 'skip_layers'?"),
    ("[skip_layers, remove_layers]", "[]", (18, 18), "closes.interventions", "must not be empty"),
    ("parameters <= 1e8", "paramters <= 1e8", (19, 11), "closes.models",
     "'paramters' is not known of a model, did you mean 'parameters'?"),
    ("parameters <= 1e8", "name <= 1e8", (19, 11), "closes.models", "compares text with a number"),
    ("parameters <= 1e8", "any(parameters <= 1e8)", (19, 11), "closes.models", "no functions"),
    ("status: falsified", "status: upheld", (17, 1), "closes", "only a falsification closes"),
    ("verdict: CATASTROPHIC", "verdict: CATASTROFIC", (21, 56), "evidence[0].verdict",
     "did you mean 'CATASTROPHIC'?"),
    ("{perplexity: 89}", "{perplexity: high}", (22, 25), "evidence[0].base.perplexity",
     "must be a number"),
    ("{perplexity: 89}", "{Perplexity!: 89}", (22, 13), "evidence[0].base.Perplexity!",
     "must not be 'Perplexity!'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "key", "message"), SINGLE)
def test_one_mistake_is_reported_at_its_place(edited, reported, old, new, place, key, message):
    problems = reported(edited((old, new)))
    assert [(each.line, each.column, each.key) for each in problems] == [(*place, key)], problems
    assert message in problems[0].message
    shown, caret = problems[0].excerpt.splitlines()
    assert shown.startswith(f"{place[0]:>5} | ")
    assert caret.index("^") - len("      | ") <= place[1]


EXTRA = [
    ("needs: {gpu: 24 foo}", (23, 14), "needs.gpu", "must be a size such as 24GiB"),
    ("needs: {gpus: 24GiB}", (23, 9), "needs.gpus", "did you mean 'gpu'?"),
    ("needs: {gpu: 0GiB}", (23, 14), "needs.gpu", "more than nothing"),
    ("challenges: [bet-40]", (23, 14), "challenges[0]", "is this bet itself"),
    ("challenges: [a, a]", (23, 17), "challenges[1]", "is listed twice"),
    ("acknowledges: [bet-40]", (23, 16), "acknowledges[0]", "is this bet itself"),
    ("acknowledges: [a, a]", (23, 19), "acknowledges[1]", "is listed twice"),
    ("challenges: [a]\nacknowledges: [a]", (24, 16), "acknowledges[0]", "is challenged already"),
    ("challenges: bet-41", (23, 13), "challenges", "must be a list"),
    ("amends: {digest: abc, because: x}", (23, 18), "amends.digest", "sha256: and 64 digits"),
    ("amends: {digest: abc}", (23, 1), "amends.because", "is missing; why the bet was changed"),
    ("links: [javascript:alert]", (23, 9), "links[0]", "web addresses, starting with https://"),
    ("links: ['https://a b']", (23, 9), "links[0]", "web addresses"),
    ("notes: 3", (23, 8), "notes", "must be text"),
    ("arms: {a: {skip_layers: {layers: 1}}}", (23, 1), "arms", "does not go with intervention"),
    ("arms: {a-b: {skip_layers: {layers: 1}}}", (23, 8), "arms.a-b", "must not be named 'a-b'"),
    ("format: 2", (23, 1), "format", "unknown key"),
    ("notes: !!python/object:os.system x", (23, 8), "notes", "has the tag"),
    ("notes: !!binary aGk=", (23, 8), "notes", "has the tag"),
    ("notes: !!int abc", (23, 8), "notes", "does not have the type of its tag !!int"),
    ("notes: &a [*a]", (23, 12), "notes[0]", "holds itself through an alias"),
]


@pytest.mark.parametrize(("line", "place", "key", "message"), EXTRA)
def test_one_line_too_many_is_reported_at_its_place(good, reported, line, place, key, message):
    problem = reported(f"{good}{line}\n")[0]
    if "alias" not in message:
        assert (problem.line, problem.column, problem.key) == (*place, key)
    assert any(message in each.message for each in reported(f"{good}{line}\n"))


def test_everything_wrong_is_reported_at_once(edited, reported):
    text = edited(
        ("id: bet-40", "id: Bet"),
        ("status: falsified", "status: open"),
        ("heldout", "heldot"),
        ("any(perplexity_ratio <= 1.5)", "any(unknown <= 1.5)"),
        ("parameters <= 1e8", "parameters"),
    )
    second = edited(("tokens: 1024", "tokens: x"))
    problems = reported(f"{text}---\n{second}")
    assert [(each.line, each.key) for each in problems] == [
        (1, "id"),
        (4, "status"),
        (9, "measure.text.reference"),
        (14, "criteria.strict"),
        (19, "closes.models"),
        (33, "measure.tokens"),
    ]


def test_a_problem_reads_as_promised(edited, reported):
    (problem,) = reported(edited(("status: falsified", "status: falsifed")))
    assert str(problem) == (
        "bets/40.yaml:4:9: status: must not be 'falsifed', did you mean 'falsified'? "
        "allowed: proposed, upheld, falsified\n"
        "    4 | status: falsifed\n"
        "      |         ^"
    )


def test_two_bets_with_one_id(good, reported):
    (problem,) = reported(f"{good}---\n{good}")
    assert (problem.line, problem.column, problem.key) == (24, 1, "id")
    assert "'bet-40' is already the id of the bet at bets/40.yaml:1" in problem.message


def test_two_files_with_one_id(good, tmp_path: Path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(good)
    documents = [
        document for name in ("a.yaml", "b.yaml") for document in read_bets(tmp_path / name)
    ]
    (problem,) = duplicate_ids(documents)
    assert problem.path == tmp_path / "b.yaml"
    assert f"{tmp_path / 'a.yaml'}:1" in problem.message
    assert problem.excerpt.splitlines()[0].endswith("id: bet-40")


def test_several_bets_in_a_file(good):
    documents = parse_bets(f"{good}---\n{good.replace('bet-40', 'bet-41')}", Path("a.yaml"))
    assert [(each.bet.id, each.line) for each in documents] == [("bet-40", 1), ("bet-41", 24)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        ("id: bet".encode("utf-16"), "UTF-16"),
        ("id: bet".encode("utf-16-le"), "UTF-16"),
        ("id: bet".encode("utf-32"), "UTF-16 or UTF-32"),
        (b"id: \x00", "binary"),
        (b"\x7fELF....\x00\x00", "binary"),
        (b"id: \xff", "is not UTF-8: byte 0xff"),
        (b"id: \x07", "U+0007"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"- " * 100_000, "nested more than 32 deep"),
        (b"a: {" * 10_000, "nested more than 32 deep"),
        (b"- a\n" * 30_000, "more than 20000 entries"),
        (b"x" * 300_000, "is larger than 256 KiB"),
        (b"---\n" * 1_000, "more than 200 documents"),
        (b"a: 'unclosed", "a quote or a bracket is not closed"),
        (b"a: b: c", "quote text that has ': ' in it"),
        (b"\tid: x", "indent with spaces, not with a tab"),
        (b"a:\n  b: 1\n c: 2\n", "this line is indented unlike those it belongs to"),
        (b"id: *nowhere", "is not YAML"),
        (b'id: "\\UFFFFFFFF"', "is not YAML"),
        (b"%YAML 3.0\n---\na: b", "is not YAML"),
        (b"%YAML 1." + b"9" * 5_000 + b"\n---\na: b", "is not YAML"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" * 1, "unknown key"),
        (b"just text", "must be a mapping with the keys id, title"),
        (b"[1, 2]", "must be a mapping with the keys id, title"),
        (b"---\n---\n", "is an empty document"),
    ],
)
def test_hostile_files_end_in_one_clear_error(reported, content, message):
    assert any(message in problem.message for problem in reported(content))


def test_an_alias_bomb_is_refused(reported):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    problems = reported("\n".join(lines))
    assert any("aliases expanded" in problem.message for problem in problems)


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(BetFileError, match="cannot be read: No such file"):
        read_bets(tmp_path / "none.yaml")
    with pytest.raises(BetFileError, match="cannot be read: not a regular file"):
        read_bets(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(good, read):
    assert read("\ufeff" + good).bet.id == "bet-40"


class Freeze(LayersArguments):
    """A kind of another package."""

    def slug(self) -> str:
        return f"freeze-{self.layers.label()}"


def test_kinds_and_metrics_of_other_packages(edited):
    text = edited(
        ("skip_layers: {layers: {each: all}}", "freeze: {layers: 3}"),
        ("any(perplexity_ratio <= 1.5)", "any(perplexity_ratio <= 1.5) and entropy > 0"),
        ("[skip_layers, remove_layers]", "[freeze]"),
    )
    kinds = {**BUILTIN_KINDS, "freeze": Freeze}
    metrics = {**METRICS, "entropy": Metric("entropy", "nats", "mean entropy", "registered")}
    (document,) = parse_bets(text, Path("a.yaml"), kinds=kinds, metrics=metrics)
    assert document.bet.intervention[0].arguments.slug() == "freeze-3"
    with pytest.raises(BetFileError, match="unknown intervention 'freeze'"):
        parse_bets(text, Path("a.yaml"))


def test_what_is_reported_holds_nothing_that_a_terminal_or_runner_obeys(edited, reported):
    hostile = "\x1b[31m ##[error]x \u202e"
    assert "\x1b" not in printable(hostile)
    assert "##[" not in printable(hostile)
    (problem,) = reported(edited(("status: falsified", 'status: "##[error]"')))
    assert "##[" not in str(problem)
    path = Path("a\n::error::b.yaml")
    with pytest.raises(BetFileError) as caught:
        parse_bets("", path)
    assert "\n::error" not in str(caught.value)


def test_a_long_line_is_cut_around_the_mistake():
    shown, caret = excerpt("x" * 500 + "HERE" + "y" * 500, 7, 501).splitlines()
    assert shown[caret.index("^") :].startswith("HERE")
    assert len(shown) < 130


def test_a_message_about_a_criterion_points_into_it_however_it_is_written(edited, reported):
    for written, place in [
        ("any(kl @ 1.5)", (14, 18)),
        ("'any(kl @ 1.5)'", (14, 19)),
        ("|\n    any(kl\n    @ 1.5)", (16, 5)),
        (">\n    any(kl @\n    1.5)", (15, 12)),
        # Over several lines without a mark of its own: the start of the value.
        ("any(kl\n    @ 1.5)", (14, 11)),
    ]:
        (problem,) = reported(edited(("any(perplexity_ratio <= 1.5)", written)))
        assert (problem.line, problem.column) == place, written


@pytest.mark.parametrize(
    ("plain", "written", "place"),
    [
        ("id: ", "id:\u00a0", (1, 4)),
        ("title: ", "title:\u3000", (2, 7)),
        ("criteria:", "criteria:\u00a0", (11, 10)),
        ("status: ", "status:\u200b", (4, 8)),
        ("tokens: 1024", "tokens: \u202f1024", (10, 11)),
        ("{layers: 3}", "{layers:\u00a03}", (7, 17)),
        ("  tokens", "\u00a0 tokens", (10, 1)),
        ("  skip", "\u00a0\u00a0skip", (7, 1)),
    ],
    ids=ascii,
)
def test_what_only_looks_like_a_space_is_named_where_it_stands(plain, written, place):
    text = _SKIP.replace(plain, written)
    with pytest.raises(BetFileError) as caught:
        parse_bets(text, Path("a.yaml"))
    character = next(each for each in written if not each.isascii())
    said = f"holds U+{ord(character):04X}, which looks like a space and is none; type a plain space"
    assert place in [
        (each.line, each.column) for each in caught.value.problems if each.message == said
    ]


def test_what_only_looks_like_a_space_may_stand_in_prose():
    (document,) = parse_bets(_SKIP.replace("It holds", "It\u00a0holds:\u00a0yes"), Path("a.yaml"))
    assert document.bet.claim == "It\u00a0holds:\u00a0yes."


_SKIP = """\
id: bet-1
title: Skip
claim: It holds.
status: proposed
model: reference
intervention:
  skip_layers: {layers: 3}
measure:
  text: {reference: heldout}
  tokens: 1024
criteria:
  lenient: perplexity_ratio <= 3
"""
