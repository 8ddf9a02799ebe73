"""Recognise what was done to a model, from its files and those of the model it was made from.

Layers are matched by their values and not by their numbers, so that a file whose layers were
renumbered is recognised. Then each tensor is compared with the base's. Weights are read one at a
time, in blocks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.errors import listed, many
from pytest_layerguard.checkpoints.change import Change, compare
from pytest_layerguard.checkpoints.checkpoint import Adapter, Checkpoint, GgufCheckpoint
from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError
from pytest_layerguard.checkpoints.facts import expert_count
from pytest_layerguard.checkpoints.findings import (
    Finding,
    counts_of,
    layer_words,
    placeless_findings,
    ranges,
    spread,
    value_findings,
    which_tensors,
)
from pytest_layerguard.checkpoints.idle import (
    ATTENTION,
    FEED_FORWARD,
    all_zero,
    branch_of,
    idle_branches,
    matrices_of,
)
from pytest_layerguard.checkpoints.matching import (
    MatchedExperts,
    experts_of,
    is_padded,
    is_part,
    matched_experts,
    matched_layers,
)
from pytest_layerguard.checkpoints.merged import Delta, Merged
from pytest_layerguard.checkpoints.order import PutBack
from pytest_layerguard.checkpoints.places import (
    ROUTER,
    Layer,
    Piece,
    Place,
    llama_names,
    place_of,
    places,
)
from pytest_layerguard.checkpoints.settings import other_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ROWS: Final = 1024
_EMBEDDINGS: Final = ("embed_tokens.", "lm_head.", "wte.", "token_embd.", "output.weight")
_HEADS: Final = {"lm_head.weight": "embed_tokens.weight", "output.weight": "token_embd.weight"}


@dataclass(frozen=True)
class Recognition:
    """All that was done to a model.

    Attributes:
        findings: Each thing that was found.
    """

    findings: tuple[Finding, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of all findings."""
        return frozenset(finding.kind for finding in self.findings)


_known: dict[tuple[str, str], Recognition] = {}


def recognise(base: Checkpoint, candidate: Checkpoint) -> Recognition:
    """Recognise what was done to a base to get a candidate.

    Args:
        base: The original model.
        candidate: What was made of it: a model, or an adapter of the base.

    Raises:
        CheckpointError: If they are no two forms of one architecture, or the adapter is of another base.
        MissingLibraryError: If the library of a format is not installed.
    """
    if isinstance(base, Adapter):
        raise CheckpointError(f"{base.name}: is an adapter; a base must be a whole model")
    if isinstance(candidate, Adapter):
        return Recognition(tuple(_of_adapter(base, candidate)))
    return Recognition(tuple(_Comparison(base, candidate).findings()))


def recognise_once(base: Checkpoint, candidate: Checkpoint) -> Recognition:
    """Return `recognise` of two checkpoints; files of the same digests are compared once in a process."""
    key = base.digest, candidate.digest
    if key not in _known:
        _known[key] = recognise(base, candidate)
    return _known[key]


