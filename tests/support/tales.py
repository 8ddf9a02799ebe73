"""Bets of every kind with made-up measurements, for tests of reports."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.bet.verdict import judge
from pytest_layerguard.catalogue.outcome import Case, Outcome, decide, error, unavailable
from pytest_layerguard.measurement.results import (
    BaseResult,
    BetResult,
    ChangedAnswer,
    Continuation,
    LossProfile,
    TaskChange,
    TokenHarm,
    VariantResult,
)
from pytest_layerguard.report.bet_report import BetReport, CandidateReport, ClosedDoor
from pytest_layerguard.report.make_report import make_report

ROOT = Path("/project")

DOOR = ClosedDoor(
    id="old",
    title="Skip a layer",
    claim="A layer can go.",
    file="bets/old.yaml",
    line=1,
    closes="skip_layers on models with parameters <= 1e8",
    numbers=("its record: FALSIFIED",),
    standing="skip_layers, on reference (parameters unknown)",
    instead="what you can do: another intervention",
)
SWEEP = """\
id: sweep
title: Skip each layer
claim: At least one layer can be skipped at no more than 3x the perplexity.
status: falsified
model: reference
intervention: {skip_layers: {layers: {each: all}}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128, sample: {prompts: [Once], tokens: 9}}
criteria:
  strict: any(perplexity_ratio <= 1.5)
  lenient: any(perplexity_ratio <= 3)
  catastrophic: all(perplexity_ratio >= 10)
closes: {interventions: [skip_layers], models: parameters <= 1e8}
evidence:
  - {source: "Bet 40", model: FractalMoE 30M, verdict: CATASTROPHIC, base: {perplexity: 89},
     variants: {skip-0: {perplexity: 7120, perplexity_ratio: 80}}, note: As published.}
links: ["https://example.org/bet-40"]
notes: Two words in note.
"""
ARMS = """\
id: arms
title: Magnitude or chance
claim: Pruning by magnitude is gentler than pruning at random.
status: proposed
model: reference
arms:
  magnitude: {prune_weights: {parts: linear, sparsity: 0.5, by: magnitude}}
  random: {prune_weights: {parts: linear, sparsity: 0.5, by: random, seed: 0}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128, sample: {prompts: [Once], tokens: 9}}
criteria:
  lenient: magnitude.perplexity_ratio <= 3 and magnitude.unique_tokens >= 5
"""
PAIRS = """\
id: pairs
title: Swap every pair
claim: Some pair can be interchanged.
status: proposed
model: reference
arms:
  replacement: {replace_layers: {pairs: {each: all}}}
  interchange: {interchange_layers: {pairs: {each: all}}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: min(interchange.swap_kl) <= 0.1}
"""
TRAJECTORY = """\
id: trajectory
title: Does training make layers matter
claim: A layer costs more after training.
status: proposed
model: {reference: reference, revisions: {before: init, after: trained}}
intervention: {skip_layers: {layers: {each: all}}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128, max_base_perplexity: none}
criteria: {lenient: all(after.perplexity_ratio > before.perplexity_ratio)}
"""
BRANCHES = """\
id: branches
title: Attention, feed-forward or the whole layer
claim: The attention of some layer can be skipped.
status: proposed
model: reference
arms:
  attention: {skip_layers: {layers: {each: all}, part: attention}}
  feed_forward: {skip_layers: {layers: {each: all}, part: feed_forward}}
  whole: {skip_layers: {layers: {each: all}}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria:
  strict: any(attention.perplexity_ratio <= 1.1)
  lenient: any(attention.perplexity_ratio <= 1.5)
  catastrophic: all(whole.perplexity_ratio >= 10)
"""
TEXTS = """\
id: texts
title: Skip a layer, on two texts
claim: Layer 0 can be skipped.
status: proposed
model: reference
intervention: {skip_layers: {layers: 0}}
measure:
  texts: {heldout: {reference: heldout}, training: {reference: training}}
  tokens: 1024
  window: 128
  speak: {prompts: [Once], tokens: 9}
criteria: {strict: heldout.perplexity_ratio <= 1.1, lenient: heldout.perplexity_ratio <= 3}
"""
TRAINING = """\
id: training
title: Recover by training
claim: Twenty steps bring it back.
status: proposed
model: reference
intervention:
  - average_experts: {layers: all}
  - train: {steps: 20, lr: 1e-4, optimizer: adamw, text: {reference: training}, batch: 2}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: perplexity_ratio <= 3}
