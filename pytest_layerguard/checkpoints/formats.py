"""The formats in which weights are stored, and how each is turned back into plain values.

A format names the stored tensors that make up one weight, says how that weight is quantised, and
decodes it. Where a format's library decodes tensors by themselves, it does so here; GPTQ, AWQ and
block-scaled FP8 are decoded by their published rules, whose libraries only load whole modules.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Final

from typing_extensions import override

from pytest_layerguard.bet.errors import many
from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError, library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.checkpoints.files import StoredTensor

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES: Final = ("weight_scale_inv", "weight_scale", "proj_scale_inv")
_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ's packing puts the eight values of a 32-bit word."""


@dataclass(frozen=True)
class Scheme:
    """How one weight is quantised.

    Attributes:
        number: What a value is, such as ``4-bit integers``.
        group: What shares a scale: ``groups of 32``, ``one scale per row``.
        levels: How many values one group can hold.
    """

    number: str
    group: str
    levels: int

    def __str__(self) -> str:
        """Return ``4-bit integers, groups of 32``."""
        return f"{self.number}, {self.group}"


@dataclass(frozen=True)
class Weight:
    """A tensor of the model, made of one or more stored tensors.

    Attributes:
        name: As the model names it.
        shape: The shape of the plain values.
        parts: The stored tensors by their part, such as ``qweight`` and ``scales``.
        scheme: How it is quantised; None where it is stored as plain numbers.
    """

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, StoredTensor]
    scheme: Scheme | None = None

    @property
    def numel(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes all its parts take."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def dtype(self) -> str:
        """The dtype of its first part, as the file names it."""
        return next(iter(self.parts.values())).dtype


class Format:
    """Plain safetensors: each stored tensor is a weight of its own.

    Attributes:
        words: What people call the format.
        activations: How the format quantises activations, or None.
        kv_cache: How it quantises keys and values in the cache, or None.
    """

    words: str = "safetensors"
    activations: str | None = None
    kv_cache: str | None = None
    suffixes: ClassVar[Mapping[str, str]] = {}
    """The ends of the names of stored tensors, and how the name of their weight ends instead."""
    required: ClassVar[tuple[str, ...]] = ()
    """The parts that a quantised weight must have; the first one marks it as quantised."""

    def __init__(self, name: str) -> None:
        self.name = name

    def weights(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Weight]:
        """Return the weights that stored tensors make up, by name.

        Raises:
            CheckpointError: If a quantised weight lacks a part, or one is stored as integers that
                nothing in the configuration explains.
        """
        grouped: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
        for tensor in tensors.values():
            weight, part = self._place(tensor.name)
            grouped[weight][part] = tensor
        return dict(self._made(grouped))

    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        """Return how a quantised weight is stored."""
        raise NotImplementedError

    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """Return the shape of a quantised weight's plain values."""
        return parts[self.required[-1]].shape

    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a quantised weight's plain values.

        Args:
            weight: The weight.
            tensors: Its parts, read.
        """
        raise NotImplementedError

    def quantized(self, parts: Mapping[str, StoredTensor]) -> bool:
        """Return whether these parts are a quantised weight."""
        return bool(self.required) and self.required[0] in parts

    def _require(self, fits: bool, weight: str, stored: str, said: str) -> None:
        """Refuse a weight that is stored otherwise than the configuration says; raises CheckpointError."""
        if not fits:
            raise CheckpointError(
                f"{self.name}: {weight} has {stored}, and by config.json {said}; one of them is wrong"
            )

    def _place(self, name: str) -> tuple[str, str]:
        for suffix, end in self.suffixes.items():
            if name.endswith(suffix):
                return name.removesuffix(suffix) + end, suffix.lstrip("._")
        return name, "weight"

    def _made(
        self, grouped: Mapping[str, Mapping[str, StoredTensor]]
    ) -> Iterator[tuple[str, Weight]]:
        for name, parts in grouped.items():
            if self.quantized(parts):
                if missing := [part for part in self.required if part not in parts]:
                    raise CheckpointError(
                        f"{self.name}: {name} is incomplete: it has {', '.join(parts)} and no {missing[0]}"
                    )
                yield name, Weight(name, self.shape(parts), parts, self.scheme(name, parts))
                continue
            for part in parts.values():
                if part.dtype not in FLOATS and len(part.shape) > 1:
                    raise CheckpointError(
                        f"{self.name}: {part.name} is stored as {part.dtype}, which nothing in config.json "
                        "explains; transformers would load it as it is"
                    )
            if "weight" in parts:
                yield name, Weight(name, parts["weight"].shape, {"weight": parts["weight"]})


class CompressedTensors(Format):
    """What llm-compressor writes."""

    suffixes: ClassVar = {
        f".{part}": ".weight"
        for part in (
            "weight_packed",
            "weight_scale",
            "weight_zero_point",
            "weight_global_scale",
            "weight_shape",
            "weight_g_idx",
            "input_scale",
            "input_zero_point",
            "input_global_scale",
            "output_scale",
            "output_zero_point",
        )
    }
    required: ClassVar = ("weight_scale",)

    def __init__(self, name: str, quantization: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._format = quantization.get("format")
        self._groups = list(quantization.get("config_groups", {}).values())
        if not self._groups or quantization.get("sparsity_config", {}).get("format", "dense") != (
            "dense"
        ):
            raise CheckpointError(
                f"{name}: compressed-tensors without config_groups, or with a sparse format, is not supported"
            )
        kinds = dict.fromkeys(_compressed_words(group) for group in self._groups)
        self.words = "compressed-tensors " + " and ".join(kinds)
        inputs = [group["input_activations"] for group in self._groups]
        self.activations = next((_activation_words(each) for each in inputs if each), None)
        if cache := quantization.get("kv_cache_scheme"):
            self.kv_cache = _activation_words(cache)

    @override
    def quantized(self, parts: Mapping[str, StoredTensor]) -> bool:
        return "weight_packed" in parts or (
            "weight" in parts and parts["weight"].dtype not in FLOATS
        )

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        if "weight_shape" in parts:
            raw = parts["weight_shape"].raw()
            width = parts["weight_shape"].nbytes // parts["weight_shape"].numel
            return tuple(
                int.from_bytes(raw[at : at + width], "little") for at in range(0, len(raw), width)
            )
        if "weight_packed" in parts:
            rows, half = parts["weight_packed"].shape
            return rows, 2 * half
        return parts["weight"].shape

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        arguments = self._group(weight)["weights"]
        bits = arguments["num_bits"]
        plain = parts.get("weight")
        if plain is not None:
            fits = (plain.dtype in _FP8) == (arguments["type"] == "float")
            self._require(fits, weight, f"values in {plain.dtype}", f"{arguments['type']}s")
        return Scheme(_number(self._format_of(weight), arguments), _strategy(arguments), 2**bits)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        quantization = library(
            "compressed_tensors.quantization", "compressed-tensors", self.name
        ).QuantizationScheme
        compressors = library(
            "compressed_tensors.compressors", "compressed-tensors", self.name
        ).BaseCompressor
        group = {**self._group(weight.name), "format": None}
        bits = group["weights"]["num_bits"]
        if "weight" in tensors and not tensors["weight"].is_floating_point():
            largest = int(tensors["weight"].int().abs().max())
            self._require(
                largest <= 2 ** (bits - 1), weight.name, f"values up to {largest}", f"{bits} bits"
            )
        compressor = compressors.get_value_from_registry(self._format_of(weight.name))
        plain = compressor.decompress(dict(tensors), quantization.model_validate(group))
        value: Tensor = plain["weight"]
        return value

    def _format_of(self, weight: str) -> str:
        return str(self._group(weight).get("format") or self._format)

    def _group(self, weight: str) -> Mapping[str, Any]:
        """Return the group of the configuration that a weight is of, by name or as a linear layer."""
        module = weight.removesuffix(".weight")
        for group in self._groups:
            for target in group["targets"]:
                pattern = target.removeprefix("re:")
                if target == module or (pattern != target and re.match(pattern, module)):
                    return group  # type: ignore[no-any-return]
        # A weight without a group of its own has that of its class, such as "Linear".
        return next(
            (group for group in self._groups if any(map(str.isidentifier, group["targets"]))),
            self._groups[0],
        )


class Gptq(Format):
    """GPTQ and AutoRound: integers packed along the input dimension.

    Version 1 stores each zero point less one; version 2 stores it as it is.
    """

    suffixes: ClassVar = {
        f".{part}": ".weight" for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    required: ClassVar = ("qweight", "qzeros", "scales")

    def __init__(self, name: str, quantization: Mapping[str, Any], tool: str, offset: int) -> None:
        super().__init__(name)
        self._bits = int(quantization["bits"])
        self._group_size = int(quantization["group_size"])
        self._offset = offset
        self._dynamic = quantization.get("dynamic") or {}
        if self._dynamic:
            raise CheckpointError(f"{name}: bits that differ by module (dynamic) are not supported")
        self.words = f"{tool}, {self._bits} bits, {_groups(self._group_size)}"

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        packed, outputs = parts["qweight"].shape
        return outputs, packed * 32 // self._bits

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        inputs, scales = self.shape(parts)[1], parts["scales"].shape[0]
        groups = -(-inputs // (self._group_size if self._group_size > 0 else inputs))
        self._require(scales == groups, weight, many(scales, "group"), f"{groups:,}")
        return Scheme(f"{self._bits}-bit integers", _groups(self._group_size), 2**self._bits)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        values = _unpacked(tensors["qweight"], self._bits)
        zeros = _unpacked(tensors["qzeros"].T, self._bits).T + self._offset
        scales = tensors["scales"].float()
        if "g_idx" in tensors:
            group = tensors["g_idx"].long()
        else:
            size = self._group_size if self._group_size > 0 else len(values)
            group = torch.arange(len(values)) // size
        return (scales[group] * (values - zeros[:, : scales.shape[1]][group])).T.contiguous()


class Awq(Format):
    """AWQ in its GEMM layout: integers packed along the output dimension, in an order of their own."""

    suffixes: ClassVar = {f".{part}": ".weight" for part in ("qweight", "qzeros", "scales")}
    required: ClassVar = ("qweight", "qzeros", "scales")

    def __init__(self, name: str, quantization: Mapping[str, Any], tool: str = "AWQ") -> None:
        super().__init__(name)
        self._bits = int(quantization.get("bits") or quantization["w_bit"])
        self._group_size = int(quantization.get("group_size") or quantization["q_group_size"])
        layout = str(quantization.get("checkpoint_format") or quantization.get("version") or "gemm")
        if self._bits != 4 or layout.lower() != "gemm":
            raise CheckpointError(
                f"{name}: AWQ with {self._bits} bits in the layout {layout} is not supported; "
                "supported: 4 bits, gemm"
            )
        self.words = f"{tool}, {self._bits} bits, {_groups(self._group_size)}"

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        inputs, packed = parts["qweight"].shape
        return packed * 8, inputs

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        inputs, scales = self.shape(parts)[1], parts["scales"].shape[0]
        groups = -(-inputs // (self._group_size if self._group_size > 0 else inputs))
        self._require(scales == groups, weight, many(scales, "group"), f"{groups:,}")
        return Scheme(f"{self._bits}-bit integers", _groups(self._group_size), 2**self._bits)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        values, zeros = (_awq(tensors[part]) for part in ("qweight", "qzeros"))
        size = len(values) // len(zeros)
        scales = tensors["scales"].float().repeat_interleave(size, 0)
        return ((values - zeros.repeat_interleave(size, 0)) * scales).T.contiguous()


class BitsAndBytes(Format):
    """bitsandbytes: NF4 or FP4 in blocks, or LLM.int8()."""

    suffixes: ClassVar = {
        **{
            f".weight.{part}": ".weight"
            for part in (
                "quant_state.bitsandbytes__nf4",
                "quant_state.bitsandbytes__fp4",
                "nested_absmax",
                "nested_quant_map",
                "absmax",
                "quant_map",
            )
        },
        ".SCB": ".weight",
        ".weight_format": ".weight",
    }
    required: ClassVar = ("weight",)

    def __init__(self, name: str, quantization: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._four = bool(quantization.get("load_in_4bit"))
        self._kind = str(quantization.get("bnb_4bit_quant_type", "fp4")).upper()
        self._double = bool(quantization.get("bnb_4bit_use_double_quant"))
        self.words = "bitsandbytes int8, one scale per row"
        if self._four:
            self.words = f"bitsandbytes {self._kind}, blocks of 64" + (
                ", scales quantised" if self._double else ""
            )
        elif quantization.get("llm_int8_threshold") is not None:
            self.activations = "8-bit integers per token but for outliers"

    @override
    def quantized(self, parts: Mapping[str, StoredTensor]) -> bool:
        return "SCB" in parts or "weight.absmax" in parts

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        state = self._state(parts)
        return tuple(state["shape"]) if state else parts["weight"].shape

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        state = self._state(parts)
        stored = "8 bits" if state is None else str(state["quant_type"]).upper()
        said = self._kind if self._four else "8 bits"
        self._require(stored == said, weight, stored, said)
        if state is not None:
            double = "weight.nested_absmax" in parts
            self._require(
                double == self._double,
                weight,
                f"{'quantised' if double else 'plain'} scales",
                "quantised" if self._double else "plain",
            )
            return Scheme(f"{stored} values", f"blocks of {state['blocksize']}", 16)
        return Scheme("8-bit integers", "one scale per row", 256)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        if "SCB" in tensors:
            # bitsandbytes.functional.int8_vectorwise_dequant, by its rule.
            return tensors["weight"].float() * (tensors["SCB"].float() / 127).unsqueeze(1)
        functional = library("bitsandbytes.functional", "bitsandbytes", self.name)
        stored = {
            part.removeprefix("weight."): tensor
            for part, tensor in tensors.items()
            if part != "weight"
        }
        state = functional.QuantState.from_dict(stored, device=tensors["weight"].device)
        plain: Tensor = functional.dequantize_4bit(tensors["weight"], state)
        return plain

    @staticmethod
    def _state(parts: Mapping[str, StoredTensor]) -> dict[str, Any] | None:
        for part, tensor in parts.items():
            if "quant_state" in part:
                state: dict[str, Any] = json.loads(tensor.raw())
                return state
        return None


class TorchAo(Format):
    """torchao's tensor subclasses, as its safetensors support lays them flat."""

    required: ClassVar = ("qdata",)

    def __init__(
        self, name: str, quantization: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        super().__init__(name)
        self._metadata = metadata
        kind = quantization.get("quant_type", {})
        kind = kind.get("default", kind) if isinstance(kind, dict) else {"_type": str(kind)}
        data = kind.get("_data", {})
        self.words = "torchao " + str(kind.get("_type")).removesuffix("Config")
        grain = data.get("granularity", {})
        size = data.get("group_size") or grain.get("_data", {}).get("group_size")
        if size or grain.get("_type") == "PerRow":
            self.words += f", {_groups(int(size or -1))}"
        if "DynamicActivation" in self.words:
            self.activations = "8-bit numbers at run time"

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        entry = json.loads(self._metadata[weight])
        rows, columns = parts["qdata"].shape[-2:]
        block = entry["_data"].get("block_size", [1, columns])
        group = {columns: "one scale per row"}.get(block[-1], f"groups of {block[-1]}")
        if list(block) == [rows, columns]:
            group = "one scale per tensor"
        kind = entry["_type"]
        if "Float8" in kind:
            return Scheme("FP8 (E4M3) values", group, 256)
        bits = 4 if "4" in json.dumps(entry["_data"].get("target_dtype", kind)) else 8
        return Scheme(f"{bits}-bit integers", group, 2**bits)

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        return parts["qdata"].shape

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        support = library("torchao.prototype.safetensors.safetensors_support", "torchao", self.name)
        module, end = weight.name.rsplit(".", 1)
        flat = {f"{module}._{end}_{part}": tensor for part, tensor in tensors.items()}
        metadata = {
            weight.name: self._metadata[weight.name],
            "tensor_names": json.dumps([weight.name]),
        }
        whole, _ = support.unflatten_tensor_state_dict(flat, metadata)
        plain: Tensor = whole[weight.name].dequantize()
        return plain

    def _place(self, name: str) -> tuple[str, str]:
        module, _, leaf = name.rpartition(".")
        match = re.fullmatch(r"_(.+?)_(qdata|scale|zero_point|.*scale)", leaf)
        if match and f"{module}.{match[1]}" in self._metadata:
            return f"{module}.{match[1]}", match[2]
        return name, "weight"


class BlockFp8(Format):
    """DeepSeek's FP8: values in E4M3 with one scale per block."""

    suffixes: ClassVar = {
        ".weight_scale_inv": ".weight",
        ".weight_scale": ".weight",
        "_proj_scale_inv": "_proj",
        ".input_scale": ".weight",
        ".activation_scale": ".weight",
    }
    required: ClassVar = ("weight",)

    def __init__(self, name: str, quantization: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._block = quantization.get("weight_block_size")
        self.words = f"FP8 (E4M3), {self._group}"
        scheme = quantization.get("activation_scheme", "dynamic")
        self.activations = f"FP8, {scheme}"

    @override
    def quantized(self, parts: Mapping[str, StoredTensor]) -> bool:
        return "weight" in parts and parts["weight"].dtype in _FP8

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        return parts["weight"].shape

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        if not any("scale" in part for part in parts):
            raise CheckpointError(
                f"{self.name}: {weight} is incomplete: it is stored as FP8 without a scale"
            )
        if self._block is not None:
            sizes = zip(self.shape(parts)[-2:], self._block, strict=True)
            blocks = [-(-size // block) for size, block in sizes]
            scales = [*next(parts[part].shape for part in parts if part in _SCALES)[-2:]]
            self._require(scales == blocks, weight, f"{scales} blocks", str(blocks))
        return Scheme("FP8 (E4M3) values", self._group, 256)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        values = tensors["weight"].float()
        scale = next(tensor.float() for part, tensor in tensors.items() if part in _SCALES)
        if self._block is None:
            return values * scale
        rows, columns = self._block
        spread = scale.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
        return values * spread[..., : values.shape[-2], : values.shape[-1]]

    @property
    def _group(self) -> str:
        if self._block is None:
            return "one scale per tensor"
        return "blocks of {} by {}".format(*self._block)


class Mxfp4(Format):
    """gpt-oss's experts: four-bit floats in groups of 32 with a power of two as their scale."""

    words = "MXFP4, groups of 32"
    suffixes: ClassVar = {"_blocks": "", "_scales": ""}
    required: ClassVar = ("blocks", "scales")

    @override
    def shape(self, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        experts, rows, groups, half = parts["blocks"].shape
        return experts, groups * half * 2, rows

    @override
    def scheme(self, weight: str, parts: Mapping[str, StoredTensor]) -> Scheme:
        return Scheme("4-bit floats (E2M1)", "groups of 32", 16)

    @override
    def decode(self, weight: Weight, tensors: Mapping[str, Tensor]) -> Tensor:
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        plain: Tensor = convert_moe_packed_tensors(tensors["blocks"], tensors["scales"])
        return plain


def read_format(
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str],
    name: str,
) -> tuple[Format, dict[str, Weight]]:
    """Return the format of the weights by a configuration, and the weights.

    Args:
        config: ``config.json``.
        tensors: The stored tensors by name.
        metadata: The metadata of the safetensors headers.
        name: What messages call the checkpoint.

    Raises:
        CheckpointError: If the format is unknown or not supported, or a weight is incomplete.
    """
    quantization = config.get("quantization_config") or config.get("compression_config")
    try:
        form = Format(name) if not quantization else _made(quantization, metadata, name)
        return form, form.weights(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{name}: its quantization_config does not fit its tensors: {error!r}"
        ) from None


SUPPORTED: Final = (
    "compressed-tensors",
    "gptq",
    "awq",
    "auto-round",
    "bitsandbytes",
    "torchao",
    "fp8",
    "mxfp4",
)


def _made(quantization: Mapping[str, Any], metadata: Mapping[str, str], name: str) -> Format:
    match str(quantization.get("quant_method")).replace("_", "-").lower():
        case "compressed-tensors":
            return CompressedTensors(name, quantization)
        case "gptq":
            layout = quantization.get("checkpoint_format") or quantization.get("format") or "gptq"
            if layout not in ("gptq", "gptq_v2"):
                raise CheckpointError(f"{name}: GPTQ in the layout {layout} is not supported")
            return Gptq(name, quantization, "GPTQ", 1 if layout == "gptq" else 0)
        case "awq":
            return Awq(name, quantization)
        case "auto-round" | "intel/auto-round":
            packing = str(quantization.get("packing_format", "auto_round"))
            if "awq" in packing:
                return Awq(name, {**quantization, "version": "gemm"}, "AutoRound")
            return Gptq(name, quantization, "AutoRound", 1 if packing.endswith("auto_gptq") else 0)
        case "bitsandbytes":
            return BitsAndBytes(name, quantization)
        case "torchao":
            return TorchAo(name, quantization, metadata)
        case "fp8":
            return BlockFp8(name, quantization)
        case "mxfp4":
            return Mxfp4(name)
    raise CheckpointError(
        f"{name}: quant_method {quantization.get('quant_method')!r} is not supported; transformers "
        f"might load it with weights at random; supported: {', '.join(SUPPORTED)}"
    )


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Return the integers in a stream of ``bits`` bits down the first dimension of 32-bit words."""
    import torch

    words = packed.long() & 0xFFFFFFFF
    at = torch.arange(len(words) * 32 // bits) * bits
    word, shift = at // 32, (at % 32).unsqueeze(1)
    # A value of three bits may begin in one word and end in the next.
    following = words[(word + 1).clamp(max=len(words) - 1)]
    values: Tensor = ((words[word] | (following << 32)) >> shift) & (2**bits - 1)
    return values


def _awq(packed: Tensor) -> Tensor:
    import torch

    shifts = torch.tensor([4 * place for place in _AWQ_ORDER])
    values: Tensor = ((packed.long() & 0xFFFFFFFF).unsqueeze(-1) >> shifts) & 15
    return values.flatten(1)


def _groups(size: int) -> str:
    return f"groups of {size}" if size > 0 else "one scale per row"


def _number(form: str, arguments: Mapping[str, Any]) -> str:
    if form.startswith("nvfp4"):
        return "4-bit floats (E2M1)"
    if arguments["type"] == "float":
        return {4: "4-bit floats (E2M1)", 8: "FP8 (E4M3) values"}[arguments["num_bits"]]
    return f"{arguments['num_bits']}-bit integers"


def _strategy(arguments: Mapping[str, Any]) -> str:
    size: int | None = arguments.get("group_size")
    block: Sequence[int] | None = arguments.get("block_structure")
    match arguments.get("strategy"):
        case "group" | "tensor_group":
            return f"groups of {size}"
        case "block" if block:
            return "blocks of {} by {}".format(*block)
        case "tensor":
            return "one scale per tensor"
    return "one scale per row"


def _compressed_words(group: Mapping[str, Any]) -> str:
    weights, inputs = group["weights"], group.get("input_activations")
    bits = f"W{weights['num_bits']}A{inputs['num_bits'] if inputs else 16}"
    form = str(group.get("format") or "")
    kind = ""
    if weights["type"] == "float":
        kind = {4: "MXFP4 " if form.startswith("mxfp4") else "NVFP4 ", 8: "FP8 "}[
            weights["num_bits"]
        ]
    return f"{kind}{bits}, {_strategy(weights)}"


def _activation_words(arguments: Mapping[str, Any]) -> str:
    number = _number("", arguments)
    when = "at run time" if arguments.get("dynamic") else "with fixed scales"
    return f"{number} per {arguments.get('strategy')} {when}"