def recognise_configs(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> Recognition:
    """Recognise what two configurations show, if there are no weights to read."""
    return Recognition(tuple(_of_configs(base, candidate)))


def _of_configs(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _of_shapes(base, candidate)
    if candidate.get("quantization_config") and not base.get("quantization_config"):
        method = candidate["quantization_config"].get("quant_method")
        yield Finding("quantize_weights", f"its weights are quantised by {method}")
        yield Finding(
            "quantization_config", f"its configuration has a quantization_config: {method}"
        )
    dtypes = [
        str(each.get("dtype") or each.get("torch_dtype")).removeprefix("torch.")
        for each in (base, candidate)
    ]
    if dtypes[0] == "float32" and dtypes[1] in ("float16", "bfloat16"):
        yield Finding("cast", f"has the dtype {dtypes[1]}, the base float32", {"dtype": dtypes[1]})


def _no_output(what: str) -> str:
    return f"nothing comes out of {what}: a matrix on the way is zero, or next to it"


def _of_shapes(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> Iterator[Finding]:
    before, after = base.get("num_hidden_layers"), candidate.get("num_hidden_layers")
    if isinstance(before, int) and isinstance(after, int) and before != after:
        kind = "remove_layers" if after < before else "repeat_layers"
        yield Finding(kind, f"has {after:,} layers, the base {before:,}", {"count": after - before})
    experts = expert_count(base), expert_count(candidate)
    if 0 < experts[1] < experts[0]:
        sentence = f"has {many(experts[1], 'expert')} in a layer, the base {experts[0]:,}"
        yield Finding("drop_experts", sentence, {"count": experts[0] - experts[1]})


class _Comparison:
    def __init__(self, base: Checkpoint, candidate: Checkpoint) -> None:
        self._base, self._candidate = base, candidate
        renamed = _renamed(base, candidate)
        self._ours, self._ours_outside = _sorted(places(base, renamed))
        self._theirs, self._theirs_outside = _sorted(places(candidate, renamed))
        self._resized: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self._narrowed: dict[Place, float] = {}
        self._extra: list[str] = []
        self._missing: list[str] = []
        shared = {
            (key[0], piece.shape)
            for layer in self._theirs.values()
            for key, piece in layer.items()
            if len(piece.shape) > 1
        } & {(key[0], piece.shape) for layer in self._ours.values() for key, piece in layer.items()}
        if not shared and base.text_config.get("model_type") != candidate.text_config.get(
            "model_type"
        ):
            raise CheckpointError(
                f"{candidate.name}: is a {candidate.text_config.get('model_type')} and the base a "
                f"{base.text_config.get('model_type')}; no tensor has a name and shape that both have"
            )

    def findings(self) -> Iterator[Finding]:
        changes: dict[Place, Change] = {}
        for place, change in self._changes():
            # A layer that runs twice may have been changed in one place alone.
            if place not in changes or changes[place].equal:
                changes[place] = change
        matrices = {place: change for place, change in changes.items() if self._is_matrix(place)}
        unmatched = dict(self._of_unmatched_layers())
        if matrices and not any(change.related for change in matrices.values()):
            yield Finding("unrelated", "no tensor is the base's: another model of the same shape")
            # Values may have been put in another order; what needs no order is found all the same.
            yield from _of_shapes(self._base.text_config, self._candidate.text_config)
            yield from placeless_findings(matrices | unmatched)
            yield from self._configured()
            yield from self._stored()
            return
        exact = not any(self._empty.values()) and all(
            change.equal and not change.reordered and not change.rescaled
            for place, change in changes.items()
            if place.layer is not None
        )
        structure = [*self._layer_findings(exact), *self._expert_findings()]
        values = [
            *value_findings(changes, matrices, unmatched),
            *self._leftovers(),
            *self._configured(),
        ]
        if not structure and not values:
            dtypes = [
                {weight.dtype for weight in each.weights.values()}
                for each in (self._base, self._candidate)
            ]
            how = ", bit for bit" if dtypes[0] == dtypes[1] else " by its values, in another dtype"
            yield Finding("identical", f"every tensor is the base's{how}")
        yield from structure
        yield from values
        yield from self._stored()

    @cached_property
    def _sources(self) -> dict[int, int | None]:
        """The base's layer that each layer of the candidate was made from."""
        return matched_layers(self._ours, self._theirs)

    @cached_property
    def _empty(self) -> dict[int, frozenset[str]]:
        """The branches of each layer that add nothing, and those of the base do."""
        any_layer = next(iter(self._ours.values()), {})
        return {
            layer: idle_branches(
                self._ours[source] if source is not None else self._ours.get(layer, any_layer),
                self._theirs[layer],
            )
            for layer, source in self._sources.items()
        }

    @cached_property
    def _experts(self) -> dict[int, MatchedExperts]:
        """The experts of each matched layer, by the candidate's layer."""
        found = {}
        for layer, source in self._sources.items():
            ours, theirs = (
                self._ours.get(source, {}) if source is not None else {},
                self._theirs[layer],
            )
            if experts_of(ours) and experts_of(theirs) and FEED_FORWARD not in self._empty[layer]:
                found[layer] = matched_experts(ours, theirs)
        return found

    def _changes(self) -> Iterator[tuple[Place, Change]]:
        """Yield how each tensor changed; layers and experts are numbered as in the base."""
        for layer, source in self._sources.items():
            if source is None:
                continue
            ours, theirs = self._ours[source], self._theirs[layer]
            experts = self._experts.get(layer)
            put_back = PutBack(ours, theirs)
            matched = set()
            # Whether a norm was rescaled shows in the matrices that read it.
            by_shape = sorted(theirs.items(), key=lambda each: len(each[1].shape) == 1)
            for (role, expert), piece in by_shape:
                origin = expert
                if expert is not None and experts is not None:
                    origin = experts.source.get(expert)
                    if origin is None:
                        continue
                matched.add((role, origin))
                if (role, origin) not in ours:
                    self._extra.append(piece.name)
                    continue
                place = Place(role, source, origin)
                change = self._compared(place, ours[role, origin], piece, experts, put_back)
                if change is None:
                    continue
                idle = len(piece.shape) > 1 and branch_of(role) in self._empty[layer]
                if not idle or (change.related and change.zeros < 1):
                    yield place, change
            self._missing += [
                piece.name
                for key, piece in ours.items()
                if key not in matched and (key[1] is None or experts is None)
            ]
        yield from self._changes_outside()

    def _of_unmatched_layers(self) -> Iterator[tuple[Place, Change]]:
        """Yield the matrices of layers that no layer of the base is like, beside those of layers that are gone.

        Their values may only have been put in another order. Zeros and grids need none.
        """
        gone = sorted(set(self._ours) - set(self._sources.values()))
        for layer, source in self._sources.items():
            if source is not None or not gone or self._empty[layer]:
                continue
            partner = layer if layer in gone else gone[0]
            gone.remove(partner)
            for (role, expert), piece in matrices_of(self._theirs[layer]).items():
                ours = self._ours[partner].get((role, expert))
                if ours is not None and ours.shape == piece.shape:
                    yield Place(role, partner, expert), compare(ours, piece)

    def _changes_outside(self) -> Iterator[tuple[Place, Change]]:
        for role, piece in self._theirs_outside.items():
            # A head that is tied to the embedding is stored in some files and not in others.
            ours = self._ours_outside.get(role) or self._ours_outside.get(_HEADS.get(role, ""))
            if ours is None:
                self._extra.append(piece.name)
                continue
            place = Place(role)
            change = self._compared(place, ours, piece, None, None)
            if change is not None:
                yield place, change
        self._missing += [
            piece.name
            for role, piece in self._ours_outside.items()
            if role not in self._theirs_outside and role not in _HEADS
        ]

    def _compared(
        self,
        place: Place,
        ours: Piece,
        theirs: Piece,
        experts: MatchedExperts | None,
        put_back: PutBack | None,
    ) -> Change | None:
        """Return how a tensor changed; None where it has another shape, which is noted."""
        if ours.shape == theirs.shape:
            if experts is not None and experts.order is not None and ROUTER.search(place.role):
                ours = replace(ours, order=experts.order)
            if put_back is None:
                return compare(ours, theirs)
            key = place.role, place.expert
            return (put_back.matrix if len(ours.shape) > 1 else put_back.vector)(key, ours, theirs)
        same_width = ours.shape[1:] == theirs.shape[1:]
        if same_width and any(part in theirs.name for part in _EMBEDDINGS):
            self._resized.append((theirs.name, theirs.shape, ours.shape))
            return compare(ours, theirs)
        if experts is not None and same_width and ours.shape[0] == experts.count:
            # A router has a row for each expert.
            return None
        if is_part(ours, theirs):
            self._narrowed[place] = 1 - prod(theirs.shape) / prod(ours.shape)
        else:
            self._resized.append((theirs.name, theirs.shape, ours.shape))
            if len(ours.shape) == len(theirs.shape) > 1 and is_padded(ours.shape, theirs.shape):
                return compare(ours, theirs)
        return None

    def _is_matrix(self, place: Place) -> bool:
        if place.layer is None:
            piece = self._ours_outside.get(place.role) or self._theirs_outside[place.role]
        else:
            piece = self._ours[place.layer][place.role, place.expert]
        return len(piece.shape) > 1

    def _layer_findings(self, exact: bool) -> Iterator[Finding]:
        sources = self._sources
        known = [source for source in sources.values() if source is not None]
        gone = sorted(set(self._ours) - set(known))
        again = sorted({source for source in known if known.count(source) > 1})
        fewer = len(sources) < len(self._ours)
        if new := [layer for layer, source in sources.items() if source is None]:
            yield from self._new_layers(new)
        yield from self._idle_layers()
        if fewer and gone:
            yield Finding(
                "remove_layers",
                f"keeps {len(set(known))} of {len(self._ours)} layers{', bit for bit' if exact else ''}; "
                f"{layer_words(gone)} {'is' if len(gone) == 1 else 'are'} gone",
                {"layers": gone},
            )
        moved = {
            layer: source
            for layer, source in sources.items()
            if source is not None and source != layer
        }
        if again and len(sources) == len(self._ours):
            pairs = [(slot, source) for slot, source in moved.items() if source in again]
            slots = listed([f"layer {slot} with the weights of {source}" for slot, source in pairs])
            yield Finding("replace_layers", f"runs {slots}", {"pairs": pairs})
        elif again:
            times = max(known.count(source) for source in again)
            yield Finding(
                "repeat_layers",
                f"runs {layer_words(again)} {'twice' if times == 2 else f'up to {times} times'}",
                {"layers": again, "times": times},
            )
        if known != sorted(known) and not (again and len(sources) == len(self._ours)):
            order = ", ".join(str(source) for source in known)
            sentence = f"has the base's layers in another order: {order}"
            pairs = [(slot, source) for slot, source in moved.items() if slot < source]
            if all(moved.get(source) == slot for slot, source in moved.items()):
                swapped = listed([f"layers {slot} and {source}" for slot, source in pairs])
                sentence = f"has interchanged {swapped}"
            yield Finding("interchange_layers", sentence, {"order": known})

    def _idle_layers(self) -> Iterator[Finding]:
        whole, parts = [], defaultdict(list)
        for layer, source in self._sources.items():
            if source is not None and self._is_idle(layer):
                whole.append(layer)
            elif source is not None:
                for branch in self._empty[layer]:
                    parts[branch].append(layer)
        if whole:
            yield self._left_out(whole)
        for branch, layers in sorted(parts.items()):
            without = sorted(
                {source for layer in layers if (source := self._sources[layer]) is not None}
            )
            what = f"the {branch} of {layer_words(without)}"
            zero = all(all_zero(self._theirs[layer], branch) for layer in layers)
            yield Finding(
                "skip_layers",
                f"every matrix of {what} is zero" if zero else _no_output(what),
                {"layers": without, "part": branch.replace("-", "_")},
            )

    def _is_idle(self, layer: int) -> bool:
        """Return whether every branch of a layer adds nothing."""
        return self._empty[layer] == {
            branch_of(role) for role, _ in matrices_of(self._theirs[layer])
        }

    def _left_out(self, layers: list[int]) -> Finding:
        zero = all(
            all_zero(self._theirs[layer], branch)
            for layer in layers
            for branch in (ATTENTION, FEED_FORWARD)
        )
        what = layer_words(layers)
        sentence = f"every matrix of {what} is zero" if zero else _no_output(what)
        return Finding("zero_layers", sentence, {"layers": layers})

    def _new_layers(self, layers: list[int]) -> Iterator[Finding]:
        empty = [layer for layer in layers if self._is_idle(layer)]
        if empty:
            yield self._left_out(empty)
        if others := sorted(set(layers) - set(empty)):
            yield Finding(
                "reinitialize_layers",
                f"the weights of {layer_words(others)} are those of no layer of the base",
                {"layers": others},
            )

    def _expert_findings(self) -> Iterator[Finding]:
        grouped: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        dropped: dict[int, list[int]] = {}
        for layer, experts in self._experts.items():
            if experts.equal:
                kind = "average_experts" if experts.mean else "merge_experts"
                of = f"{'' if experts.mean else 'not '}the mean of the base's {experts.count}"
                what = "are all equal" if len(experts.source) > 1 else "are one"
                what += " but for the order of their neurons" if experts.reordered else ""
                grouped[kind, what, of].append(layer)
            elif None in experts.source.values():
                copied = experts.different < len(experts.source)
                what = f"are {experts.different}{' different ones' if copied else ''}"
                grouped["merge_experts", what, f"made of the base's {experts.count}"].append(layer)
            elif experts.dropped:
                dropped[layer] = experts.dropped
        if moved := [layer for layer, experts in self._experts.items() if experts.order]:
            yield Finding(
                "reordered",
                f"has the experts of {layer_words(moved)} in another order",
                {"layers": moved},
            )
        for (kind, what, of), layers in grouped.items():
            yield Finding(
                kind, f"the experts of {layer_words(layers)} {what}, {of}", {"layers": layers}
            )
        if dropped:
            kept = {len(self._experts[layer].source) for layer in dropped}
            every = max(experts.count for experts in self._experts.values())
            first = next(iter(dropped))
            yield Finding(
                "drop_experts",
                f"keeps {ranges(sorted(kept))} of {every} experts in {layer_words(list(dropped))}; gone from "
                f"layer {first}: {ranges(dropped[first])}",
                {"experts": dropped},
            )

    def _leftovers(self) -> Iterator[Finding]:
        if self._narrowed:
            gone = self._narrowed.values()
            yield Finding(
                "prune_weights",
                f"{spread(gone)} of the rows or columns of {which_tensors(self._narrowed, [])} are gone, "
                "the others bit for bit the base's",
                {"sparsity": sum(gone) / len(gone), **counts_of(self._narrowed)},
            )
        if self._resized:
            name, theirs, ours = self._resized[0]
            others = f", and {len(self._resized) - 1} more differ" if self._resized[1:] else ""
            yield Finding(
                "resized",
                f"{name} is {list(theirs)}, the base's {list(ours)}{others}",
                {"tensors": [each[0] for each in self._resized]},
            )
        extra = [name for name in self._extra if len(self._candidate.weights[name].shape) > 1]
        missing = [name for name in self._missing if len(self._base.weights[name].shape) > 1]
        if extra or missing:
            clauses = [
                f"{'has' if names is extra else 'lacks'} {names[0]}"
                + (f" and {len(names) - 1} more tensors" if names[1:] else "")
                for names in (extra, missing)
                if names
            ]
            yield Finding(
                "other_tensors", " and ".join(clauses), {"extra": extra, "missing": missing}
            )

    def _configured(self) -> Iterator[Finding]:
        """Yield the keys of the configuration that make another function of the same weights."""
        configs = [
            self._base.text_config,
            self._candidate.text_config,
        ]
        if any(isinstance(each, GgufCheckpoint) for each in (self._base, self._candidate)):
            # GGUF has no key for some settings.
            configs = [
                {key: each[key] for key in configs[0].keys() & configs[1].keys()}
                for each in configs
            ]
        differing = [
            f"{key} {theirs}, the base's {ours}" for key, ours, theirs in other_settings(*configs)
        ]
        if differing:
            yield Finding("configuration", f"is configured otherwise: {'; '.join(differing)}")

    def _stored(self) -> Iterator[Finding]:
        stored = self._candidate.format
        quantized = any(weight.scheme is not None for weight in self._candidate.weights.values())
        if quantized and stored.words != self._base.format.words:
            yield Finding("quantization_config", f"is stored as {stored.words}")
        if quantized and stored.activations is not None and self._base.format.activations is None:
            yield Finding("quantize_activations", f"quantises activations: {stored.activations}")
        if stored.kv_cache is not None and self._base.format.kv_cache is None:
            yield Finding("quantize_kv_cache", f"quantises the cache: {stored.kv_cache}")


def _renamed(base: Checkpoint, candidate: Checkpoint) -> Callable[[str], str] | None:
    for each in (base, candidate):
        if isinstance(each, GgufCheckpoint):
            layers = max(
                int(one.text_config.get("num_hidden_layers", 0)) for one in (base, candidate)
            )
            return llama_names(each, layers)
    return None


def _sorted(found: Mapping[Place, Piece]) -> tuple[dict[int, Layer], dict[str, Piece]]:
    """Return the pieces of each layer, and those outside of layers."""
    layers: dict[int, dict[tuple[str, int | None], Piece]] = defaultdict(dict)
    outside = {}
    for place, piece in found.items():
        if place.layer is None:
            outside[place.role] = piece
        else:
            layers[place.layer][place.role, place.expert] = piece
    return dict(sorted(layers.items())), outside


def _of_adapter(base: Checkpoint, adapter: Adapter) -> Iterator[Finding]:
    config = adapter.config
    rank, alpha = config.get("r", 0), config.get("lora_alpha", 0)
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for name in adapter.weights:
        module, _, factor = name.removeprefix("base_model.model.").partition(".lora_")
        modules[module][factor.removeprefix("embedding_").removesuffix(".weight")] = name
    renamed = _renamed(base, base)
    far, found, deltas = [], [], {}
    for module, factors in modules.items():
        name = renamed(f"{module}.weight") if renamed is not None else f"{module}.weight"
        if not {"A", "B"} <= factors.keys():
            raise CheckpointError(
                f"{adapter.name}: has {', '.join(factors.values())} and no pair of lora_A and lora_B of {module}"
            )
        if name not in base.weights:
            raise CheckpointError(
                f"{adapter.name}: is an adapter of another base: it changes {module}, which {base.name} has not"
            )
        shape = base.weights[name].shape
        wanted = adapter.weights[factors["B"]].shape[0], adapter.weights[factors["A"]].shape[-1]
        if shape not in (wanted, wanted[::-1]):
            raise CheckpointError(
                f"{adapter.name}: is an adapter of another base: it changes {module} of {list(wanted)}, "
                f"that of {base.name} is {list(shape)}"
            )
        upright = shape == wanted and not config.get("fan_in_fan_out")
        delta = Delta(adapter, factors["A"], factors["B"], upright)
        deltas[name] = delta
        square = sum(
            float(delta.rows(at, at + _ROWS).square().sum()) for at in range(0, shape[0], _ROWS)
        )
        norm = sqrt(sum(float(block.float().square().sum()) for block in base.blocks(name)))
        far.append(sqrt(square) / norm)
        found.append(place_of(f"{module}.weight"))
    where = which_tensors(found, [])
    yield Finding(
        "adapter",
        f"a LoRA adapter of rank {rank} on {where}",
        {"rank": rank, "alpha": alpha, **counts_of(found)},
    )
    yield Finding(
        "train",
        f"moves them by {spread(far)} of the base's norm",
        {"least": min(far), "most": max(far), **counts_of(found)},
    )
    if not isinstance(base, GgufCheckpoint) and not config.get("use_dora"):
        # Large enough, an adapter does what files do: it takes out a layer or prunes one.
        merged = _Comparison(base, Merged(base, adapter.name, deltas)).findings()
        yield from (each for each in merged if each.kind not in ("train", "identical"))
