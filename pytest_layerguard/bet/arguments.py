"""The interventions of format 1 and their arguments."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from pytest_layerguard.bet.errors import suggestion
from pytest_layerguard.bet.model_source import Dtype, ModelSource
from pytest_layerguard.bet.targets import (
    ALL_LAYERS,
    LAYERS_FORMS,
    PAIRS_FORMS,
    LayersTarget,
    PairsTarget,
    Target,
)
from pytest_layerguard.bet.text_sources import HUB_NAME, Revision, Sha256, TextSource
from pytest_layerguard.bet.validation import (
    KEY,
    LIMITS,
    BetPart,
    RelativePath,
    Whole,
    gathered,
    invalid,
    shown,
)

Parts = Annotated[
    Literal["experts", "linear"],
    Field(description="experts (their matrices only) or linear (every matrix)"),
]
Scale = Literal["tensor", "row", "group"]
Count = Annotated[Whole, Field(ge=1, le=9_999)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
GroupSize = Annotated[Whole, Field(ge=2, le=65_536)]
Part = Annotated[
    Literal["attention", "feed_forward"] | None,
    Field(
        description="one residual branch alone: attention or feed_forward (a mixture of experts too), of a block "
        "whose feed-forward reads what its attention left; both by default"
    ),
]


Calibration = Annotated[
    TextSource | None,
    Field(
        description="the text on which the choice is made, by the bet's own contract; by default the bet's first"
    ),
]


class Arguments(BetPart):
    """The arguments of one intervention. Every kind derives from it, also those of other packages.

    ``measures`` names the metrics that only this kind of intervention gives.
    """

    measures: ClassVar[frozenset[str]] = frozenset()

    @property
    def is_sweep(self) -> bool:
        """Whether the intervention is applied to each of several targets in turn."""
        return self.sweep_target is not None

    @property
    def sweep_target(self) -> Target | None:
        """The layers or pairs that are swept. Two arms with equal ones have the same variants."""
        return next((target for _, target in self._targets() if target.each), None)

    @property
    def texts(self) -> tuple[TextSource, ...]:
        """The texts that it reads beside those of the bet."""
        given = getattr(self, "text", None) or ()
        return given if isinstance(given, tuple) else (given,)

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run before it is known what the intervention does; then it is not planned ahead.

        Bets that can be planned ahead are swept together, where they are on one model and text.
        """
        return False

    def variants(self, layers: int) -> tuple[Self, ...]:
        """Return the arguments of each variant on a model of ``layers`` layers, with indices from 0.

        Raises TargetError if the model lacks a layer that is named.
        """
        found = self._targets()
        if not found:
            return (self,)
        key, target = found[0]
        return tuple(self.model_copy(update={key: each}) for each in target.variants(layers))

    @abstractmethod
    def slug(self) -> str:
        """Return the variant's name: ``skip-3``."""

    def target(self) -> str:
        """Return the layers that the variant changes, ``3`` or ``4-5``, or the empty string for all.

        Criteria compare the variants of several arms by it.
        """
        return "".join(each.label() for _, each in self._targets() if each != ALL_LAYERS)

    def _targets(self) -> list[tuple[str, Target]]:
        """Return the key and the value of the layers or pairs, of which an intervention has one."""
        return [(key, value) for key, value in self if isinstance(value, Target)]


class LayersArguments(Arguments):
    """Arguments of an intervention on layers."""

    layers: LayersTarget = Field(description=f"the layers: {LAYERS_FORMS}")


class PairsArguments(Arguments):
    """Arguments of an intervention on pairs of layers."""

    measures: ClassVar[frozenset[str]] = frozenset({"swap_kl"})
    pairs: PairsTarget = Field(description=f"the pairs of layers: {PAIRS_FORMS}")


def _branch(part: str | None) -> str:
    return f"{part.replace('_', '-')}-" if part else ""


def _percent(share: float) -> str:
    """Return a share as a slug has it: ``12p5`` for 0.125."""
    return f"{share * 100:.4g}".replace(".", "p").replace("e-", "e")


class SkipLayers(LayersArguments):
    """The layer, or one residual branch of it, becomes the identity."""

    part: Part = None

    def slug(self) -> str:
        """Return ``skip-3`` or ``skip-attention-3``."""
        return f"skip-{_branch(self.part)}{self.layers.label()}"


