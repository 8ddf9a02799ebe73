"""`python -m pytest_layerguard`, called as a function where that is the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub import tiny
from support.catalogue import Bets

import pytest_layerguard
from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.cli.bet_template import ARGUMENTS
from pytest_layerguard.cli.main import main

ROOT = Path(__file__).parents[2]
TEXT = b"Once upon a time. " * 500
DIGEST = hashlib.sha256(TEXT).hexdigest()
FALSIFIED = """
status: falsified
closes: {interventions: [skip_layers], models: parameters <= 1e8}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Somebody at the terminal, who says this and then goes away."""

    def sit_down(*said: str) -> list[str]:
        asked: list[str] = []
        waiting: Iterator[str] = iter(said)

        def answer(question: str) -> str:
            asked.append(question)
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        return asked

    return sit_down


def new(*arguments: str) -> int:
    return main(["new", "--no-input", *arguments])


def test_a_new_bet_is_sound_commented_and_a_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    assert new("bets/mine.yaml") == 0
    text = Path("bets/mine.yaml").read_text(encoding="utf-8")
    (document,) = read_bets(Path("bets/mine.yaml"))
    assert document.bet.id == "mine"
    assert document.bet.status == "proposed"
    assert text.count("#") >= 8
    printed = capsys.readouterr().out
    assert "judge it:            pytest bets/mine.yaml" in printed
    assert "set your own bars:   strict, lenient in place of the placeholders" in printed


def test_bars_that_were_given_are_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert new("bets/mine.yaml", "--lenient", "any(perplexity_ratio <= 1.2)") == 0
    assert "set your own bars" not in capsys.readouterr().out


def test_editors_find_the_schema_beside_it() -> None:
    new("bets/mine.yaml")
    first = Path("bets/mine.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"
    schema = json.loads(Path("bets/schema.json").read_text(encoding="utf-8"))
    assert schema["title"] == "A bet of pytest-layerguard"


def test_in_this_repository_editors_find_the_schema_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pytest_layerguard.cli.new import _schema_line

    monkeypatch.chdir(ROOT)
    assert _schema_line(Path("bets/new.yaml")) == "../pytest_layerguard/bet/schema.json"


def test_a_file_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    assert new("mine.yaml") == 1
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    assert "mine.yaml exists and is not overwritten" in capsys.readouterr().err


def test_every_built_in_intervention_can_be_had_by_its_name() -> None:
    assert ARGUMENTS.keys() == BUILTIN_KINDS.keys()
    for kind in BUILTIN_KINDS:
        assert new("--id", kind.replace("_", "-"), "--intervention", kind) == 0
    assert main(["check", "bets"]) == 0


def test_all_can_be_given() -> None:
    model = Path("models/mine")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    Path("text.txt").write_text("a text", encoding="utf-8")
    assert (
        new(
            "bets/deep/all.yaml", "--id", "all-of-it", "--title", "All: of it", "--claim", "It's #1.",
            "--model", "models/mine", "--intervention", "[{skip_layers: {layers: 1}}, quantize_weights: {bits: 4}]",
            "--text", "text.txt", "--lenient", "perplexity_ratio <= 2", "--strict", "perplexity_ratio <= 1.2",
            "--catastrophic", "unique_tokens < 5", "--tokens", "2048", "--window", "256",
        )
        == 0
    )  # fmt: skip
    (document,) = read_bets(Path("bets/deep/all.yaml"))
    bet = document.bet
    assert (bet.title, bet.claim) == ("All: of it", "It's #1.")
    assert bet.model.path == "../../models/mine"
    assert [each.kind for each in bet.arm_interventions[None]] == [
        "skip_layers",
        "quantize_weights",
    ]
    assert str(bet.criteria.strict) == "perplexity_ratio <= 1.2"
    assert (bet.measure.tokens, bet.measure.window) == (2048, 256)


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ((), ["strict", "lenient"]),
        (("--strict", "perplexity_ratio <= 1.1"), ["lenient"]),
        (("--lenient", "perplexity_ratio <= 3"), []),
    ],
)
def test_bars_that_nobody_gave_are_called_placeholders(
    given: tuple[str, ...], called: list[str]
) -> None:
    assert new("bets/mine.yaml", "--intervention", "quantize_weights", *given) == 0
    text = Path("bets/mine.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^  (\w+): .*# placeholder: ", text, re.MULTILINE) == called
    assert ("the bars that you would accept" in text) == bool(called)
    assert list(read_bets(Path("bets/mine.yaml"))[0].bet.placeholders) == called


@pytest.mark.parametrize(
    ("kind", "lenient", "claim"),
    [
        ("skip_layers", None, "at least one of its variants has no more than 3x the perplexity."),
        ("quantize_weights", None, "the model has no more than 3x the perplexity."),
        (
            "skip_layers",
            "any(perplexity_ratio <= 2.5)",
            "at least one of its variants has no more than 2.5x the perplexity.",
        ),
        (
            "skip_layers",
            "max(perplexity_ratio) < 1.25",
            "each of its variants has less than 1.25x the perplexity.",
        ),
        ("quantize_weights", "unique_tokens >= 40", "the model has at least 40 unique tokens."),
        ("quantize_weights", "0.05 > kl", "the model has kl of less than 0.05."),
    ],
)
def test_the_claim_is_written_from_the_bar(kind: str, lenient: str | None, claim: str) -> None:
    given = () if lenient is None else ("--lenient", lenient)
    assert new("bets/mine.yaml", "--intervention", kind, *given) == 0
    assert read_bets(Path("bets/mine.yaml"))[0].bet.claim == f"After {kind} {claim}"


@pytest.mark.parametrize("lenient", ["mean(kl) <= 1", "any(kl <= 1) or any(unique_tokens >= 5)"])
def test_a_bar_without_plain_words_is_the_claim_itself(lenient: str) -> None:
    assert new("bets/mine.yaml", "--intervention", "skip_layers", "--lenient", lenient) == 0
    assert read_bets(Path("bets/mine.yaml"))[0].bet.claim == f"After skip_layers, {lenient}."


@pytest.mark.parametrize("file", ["text.txt", "rows.parquet"])
def test_a_text_is_written_down_with_its_digest(file: str) -> None:
    Path(file).write_bytes(TEXT)
    assert new("bets/mine.yaml", "--intervention", "quantize_weights", "--text", file) == 0
    text = read_bets(Path("bets/mine.yaml"))[0].bet.measure.text
    assert getattr(text, "sha256", None) == DIGEST


def test_a_weaker_claim_is_written_with_its_word() -> None:
    assert new("bets/mine.yaml", "--intervention", "skip_layers", "--acknowledges", "bet-40") == 0
    assert read_bets(Path("bets/mine.yaml"))[0].bet.acknowledges == ("bet-40",)


def test_a_new_bet_in_a_closed_door_is_warned_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bets").mkdir()
    shutil.copy(ROOT / "bets" / "40-skip-each-layer.yaml", "bets")
    assert new("bets/mine.yaml", "--intervention", "remove_layers") == 0
    assert (
        "closed by bet-40 (bets/40-skip-each-layer.yaml:2): remove_layers; so CROSSED, unmeasured"
        in capsys.readouterr().out
    )
    assert new("bets/ours.yaml", "--intervention", "skip_layers", "--challenges", "bet-40") == 0
    assert new("bets/theirs.yaml", "--intervention", "ternary_weights") == 0
    assert "closed by" not in capsys.readouterr().out


def test_whoever_answers_with_a_bar_gets_no_looser_one_beside_it(
    answers: Callable[..., list[str]],
) -> None:
    asked = answers("quantize_weights", "A title", "mine", "", "", "perplexity_ratio <= 1.2", "")
    assert main(["new"]) == 0
    # The claim that is offered is the one that the bar makes true.
    claim = "After quantize_weights the model has no more than 1.2x the perplexity."
    assert asked[-1] == f"claim, in a sentence [{claim}]: "
    bet = read_bets(Path("bets/mine.yaml"))[0].bet
    assert bet.claim == claim
    criteria = bet.criteria
    assert (str(criteria.lenient), criteria.strict) == ("perplexity_ratio <= 1.2", None)
    assert "placeholder" not in Path("bets/mine.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "key", "others"),
    [
        ((), "model", "or {path: DIR}, or {hub: ORG/NAME, revision: COMMIT}"),
        (("--model", "model"), "model", "or reference, or {hub: ORG/NAME, revision: COMMIT}"),
        (("--model", f"org/name@{'a' * 40}"), "model", "or reference, or {path: DIR}"),
        ((), "text", "or {file: PATH}, or {dataset: ORG/NAME, ...}"),
        (("--text", "text.txt"), "text", "or {reference: heldout}, or {dataset: ORG/NAME, ...}"),
        (("--text", "rows.parquet"), "text", "or {reference: heldout}, or {file: PATH}"),
    ],
)
def test_only_other_forms_are_named_beside_the_one_that_is_used(
    given: tuple[str, ...], key: str, others: str
) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    for name in ("text.txt", "rows.parquet"):
        Path(name).write_text("a text", encoding="utf-8")
    assert new("bets/mine.yaml", *given) == 0
    text = Path("bets/mine.yaml").read_text(encoding="utf-8")
    assert re.search(rf"^ *{key}: .*# {re.escape(others)}$", text, re.MULTILINE)


@pytest.mark.parametrize("commit", ["a" * 40, "1" * 40, f"12e{'3' * 37}"])
def test_a_hub_model_is_pinned(commit: str) -> None:
    assert new("bets/hub.yaml", "--model", f"org/name@{commit}") == 0
    (document,) = read_bets(Path("bets/hub.yaml"))
    assert document.bet.model.revision == commit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--intervention", "skip_layer"], "did you mean 'skip_layers'?"),
        (["--intervention", "skip_layers: {layer: 3}"], "unknown key"),
        (
            ["--intervention", "quantize_weights: {bits: 4, group_size: 32}"],
            "intervention.quantize_weights.group_size: has no meaning here; allowed with scale: group",
        ),
        (
            ["--intervention", "[cast: {dtype: float16}, quantize_weights: {bits: 1}]"],
            "intervention[1].quantize_weights.bits: must be at least 2, not 1",
        ),
        (["--intervention", "[}"], "intervention: "),
        (["--intervention", ""], "intervention: "),
        (["--model", "refernce"], "did you mean 'reference'?"),
        (["--model", "."], "has no config.json"),
        (["--text", "none.txt"], "there is no file 'none.txt'"),
        (["--id", "Not An Id"], "allowed: lower-case letters"),
        (["--lenient", "perplexity <"], "nothing was written"),
        (["--tokens", "0"], "nothing was written"),
        (["bets/mine.txt"], "a name that ends in .yaml"),
        (["a-file/mine.yaml"], "a-file/mine.yaml cannot be written: a-file is no folder"),
        (["--challenges", "X"], "nothing was written"),
    ],
)
def test_what_cannot_be_is_reported_and_nothing_is_written(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a-file").touch()
    assert new(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(Path().rglob("*.yaml"))


def test_an_id_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert new("bets/mine.yaml") == 0
    assert new("bets/other.yaml", "--id", "mine") == 1
    assert "'mine' is the id of" in capsys.readouterr().err


def test_whoever_sits_there_is_asked_and_asked_again(
    answers: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answers("skip_layer", "skip_layers", "A title", "mine", "", "nothing", "", "", "")
    assert main(["new"]) == 0
    assert "did you mean 'skip_layers'?" in capsys.readouterr().out
    assert [question.split()[0] for question in asked].count("what") == 2
    assert read_bets(Path("bets/mine.yaml"))[0].bet.title == "A title"


def test_whoever_goes_away_leaves_nothing(
    answers: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers("skip_layers", "A title")
    assert main(["new"]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not list(Path().rglob("*.yaml"))


def test_check_says_all_that_is_wrong_in_all_files(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml")
    text = Path("bets/one.yaml").read_text(encoding="utf-8")
    Path("bets/two.yaml").write_text(text, encoding="utf-8")
    bad = text.replace("status: proposed", "status: proposd").replace("tokens: 8192", "tokens: x")
    Path("bets/three.yaml").write_text(bad, encoding="utf-8")
    assert main(["check", "bets/one.yaml", "bets", "missing.yaml"]) == 1
    reported = capsys.readouterr().err
    assert "did you mean 'proposed'?" in reported
    assert "tokens: must be a whole number" in reported
    assert "'one' is already the id of the bet" in reported
    assert "missing.yaml:1:1: cannot be read" in reported
    assert reported.rstrip().endswith("4 problems")


@pytest.mark.parametrize("command", ["check", "explain"])
@pytest.mark.parametrize(
    ("old", "new_", "hinted"),
    [
        ("skip_layers:", "rotate_weights:", True),
        ("lenient: any(perplexity_ratio", "lenient: any(zipf_slope", True),
        ("tokens: 8192", "tokens: x", False),
    ],
)
def test_what_only_pytest_knows_is_hinted_at(
    command: str, old: str, new_: str, hinted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    new("bets/one.yaml")
    bet = Path("bets/one.yaml")
    text = bet.read_text(encoding="utf-8")
    assert old in text
    bet.write_text(text.replace(old, new_), encoding="utf-8")
    assert main([command, "bets/one.yaml"]) == 1
    reported = capsys.readouterr().err
    assert ("check their bets with 'pytest --collect-only FILE'" in reported) == hinted


def test_check_needs_no_torch() -> None:
    new("bets/one.yaml")
    code = (
        "import sys\nfrom pytest_layerguard.cli.main import main\n"
        "status = main(['check', 'bets'])\nassert 'torch' not in sys.modules\nsys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_help_names_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for called, shown in (
        ("/usr/bin/layerguard", "layerguard"),
        ("layerguard.exe", "layerguard"),
        ("pytest_layerguard/__main__.py", "python -m pytest_layerguard"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        with pytest.raises(SystemExit):
            main(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {shown} [-h]")


def test_explain_counts_by_the_trie_and_names_the_door(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/lost.yaml")
    lost = Path("bets/lost.yaml")
    text = re.sub("\nstatus: .*\n", FALSIFIED, lost.read_text(encoding="utf-8"))
    lost.write_text(text, encoding="utf-8")
    new("bets/again.yaml", "--intervention", "skip_layers")
    capsys.readouterr()
    assert main(["explain", "bets/again.yaml"]) == 0
    reported = " ".join(capsys.readouterr().out.split())
    # L(L+1)/2 for L = 4, the base included.
    assert (
        "10 layer evaluations over all tokens, base included; 16 if nothing were shared" in reported
    )
    assert "Then 5 heads of a vocabulary of " in reported
    assert "4 variants: skip-0, skip-1, skip-2, skip-3" in reported
    assert "64 windows of 128 tokens" in reported
    assert (
        "It stands in the door that lost closed (bets/lost.yaml:4), with skip_layers." in reported
    )
    assert "It has neither a record nor evidence." in reported
    assert "So it will not be measured: CROSSED. With 'challenges: [lost]' it is" in reported
    assert "weaker" not in reported


def test_explain_ends_with_what_the_bets_of_a_folder_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    operations = re.compile(r"about (\S+) floating-point operations at most", re.IGNORECASE)
    for name in ("one", "two", "three"):
        new(f"bets/{name}.yaml", "--intervention", "quantize_weights")
    capsys.readouterr()
    main(["explain", "bets/one.yaml"])
    alone = capsys.readouterr().out
    main(["explain", "bets"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("3 bets: about ")
    assert last.endswith("aside; none needs a GPU")
    (one,), (all_,) = operations.findall(alone), operations.findall(last)
    assert 2.5 <= float(all_) / float(one) <= 3.5
    assert "bets:" not in alone
    two, three = Path("bets/two.yaml"), Path("bets/three.yaml")
    for path, size in ((two, "24GiB"), (three, "8GiB")):
        path.write_text(
            f"{path.read_text(encoding='utf-8')}needs: {{gpu: {size}}}\n", encoding="utf-8"
        )
    whole = re.sub(r"\n( +)tokens: .*", r"\n\1preset: gptq-2048", three.read_text(encoding="utf-8"))
    three.write_text(whole, encoding="utf-8")
    main(["explain", "bets"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert "; the cost of 1 bet is not known; 2 bets need a GPU, of up to 24.0 GiB" in last


def test_explain_says_that_a_claim_is_weaker_and_what_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    new("bets/lost.yaml")
    lost = Path("bets/lost.yaml")
    text = re.sub("\nstatus: .*\n", FALSIFIED, lost.read_text(encoding="utf-8"))
    lost.write_text(text, encoding="utf-8")
    weaker = ("--intervention", "skip_layers", "--lenient", "any(perplexity_ratio <= 4)")
    new("bets/one.yaml", *weaker)
    new("bets/two.yaml", *weaker, "--acknowledges", "lost")
    reported = []
    for name in ("one", "two"):
        capsys.readouterr()
        assert main(["explain", f"bets/{name}.yaml"]) == 0
        reported.append(" ".join(capsys.readouterr().out.split()))
    assert "Your claim is weaker than the one that failed" in reported[0]
    assert "With 'acknowledges: [lost]' it is measured too" in reported[0]
    assert (
        "It acknowledges lost, so it must not be CATASTROPHIC by that criterion either"
        in reported[1]
    )


@pytest.mark.parametrize(
    ("status", "challenges", "said"),
    [
        ("proposed", ["one"], "CROSSED. With 'challenges: [one, two]' it is, and must also meet"),
        ("upheld", [], "CROSSED. With 'challenges: [one, two]' it is, and must also meet"),
        ("proposed", ["one", "two"], "It challenges one, two, so it must also meet"),
        ("proposed", ["one", "other"], "Wrong: line"),
    ],
)
def test_explain_foresees_what_pytest_will_say(
    status: str, challenges: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        new(f"bets/{name}.yaml")
        lost = Path(f"bets/{name}.yaml")
        text = re.sub("\nstatus: .*\n", FALSIFIED, lost.read_text(encoding="utf-8"))
        lost.write_text(text, encoding="utf-8")
    given = [each for id_ in challenges for each in ("--challenges", id_)]
    new("bets/again.yaml", "--intervention", "skip_layers", "--status", status, *given)
    capsys.readouterr()
    assert main(["explain", "bets/again.yaml"]) == 0
    reported = " ".join(capsys.readouterr().out.split())
    assert said in reported
    assert ("it will not be measured" in reported) == ("CROSSED" in said)
    assert ("It challenges" in reported) == said.startswith("It challenges")


@pytest.mark.parametrize("kind", sorted(BUILTIN_KINDS.keys() - {"load_results"}))
def test_every_built_in_intervention_is_explained_without_weights(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new("bets/one.yaml", "--intervention", kind)
    # What load_checkpoint is shown with.
    shutil.copytree(reference.folder("reference"), "bets/candidate")
    capsys.readouterr()
    assert main(["explain", "bets/one.yaml"]) == 0
    reported = capsys.readouterr().out
    assert "layer evaluations over all tokens" in reported
    assert "Not known" not in reported
    assert "``" not in reported


def test_results_of_another_engine_are_explained_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    new("bets/one.yaml", "--intervention", "load_results")
    capsys.readouterr()
    assert main(["explain", "bets/one.yaml"]) == 1
    printed = capsys.readouterr()
    assert "No model is loaded: it was measured elsewhere." in " ".join(printed.out.split())
    assert "one.yaml:10:25" in printed.err
    assert "intervention.load_results.base.file: 'base.jsonl' does not exist" in printed.err


def test_questions_are_explained_and_a_line_that_is_none_is_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    new("bets/one.yaml", "--intervention", "skip_layers")
    bet = Path("bets/one.yaml")
    tasks = (
        "measure:\n  tasks: {q: {file: q.jsonl, limit: 3}, arc: {lm_eval: arc_easy, shots: 2}}\n"
    )
    bet.write_text(bet.read_text().replace("measure:\n", tasks))
    Path("bets/q.jsonl").write_text("{}\n")
    capsys.readouterr()
    assert main(["explain", "bets/one.yaml"]) == 1
    printed = capsys.readouterr()
    out = " ".join(printed.out.split())
    assert "q, the first 3 questions of q.jsonl: accuracy, with 95 % intervals" in out
    assert "arc_easy by lm-evaluation-harness, 2 examples before each: accuracy" in out
    assert "What q asks is not counted." in out
    assert "What arc asks is not counted: the data set of arc_easy is on the hub." in out
    assert (
        "one.yaml:12:15: measure.tasks.q.file: 'q.jsonl', line 1: context is missing" in printed.err
    )


def test_questions_are_counted_and_change_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml", "--intervention", "skip_layers")
    new("bets/two.yaml", "--intervention", "skip_layers", "--task", "questions")
    Path("my-own.jsonl").write_text('{"context": "a b", "choices": ["c", "de"], "answer": 0}\n')
    new("bets/three.yaml", "--intervention", "skip_layers: {layers: 1}", "--task", "my-own.jsonl")
    capsys.readouterr()
    for name in ("one", "two", "three"):
        assert main(["explain", f"bets/{name}.yaml"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert ("less than a second of one CPU core" in out) == (name != "two")
        assert ("stories, 200 questions of the package's own: accuracy" in out) == (name == "two")
        assert ("stories takes 800 texts of 342,488 characters through the same 10" in out) == (
            name == "two"
        )
        assert ("my_own takes 2 texts of 11 characters" in out) == (name == "three")


def test_a_new_bet_is_judged_by_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    new(
        "bets/one.yaml",
        "--intervention",
        "skip_layers",
        "--task",
        "questions",
        "--task",
        "arc_easy",
    )
    (one,) = read_bets(Path("bets/one.yaml"))
    assert str(one.bet.criteria.lenient) == (
        "any(perplexity_ratio <= 3 and stories.accuracy_change >= -0.05 and arc_easy.accuracy_change >= -0.05)"
    )
    new("bets/two.yaml", "--intervention", "load_results", "--task", "mmlu")
    (two,) = read_bets(Path("bets/two.yaml"))
    assert str(two.bet.criteria.strict) == "mmlu.accuracy_change >= -0.02"
    capsys.readouterr()
    assert new("bets/three.yaml", "--task", "none.jsonl") == 1
    assert "task: there is no file 'none.jsonl'" in capsys.readouterr().err
    assert new("bets/three.yaml", "--task", "a b") == 1
    assert "lm_eval" in capsys.readouterr().err


def test_each_task_of_a_new_bet_has_a_name_that_criteria_can_write() -> None:
    line = '{"context": "a", "choices": ["b", "c"], "answer": 0}\n'
    files = ["q.jsonl", "more/q.jsonl", "mean.jsonl", "accuracy.jsonl", "2.jsonl", "_.jsonl"]
    for file in files:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(line, encoding="utf-8")
    given = [part for file in (*files, "q") for part in ("--task", file)]
    new("bets/one.yaml", "--intervention", "skip_layers: {layers: 1}", *given)
    (one,) = read_bets(Path("bets/one.yaml"))
    names = ["q", "q_2", "task_mean", "task_accuracy", "task_2", "task", "q_3"]
    assert list(one.bet.measure.tasks or ()) == names


@pytest.mark.parametrize("kind", ["path", "adapter", "gguf"])
def test_a_candidate_is_named_as_what_it_is(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = tmp_path / "candidates" / ("made.gguf" if kind == "gguf" else "made")
    candidate.parent.mkdir()
    if kind == "gguf":
        candidate.write_bytes(b"GGUF")
    else:
        candidate.mkdir()
        file = "config.json" if kind == "path" else "adapter_config.json"
        (candidate / file).write_text("{}", encoding="utf-8")
    new("bets/one.yaml", "--candidate", str(candidate))
    (document,) = read_bets(Path("bets/one.yaml"))
    (done,) = document.bet.intervention or ()
    found = done.arguments.model_dump(exclude_defaults=True)
    digest = {"sha256": hashlib.sha256(b"GGUF").hexdigest()} if kind == "gguf" else {}
    name = Path(os.path.relpath(candidate, "bets")).as_posix()
    assert (done.kind, found) == ("load_checkpoint", {kind: name, **digest})
    capsys.readouterr()
    assert new("bets/two.yaml", "--candidate", str(tmp_path / "nothing")) == 1
    assert "there is no checkpoint in" in capsys.readouterr().err


def test_a_claim_of_several_lines_is_shown_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml")
    bet = Path("bets/one.yaml")
    text = re.sub(
        "claim: .*", "claim: |\n  It holds\n  everywhere.", bet.read_text(encoding="utf-8")
    )
    bet.write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert main(["explain", "bets/one.yaml"]) == 0
    assert "claims      It holds everywhere.\n" in capsys.readouterr().out


def test_explain_knows_what_was_measured_here(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml", "--intervention", "skip_layers", "--tokens", "1024")
    kept = Path(".pytest_cache/d/layerguard").absolute()
    pytest_layerguard.measure("bets/one.yaml", cache=kept)
    capsys.readouterr()
    assert main(["explain", "bets/one.yaml"]) == 0
    assert "Measured here already, in " in capsys.readouterr().out


def test_explain_counts_windows_that_share_text_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml", "--intervention", "skip_layers", "--tokens", "1024", "--window", "128")
    given = Path("bets/one.yaml").read_text(encoding="utf-8").replace("id: one", "id: two")
    for contract, count, intervals in (
        ("stride: 128", 8, True),
        ("stride: 64", 15, False),
        ("stride: 12", 76, False),
        ("positions: last", 8, True),
    ):
        text = re.sub("\n  window: 128.*", f"\n  window: 128\n  {contract}", given)
        Path("bets/two.yaml").write_text(text, encoding="utf-8")
        capsys.readouterr()
        main(["explain", "bets/two.yaml"])
        explained = " ".join(capsys.readouterr().out.split())
        assert f"{count} windows of 128 tokens" in explained
        assert ("95 % intervals" in explained) == intervals


def test_explain_counts_what_it_takes_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    new("bets/one.yaml", "--intervention", "remove_layers")
    capsys.readouterr()
    main(["explain", "bets/one.yaml"])
    reported = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Before them \d+ evaluations and \d+ heads to decide what is done", reported)


def test_what_a_bet_reads_elsewhere_is_allowed_by_the_commands_that_new_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(pytest_layerguard.__file__).parent / "reference" / "narrow"
    (tmp_path / "mine" / "bets").mkdir(parents=True)
    (tmp_path / "text.txt").write_text("Once upon a time. " * 500, encoding="utf-8")
    bet = "mine/bets/far.yaml"
    given = ("--intervention", "quantize_weights", "--model", str(model), "--text", "text.txt")
    assert new(bet, *given) == 0
    said = capsys.readouterr().out
    allowed = [f"--layerguard-root={folder}" for folder in (tmp_path.resolve(), model.resolve())]
    (document,) = read_bets(Path(bet))
    assert document.bet.model.path == model.as_posix()
    assert f"explain {bet} {' '.join(allowed)}\n" in said
    assert f"pytest {bet} {' '.join(allowed)}\n" in said
    assert f"It reads outside of {tmp_path / 'mine'}, which a run must allow" in said
    assert main(["explain", bet]) == 1
    line = next(
        n for n, text in enumerate(Path(bet).read_text().splitlines(), 1) if "model:" in text
    )
    assert f"error: {bet}:{line}:9: model.path: " in capsys.readouterr().err
    assert main(["explain", bet, *" ".join(allowed).split()]) == 0


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], str]:
    """A bet on a model and a text of its own, with this in its file in place of that."""

    def write(old: str, new_: str) -> str:
        shutil.copytree(reference.folder("reference"), tmp_path / "model")
        (tmp_path / "text.txt").write_bytes(TEXT)
        given = ("--intervention", "skip_layers: {layers: 3}", "--model", "model")
        assert new("bets/own.yaml", *given, "--text", "text.txt") == 0
        bet = tmp_path / "bets" / "own.yaml"
        text = bet.read_text(encoding="utf-8")
        text = text.replace("text.txt}", f"text.txt, sha256: {DIGEST}}}")
        assert old in text
        bet.write_text(text.replace(old, new_), encoding="utf-8")
        return "bets/own.yaml"

    return write


def test_explain_finds_nothing_wrong_with_local_files_that_are_right(
    own: Callable[[str, str], str],
) -> None:
    assert main(["explain", own("skip_layers", "skip_layers")]) == 0


@pytest.mark.parametrize(
    ("old", "new_", "place", "said"),
    [
        ("text.txt,", "none.txt,", "12:10: file: ", "'../none.txt' does not exist"),
        (DIGEST, "f" * 64, "12:10: file: ", "has changed: its sha256 is"),
        (
            "tokens: 8192",
            "tokens: 9002",
            "12:10: file: ",
            "has 9,000 bytes, too few for 9,002 tokens",
        ),
        (
            "layers: 3",
            "layers: 9",
            "10:17: skip_layers: ",
            "layer 9 is out of range: the model has 4",
        ),
    ],
)
def test_explain_reports_what_is_wrong_with_what_a_bet_names(
    old: str,
    new_: str,
    place: str,
    said: str,
    own: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bet = own(old, new_)
    assert main(["explain", bet]) == 1
    (reported,) = capsys.readouterr().err.splitlines()
    assert reported.startswith(f"error: {bet}:{place}")
    assert said in reported


def test_explain_reports_weights_are_pickled(
    own: Callable[[str, str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bet = own("skip_layers", "skip_layers")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    assert main(["explain", bet]) == 1
    (reported,) = capsys.readouterr().err.splitlines()
    assert reported.startswith(f"error: {bet}:8:9: model '../model': its weights are pickled")


def test_explain_reports_a_text_to_train_on_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bet = "bets/own.yaml"
    train = "{train: {steps: 2, text: [{reference: training}, {file: none.txt}]}}"
    new(bet, "--intervention", f"[{{skip_layers: {{layers: 3}}}}, {train}]")
    assert main(["explain", bet]) == 1
    (reported,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {bet}:10:\\d+: file: 'none.txt' does not exist", reported)


def test_looking_for_what_is_wrong_needs_no_torch(own: Callable[[str, str], str]) -> None:
    bet = own("skip_layers", "skip_layers")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from pytest_layerguard.bet.reader import read_bets\n"
        "from pytest_layerguard.environment.conditions import Conditions\n"
        "from pytest_layerguard.cli.obstacles import obstacles\n"
        f"(bet,) = read_bets(Path({bet!r}))\n"
        "found = [*obstacles(bet, Path('bets'), Conditions(), [4], dense=False)]\n"
        "assert not found, found\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_explain_reports_a_dense_model_has_no_experts(
    own: Callable[[str, str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bet = own("skip_layers: {layers: 3}", "average_experts: {}")
    shutil.rmtree(tmp_path / "model")
    tiny.save(tmp_path / "model")
    assert main(["explain", bet]) == 1
    reported = capsys.readouterr().err.splitlines()
    assert f"error: {bet}:10:3: average_experts: the model has no experts" in reported


def test_explain_reports_a_router_needs_more_experts(
    own: Callable[[str, str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bet = own("skip_layers: {layers: 3}", "drop_experts: {count: 13}")
    config = tmp_path / "model" / "config.json"
    config.write_text(
        config.read_text().replace('"num_experts_per_tok": 1', '"num_experts_per_tok": 4')
    )
    assert main(["explain", bet]) == 1
    reported = capsys.readouterr().err.splitlines()
    assert (
        f"error: {bet}:10:18: drop_experts: model ../model: count 13 would leave 3 of 16 experts, and the router "
        "chooses 4 for each token; allowed: up to 12"
    ) in reported


@pytest.mark.parametrize(
    ("intervention", "why"),
    [
        ("merge_layers: {layers: 3}", "layer 3 has no 1 layer of its own after it"),
        ("merge_experts: {count: 17}", "mlp has 16 experts, fewer than count 17"),
        (
            "remove_layers: {count: 2, guided_by: kl, contiguous: true, protect: [0, 1, 2]}",
            "2 layers in one block cannot be taken from 1",
        ),
    ],
)
def test_explain_reports_what_an_intervention_refuses_of_such_a_model(
    own: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
    intervention: str,
    why: str,
) -> None:
    bet = own("skip_layers: {layers: 3}", intervention)
    assert main(["explain", bet]) == 1
    kind = intervention.partition(":")[0]
    assert f"error: {bet}:9:1: {kind}: {why}" in capsys.readouterr().err


def test_explain_reports_a_change_after_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bets = Bets(tmp_path)
    bets.put()
    bets.record("drop-one", 1.2)
    assert main(["explain", "bets/drop-one.yaml"]) == 0
    bets.put(claim="It can go, and more.")
    capsys.readouterr()
    assert main(["explain", "bets/drop-one.yaml"]) == 1
    (reported,) = capsys.readouterr().err.splitlines()
    assert reported.startswith("error: bets/drop-one.yaml:1: TAMPERED: claim, model, intervention")


def test_explain_says_what_is_wrong_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text("id: [", encoding="utf-8")
    new("good.yaml")
    capsys.readouterr()
    assert main(["explain", "bad.yaml", "good.yaml"]) == 1
    said = capsys.readouterr()
    assert "bad.yaml cannot be explained" in said.err
    # One file that cannot be read hides no other.
    assert said.out.startswith("good ")


def test_schema_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_layerguard.bet.schema import SHIPPED

    assert main(["schema"]) == 0
    assert capsys.readouterr().out == SHIPPED.read_text(encoding="utf-8")


def test_a_misuse_is_reported_by_the_parser() -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