"""


CANDIDATE = """\
id: candidate
title: Ship the small file
claim: It is as good.
status: proposed
model: reference
intervention: {load_checkpoint: {path: small}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: perplexity_ratio <= 3}
"""


def around(value: float, spread: float = 1.1) -> Interval:
    return Interval(value, value / spread, value * spread)


def said(text: str, prompt: str = "Once") -> tuple[Continuation, ...]:
    return (Continuation(prompt, text, len(set(text.split())), (1, 2, 3)),)


def profile(height: float = 1.0) -> LossProfile:
    return LossProfile(
        (None, *(height / (at + 1) - 0.1 for at in range(15))),
        (TokenHarm(" the", 9, height), TokenHarm("\n", 4, height / 2)),
    )


def tail(most: float) -> dict[str, float]:
    shares = {"p50": 0.1, "p75": 0.2, "p90": 0.3, "p95": 0.4, "p99": 0.6, "p999": 0.9, "max": 1.0}
    return {name: most * share for name, share in shares.items()}


def variant(name: str, target: str = "", **changes: Any) -> VariantResult:
    ratio = changes.pop("ratio", 2.0)
    metrics = {
        "perplexity": around(10 * ratio),
        "base_perplexity": around(10.0),
        "perplexity_ratio": around(ratio),
        "unique_tokens": Interval.point(40.0),
    } | changes.pop("metrics", {})
    values: dict[str, Any] = {"arm": None, "text": None, "checkpoint": None} | changes
    return VariantResult(name, target, metrics=metrics, **values)


def result(*variants: VariantResult, bases: tuple[str | None, ...] = (None,)) -> BetResult:
    return BetResult(
        bases=tuple(
            BaseResult(
                None,
                name,
                {"perplexity": around(10.0), "unique_tokens": Interval.point(60.0)},
                said("there was a girl"),
            )
            for name in bases
        ),
        variants=variants,
        tokens=1024,
        windows=8,
        descriptive=False,
        provenance={
            "checkpoints": [
                {
                    "checkpoint": None,
                    "device": "cpu",
                    "versions": {"torch": "2.13.0"},
                    "experts": None,
                }
            ]
        },
        seconds=1.5,
    )


def sweep() -> BetResult:
    ratios = (80.0, 5.0, 4.0, 6.0)
    return result(
        *(
            variant(
                f"skip-{at}",
                str(at),
                ratio=ratio,
                samples=said(f"word{at}"),
                profile=profile(ratio),
                kl_tail=tail(ratio),
            )
            for at, ratio in enumerate(ratios)
        )
    )


def arms() -> BetResult:
    return result(
        variant("prune-magnitude-50", arm="magnitude", ratio=1.4, samples=said("a fine day")),
        variant("prune-random-50", arm="random", ratio=900.0, samples=said("xx xx"), note="odd"),
    )


def pairs(layers: int = 5) -> BetResult:
    made = []
    for arm, kind in (("replacement", "replace"), ("interchange", "interchange")):
        for i in range(layers):
            for j in range(i + 1, layers):
                kl = 0.2 * (j - i) * (2 if arm == "replacement" else 1)
                made.append(
                    variant(
                        f"{kind}-{i}-{j}",
                        f"{i}-{j}",
                        arm=arm,
                        metrics={"swap_kl": around(kl), "protocol_gap": around(0.1 * (j - i))},
                    )
                )
    return result(*made)


def trajectory() -> BetResult:
    return result(
        *(
            variant(f"skip-{at}", str(at), checkpoint=name, ratio=ratio * (1 + at))
            for name, ratio in (("before", 1.01), ("after", 8.0))
            for at in range(3)
        ),
        bases=("before", "after"),
    )


def branches() -> BetResult:
    return result(
        *(
            variant(f"skip-{arm}-{at}", str(at), arm=arm, ratio=1 + harm / (1 + at))
            for arm, harm in (("attention", 1.0), ("feed_forward", 4.0), ("whole", 70.0))
            for at in range(4)
        )
    )


def training() -> BetResult:
    losses = [[step, 9.0 - step / 10] for step in range(1, 21)]
    return result(
        variant("average-experts-then-train-20", ratio=77.0, diagnostics={"training_loss": losses})
    )


def document(text: str) -> BetDocument:
    return parse_bets(text, ROOT / "bets/some.yaml")[0]


def judged(text: str, found: BetResult, **changes: Any) -> BetReport:
    """Tell a bet as the guard would after it has been measured."""
    bet = document(text)
    judgement = judge(bet.bet.criteria, found.rows())
    decision = decide(Case(bet.bet.status, verdict=judgement.verdict))
    assert decision.word is not None
    values: dict[str, Any] = {
        "verdict": judgement.verdict,
        "judgement": judgement,
        "result": found,
        "messages": decision.messages,
        "warnings": decision.warnings,
    }
    outcome = Outcome(decision.word, decision.passed, **(values | changes))
    return reported(bet, outcome)


def reported(bet: BetDocument, outcome: Outcome) -> BetReport:
    """Tell it, and let it travel as it does from a worker."""
    return BetReport.from_json(make_report(bet, outcome, ROOT).to_json())


def steep() -> BetReport:
    """Ratios over five powers of ten, as skipping the first layer of a small model costs."""
    found = result(variant("skip-0", "0", ratio=75_000.0), variant("skip-1", "1", ratio=5.0))
    return judged(SWEEP.replace("id: sweep", "id: steep"), found)


def by_branch() -> BetReport:
    """Arms that sweep the same layers: one residual branch, the other, and both."""
    return judged(BRANCHES, branches())


def questions() -> BetReport:
    """A sweep that was asked questions: one variant lost answers, the other gained one too."""
    bird = ChangedAnswer("What flies?", "a bird", "a bird", "a stone", lost=True)
    stone = ChangedAnswer("What sinks?", "a stone", "a bird", "a stone", lost=False)
    found = result(
        variant("skip-0", "0", tasks={"quiz": TaskChange(200, 150, 120, 0, 1e-30, (bird,))}),
        variant("skip-1", "1", tasks={"quiz": TaskChange(200, 150, 3, 1, 0.62, (bird, stone))}),
    )
    return judged(SWEEP.replace("id: sweep", "id: questions"), found)


def candidate() -> BetReport:
    """A file in the base's place, recognised, in another dtype."""
    found = result(variant("load-small", ratio=1.2, profile=profile(), kl_tail=tail(2)))
    card = CandidateReport(
        "load-small",
        ("LlamaForCausalLM, 4 layers, 512 tokens, 64 wide", "safetensors; dtype bfloat16"),
        (("remove_layers", "keeps 4 of 5 layers, bit for bit; layer 2 is gone"),),
        "computes in bfloat16, and so does its floor: the base in bfloat16 has a KL of 0.0005",
    )
    return replace(judged(CANDIDATE, found), candidates=(card,))