class ZeroLayers(LayersArguments):
    """Every parameter of the layer, or of one residual branch, becomes zero, but for those that ``keep`` names."""

    part: Part = None
    keep: Literal["post_norms", "none"] = Field(
        default="post_norms",
        description="post_norms: the norms after attention and feed-forward keep their parameters; none: no "
        "parameter is kept",
    )

    def slug(self) -> str:
        """Return ``zero-3`` or ``zero-feed-forward-3``."""
        return f"zero-{_branch(self.part)}{self.layers.label()}"


class ReinitializeLayers(LayersArguments):
    """Parameters are drawn anew by the model's own initialiser."""

    seed: Seed = Field(default=0, description="the seed of the draw")

    def slug(self) -> str:
        """Return ``reinitialize-3``."""
        return f"reinitialize-{self.layers.label()}"


class RepeatLayers(LayersArguments):
    """The layer runs several times in a row, each time on what it gave before."""

    times: Annotated[Whole, Field(ge=2, le=100)] = Field(
        default=2, description="how often each layer runs in all, 2 or more"
    )

    def slug(self) -> str:
        """Return ``repeat-3``, or ``repeat-3-4-times`` where it is not twice."""
        often = "" if self.times == 2 else f"-{self.times}-times"
        return f"repeat-{self.layers.label()}{often}"


class ReplaceLayers(PairsArguments):
    """Slot i runs with layer j's weights; each pair is measured in both directions."""

    def slug(self) -> str:
        """Return ``replace-4-5``."""
        return f"replace-{self.pairs.label()}"


class InterchangeLayers(PairsArguments):
    """Slots i and j exchange weights."""

    def slug(self) -> str:
        """Return ``interchange-4-5``."""
        return f"interchange-{self.pairs.label()}"


class MergeLayers(LayersArguments):
    """The layer takes up what the layers after it differ from it, and those are dropped."""

    count: Count = Field(default=1, description="how many layers after it each layer takes up")

    def slug(self) -> str:
        """Return ``merge-2-into-3``."""
        return f"merge-{self.count}-into-{self.layers.label()}"


SWAP_SCORES: Final = ("replacement", "interchange")


