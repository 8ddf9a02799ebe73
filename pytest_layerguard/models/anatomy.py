"""Find the layers, experts, routers, norms and linear weights of a decoder.

They are found by structure. The decoder is the module that the model itself returns as its decoder. The layers
are its list of as many blocks as the configuration states. Experts are tensors whose first dimension is their
module's number of experts. Names decide only what structure does not show: which norm comes after attention,
which linear map is a router.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from pytest_layerguard.checkpoints.facts import STATED_EXPERTS
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.binding import Sites
from pytest_layerguard.models.layer_parts import (
    ExpertBank,
    LayerParts,
    RouterChoice,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

_POST_NORM: Final = re.compile(
    r"post_(attention|attn|self_attn|feedforward|ffn|mlp|ff)_?(?:layer)?_?norm", re.IGNORECASE
)
_ROUTER: Final = re.compile(r"(^|\.)(gate|router)(\.|$)")
_EXPERTS: Final = re.compile(r"(^|\.)experts\.")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder-only language model.

    Attributes:
        model: The model with its head, as transformers loaded it.
        decoder: The text decoder inside it (also of a multimodal wrapper).
        layers: Its blocks, index 0..L-1.
        path: The dotted path of the list of layers inside ``model``.
    """

    model: PreTrainedModel
    decoder: nn.Module
    layers: nn.ModuleList
    path: str

    @classmethod
    def of(cls, model: PreTrainedModel) -> Anatomy:
        """Find the decoder and its layers.

        Raises:
            MeasurementError: If no list of as many blocks as the configuration states can be found.
        """
        config = model.config.get_text_config(decoder=True)
        count = getattr(config, "num_hidden_layers", None)
        decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
        if isinstance(decoder, nn.Linear):
            # ModernBERT's decoder calls its head so.
            decoder = model.base_model
        lists = [
            (name, module)
            for name, module in decoder.named_modules()
            if isinstance(module, nn.ModuleList)
            and count
            and len(module) == count
            and _alike(module)
        ]
        if not lists:
            listed = ", ".join(
                f"{name} ({len(module)} x {type(module[0]).__name__})"
                for name, module in model.named_modules()
                if isinstance(module, nn.ModuleList) and len(module)
            )
            raise MeasurementError(
                f"{type(model).__name__}: cannot tell where its layers are. Looked inside "
                f"{type(decoder).__name__} for a list of {count} blocks (num_hidden_layers) that take and return "
                f"hidden states; the model's lists are: {listed or 'none'}. Encoder-decoder models and models without "
                "a list of decoder blocks are not supported."
            )
        name, layers = min(lists, key=lambda found: found[0].count("."))
        prefix = next(path for path, module in model.named_modules() if module is decoder)
        return cls(model, decoder, layers, f"{prefix}.{name}" if prefix else name)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @cached_property
    def sites(self) -> Sites:
        """The owners of every tensor of the whole model, tied ones included."""
        return Sites(self.model)

    @cached_property
    def layer_sites(self) -> tuple[Sites, ...]:
        """The owners of every tensor of each layer."""
        return tuple(Sites(layer) for layer in self.layers)

    @cached_property
    def parts(self) -> tuple[LayerParts, ...]:
        """The tensors of each layer, by purpose."""
        config = self.model.config.get_text_config(decoder=True)
        width = int(config.hidden_size)
        return tuple(_parts(index, layer, width) for index, layer in enumerate(self.layers))

    @cached_property
    def shell(self) -> dict[str, Any]:
        """Every parameter and persistent buffer outside the layers, by full name; tied ones once."""
        return {
            name: tensor
            for name, tensor in _state(self.model).items()
            if not name.startswith(f"{self.path}.")
        }


def _alike(layers: nn.ModuleList) -> bool:
    return all(any(True for _ in layer.parameters()) for layer in layers)


def _state(module: nn.Module) -> dict[str, Any]:
    """Return every parameter and persistent buffer by name: the tensors themselves, not detached views."""
    persistent = module.state_dict(keep_vars=True).keys()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor for name, tensor in tensors.items() if name in persistent}


def _parts(index: int, layer: nn.Module, width: int) -> LayerParts:
    tensors = _state(layer)
    banks = _banks(layer, width)
    known = {
        name
        for bank in banks
        for name in (*bank.fused, *(n for group in bank.listed for n in group))
    }
    unknown = tuple(
        name
        for name, tensor in tensors.items()
        if _EXPERTS.search(name)
        and tensor.dim() > 1
        and name not in known
        and not any(name in (*bank.router, *bank.routing) for bank in banks)
    )
    blocks = {bank.module for bank in banks} | {_block(name) for name in unknown}
    routers = {name for block in blocks for name in _routing(tensors, block)}
    routers |= {name for bank in banks for name in bank.router}
    stacks = {name for bank in banks for name in bank.fused if tensors[name].dim() == 3}
    stacks |= _shared_stacks(layer)
    linear = tuple(
        name
        for name, tensor in tensors.items()
        if name in stacks or (tensor.dim() == 2 and name not in routers and _is_linear(layer, name))
    )
    return LayerParts(index, layer, tensors, banks, linear, _post_norms(tensors), unknown)


def _shared_stacks(layer: nn.Module) -> set[str]:
    """Return the weights ``[count, out, in]`` of experts that every token goes through, where they are one stack."""
    return {
        f"{path}.{name}"
        for path, module in layer.named_modules()
        for name, tensor in module.named_parameters(recurse=False)
        if tensor.dim() == 3 and tensor.shape[0] == vars(module).get("n_shared_experts")
    }


