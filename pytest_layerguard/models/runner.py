"""Run a decoder slot by slot, with any layer's weights in any slot.

The model's own forward pass runs once with stand-ins for its blocks. It gives the embeddings and, for each slot,
the arguments (rotary embedding, mask, cache) that the model passes to the block there. These belong to the slot.
Blocks are then called one by one with the weights of the plan bound. The final norm and the head are run by the
model's own code too, so that soft-capping, logit scaling and projections need no copy here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import MutableMapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_layerguard.environment import deadline
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models import binding
from pytest_layerguard.models.own_code import own_code
from pytest_layerguard.models.plan import InterventionError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import nn
    from transformers.cache_utils import Cache

    from pytest_layerguard.models.anatomy import Anatomy
    from pytest_layerguard.models.plan import OuterWeights, Weights
    from pytest_layerguard.models.streaming import LayerStore


@dataclass(frozen=True)
class Call:
    """The arguments that the model passes to a block beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    keyword: str | None

    @property
    def values(self) -> tuple[Any, ...]:
        """All of them."""
        return (*self.args, *self.kwargs.values())

    def on(
        self, hidden: Tensor, replaced: Callable[[Any], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments for ``hidden``, each other value replaced."""
        args = tuple(replaced(value) for value in self.args)
        kwargs = {name: replaced(value) for name, value in self.kwargs.items()}
        if self.keyword is None:
            return (hidden, *args), kwargs
        return args, kwargs | {self.keyword: hidden}


@dataclass(frozen=True)
class LayerState:
    """What one slot hands to the next.

    Attributes:
        hidden: The hidden states, ``[B, T, H]`` but for models that keep several streams of them.
        carried: What layers share beside them, by its key in :attr:`ForwardState.carriers`: the content of
            a container that the model passes to every block, or what blocks return beside hidden states.
    """

    hidden: Tensor
    carried: Mapping[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ForwardState:
    """The start of a forward pass.

    Attributes:
        input_ids: The tokens ``[B, T]``.
        start: What the first slot is given.
        calls: The other arguments of each slot.
        carriers: The key of what layers share, by the identity of the argument that stands for it.
    """

    input_ids: Tensor
    start: LayerState
    calls: tuple[Call, ...]
    carriers: Mapping[int, Hashable]


class Runner:
    """Runs the slots of one model and counts the layer evaluations.

    Attributes:
        anatomy: The parts of the model.
        evaluations: Calls of a decoder block so far.
        store: The layers, embeddings and head, if they stay on disk.
        independent: Whether a block is a function of hidden states ``[B, T, H]`` and positions alone, so that
            rows of several variants can be one batch. It is not if layers share state, or if blocks are
            given the tokens themselves or their embeddings.
    """

    def __init__(self, anatomy: Anatomy, store: LayerStore | None = None) -> None:
        self.anatomy = anatomy
        self.store = store
        self.evaluations = 0
        self._returned: dict[int, tuple[Any, ...] | list[Any]] = {}
        self._module_states = [
            (module, dict(module._buffers), _attributes(module))
            for module in anatomy.model.modules()
            if module._buffers
        ]
        # transformers 5.24 renamed the argument, family by family.
        taken = inspect.signature(anatomy.decoder.forward).parameters
        self._cache_name = "cache" if "cache" in taken else "past_key_values"
        self._embedding: Tensor = anatomy.model.get_input_embeddings().weight  # type: ignore[assignment]
        outer = {} if store is None else store.outer
        self._embeddings = _once(outer, anatomy.decoder)
        self._head = _once(outer, anatomy.model.get_output_embeddings())  # type: ignore[no-untyped-call]
        self._core: str | None = None
        self._tail: str | None = None
        self._core_output: type[Any] | None = None
        self._learn()
        self.independent = self._is_independent()

    @property
    def item(self) -> int:
        """The bytes of one number of a hidden state."""
        return self._embedding.element_size()

    @property
    def state_width(self) -> int:
        """The bytes of one token's hidden state."""
        config = self.anatomy.model.config.get_text_config(decoder=True)
        return int(config.hidden_size) * self.item

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, or that to which they are read."""
        return self._embedding.device if self.store is None else torch.device(self.store.device)

    @own_code()
    def begin(
        self, input_ids: Tensor, cache: Cache | None = None, shell: OuterWeights | None = None
    ) -> ForwardState:
        """Embed tokens ``[B, T]`` and record the arguments of each slot.

        Args:
            input_ids: Token ids, on any device.
            cache: A cache that holds the positions before these tokens, or None.
            shell: Tensors that replace those outside the layers.
        """
        self._restore_modules()
        ids = input_ids.to(self.device)
        calls: list[Call] = []
        held: list[Tensor] = []

        def note(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                keyword = None if args else "hidden_states"
                hidden = args[0] if args else kwargs.pop("hidden_states")
                if index == 0:
                    held.append(hidden)
                calls.append(Call(args[1:], kwargs, keyword))
                return self._as_returned(index, hidden)

            return forward

        with self.embeddings(), self._shelled(shell), self._blocks(note):
            given = {self._cache_name: cache, "use_cache": cache is not None}
            self.anatomy.decoder(input_ids=ids, **given)
        if len(calls) != len(self.anatomy):
            raise MeasurementError(
                f"{type(self.anatomy.model).__name__} ran {len(calls)} of its {len(self.anatomy)} layers; "
                "models that leave layers out by themselves cannot be judged layer by layer."
            )
        carriers: dict[int, Hashable] = {}
        containers: dict[Hashable, Any] = {}
        outputs = {
            id(extra): ("output", place)
            for returned in self._returned.values()
            for place, extra in enumerate(_extras(returned))
            if extra is not None
        }
        for value in (value for call in calls for value in call.values):
            if isinstance(value, MutableMapping | list):
                carriers[id(value)] = ("container", id(value))
                containers["container", id(value)] = copy.copy(value)
            elif id(value) in outputs:
                carriers[id(value)] = outputs[id(value)]
        return ForwardState(ids, LayerState(held[0], containers), tuple(calls), carriers)

    @contextmanager
    def bound(
        self, slot: int, weights: Weights, tensors: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """Bind a layer's weights in a slot within the block.

        Args:
            slot: The slot that runs them.
            weights: The layer and its edits.
            tensors: The tensors of ``weights`` if they are known; else they are computed.

        Raises:
            MeasurementError: If the layer's tensors do not fit the slot.
        """
        untouched = not weights.edits and weights.layer == slot
        if tensors is None and untouched and self.store is None:
            yield
            return
        current = self.materialise(weights) if tensors is None else tensors
        self._check_fit(slot, weights, current)
        with ExitStack() as stack:
            for edit in weights.edits:
                if edit.settings is not None:
                    laid = edit.settings(self.anatomy.parts[slot])
                    stack.enter_context(binding.attributes(self.anatomy.layers[slot], laid))
            stack.enter_context(self.anatomy.layer_sites[slot].bound(current))
            for edit in weights.edits:
                if edit.running is not None:
                    stack.enter_context(edit.running(current, self.anatomy.parts[slot]))
            yield

    def materialise(self, weights: Weights) -> dict[str, Tensor]:
        """Compute a layer's tensors after its edits; tensors that no edit changes are the model's own.

        Raises:
            MeasurementError: If an edit does not go with this layer.
        """
        tensors = self.layer_tensors(weights.layer)
        return tensors | self.edited(weights, tensors)

    def layer_tensors(self, layer: int) -> dict[str, Tensor]:
        """Return a layer's own tensors; read them from disk if they stay there."""
        own = self.anatomy.parts[layer].tensors
        return dict(own) if self.store is None else self.store.tensors(layer, own)

    def edited(self, weights: Weights, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute a layer's tensors after its edits from its own tensors.

        Raises:
            MeasurementError: If an edit does not go with this layer.
        """
        parts = self.anatomy.parts[weights.layer]
        tensors = dict(own)
        try:
            with torch.no_grad():
                for edit in weights.edits:
                    tensors |= edit.apply(tensors, parts)
        except InterventionError as error:
            raise MeasurementError(str(error)) from error
        return tensors

    @own_code()
    def step(
        self,
        frame: ForwardState,
        slot: int,
        state: LayerState,
        cache: tuple[object, object] | None = None,
    ) -> LayerState:
        """Run the block in ``slot`` with the weights that are bound there.

        The state that is given stays as it is, so that several variants can go on from it.

        Args:
            frame: The start of the forward pass.
            slot: The slot.
            state: What the slot before gave.
            cache: The cache of the forward pass and the one to use in its place.
        """
        deadline.check()
        # A block writes into the containers that it is given.
        carried = {
            key: copy.copy(value) if isinstance(value, MutableMapping | list) else value
            for key, value in state.carried.items()
        }

        def replaced(value: Any) -> Any:
            if cache is not None and value is cache[0]:
                return cache[1]
            key = frame.carriers.get(id(value))
            # Before the first block that returns it, there is nothing.
            return value if key is None else carried.get(key)

        args, kwargs = frame.calls[slot].on(state.hidden, replaced)
        returned = self.anatomy.layers[slot](*args, **kwargs)
        self.evaluations += 1
        if frame.carriers:
            for place, extra in enumerate(_extras(returned)):
                carried["output", place] = extra
        return LayerState(_hidden(returned), carried)

    @own_code()
    def finish(
        self, frame: ForwardState, state: LayerState, shell: OuterWeights | None = None
    ) -> Tensor:
        """Run what follows the last layer; return the final hidden states ``[B, T, H]`` that the head reads."""
        with self._shelled(shell):
            if self._tail is not None:
                return _tensor(self.anatomy.model.get_submodule(self._tail)(state.hidden))
            return self._finish_by_forward(frame.input_ids, state.hidden)

    @own_code()
    def logits(self, final: Tensor, shell: OuterWeights | None = None) -> Tensor:
        """Run the model's own head on final hidden states ``[N, H]``; return logits ``[N, V]`` in its dtype."""
        assert self._core is not None
        assert self._core_output is not None
        output = self._core_output(last_hidden_state=final.unsqueeze(0))
        core = self.anatomy.model.get_submodule(self._core)
        token = torch.zeros((1, final.shape[0]), dtype=torch.long, device=final.device)
        with (
            self.head(),
            self._shelled(shell),
            binding.attribute(core, "forward", lambda *_, **__: output),
        ):
            return _tensor(self.anatomy.model(input_ids=token, use_cache=False).logits[0])

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return every parameter and persistent buffer outside the layers, read from disk if it stays there."""
        tensors = dict(self.anatomy.shell)
        if self.store is not None:
            for name in tensors.keys() & self.store.outer.keys():
                tensors[name] = self.store.outside(name)
        return tensors

    def embeddings(self) -> AbstractContextManager[None]:
        """Read the embeddings once within the block if they are on disk, rather than at each call."""
        return self._read(self._embeddings)

    def head(self) -> AbstractContextManager[None]:
        """Read the head once within the block if it is on disk, rather than at each call."""
        return self._read(self._head)

    def tail(self) -> AbstractContextManager[None]:
        """Read what :meth:`finish` needs once within the block if it is on disk, rather than at each call."""
        return self._read(self._embeddings if self._tail is None else ())

    def _read(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Bind those tensors outside the layers that no caller has bound yet."""
        sites, store = self.anatomy.sites, self.store
        if store is None:
            return nullcontext()
        return sites.bound({name: store.outside(name) for name in names if sites.at(name).is_meta})

    def _shelled(self, shell: OuterWeights | None) -> Any:
        return self.anatomy.sites.bound(shell.tensors if shell is not None else {})

    @contextmanager
    def _blocks(self, stand_in: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
        with ExitStack() as stack:
            for index, layer in enumerate(self.anatomy.layers):
                stack.enter_context(binding.attribute(layer, "forward", stand_in(index)))
            yield

    def _finish_by_forward(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        def stand_in(index: int) -> Callable[..., Any]:
            return lambda *_, **__: self._as_returned(index, hidden)

        with self.tail(), self._blocks(stand_in):
            return _tensor(self.anatomy.decoder(input_ids=input_ids, use_cache=False)[0])

    def _as_returned(self, index: int, hidden: Tensor) -> Any:
        """Return hidden states in the form in which a block returns them, with what it returned beside them once."""
        returned = self._returned.get(index)
        return hidden if returned is None else type(returned)([hidden, *returned[1:]])

    def _restore_modules(self) -> None:
        """Undo what an earlier forward pass left in a module, as rotary embeddings do that grow with the text."""
        for module, buffers, attributes in self._module_states:
            module._buffers.update(buffers)
            vars(module).update(attributes)

    @torch.no_grad()
    def _is_independent(self) -> bool:
        ids = torch.tensor([[1, 2], [2, 1]])
        one, other = self.begin(ids), self.begin(ids.flip(0))
        embeddings = one.start.hidden
        return (
            not one.carriers
            and embeddings.dim() == 3
            and embeddings.shape[:2] == ids.shape
            and all(map(_equal, one.calls, other.calls))
        )

    @contextmanager
    def any_weights(self) -> Iterator[None]:
        """Let the decoder's own forward pass run within the block, all with layer 0's weights if they are on disk."""
        with self.embeddings(), ExitStack() as stack:
            if self.store is not None:
                tensors = self.layer_tensors(0)
                first = self.anatomy.parts[0].tensors
                for index, sites in enumerate(self.anatomy.layer_sites):
                    own = self.anatomy.parts[index].tensors
                    stack.enter_context(sites.bound(_shaped_like(own, first, tensors)))
            yield

    @torch.no_grad()
    def _learn(self) -> None:
        """Run the model once on two tokens to learn what its blocks return and what its head reads."""
        with self.any_weights(), self.head():
            self._watch()

    @own_code()
    def _watch(self) -> None:
        model, layers = self.anatomy.model, self.anatomy.layers
        last: list[Tensor] = []
        fed: list[tuple[str, Tensor, Tensor]] = []
        cores: list[tuple[str, Any]] = []
        handles = []

        def on_layer(index: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                if isinstance(output, tuple | list):
                    self._returned[index] = output
                if index == len(layers) - 1:
                    last.append(_hidden(output))

            return hook

        def on_module(name: str) -> Callable[..., None]:
            def hook(_module: Any, args: Any, output: Any) -> None:
                if hasattr(output, "last_hidden_state"):
                    cores.append((name, output))
                elif last and isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
                    fed.append((name, args[0], output))

            return hook

        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(on_layer(index)))
        for name, module in model.named_modules():
            if name and not name.startswith(f"{self.anatomy.path}."):
                handles.append(module.register_forward_hook(on_module(name)))
        try:
            token = torch.zeros((1, 2), dtype=torch.long, device=self.device)
            model(input_ids=token, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if not cores or not last:
            raise MeasurementError(
                f"{type(model).__name__}: cannot tell what its head reads. Looked for a module whose output has "
                "last_hidden_state; none ran."
            )
        self._core, core_output = cores[-1]
        self._core_output = type(core_output)
        final = core_output.last_hidden_state
        tails = [name for name, given, output in fed if given is last[0] and output is final]
        # The norm is called by itself only where it alone turns the last block's output into what the head reads;
        # anything more (OPT's projection) goes through the decoder's own forward pass.
        self._tail = tails[0] if len(tails) == 1 else None

    def _check_fit(self, slot: int, weights: Weights, tensors: Mapping[str, Tensor]) -> None:
        own = self.anatomy.parts[slot].tensors
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())
            raise MeasurementError(
                f"layer {weights.layer} does not fit slot {slot}: they are built differently "
                f"({', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}). Only layers of one structure can be "
                "exchanged or replaced."
            )
        if weights.layer == slot:
            return
        for name, tensor in self.anatomy.parts[weights.layer].tensors.items():
            if own[name].shape != tensor.shape:
                raise MeasurementError(
                    f"layer {weights.layer} does not fit slot {slot}: {name} is {list(tensor.shape)} in the one and "
                    f"{list(own[name].shape)} in the other. Only layers of one structure can be exchanged or replaced."
                )


def _shaped_like(
    own: Mapping[str, Tensor], first: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return tensors to run a layer with if its output does not matter: another layer's, or zeros."""
    device = next(iter(tensors.values())).device
    return {
        name: tensors[name]
        if name in first and first[name].shape == tensor.shape
        else torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
        for name, tensor in own.items()
    }


def _once(outer: Mapping[str, Tensor], module: nn.Module | None) -> tuple[str, ...]:
    """Return one name of each of the tensors ``outer`` that a module uses."""
    used = {id(tensor) for tensor in module.parameters()} if module is not None else set()
    names: dict[int, str] = {}
    for name, tensor in outer.items():
        if id(tensor) in used:
            names.setdefault(id(tensor), name)
    return tuple(names.values())


def _extras(returned: Any) -> tuple[Any, ...]:
    """Return what a block returns beside the hidden states."""
    return tuple(returned[1:]) if isinstance(returned, tuple | list) else ()


def _hidden(returned: Any) -> Tensor:
    return _tensor(returned[0] if isinstance(returned, tuple | list) else returned)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's own plain attributes."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _equal(one: Any, other: Any) -> bool:
    """Return whether two values that may hold tensors are equal."""
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, Call):
        return _equal(one.values, other.values)
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return one is other or bool(one == other)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