class RemoveLayers(Arguments):
    """``count`` layers are dropped, chosen by a score, or those that are listed."""

    count: Count | None = Field(default=None, description="how many layers to drop")
    guided_by: (
        Literal[
            "replacement",
            "interchange",
            "block_influence",
            "angular_distance",
            "perplexity",
            "kl",
        ]
        | None
    ) = Field(
        default=None,
        description="the score that chooses them, the lowest first: replacement, interchange (the least swap-KL with "
        "another layer), block_influence (ShortGPT), angular_distance (at the last token of each window), perplexity "
        "or kl (of the model without the layer)",
    )
    layers: LayersTarget | None = Field(
        default=None, description="the layers to drop, as an index or a list"
    )
    spacing: Count | None = Field(
        default=None,
        description="how far apart the layers chosen are at least; by default 2 with replacement and interchange, so "
        "that no two are neighbours, and 1 with other scores",
    )
    contiguous: bool = Field(
        default=False, description="true: the layers dropped are neighbours, scored as one block"
    )
    rescored: bool = Field(
        default=False, description="true: after each layer the others are scored again without it"
    )
    protect: LayersTarget | None = Field(
        default=None, description="the layers that stay, as an index or a list such as [0, -1]"
    )
    text: Calibration = None

    @property
    def least_spacing(self) -> int:
        """How far apart the layers chosen are at least."""
        return self.spacing or (2 if self.guided_by in SWAP_SCORES else 1)

    @model_validator(mode="after")
    def _chosen_one_way(self) -> Self:
        if self.layers is None:
            if self.count is None or self.guided_by is None:
                raise invalid(
                    "must name what to drop; allowed: count and guided_by together, or layers"
                )
        else:
            more = [key for key in self.model_fields_set - {"layers"} if getattr(self, key)]
            if more:
                key = next(each for each in type(self).model_fields if each in more)
                raise invalid(
                    "does not go with layers; allowed: count and guided_by, or layers", key
                )
        for key in ("layers", "protect"):
            target = getattr(self, key)
            if target is not None and (target.each or target.indices is None):
                raise invalid(
                    "must be an index or a list; to drop one layer at a time sweep with skip_layers",
                    key,
                )
        return self

    @model_validator(mode="after")
    def _one_block(self) -> Self:
        if self.contiguous and self.guided_by in SWAP_SCORES:
            raise invalid(
                f"has no meaning with guided_by: {self.guided_by}; another score of one block",
                "contiguous",
            )
        for key in ("spacing", "rescored"):
            if self.contiguous and getattr(self, key):
                raise invalid("does not go with contiguous; one of the two", key)
        return self

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: for the scores of layers that are not named."""
        return self.layers is None

    def slug(self) -> str:
        """Return ``remove-3-by-interchange`` or ``remove-4-9``."""
        if self.layers is not None:
            return f"remove-{self.layers.label()}"
        return f"remove-{self.count}-by-{str(self.guided_by).replace('_', '-')}"

    def _targets(self) -> list[tuple[str, Target]]:
        return [each for each in super()._targets() if each[0] == "layers"]


class _AllLayersArguments(LayersArguments):
    """Arguments of an intervention on layers, by default on all of them."""

    layers: LayersTarget = Field(
        default=ALL_LAYERS,
        description=f"the layers: {LAYERS_FORMS}",
        json_schema_extra={"default": "all"},
    )

    def _named(self, name: str) -> str:
        return name if self.layers.indices is None else f"{name}-{self.layers.label()}"


class WeightsArguments(_AllLayersArguments):
    """Arguments of an intervention on how weights are stored."""

    measures: ClassVar[frozenset[str]] = frozenset({"size_ratio"})


class AverageExperts(WeightsArguments):
    """Every expert of a layer becomes the mean of its experts."""

    def slug(self) -> str:
        """Return ``average-experts`` or ``average-experts-3``."""
        return self._named("average-experts")


class DropExperts(WeightsArguments):
    """The router can no longer choose the least used experts of a layer, or those of the lowest score."""

    count: Count = Field(description="how many experts of each layer to drop")
    by: Literal["frequency", "reap"] = Field(
        default="frequency",
        description="the score by which they stay: frequency (how many tokens choose an expert) or reap (over those "
        "tokens, the mean of the router's weight times the norm of what the expert gives)",
    )
    text: Calibration = None

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: for the scores of experts."""
        return True

    def slug(self) -> str:
        """Return ``drop-4-experts``, ``drop-4-experts-3`` or ``drop-4-experts-by-reap``."""
        by = "" if self.by == "frequency" else f"-by-{self.by}"
        return self._named(f"drop-{self.count}-experts{by}")


