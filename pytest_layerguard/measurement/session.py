"""A model that is loaded, with what was read and scored with it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.measurement import heap, sanity_checks
from pytest_layerguard.measurement.sweep import Base, evaluations, sweep
from pytest_layerguard.models import tokenization
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windowed_text import (
    WindowedText,
    default_window,
    tokens_needed,
    training_windows,
    windowed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.measurement.head import Scores
    from pytest_layerguard.measurement.training import Windows
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.texts.sources import Texts

MICRO_BATCH: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens that go through a block at a time; fixed for a kind of device, because numbers move with shapes."""


class ModelSession:
    """One model at work. What is read or scored once is not read or scored again.

    Attributes:
        loaded: The model and its tokenizer.
        runner: What runs it.
        sweeps: How many sweeps were made so far.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        heap.reuse_freed_memory()
        self.loaded = loaded
        self.runner = Runner(Anatomy.of(loaded.model), loaded.store)
        self.sweeps = 0
        self._micro_batch = self._usual
        self._proven = False
        self._readings: dict[str, WindowedText] = {}
        self._bases: dict[str, Base] = {}
        self._scores: dict[str, dict[Plan, Scores]] = {}

    @property
    def base(self) -> Plan:
        """The untouched model."""
        return Plan.untouched(len(self.runner.anatomy))

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return int(self.loaded.model.config.get_text_config(decoder=True).vocab_size)

    @property
    def micro_batch(self) -> int:
        """Tokens that go through a block at a time."""
        return self._micro_batch

    @property
    def _usual(self) -> int:
        return MICRO_BATCH.get(self.runner.device.type, MICRO_BATCH["cpu"])

    def as_usual(self) -> None:
        """Goes back to the micro-batch that is usual for the device."""
        if self._micro_batch != self._usual:
            self._reshape(self._usual)

    def halve(self) -> int | None:
        """Halves the micro-batch, and forgets what was scored in the larger one.

        Returns:
            How many windows there are at a time now at the most, or None if there was only one before.
        """
        shapes = [
            batch.input_ids.shape for each in self._readings.values() for batch in each.batches
        ]
        largest = max(((rows * length, rows) for rows, length in shapes if rows > 1), default=None)
        self._reshape(self._micro_batch if largest is None else largest[0] // 2)
        return None if largest is None else largest[1] // 2

    def _reshape(self, micro_batch: int) -> None:
        self._micro_batch = micro_batch
        self._readings.clear()
        self._bases.clear()
        self._scores.clear()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return str(self.loaded.tokenizer.decode(list(ids)))

    def reading(self, texts: Texts, text: TextSource, measure: Measure) -> WindowedText:
        """Reads a text and cuts it into micro-batches by the bet's contract.

        The first reading also proves that the model, run slot by slot, is the model.
        """
        wording = texts.read(text, self.loaded.tokenizer, tokens_needed(measure))
        reading = windowed(wording, measure, self.loaded, self.micro_batch)
        reading = self._readings.setdefault(reading.key, reading)
        if not self._proven:
            sanity_checks.check_head(self.runner, reading.batches[0])
            self._proven = True
        return reading

    def training(self, texts: Texts, measure: Measure, arguments: Train) -> Windows:
        """The windows that a training is to see."""
        tokenizer = self.loaded.tokenizer
        window = default_window(measure, self.loaded)
        most = arguments.steps * arguments.batch
        each = -(-most // len(arguments.text)) * window + 1
        ids = [
            tokenization.encode(tokenizer, texts.read(text, tokenizer, each))[:each]
            for text in arguments.text
        ]
        return training_windows(ids, window, tokenization.bos_id(tokenizer, measure.bos), most)

    def scores(
        self, reading: WindowedText, plans: Sequence[Plan], also: Sequence[Plan] = ()
    ) -> tuple[Tensor, Mapping[Plan, Scores]]:
        """Scores plans on what was read.

        Args:
            reading: The windows.
            plans: What is asked for; a plan that was scored before is not run again.
            also: What will be asked for later; run in the same sweep, if there is one, so that what these
                plans share with the others is computed once.

        Returns:
            The base's token losses ``[n]``, and the scores of each plan asked for.
        """
        held = self._scores.setdefault(reading.key, {})
        known = self._bases.get(reading.key)
        missing = [plan for plan in dict.fromkeys(plans) if plan not in held]
        if missing or known is None:
            missing += [plan for plan in dict.fromkeys(also) if plan not in held]
            ran = [*missing] if known is not None else [self.base, *missing]
            with counted(
                f"measuring {many(len(missing), 'variant')}",
                evaluations(ran) * len(reading.batches),
            ) as advance:
                swept = sweep(
                    self.runner,
                    reading.batches,
                    self.base,
                    missing,
                    self.vocabulary,
                    known=known,
                    advance=advance,
                )
            self.sweeps += 1
            sanity_checks.check_losses(swept.base)
            held |= dict(zip(missing, swept.variants, strict=True))
            if swept.kept is None:
                return swept.base, {plan: held.pop(plan) for plan in dict.fromkeys(plans)}
            known = self._bases[reading.key] = swept.kept
        # A plan is asked for once by each bet; what later bets ask for stays until they do.
        waiting = set(also)
        return known.losses, {
            plan: held[plan] if plan in waiting else held.pop(plan) for plan in dict.fromkeys(plans)
        }
