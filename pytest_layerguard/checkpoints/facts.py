"""The facts of a checkpoint, from its configuration and its headers alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.errors import many
from pytest_layerguard.checkpoints.checkpoint import Adapter, GgufCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_layerguard.checkpoints.checkpoint import Checkpoint
    from pytest_layerguard.checkpoints.formats import Weight

_EXPERT: Final = re.compile(r"(?<!shared_)experts?\.|_exps\.")
STATED_EXPERTS: Final = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
"""The names by which modules and configurations state how many experts a layer has."""
EXPERTS_LEFT_OUT: Final = "experts: not quantised"
_DTYPES: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Share:
    """How much of some weights is quantised.

    Attributes:
        count: The share of the values.
        bytes: The share of the bytes that they take.
    """

    count: float
    bytes: float

    @classmethod
    def of(cls, weights: Iterable[Weight]) -> Share | None:
        """Return the share that is quantised; None where there are no weights."""
        every = list(weights)
        if not every:
            return None
        quantized = [weight for weight in every if weight.scheme is not None]
        return cls(
            sum(weight.numel for weight in quantized) / sum(weight.numel for weight in every),
            sum(weight.nbytes for weight in quantized) / sum(weight.nbytes for weight in every),
        )


@dataclass(frozen=True)
class CheckpointFacts:
    """The facts of a checkpoint.

    Attributes:
        format: Its format, such as ``compressed-tensors W4A16, groups of 32``.
        activations: How it quantises activations, or None.
        schemes: How weights are quantised, each with its number of weights.
        quantized: The share of all weights that is quantised.
        experts_quantized: That of the experts; None for a dense model.
        bytes: Bytes of the files of weights.
        parameters: Stored values, after dequantising.
        dtype: The dtype that its files name; it is measured in the base's unless its format has only another.
        architecture: The class in transformers, or the model type.
        layers: Decoder layers.
        experts: Experts of a layer; 0 for a dense model.
        hidden_size: Width of the residual stream.
        vocabulary: Rows of the embedding.
    """

    format: str
    activations: str | None
    schemes: Mapping[str, int]
    quantized: Share
    experts_quantized: Share | None
    bytes: int
    parameters: int
    dtype: str
    architecture: str | None
    layers: int | None
    experts: int | None
    hidden_size: int | None
    vocabulary: int | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointFacts:
        """Return the facts of a checkpoint."""
        config = {} if isinstance(checkpoint, Adapter) else checkpoint.text_config
        weights = checkpoint.weights.values()
        schemes = Counter(str(weight.scheme) for weight in weights if weight.scheme is not None)
        share = Share.of(weights)
        assert share is not None
        named = checkpoint.config.get("architectures")
        return cls(
            format=checkpoint.format.words,
            activations=checkpoint.format.activations,
            schemes=dict(schemes.most_common()),
            quantized=share,
            experts_quantized=Share.of(
                weight
                for weight in weights
                if len(weight.shape) > 1 and _EXPERT.search(weight.name)
            ),
            bytes=checkpoint.nbytes,
            parameters=sum(weight.numel for weight in weights),
            dtype=_dtype(checkpoint),
            architecture=named[0]
            if isinstance(named, list) and named
            else config.get("model_type"),
            layers=_first(config, "num_hidden_layers", "n_layer", "num_layers"),
            experts=expert_count(config) if config else None,
            hidden_size=_first(config, "hidden_size", "n_embd", "d_model"),
            vocabulary=config.get("vocab_size"),
        )

    def lines(self) -> Iterator[str]:
        """Yield the facts for people, a line each."""
        counts = ((self.layers, "layer"), (self.experts, "expert"), (self.vocabulary, "token"))
        shape = [many(count, word) for count, word in counts if count]
        if self.hidden_size is not None:
            shape.append(f"{self.hidden_size:,} wide")
        if self.architecture is not None:
            yield ", ".join([self.architecture, *shape])
        yield f"{self.format}; dtype {self.dtype}"
        yield f"{self.parameters:,} weights in {self.bytes:,} bytes"
        if self.quantized.count:
            yield (
                f"quantised: {percent(self.quantized.count)} of the weights, "
                f"{percent(self.quantized.bytes)} of their bytes"
            )
            for scheme, count in self.schemes.items():
                yield f"  {many(count, 'tensor')} as {scheme}"
            yield from self._experts()
        if self.activations is not None:
            yield f"activations: {self.activations}"

    def _experts(self) -> Iterator[str]:
        if self.experts_quantized is None:
            return
        share = self.experts_quantized.count
        yield f"experts: {percent(share)} of their weights quantised" if share else EXPERTS_LEFT_OUT


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    """Return the value under the first of the names that families have for one thing."""
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def expert_count(config: Mapping[str, Any]) -> int:
    """Return how many experts a layer has by a configuration; 0 for a dense model."""
    counts = [config[key] for key in STATED_EXPERTS if isinstance(config.get(key), int)]
    return max(counts, default=0)


def _dtype(checkpoint: Checkpoint) -> str:
    if isinstance(checkpoint, GgufCheckpoint):
        return "float32"
    config: Mapping[str, Any] = checkpoint.config
    dtype = config.get("dtype") or config.get("torch_dtype") or checkpoint.text_config.get("dtype")
    if isinstance(dtype, str):
        return dtype.removeprefix("torch.")
    sizes: Counter[str] = Counter()
    for weight in checkpoint.weights.values():
        if weight.scheme is None:
            sizes[weight.dtype] += weight.numel
    return _DTYPES.get(sizes.most_common(1)[0][0] if sizes else "F32", "float32")


def percent(share: float) -> str:
    """Return a share in per cent; only all of it is 100 %, and only none of it is 0 %."""
    if 0 < share < 1:
        return f"{min(max(100 * share, 0.001), 99.9):.3g} %"
    return f"{100 * share:.3g} %"