class MergeExperts(WeightsArguments):
    """The experts of a layer are merged into ``count``, those that are alike into their mean."""

    count: Count = Field(description="how many experts of each layer are left")
    by: Literal["output", "weights"] = Field(
        default="output",
        description="what makes experts alike: output (the mean of what they make of every token) or weights",
    )
    weighted: Literal["frequency", "uniform"] = Field(
        default="frequency",
        description="what an expert counts in the mean: frequency (how many tokens choose it) or uniform",
    )
    text: Calibration = None

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: for what experts make of tokens, or how often each is chosen."""
        return (self.by, self.weighted) != ("weights", "uniform")

    @model_validator(mode="after")
    def _a_text_is_run(self) -> Self:
        if self.text is not None and not self.runs_the_model:
            raise invalid(
                "has no meaning here; allowed with by: output or weighted: frequency", "text"
            )
        return self

    def slug(self) -> str:
        """Return ``merge-experts-into-8`` or ``merge-experts-into-8-3``."""
        return self._named(f"merge-experts-into-{self.count}")


class _Grouped(WeightsArguments):
    """Arguments of an intervention that stores weights with scales."""

    parts: Parts = "linear"
    group_size: GroupSize | None = Field(
        default=None, description="weights per scale, with scale: group"
    )

    @model_validator(mode="after")
    def _group_has_a_size(self) -> Self:
        grouped = getattr(self, "scale", None) == "group"
        fixed = getattr(self, "format", None) in _GROUPS
        if grouped and self.group_size is None:
            raise invalid(
                "is missing; with scale: group, how many weights share one scale", "group_size"
            )
        if not grouped and self.group_size is not None:
            add = "; add it" if "scale" not in self.model_fields_set and not fixed else ""
            raise invalid(f"has no meaning here; allowed with scale: group only{add}", "group_size")
        return self


class TernaryWeights(_Grouped):
    """1.58-bit absmean weights: -1, 0 or 1 times a scale."""

    scale: Scale = Field(default="tensor", description="what shares one scale: tensor, row, group")

    def slug(self) -> str:
        """Return ``ternary-tensor``."""
        return self._named(f"ternary-{self.scale}")


_GROUPS: Final = {"mxfp4": 32, "nvfp4": 16, "nf4": 64}
"""Formats that say themselves how many weights share one scale."""


class QuantizeWeights(_Grouped):
    """Round to the nearest number of a format: integers times a scale, or a format that hardware knows.

    Integers have all ``2^bits`` levels, the scale that llm-compressor and GPTQ take by default, or with
    ``symmetric: false`` a zero point. ``fp8`` (E4M3) has scales like them. ``mxfp4`` and ``nvfp4`` are FP4 (E2M1)
    in groups of 32 and 16 of a row; ``nf4`` are quantiles in blocks of 64 of the matrix, as bitsandbytes has them.
    The last group of a row may be shorter.
    """

    format: Literal["int", "fp8", "mxfp4", "nvfp4", "nf4"] = Field(
        default="int", description="the number format: int, fp8, mxfp4, nvfp4, nf4"
    )
    bits: Annotated[Whole, Field(ge=2, le=8)] | None = Field(
        default=None, description="with format: int, bits per weight, 2 to 8"
    )
    symmetric: bool = Field(
        default=True, description="with format: int, whether zero is in the middle of the range"
    )
    scale: Scale = Field(
        default="row", description="with int and fp8, what shares one scale: tensor, row, group"
    )
    clip: Literal["none", "mse"] = Field(
        default="none",
        description="with int and fp8, the range: none (all of it) or mse (the share that GPTQ's search finds)",
    )

    @model_validator(mode="after")
    def _a_format_has_its_arguments(self) -> Self:
        if self.format == "int":
            if self.bits is None:
                raise invalid("is missing; bits per weight, 2 to 8", "bits")
            return self
        fixed = _GROUPS.get(self.format)
        needless = ["bits", "symmetric"] + (["scale", "clip"] if fixed else [])
        for key in needless:
            if key in self.model_fields_set:
                why = "int only" if key in ("bits", "symmetric") else "int and fp8 only"
                groups = f"; {self.format} has groups of {fixed}" if key == "scale" else ""
                raise invalid(f"has no meaning here; allowed with format: {why}{groups}", key)
        return self

    def slug(self) -> str:
        """Return ``quantize-4`` or ``quantize-nf4``."""
        return self._named(f"quantize-{self.bits or self.format}")


class QuantizeActivations(_AllLayersArguments):
    """The inputs of linear maps are rounded as they come, each token with a scale of its own.

    Integers are symmetric, with the scale of ``quantize_weights``; ``fp8`` is E4M3.
    """

    parts: Parts = "linear"
    format: Literal["int", "fp8"] = Field(
        default="int", description="the number format: int or fp8"
    )
    bits: Annotated[Whole, Field(ge=2, le=8)] | None = Field(
        default=None, description="with format: int, bits per number, 2 to 8"
    )

    @model_validator(mode="after")
    def _bits_go_with_integers(self) -> Self:
        if self.format == "int" and self.bits is None:
            raise invalid("is missing; bits per number, 2 to 8", "bits")
        if self.format != "int" and self.bits is not None:
            raise invalid("has no meaning here; allowed with format: int only", "bits")
        return self

    def slug(self) -> str:
        """Return ``quantize-activations-8`` or ``quantize-activations-fp8-3``."""
        return self._named(f"quantize-activations-{self.bits or self.format}")


class QuantizeKvCache(_AllLayersArguments):
    """Keys and values are rounded as a cache would keep them, and each position reads them so from the first on.

    The levels go evenly from the least to the largest number of a group, as in KIVI. Values, and by default keys, have
    groups of one token each; the last group of a head may be shorter. ``keys: channel`` is KIVI's other half: the
    groups of keys are ``group_size`` tokens of one channel, and tokens are exact until their group is whole. Layers
    without attention stay as they are, as do the indexes of sparse attention; a layer whose cache is of the model's
    own code, as DeepSeek V4's, is an error.
    """

    bits: Annotated[Whole, Field(ge=2, le=8)] = Field(description="bits per number, 2 to 8")
    group_size: GroupSize | None = Field(
        default=None, description="how many numbers share one scale; by default all of a head"
    )
    residual: Annotated[Whole, Field(ge=0, le=65_536)] = Field(
        default=0,
        description="how many of the last positions, the reader's own included, are read exact",
    )
    keys: Literal["token", "channel"] = Field(
        default="token",
        description="token or channel: what the numbers of a group of keys have in common",
    )

    @model_validator(mode="after")
    def _groups_of_tokens_have_a_size(self) -> Self:
        if self.keys == "channel" and self.group_size is None:
            raise invalid(
                "is missing; with keys: channel, how many tokens share one scale", "group_size"
            )
        return self

    def slug(self) -> str:
        """Return ``quantize-kv-cache-4`` or ``quantize-kv-cache-2-by-channel-3``."""
        by = "-by-channel" if self.keys == "channel" else ""
        return self._named(f"quantize-kv-cache-{self.bits}{by}")


class PruneWeights(WeightsArguments):
    """Weights become zero: a share of them, or all but N of each M neighbours.

    By ``magnitude`` and at ``random`` the share is one of each matrix, by ``wanda`` one of each row, as their papers
    have it. A pattern N:M is one of each row; its last group may be shorter.
    """

    parts: Parts = "linear"
    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="the share that becomes zero, 0 to 1"
    )
    pattern: Annotated[str, Field(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$")] | None = Field(
        default=None,
        description="instead of sparsity, how many of how many neighbours in a row stay, such as 2:4",
    )
    by: Literal["magnitude", "random", "wanda"] = Field(
        default="magnitude",
        description="magnitude (the smallest go), random, or wanda (the smallest by magnitude times the norm of the "
        "input that they meet)",
    )
    seed: Seed = Field(default=0, description="the seed of by: random")
    text: Calibration = None

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Self:
        if (self.sparsity is None) == (self.pattern is None):
            raise invalid("must have one of sparsity (a share) and pattern (such as 2:4)")
        if self.pattern is not None and self.kept[0] >= self.kept[1]:
            raise invalid(
                f"'{self.pattern}' leaves nothing to zero; fewer before the colon than after it",
                "pattern",
            )
        if self.text is not None and self.by != "wanda":
            raise invalid("has no meaning here; allowed with by: wanda", "text")
        return self

    @property
    def kept(self) -> tuple[int, int]:
        """How many of how many neighbours stay, with ``pattern``."""
        stay, _, among = str(self.pattern).partition(":")
        return int(stay), int(among)

    @property
    def share(self) -> float:
        """The share of the weights that becomes zero."""
        return 1 - self.kept[0] / self.kept[1] if self.sparsity is None else self.sparsity

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: for the inputs that Wanda weighs by."""
        return self.by == "wanda"

    def slug(self) -> str:
        """Return ``prune-magnitude-50`` or ``prune-wanda-2-4``."""
        share = "-".join(map(str, self.kept)) if self.pattern else _percent(self.share)
        return self._named(f"prune-{self.by}-{share}")