def doubtful() -> BetReport:
    """A proposal that was skipped because it is not known whether a door is closed to it."""
    text = SWEEP.replace("id: sweep", "id: doubtful").replace(
        "status: falsified", "status: proposed"
    )
    text = text.replace("closes: {interventions: [skip_layers], models: parameters <= 1e8}\n", "")
    skipped = reported(
        document(text), unavailable("whether old closed it cannot be reported", required=False)
    )
    return replace(skipped, doors=(DOOR,))


def eye_test() -> BetReport:
    """A bet on two texts with an eye test alone, of which the model knows nothing."""
    bases = tuple(
        BaseResult(name, None, {"perplexity": around(10.0)}, spoken=said("there was a girl"))
        for name in ("heldout", "training")
    )
    made = tuple(
        variant("skip-0", "0", text=name, spoken=said("a broken word"))
        for name in ("heldout", "training")
    )
    return judged(TEXTS, replace(result(*made), bases=bases))


@cache
def every() -> dict[str, BetReport]:
    """One bet of each kind, by what is special about it."""
    return {
        "sweep": judged(SWEEP, sweep()),
        "arms": judged(ARMS, arms()),
        "pairs": judged(PAIRS, pairs()),
        "trajectory": judged(TRAJECTORY, trajectory()),
        "training": judged(TRAINING, training()),
        "error": reported(
            document(SWEEP.replace("id: sweep", "id: broken")), error("no such model")
        ),
        "skipped": reported(
            document(SWEEP.replace("id: sweep", "id: absent")),
            unavailable("needs a GPU of 24 GiB", required=False),
        ),
        "bug": reported(document(SWEEP.replace("id: sweep", "id: bug")), error("a mistake")),
    }
