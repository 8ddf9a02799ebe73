"""Check on a GPU what only a GPU shows, in at most six minutes and without a network.

    python tests/device/check.py --to DIR [--device cuda] [--seconds 340] [--small]

Writes DIR/check.json and DIR/check.md anew whenever something was measured, so that a run that is cut short leaves what
it had. Each step has a time limit of its own; one that fails or takes too long keeps what it has measured, and the
others run. Ends with 1 if a step failed. Steps that the time no longer suffices for are named and left out. `--small`
takes a model of four narrow layers and one bet, for a CPU.

Runs from a checkout. Beside PyTorch, transformers, pytest and scipy an image without a network needs wheels of a few
MiB, made where there is one:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 -d wheels \\
        pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection

and there: pip install --no-index --no-deps --target /tmp/site wheels/*.whl; export PYTHONPATH=/tmp/site
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import transformers  # noqa: E402
from support import plain  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config  # noqa: E402

from pytest_layerguard import reference  # noqa: E402
from pytest_layerguard.bet.reader import parse_bets  # noqa: E402
from pytest_layerguard.environment import devices  # noqa: E402
from pytest_layerguard.environment.conditions import Conditions  # noqa: E402
from pytest_layerguard.interventions.registry import Registry  # noqa: E402
from pytest_layerguard.measurement.generation import generate, greedy  # noqa: E402
from pytest_layerguard.measurement.measurer import LocalMeasurer  # noqa: E402
from pytest_layerguard.measurement.results import BetResult  # noqa: E402
from pytest_layerguard.measurement.sweep import evaluations, sweep  # noqa: E402
from pytest_layerguard.measurement.token_scores import compare  # noqa: E402
from pytest_layerguard.models.anatomy import Anatomy  # noqa: E402
from pytest_layerguard.models.plan import Plan, Weights  # noqa: E402
from pytest_layerguard.models.runner import Runner  # noqa: E402
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut  # noqa: E402

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
"""Nats by which the loss of one token may differ between two ways to run a model, by its dtype."""

BET = """\
id: {id}
title: A check
claim: The perplexity is at most doubled.
status: proposed
model: {model}
intervention: {{{does}}}
measure:
  text: {{reference: heldout}}
  tokens: {tokens}
  window: {window}
  max_base_perplexity: none
criteria: {{lenient: {criterion}}}
"""

HANGS = """\
import time, torch
from pytest_layerguard.models.runner import Runner

def hang(*args, **kwargs):
    if torch.cuda.is_available():
        # About a minute, so that a card is never lost to a check that went wrong.
        torch.cuda._sleep(10**11)
        torch.cuda.synchronize()
    time.sleep(60)