class LowRank(WeightsArguments):
    """Each matrix becomes the product of two smaller ones: its truncated singular value decomposition."""

    parts: Parts = "linear"
    rank: Annotated[Whole, Field(ge=1, le=65_536)] | None = Field(
        default=None,
        description="the rank of every matrix; one that has no higher rank stays as it is",
    )
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="instead of rank, the numbers of the two factors as a share of the matrix's, 0 to 1",
    )
    by: Literal["svd", "activations"] = Field(
        default="svd",
        description="what the truncation keeps best: svd (the matrix) or activations (its outputs on a text)",
    )
    text: Calibration = None

    @model_validator(mode="after")
    def _one_way_to_say_the_rank(self) -> Self:
        if (self.rank is None) == (self.ratio is None):
            raise invalid("must have one of rank (a number) and ratio (a share)")
        if self.text is not None and self.by != "activations":
            raise invalid("has no meaning here; allowed with by: activations", "text")
        return self

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: for the inputs of its linear maps."""
        return self.by == "activations"

    def rank_of(self, rows: int, columns: int) -> int:
        """Return the rank of a matrix, which is its own where that is no higher."""
        rank = self.rank
        if rank is None:
            assert self.ratio is not None
            rank = max(int(self.ratio * rows * columns / (rows + columns) + 1e-9), 1)
        return min(rank, rows, columns)

    def slug(self) -> str:
        """Return ``low-rank-16`` or ``low-rank-50-percent``."""
        if self.ratio is None:
            return self._named(f"low-rank-{self.rank}")
        return self._named(f"low-rank-{_percent(self.ratio)}-percent")


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, dict | BetPart) else value


class Train(Arguments):
    """Training, after the interventions before it in the list.

    All weights are trained on text, or with ``objective: layer_output`` one layer at a time by the L2
    distance to the original layer's output.
    """

    steps: Annotated[Whole, Field(ge=1, le=LIMITS.steps)] = Field(
        description="how many optimiser steps"
    )
    lr: float = Field(default=5e-5, gt=0, le=10, description="the learning rate")
    optimizer: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="the optimiser")
    text: Annotated[
        tuple[TextSource, ...],
        Field(min_length=1, max_length=8, strict=False),
        BeforeValidator(
            _one_or_several,
            json_schema_input_type=TextSource
            | Annotated[list[TextSource], Field(min_length=1, max_length=8)],
        ),
    ] = Field(description="the text to train on, or a list of texts that are mixed evenly")
    objective: Literal["language_model", "layer_output"] = Field(
        default="language_model", description="language_model or layer_output"
    )
    layers: LayersTarget | None = Field(
        default=None, description="with objective: layer_output, the layers to train"
    )
    batch: Annotated[Whole, Field(ge=1, le=LIMITS.batch)] = Field(
        default=8, description="windows per step"
    )
    seed: Seed = Field(default=0, description="the seed of the order of windows")

    @model_validator(mode="after")
    def _layers_go_with_their_objective(self) -> Self:
        if self.objective == "layer_output" and self.layers is None:
            raise invalid("is missing; with objective: layer_output, the layers to train", "layers")
        if self.objective == "language_model" and self.layers is not None:
            raise invalid("has no meaning here; allowed with objective: layer_output", "layers")
        return self

    @property
    def runs_the_model(self) -> bool:
        """Whether the model is run: it is trained."""
        return True

    def slug(self) -> str:
        """Return ``train-200``."""
        return f"train-{self.steps}"


class CandidateArguments(Arguments):
    """Arguments of what puts another whole model in the base's place. It stands alone or in an arm."""

    dtype: Dtype | None

    @property
    @abstractmethod
    def source(self) -> ModelSource | None:
        """The candidate's checkpoint, or None for the base's own."""


