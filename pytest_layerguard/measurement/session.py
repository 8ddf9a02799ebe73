"""A loaded model, with the texts and scores computed so far.

Numbers depend slightly on the shapes that go through a model, so base and variants run with one shape. If
memory is not enough for one of them, all are measured again with half as many windows at a time.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

import torch

from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment import devices
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.failures import PlanError
from pytest_layerguard.measurement.sweep import Base, Work, sweep
from pytest_layerguard.models import tokenization
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.own_code import shortage
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windowed_text import (
    AS_PUBLISHED,
    WindowedText,
    default_window,
    tokens_needed,
    training_windows,
    windowed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from torch import Tensor

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.conditions import Progress
    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.measurement.training import Windows
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.texts.sources import Texts

    T = TypeVar("T")

MICRO_BATCH: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens that go through a block at a time; fixed for a kind of device, as numbers depend on shapes."""

_LARGEST_BLOCK: Final = 2**25 - 2**16
"""Just below the largest block (32 MiB) that glibc takes for a hint."""


class ModelSession:
    """A loaded model. Texts are read once and plans are scored once.

    Attributes:
        loaded: The model and its tokenizer.
        runner: Runs the model's layers.
        sweeps: How many sweeps were made so far.
        micro_batch: Tokens that go through a block at a time.
        spent: Whether the layers were released.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        reuse_freed_memory()
        self.loaded = loaded
        self.runner = Runner(Anatomy.of(loaded.model), loaded.store)
        self.sweeps = 0
        self._usual = MICRO_BATCH.get(self.runner.device.type, MICRO_BATCH["cpu"])
        self.micro_batch = self._usual
        self._checked = False
        self.spent = False
        self._texts: dict[str, WindowedText] = {}
        self._bases: dict[str, Base] = {}
        self._scores: dict[str, dict[Plan, TokenScores]] = {}

    @property
    def base(self) -> Plan:
        """The untouched model."""
        return Plan.untouched(len(self.runner.anatomy))

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return int(self.loaded.model.config.get_text_config(decoder=True).vocab_size)

    def within_memory(self, work: Callable[[], T], progress: Progress) -> T:
        """Return what ``work`` returns, run with as many windows at a time as there is memory for.

        Start at the usual size for the device, even if it did not fit before: a result must not depend on
        what was measured earlier.

        Raises:
            MeasurementError: If not even one window at a time fits; the text names the memory needed.
        """
        if self.micro_batch != self._usual:
            self._reshape(self._usual)
        while True:
            try:
                return work()
            except Exception as error:
                needed = shortage(error)
                if needed is None:
                    raise
            # Only here is no frame of the failed attempt left, so that its tensors can be freed.
            windows = self._halve()
            gc.collect()
            devices.vacate()
            if windows is None:
                raise MeasurementError(self._too_large(needed))
            progress(f"out of memory; measuring again, at most {many(windows, 'window')} at a time")

    def _halve(self) -> int | None:
        """Halve the micro-batch and forget what was scored in the larger one.

        Returns:
            The most windows at a time now, or None if there was only one before.
        """
        shapes = [batch.input_ids.shape for text in self._texts.values() for batch in text.batches]
        largest = max(((rows * length, rows) for rows, length in shapes if rows > 1), default=None)
        self._reshape(self.micro_batch if largest is None else largest[0] // 2)
        return None if largest is None else largest[1] // 2

    def _reshape(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        self._texts.clear()
        self._bases.clear()
        self._scores.clear()

    def _too_large(self, needed: str) -> str:
        where = self.runner.device.type
        model = sum(each.nbytes for each in self.loaded.model.parameters())
        return (
            f"out of memory on {'the host' if where == 'cpu' else where}, even with one window at a time: beside "
            f"the model's {model / 2**30:.3g} GiB it needed {needed}. Take a shorter measure.window or a "
            "smaller model.dtype, or say in the bet's needs what the machine must have"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.loaded.tokenizer.decode(list(ids)))

    def content(self, texts: Texts, text: TextSource, measure: Measure) -> str:
        """Read as much of a text as a bet needs."""
        return texts.read(
            text,
            self.loaded.tokenizer,
            tokens_needed(measure),
            paragraphs=measure.preset == AS_PUBLISHED,
        )

    def windows(self, texts: Texts, text: TextSource, measure: Measure) -> WindowedText:
        """Read a text and cut it into micro-batches by the bet's contract.

        The first text is also used to check that running slot by slot equals the model's own forward pass.
        """
        content = self.content(texts, text, measure)
        windows = windowed(content, measure, self.loaded, self.micro_batch)
        windows = self._texts.setdefault(windows.key, windows)
        if not self._checked:
            sanity_checks.check_model(self.runner, windows.batches[0])
            self._checked = True
        return windows

    def training_windows(self, texts: Texts, measure: Measure, arguments: Train) -> Windows:
        """Return the windows to train on, in the order before shuffling."""
        tokenizer = self.loaded.tokenizer
        start = tokenization.start_ids(tokenizer, measure.bos)
        window = default_window(measure, self.loaded, start)
        most = arguments.steps * arguments.batch
        each = -(-most // len(arguments.text)) * window + 1
        ids = [
            tokenization.encode(tokenizer, texts.read(text, tokenizer, each))[:each]
            for text in arguments.text
        ]
        return training_windows(ids, window, start, most)

    def release_layers(self) -> None:
        """Free the memory of the layers; what is outside of them, the head among it, still works."""
        for layer in self.runner.anatomy.layers:
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor.data = tensor.data.new_empty(0)
        self.spent = True
        gc.collect()
        devices.vacate()

    def revive(self, loaded: LoadedModel) -> None:
        """Take the same model, loaded anew, after its layers were released."""
        self.loaded = loaded
        self.runner = Runner(Anatomy.of(loaded.model), loaded.store)
        self.spent = False

    def base_states(self, text: WindowedText) -> Base:
        """Return the base's losses and final hidden states on a text, run unless they are kept."""
        if text.key not in self._bases:
            self.scores(text, (), keep=True)
        return self._bases[text.key]

    def scores(
        self,
        text: WindowedText,
        plans: Sequence[Plan],
        later: Sequence[Plan] = (),
        *,
        keep: bool = False,
    ) -> tuple[Tensor, Mapping[Plan, TokenScores]]:
        """Score plans on a text.

        Args:
            text: The text, cut into windows.
            plans: The plans to score; one that was scored before is not run again.
            later: Plans that later bets will ask for. They run in the same sweep, if there is one, so that
                what they share with the others is computed once.
            keep: Whether to keep the base's final hidden states however large they are.

        Returns:
            The base's token losses ``[n]``, and the scores of each of ``plans``.
        """
        held = self._scores.setdefault(text.key, {})
        known = self._bases.get(text.key)
        missing = [plan for plan in dict.fromkeys(plans) if plan not in held]
        if missing or known is None:
            missing = [plan for plan in dict.fromkeys((*missing, *later)) if plan not in held]
            ran = [*missing] if known is not None else [self.base, *missing]
            work = Work.of(self.runner, self.vocabulary)
            # A known base runs through no layer again, but through its head.
            steps = work.total(ran, 1 + len(missing), text.batches)
            with counted(f"measuring {many(len(missing), 'variant')}", steps) as advance:
                try:
                    swept = sweep(
                        self.runner,
                        text.batches,
                        self.base,
                        missing,
                        self.vocabulary,
                        known=known,
                        keep=keep,
                        advance=advance,
                    )
                except PlanError as error:
                    if error.plans & set(plans) or not later:
                        raise
                    # What another bet asks for and the model cannot run is that bet's error alone.
                    return self.scores(text, plans, keep=keep)
            self.sweeps += 1
            sanity_checks.check_losses(swept.base)
            held |= dict(zip(missing, swept.variants, strict=True))
            if swept.kept is None:
                return swept.base, {plan: held.pop(plan) for plan in dict.fromkeys(plans)}
            known = self._bases[text.key] = swept.kept
        # Each bet asks for a plan once; the scores for later bets stay until they are asked for.
        waiting = set(later)
        return known.losses, {
            plan: held[plan] if plan in waiting else held.pop(plan) for plan in dict.fromkeys(plans)
        }


def reuse_freed_memory() -> None:
    """Make glibc reuse the blocks that freed activations and logits leave behind.

    glibc keeps freed blocks up to the size of the largest block freed so far (``mallopt(3)``,
    ``M_MMAP_THRESHOLD``), so one such block is allocated and freed. Without it the chunks of logits at a
    vocabulary of 262,144 fragment the heap: 101 MiB of tensors take 158 MiB of resident memory, and 142 MiB
    with it (``tests/benchmarks/memory.py``). At most 64 MiB are kept. With another allocator nothing happens.
    """
    torch.empty(_LARGEST_BLOCK, dtype=torch.uint8)