def _block(expert: str) -> str:
    """Return the path of the mixture that a tensor of an expert belongs to."""
    return expert[: expert.index("experts.")].rstrip(".")


def _routing(names: Iterable[str], block: str) -> tuple[str, ...]:
    """Return the tensors of the router of the mixture at ``block``, but for experts."""
    prefix = f"{block}." if block else ""
    return tuple(
        name
        for name in names
        if name.startswith(prefix)
        and _ROUTER.search(name.removeprefix(prefix))
        and not _EXPERTS.search(name.removeprefix(prefix))
    )


def _post_norms(names: Iterable[str]) -> tuple[str, ...]:
    """Return the norms after attention and after the feed-forward, of layers that have both.

    In a layer that has only the first, it is the norm before the feed-forward (Llama's
    ``post_attention_layernorm``), outside the residual branch.
    """
    found = {name: match for name in names if (match := _POST_NORM.search(name))}
    behind = {match[1].startswith(("attention", "attn", "self")) for match in found.values()}
    return tuple(found) if behind == {True, False} else ()


def _is_linear(layer: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    module = layer.get_submodule(owner)
    return leaf == "weight" and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")


def _banks(layer: nn.Module, width: int) -> tuple[ExpertBank, ...]:
    banks = [
        bank
        for name, module in layer.named_modules()
        for bank in (_fused_bank(layer, name, module), _listed_bank(layer, name, module))
        if bank is not None
    ]
    return _merged(layer, banks, width)


def _fused_bank(layer: nn.Module, name: str, module: nn.Module) -> ExpertBank | None:
    count = _stated_experts(module)
    own = dict(module.named_parameters(recurse=False))
    if count is None or not any(
        tensor.dim() == 3 and tensor.shape[0] == count for tensor in own.values()
    ):
        return None
    fused = tuple(
        f"{name}.{leaf}"
        for leaf, tensor in own.items()
        if tensor.dim() > 1 and tensor.shape[0] == count
    )
    return _bank(layer, name.rpartition(".")[0], count, fused=fused)


def _listed_bank(layer: nn.Module, name: str, module: nn.Module) -> ExpertBank | None:
    if not isinstance(module, nn.ModuleList) or not name.endswith("experts") or len(module) < 2:
        return None
    leaves = [tuple(_state(expert)) for expert in module]
    if not leaves[0] or any(other != leaves[0] for other in leaves):
        return None
    listed = tuple(
        tuple(f"{name}.{index}.{leaf}" for index in range(len(module))) for leaf in leaves[0]
    )
    return _bank(layer, name.rpartition(".")[0], len(module), listed=listed)


def _stated_experts(module: nn.Module) -> int | None:
    stated = (vars(module).get(counter) for counter in STATED_EXPERTS)
    return next((count for count in stated if isinstance(count, int) and count > 1), None)


def _bank(
    layer: nn.Module,
    block: str,
    count: int,
    *,
    fused: tuple[str, ...] = (),
    listed: tuple[tuple[str, ...], ...] = (),
) -> ExpertBank:
    """Return the mixture at ``block`` with its router."""
    inside = layer.get_submodule(block)
    prefix = f"{block}." if block else ""
    tensors = {f"{prefix}{name}": tensor for name, tensor in _state(inside).items()}
    routing = _routing(tensors, block)
    experts = {*fused, *(name for group in listed for name in group)}
    router = tuple(
        name
        for name, tensor in tensors.items()
        if name not in experts
        and (name in routing or "bias" in name)
        and tensor.shape in ((count,), (1, count), (count, *tensor.shape[1:2]))
    )
    counters = tuple(
        f"{prefix}{name}:{attribute}" if name else f"{block}:{attribute}"
        for name, module in inside.named_modules()
        for attribute in STATED_EXPERTS
        if vars(module).get(attribute) == count
    )
    owners = [vars(module) for module in inside.modules()]
    configs = [vars(owner["config"]) for owner in owners if "config" in owner]
    return ExpertBank(
        block,
        count,
        fused=fused,
        listed=listed,
        router=router,
        counters=counters,
        routing=routing,
        choice=RouterChoice.stated([*owners, *configs]),
        uncut=any(not tensors[name].is_floating_point() for name in routing),
    )


def _merged(layer: nn.Module, banks: list[ExpertBank], width: int) -> tuple[ExpertBank, ...]:
    """Join banks of one mixture whose tensors are in several modules (JetMoE's input and output maps)."""
    merged: dict[str, ExpertBank] = {}
    for bank in banks:
        held = merged.get(bank.module)
        if held is not None:
            fused = (*held.fused, *bank.fused)
            router = tuple(name for name in held.router if name not in fused)
            bank = replace(held, fused=fused, router=router)
        merged[bank.module] = bank
    return tuple(
        replace(bank, transposed=_transposed(layer, bank, width)) for bank in merged.values()
    )


def _transposed(layer: nn.Module, bank: ExpertBank, width: int) -> bool | None:
    """Return whether fused experts are ``[count, in, out]``: as their module states, or by their shapes.

    The first map reads hidden states of the model's width, and the last one gives them.
    """
    owners = [layer.get_submodule(name.rpartition(".")[0]) for name in bank.fused]
    stated = {
        bool(vars(owner)["is_transposed"]) for owner in owners if "is_transposed" in vars(owner)
    }
    if stated or not bank.fused:
        return stated == {True}
    shapes = [tensor.shape[1:] for name in bank.fused if (tensor := _state(layer)[name]).dim() == 3]
    (first, second), (third, fourth) = shapes[0], shapes[-1]
    plain = second == third == width
    turned = first == fourth == width
    return turned if plain != turned else None