class LoadCheckpoint(CandidateArguments):
    """The model is replaced by another checkpoint of it: a folder, a hub model, a GGUF file or a LoRA adapter."""

    measures: ClassVar[frozenset[str]] = frozenset({"size_ratio"})
    path: RelativePath | None = Field(
        default=None, description="a local model folder, relative to the bet file"
    )
    hub: Annotated[str, Field(pattern=HUB_NAME)] | None = Field(
        default=None, description="ORG/NAME on the hub"
    )
    revision: Revision | None = Field(
        default=None, description="with hub, a full commit hash (40 lower-case hexadecimal digits)"
    )
    gguf: RelativePath | None = Field(
        default=None, description="a GGUF file of llama.cpp, relative to the bet file"
    )
    sha256: Sha256 = None
    adapter: RelativePath | None = Field(
        default=None,
        description="a folder with a LoRA adapter of the base, relative to the bet file",
    )
    form: Literal["served", "stored"] = Field(
        default="served",
        alias="as",
        description="served: as its format computes, activations quantised where it says so; stored: the "
        "dequantised weights",
    )
    dtype: Dtype | None = Field(
        default=None,
        description="the dtype that it computes in; by default the base's, or the only one that its format has",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("path", "hub", "gguf", "adapter") if getattr(self, key)]
        if not given:
            raise invalid("must name a checkpoint; allowed: one of path, hub, gguf, adapter")
        if len(given) > 1:
            raise invalid(f"does not go with {given[0]}; one checkpoint", given[1])
        for key, source in (("revision", "hub"), ("sha256", "gguf")):
            if given[0] != source and getattr(self, key) is not None:
                raise invalid(f"has no meaning here; allowed with {source} only", key)
            if given[0] == source and getattr(self, key) is None:
                raise invalid(
                    "is missing; a full commit hash (40 lower-case hexadecimal digits)"
                    if key == "revision"
                    else "is missing; the file's digest, 64 lower-case hexadecimal digits",
                    key,
                )
        return self

    @property
    def source(self) -> ModelSource:
        """The candidate's checkpoint."""
        if self.hub is not None:
            return ModelSource("hub", self.hub, self.revision)
        if self.gguf is not None:
            return ModelSource("gguf", self.gguf, sha256=self.sha256)
        if self.adapter is not None:
            return ModelSource("adapter", self.adapter)
        return ModelSource("path", str(self.path))

    def slug(self) -> str:
        """Return ``load-ct-w4a16-g32``, after the last part of the checkpoint's name."""
        last = self.source.name.rpartition("/")[2].lower()
        named = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:60] or "checkpoint"
        return f"load-{named}" if self.form == "served" else f"load-{named}-stored"