Runner.step = hang
"""


class Shape(NamedTuple):
    """The size of a model and of what is run on it."""

    layers: int
    width: int
    inner: int
    heads: int
    keys: int
    head: int
    vocabulary: int
    tokens: int
    window: int
    new: int
    square: int


LARGE = Shape(36, 4096, 12288, 32, 8, 128, 151_936, 8192, 1024, 64, 8192)
"""Qwen3-8B."""

SMALL = Shape(4, 64, 128, 4, 2, 16, 2048, 512, 64, 8, 256)


ENDS: float = 15
"""Seconds that a process of pytest has to write its reports after it was interrupted."""


class FailedError(Exception):
    """A step found something wrong, or took too long."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise FailedError in the block when so many seconds are over; a call of the device is waited for."""

    def over(*_: object) -> None:
        raise FailedError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Check:
    """The state of a run.

    Attributes:
        device: Where everything runs, as torch names it.
        shape: How large the model is.
        small: Whether only one bet of the catalogue is run.
        to: The folder for the two files.
        ends: When the run must be over, by the monotonic clock.
        found: What each step found.
        step: The step that runs.
        over: When it must be over, by the monotonic clock.
    """

    device: str
    shape: Shape
    small: bool
    to: Path
    ends: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    step: str = ""
    over: float = math.inf
    peak: float = math.nan

    def __post_init__(self) -> None:
        self.gpu = self.device.startswith("cuda")
        self.dtype = torch.bfloat16 if self.gpu else torch.float32

    def run(self, name: str, least: float, most: float, step: Callable[[], dict[str, Any]]) -> None:
        """Run a step that takes at least and may take at most so many seconds; keep what it found."""
        self.step, started = name, time.monotonic()
        left = self.ends - started if self.gpu else most
        if left < least:
            self.note({"left out": f"{left:.0f} s were left"})
        else:
            limit = min(left, most)
            self.over = started + limit
            try:
                self.reset_peak()
                with within(limit):
                    self.note(step())
            except FailedError as error:
                self.note({"failed": str(error)})
            except Exception:
                self.note({"failed": traceback.format_exc()})
            self.note({"seconds": time.monotonic() - started})
        print(name, self.found[name], flush=True)
        # After some errors of CUDA every call fails in this process; the others are tried all the same.
        with contextlib.suppress(RuntimeError):
            if self.gpu:
                self.note({"peak_GiB": torch.cuda.max_memory_allocated(self.device) / 2**30})
            gc.collect()
            devices.vacate()

    def note(self, numbers: Mapping[str, Any]) -> None:
        """Keep what the step that runs has measured, whatever becomes of the rest of it."""
        self.found.setdefault(self.step, {}).update(numbers)
        self.write()

    def reset_peak(self) -> None:
        if self.gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the seconds that work took to its end on the device, and what it returned."""
        self.wait()
        started = time.perf_counter()
        returned = work()
        self.wait()
        return time.perf_counter() - started, returned

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def write(self) -> None:
        """Write both files."""
        machine = {
            "device": devices.name(self.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "shape": self.shape._asdict(),
        }
        whole = {"machine": machine, "steps": self.found}
        self.to.mkdir(parents=True, exist_ok=True)
        (self.to / "check.json").write_text(json.dumps(whole, indent=2, default=str) + "\n")
        lines = [
            f"{machine['device']}, torch {torch.__version__}, transformers {transformers.__version__}",
            "",
        ]
        for name, found in self.found.items():
            lines += [f"## {name}", "", *_table(found), ""]
        (self.to / "check.md").write_text("\n".join(lines))

    # The steps.

    def matrix_product(self) -> dict[str, Any]:
        """Measure the device's own peak, which the others are shares of."""
        side = self.shape.square
        one, other = (
            torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2)
        )
        for _ in range(3):
            one @ other
        took, _ = self.timed(lambda: [one @ other for _ in range(10)])
        self.peak = 10 * 2 * side**3 / took
        return {"TFLOP_per_s": self.peak / 1e12}

    def sweeps(self) -> dict[str, Any]:
        """Run the skips and both protocols of adjacent pairs, and the plain loop."""
        layers = self.shape.layers
        model = self.model()
        runner = Runner(Anatomy.of(model))
        batches = self.batches()
        base = Plan.untouched(layers)
        skips = [base.without(frozenset([layer])) for layer in range(layers)]
        pairs = [
            plan
            for slot in range(layers - 1)
            for plan in (
                base.rebound({slot: Weights(slot + 1)}),
                base.rebound({slot + 1: Weights(slot)}),
                base.rebound({slot: Weights(slot + 1), slot + 1: Weights(slot)}),
            )
        ]
        sweep(runner, batches, base, skips[:1], self.shape.vocabulary)
        self.note({"model_GiB": self.bytes(model) / 2**30})
        results, seconds = {}, {}
        for name, plans in (("skip", skips), ("pairs", pairs)):
            took, results[name] = self.timed(
                lambda plans=plans: sweep(runner, batches, base, plans, self.shape.vocabulary)
            )
            work = evaluations([base, *plans]) * self.layer_work()
            work += (len(plans) + 1) * self.head_work()
            seconds[name] = took
            self.note(
                {
                    f"{name}_variants": len(plans),
                    f"{name}_seconds": took,
                    f"{name}_share_of_peak": work / took / self.peak,
                }
            )
        took, looped = self.timed(lambda: self.loop(model, batches))
        self.note({"skip_loop_seconds": took, "skip_loop_over_sweep": took / seconds["skip"]})
        worst = max(
            float((ours.losses - theirs).abs().max())
            for ours, theirs in zip(results["skip"].variants, looped[1:], strict=True)
        )
        equal = bool(torch.equal(results["skip"].base, looped[0]))
        self.note({"largest_difference_of_a_loss": worst, "base_is_bit_equal": equal})
        if worst > CLOSE[self.dtype]:
            raise FailedError(f"a loss differs from the plain loop's by {worst:.3g} nats")
        return {}

    def loop(self, model: PreTrainedModel, batches: Sequence[Batch]) -> list[Tensor]:
        """Return the losses of the base and of each skip, by whole forward passes."""
        blocks = plain.layers_of(model)
        losses = [self.losses(model, batches)]
        for block in blocks:
            with mock.patch.object(block, "forward", lambda hidden_states, **_: hidden_states):
                losses.append(self.losses(model, batches))
        return losses

    @torch.inference_mode()
    def losses(self, model: PreTrainedModel, batches: Sequence[Batch]) -> Tensor:
        found = []
        for batch in batches:
            for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
                logits = model(ids[None].to(self.device), use_cache=False).logits[0].float()
                wanted = labels.to(self.device)
                found.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        return torch.cat(found).cpu()

    def heads(self) -> dict[str, Any]:
        """Run the head and the comparison of a base with four variants."""
        width, vocabulary = self.shape.width, self.shape.vocabulary
        head = torch.nn.Linear(
            width, vocabulary, bias=False, device=self.device, dtype=self.dtype
        ).requires_grad_(False)
        rows = self.shape.tokens
        states = [torch.randn(rows, width, device=self.device, dtype=self.dtype) for _ in range(5)]
        labels = torch.randint(vocabulary, (rows,))
        ours = [(state, head) for state in states]

        def all_of_them() -> Any:
            with torch.inference_mode():
                return compare(ours[0], ours[1:], labels, vocabulary)

        all_of_them()
        took, _ = self.timed(all_of_them)
        work = len(states) * self.head_work()
        return {
            "variants": len(states) - 1,
            "microseconds_per_row": took / len(states) / rows * 1e6,
            "share_of_peak": work / took / self.peak,
        }

    def samples(self) -> dict[str, Any]:
        """Sample from the base and from each skip, and from the base alone in as many rows."""
        model = self.model()
        runner = Runner(Anatomy.of(model))
        base = Plan.untouched(self.shape.layers)
        plans = [
            base,
            *(base.without(frozenset([layer])) for layer in range(self.shape.layers)),
        ]
        prompt = list(range(3, 11))
        generate(runner, plans, [prompt], 2, greedy)
        took, texts = self.timed(lambda: generate(runner, plans, [prompt], self.shape.new, greedy))
        self.note({"tokens_per_s": len(plans) * self.shape.new / took})
        rows = torch.tensor([prompt] * len(plans), device=self.device)
        how = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        model.generate(rows, max_new_tokens=2, **how)
        alone, reported = self.timed(
            lambda: model.generate(rows, max_new_tokens=self.shape.new, **how)
        )
        return {
            "over_one_batch_of_the_base": took / alone,
            "base_is_the_models_own": texts[0][0] == reported[0, len(prompt) :].tolist(),
        }

    def out_of_memory(self) -> dict[str, Any]:
        """Measure with ample memory, then with so little that a micro-batch does not fit.

        An attention that keeps its scores takes more memory than the logits, and half of it for half of the windows.
        """
        with tempfile.TemporaryDirectory() as made:
            model = self.model()
            folder, size = self.saved(model, Path(made)), self.bytes(model)
            del model
            gc.collect()
            devices.vacate()

            def measured(notes: list[str]) -> BetResult:
                return self.measured(
                    folder,
                    "skip_layers: {layers: {each: [0, 1]}}",
                    "all(kl <= 1)",
                    notes,
                    tokens=2 * self.shape.tokens,
                    window=2 * self.shape.window,
                    loaded=", attn_implementation: eager",
                )

            self.reset_peak()
            ample = measured([])
            needed = torch.cuda.max_memory_allocated(self.device) - size if self.gpu else 0
            self.note({"needed_beside_the_model_GiB": needed / 2**30})
            notes: list[str] = []
            with self.short_of_memory(int(0.85 * needed)):
                tight = measured(notes)
        halved = [note for note in notes if "out of memory" in note]
        if not halved:
            raise FailedError("nothing ran out of memory")
        ratio = max(
            abs(math.log(one.metrics["perplexity"].value / other.metrics["perplexity"].value))
            for one, other in zip(ample.variants, tight.variants, strict=True)
        )
        return {"notes": halved, "largest_change_of_log_perplexity": ratio}

    @contextlib.contextmanager
    def short_of_memory(self, room: int) -> Iterator[None]:
        """Leave so many bytes of the card after a model was loaded; on a CPU, fail once in the middle."""
        step = Runner.step
        filler: list[Tensor] = []

        def first(*args: Any, **kwargs: Any) -> Any:
            if not filler:
                devices.vacate()
                free = devices.free_memory(self.device) - room if self.gpu else 1
                filler.append(torch.empty(free, dtype=torch.uint8, device=self.device))
                if not self.gpu:
                    raise torch.OutOfMemoryError("a check")
            return step(*args, **kwargs)

        with mock.patch.object(Runner, "step", first):
            yield

    def candidates(self) -> dict[str, Any]:
        """Judge a checkpoint against its base with both in memory, and one after the other."""
        free = shutil.disk_usage(tempfile.gettempdir()).free
        with tempfile.TemporaryDirectory() as made:
            model = self.model()
            if free < 3 * self.bytes(model):
                raise FailedError(f"{free / 2**30:.0f} GiB of disk do not hold two of them")
            self.saved(model, Path(made))
            projection = plain.layers_of(model)[1].mlp.down_proj
            projection.weight.data.mul_(0.5)
            self.saved(model, Path(made), "candidate")
            size = self.bytes(model)
            del model, projection
            gc.collect()
            devices.vacate()
            does = "load_checkpoint: {path: candidate}"
            self.note({"model_GiB": size / 2**30})
            results = []
            for name, room in (("together", None), ("in_turn", 2 * size)):
                notes: list[str] = []
                self.reset_peak()
                with self.room(room):
                    took, result = self.timed(
                        lambda notes=notes: self.measured(
                            Path(made) / "model",
                            does,
                            "kl <= 1",
                            notes,
                            tokens=self.shape.tokens // 2,
                            window=self.shape.window // 2,
                        )
                    )
                results.append(result)
                self.note({f"{name}_seconds": took})
                if self.gpu:
                    peak = torch.cuda.max_memory_allocated(self.device) - self.filled
                    self.note({f"{name}_peak_over_model": peak / size})
                let_go = any("letting go" in note for note in notes)
                if let_go != (name == "in_turn"):
                    raise FailedError(f"{name}: the base was {'' if let_go else 'not '}let go of")
        one, other = (result.variants[0].metrics for result in results)
        if any(one[name] != other[name] for name in one):
            raise FailedError(f"together {one}, in turn {other}")
        return {"same_numbers": True}

    @contextlib.contextmanager
    def room(self, size: int | None) -> Iterator[None]:
        """Leave so many bytes of the card; on a CPU, say that there are none where a size is given."""
        self.filled = 0
        if size is None:
            yield
        elif self.gpu:
            self.filled = max(0, devices.free_memory(self.device) - size)
            filler = torch.empty(self.filled, dtype=torch.uint8, device=self.device)
            yield
            del filler
        else:
            with mock.patch.object(devices, "free_memory", return_value=0):
                yield

    def catalogue(self) -> dict[str, Any]:
        """Run the catalogue of the package on the device, against its records."""
        with tempfile.TemporaryDirectory() as made:
            report = Path(made) / "bets.json"
            bets = ROOT / "bets" / "40-skip-each-layer.yaml" if self.small else ROOT / "bets"
            code, printed = self.pytest(
                str(bets), f"--layerguard-json={report}", "--layerguard-fresh", folder=ROOT
            )
            if not report.exists():
                raise FailedError(printed[-3000:])
            entries = json.loads(report.read_text(encoding="utf-8"))["bets"]
        words = {}
        for entry in entries:
            record = ROOT / "bets" / "records" / f"{entry['id']}.json"
            if entry["outcome"] == "skipped" or not record.exists():
                continue
            recorded = json.loads(record.read_text(encoding="utf-8"))
            apart = _apart(entry["variants"], recorded["result"]["variants"])
            words[entry["id"]] = f"{entry['outcome']}, ratios within {apart:.2g}"
        self.note({"exit_code": code, "words": words})
        if code:
            raise FailedError(printed[-6000:])
        return {}

    def hang(self) -> dict[str, Any]:
        """Run a bet whose kernel hangs, under a time limit."""
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            (folder / "bets").mkdir()
            (folder / "pytest.ini").write_text("[pytest]\n")
            (folder / "conftest.py").write_text(HANGS)
            bet = BET.format(
                id="hangs",
                model="reference",
                does="skip_layers: {layers: 1}",
                tokens=1024,
                window=128,
                criterion="kl <= 1",
            )
            (folder / "bets" / "hangs.yaml").write_text(bet)
            limit = 2
            took, (code, printed) = self.timed(
                lambda: self.pytest(
                    "bets",
                    f"--layerguard-timeout={limit}",
                    folder=folder,
                )
            )
        if code == 0 or "hangs" not in printed:
            raise FailedError(f"exit code {code}\n{printed[-3000:]}")
        return {"limit": limit, "ended_after": took, "exit_code": code}

    # What the steps share.

    def model(self) -> PreTrainedModel:
        """Return the model with random weights, the same each time."""
        shape = self.shape
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.keys,
            head_dim=shape.head,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        return model.eval().requires_grad_(False)

    def bytes(self, model: PreTrainedModel) -> int:
        return sum(parameter.nbytes for parameter in model.parameters())

    def batches(self) -> list[Batch]:
        generator = torch.Generator().manual_seed(0)
        size = (self.shape.tokens + 1,)
        ids = torch.randint(3, self.shape.vocabulary, size, generator=generator).tolist()
        windows = cut(
            ids, Contract(self.shape.tokens, self.shape.window, self.shape.window, start=())
        )
        return batched(windows, 8)

    def layer_work(self) -> float:
        """Return the floating-point operations of one layer over all tokens."""
        shape = self.shape
        attention = shape.width * shape.head * (2 * shape.heads + 2 * shape.keys)
        weights = attention + 3 * shape.width * shape.inner
        # Each token attends to half of the window on average: scores and sums.
        attending = 2 * shape.heads * shape.head * shape.window / 2
        return 2.0 * shape.tokens * (weights + attending)

    def head_work(self) -> float:
        return 2.0 * self.shape.tokens * self.shape.width * self.shape.vocabulary

    def saved(self, model: PreTrainedModel, folder: Path, name: str = "model") -> Path:
        """Save a model with the tokenizer of the reference model."""
        model.save_pretrained(folder / name)
        for file in reference.folder("reference").glob("tokenizer*"):
            shutil.copy(file, folder / name)
        return folder / name

    def measured(
        self,
        model: Path,
        does: str,
        criterion: str,
        notes: list[str],
        *,
        tokens: int,
        window: int,
        loaded: str = "",
    ) -> BetResult:
        """Measure a bet on a folder, as pytest would."""
        bets = model.parent / "bets"
        text = BET.format(
            id="check",
            model=f"{{path: ../{model.name}{loaded}}}",
            does=does.replace("path: ", "path: ../"),
            tokens=tokens,
            window=window,
            criterion=criterion,
        )
        (document,) = parse_bets(text, bets / "check.yaml")
        conditions = Conditions(device=self.device, progress=notes.append, roots=(model.parent,))
        return LocalMeasurer(conditions, Registry.of()).measure(document, bets=bets)

    def pytest(self, *arguments: str, folder: Path) -> tuple[int, str]:
        """Run pytest in a process of its own, which is interrupted before the step's time is over."""
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                # The plugin of this checkout, whether or not one is installed.
                *("-p", "no:layerguard", "-p", "pytest_layerguard.pytest_plugin.plugin"),
                f"--layerguard-device={self.device}",
                *arguments,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for limit in (self.over - time.monotonic() - 2 * ENDS, ENDS):
                try:
                    printed, _ = process.communicate(timeout=min(limit, threading.TIMEOUT_MAX))
                    return process.returncode, printed
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)
            process.kill()
            return process.wait(), f"killed: not back {ENDS:g} s after it was interrupted"


def _apart(now: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest difference of the logarithms of two runs' perplexity ratios."""
    return max(
        abs(math.log(_ratio(one) / _ratio(other))) for one, other in zip(now, recorded, strict=True)
    )


def _ratio(variant: Mapping[str, Any]) -> float:
    return float(variant["metrics"]["perplexity_ratio"]["value"])


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in found.items():
        if isinstance(value, Mapping):
            for inner, each in value.items():
                yield f"| {inner} | {each} |"
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", "<br>")
        yield f"| {name.replace('_', ' ')} | {shown} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=340)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    check = Check(
        devices.resolve(Conditions(device=given.device)),
        SMALL if given.small else LARGE,
        given.small,
        given.to,
        time.monotonic() + given.seconds,
    )
    check.run("matrix product", 5, 30, check.matrix_product)
    check.run("heads", 5, 30, check.heads)
    check.run("sweeps", 40, 120, check.sweeps)
    check.run("samples", 15, 60, check.samples)
    check.run("hanging kernel", 45, 90, check.hang)
    check.run("catalogue", 60, 150, check.catalogue)
    check.run("out of memory", 40, 120, check.out_of_memory)
    check.run("candidates", 60, 240, check.candidates)
    return int(any("failed" in found for found in check.found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