class Cast(CandidateArguments):
    """Weights and arithmetic in another dtype: the floor under every candidate that computes in it."""

    dtype: Dtype = Field(description="float32, bfloat16 or float16")

    @property
    def source(self) -> None:
        """None: it is the base's own checkpoint."""
        return

    def slug(self) -> str:
        """Return ``cast-bfloat16``."""
        return f"cast-{self.dtype}"


class SampleFile(BetPart):
    """A file of samples that lm-evaluation-harness wrote (``--log_samples``)."""

    file: RelativePath = Field(
        description="a samples_*.jsonl of lm-evaluation-harness, relative to the bet file"
    )
    sha256: Sha256 = None


class ResultFiles(BetPart):
    """What lm-evaluation-harness wrote of one model: a file of samples, one for each task, or a whole folder."""

    file: RelativePath | None = Field(
        default=None,
        description="of one task, a samples_*.jsonl of lm-evaluation-harness, relative to the bet file",
    )
    sha256: Sha256 = None
    files: dict[str, SampleFile] | None = Field(
        default=None,
        min_length=1,
        description="of several tasks, such a file for each, by its name in measure.tasks",
    )
    folder: RelativePath | None = Field(
        default=None,
        description="its folder of output, with the samples and results of one run, relative to the bet file",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [key for key in ("file", "files", "folder") if getattr(self, key) is not None]
        if not given:
            raise invalid("must name samples; allowed: one of file, files, folder")
        if len(given) > 1:
            raise invalid(f"does not go with {given[0]}; one of the two", given[1], KEY)
        if self.sha256 is not None and self.file is None:
            raise invalid("has no meaning here; allowed with file only", "sha256", KEY)
        return self


class LoadResults(Arguments):
    """What another engine measured of base and candidate, from the sample files of lm-evaluation-harness.

    No model is loaded: `model` is named for doors. The tasks of `measure.tasks` say what was asked, and the files of
    both must hold the same questions and prompts. Arms have a candidate each, and one base.
    """

    base: ResultFiles = Field(description="the base's samples: a file, files or a folder")
    candidate: ResultFiles = Field(description="the candidate's samples: a file, files or a folder")

    def slug(self) -> str:
        """Return ``load-results``."""
        return "load-results"


Kinds = Mapping[str, type[Arguments]]

BUILTIN_KINDS: Final[Kinds] = {
    "skip_layers": SkipLayers,
    "zero_layers": ZeroLayers,
    "reinitialize_layers": ReinitializeLayers,
    "repeat_layers": RepeatLayers,
    "replace_layers": ReplaceLayers,
    "interchange_layers": InterchangeLayers,
    "merge_layers": MergeLayers,
    "remove_layers": RemoveLayers,
    "average_experts": AverageExperts,
    "drop_experts": DropExperts,
    "merge_experts": MergeExperts,
    "ternary_weights": TernaryWeights,
    "prune_weights": PruneWeights,
    "quantize_weights": QuantizeWeights,
    "quantize_activations": QuantizeActivations,
    "quantize_kv_cache": QuantizeKvCache,
    "low_rank": LowRank,
    "train": Train,
    "load_checkpoint": LoadCheckpoint,
    "load_results": LoadResults,
    "cast": Cast,
}


INTERVENTION_HERE: Final = {"$comment": "intervention"}
"""A placeholder in a generated schema until the kinds are known."""


_MADE_ELSEWHERE: Final = (
    ", a method that calibrates; 'quantize_weights' rounds the same weights to nearest;"
)
_HINTS: Final = {
    "gptq": _MADE_ELSEWHERE,
    "awq": _MADE_ELSEWHERE,
    "prune": ", did you mean 'prune_weights'?",
    "quantize": ", did you mean 'quantize_weights'?",
}
"""What to write in place of words that people know for an intervention."""


def meant(kind: str, kinds: Kinds) -> str:
    """Return what an unknown intervention may be meant for, to stand before the list of those allowed."""
    return _HINTS.get(kind) or suggestion(kind, kinds) or ";"


@dataclass(frozen=True)
class Intervention:
    """One intervention on the model: ``{skip_layers: {layers: 3}}``."""

    kind: str
    arguments: Arguments

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda self: {self.kind: self.arguments.model_dump(exclude_defaults=True)}
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**INTERVENTION_HERE}

    @classmethod
    def _validated(cls, value: object, info: ValidationInfo) -> Intervention:
        if isinstance(value, Intervention):
            return value
        kinds = kinds_of(info)
        if not isinstance(value, dict):
            close = suggestion(value, kinds)
            raise invalid(
                f"must be a mapping such as {{skip_layers: {{layers: 3}}}}, not {shown(value)}"
                f"{close or ';'} allowed: {', '.join(kinds)}"
            )
        if len(value) != 1:
            raise invalid(
                f"must name one intervention, not {len(value)}; to do several in order "
                "write a list, to compare them write arms"
            )
        ((kind, arguments),) = value.items()
        if kind not in kinds:
            close = meant(kind, kinds)
            raise invalid(
                f"unknown intervention {shown(kind)}{close} allowed: {', '.join(kinds)}", kind, KEY
            )
        try:
            return cls(kind, kinds[kind].model_validate(arguments, context=info.context))
        except ValidationError as error:
            raise gathered([error], kind) from None


def kinds_of(info: ValidationInfo) -> Kinds:
    """Return the kinds of the validation context, or the built-in ones."""
    kinds: Kinds = (info.context or {}).get("kinds") or BUILTIN_KINDS
    return kinds


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | Intervention | str) else value


def _in_step(interventions: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    for place, each in enumerate(interventions):
        if isinstance(each.arguments, CandidateArguments) and len(interventions) > 1:
            raise invalid(
                f"{each.kind} puts another whole model in the base's place, and stands alone or in an arm; "
                "take it out of the list",
                place,
                each.kind,
                KEY,
            )
        if isinstance(each.arguments, LoadResults) and len(interventions) > 1:
            raise invalid(
                "load_results judges what was measured elsewhere, and stands alone or in an arm; take it out of "
                "the list",
                place,
                each.kind,
                KEY,
            )
    swept = [each.arguments.sweep_target for each in interventions if each.arguments.is_sweep]
    if any(target != swept[0] for target in swept):
        raise invalid("sweeps over different targets in one list; the same 'each' in all of them")
    return interventions


Interventions = Annotated[
    tuple[Intervention, ...],
    Field(strict=False, min_length=1, max_length=LIMITS.interventions),
    BeforeValidator(
        _as_list,
        json_schema_input_type=Intervention
        | Annotated[list[Intervention], Field(min_length=1, max_length=LIMITS.interventions)],
    ),
    AfterValidator(_in_step),
]
"""One intervention, or a list applied in order. Sweeps in one list advance together."""


@dataclass(frozen=True)
class Variant:
    """The interventions of one variant in order, with concrete targets."""

    slug: str
    target: str
    interventions: tuple[Intervention, ...]


def variants(interventions: Sequence[Intervention], layers: int) -> tuple[Variant, ...]:
    """Return the variants of a list of interventions. Sweeps in one list advance together.

    Raises TargetError if the model lacks a layer that is named.
    """
    columns = [intervention.arguments.variants(layers) for intervention in interventions]
    count = max(len(column) for column in columns)
    made = []
    for place in range(count):
        chosen = tuple(
            Intervention(intervention.kind, column[place if len(column) > 1 else 0])
            for intervention, column in zip(interventions, columns, strict=True)
        )
        swept = [
            new.arguments
            for new, old in zip(chosen, interventions, strict=True)
            if old.arguments.is_sweep
        ]
        touched = swept[:1] or [each.arguments for each in chosen]
        target = "-".join(dict.fromkeys(each.target() for each in touched if each.target()))
        slug = "-then-".join(each.arguments.slug() for each in chosen)
        made.append(Variant(slug, target, chosen))
    return tuple(made)
