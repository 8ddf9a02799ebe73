"""How much a sweep holds beside the loaded model, told from shapes before anything runs.

The walk over the trie is gone through without a model, and what it would hold at each moment is added up. What
torch allocates inside one block cannot be known for every family; it is bounded by what the block's matrices
put out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_layerguard.interventions.plan import Plan, Step, Weights
    from pytest_layerguard.lab.anatomy import Anatomy
    from pytest_layerguard.lab.windows import Batch

MICRO_BATCH: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens that go through a block at a time; fixed for a kind of device, because numbers move with shapes."""

_SCORES: Final = 12
"""Bytes of one token's loss, divergence and agreement."""
_LABEL: Final = 8
_AROUND: Final = 4
_SPREAD: Final = 1.25
"""A block holds at most so many hidden states of its tokens, and what its matrices put out times so much."""
_SCORE_MATRICES: Final = 4
"""Attention that is not fused holds so many matrices of scores: as products, masked, in fp32, as shares."""
_ROTARY: Final = 16
"""Bytes of sine and cosine for one position and one number of a head, in fp32, for two kinds of attention."""


@dataclass(frozen=True)
class Limits:
    """What a sweep may hold of a kind of device, in bytes.

    Attributes:
        states: Hidden states at a time.
        edits: Edited tensors kept from one part of the windows to the next.
        base: The base's final hidden states kept for later sweeps over the same tokens.
    """

    states: int
    edits: int
    base: int

    @classmethod
    def on(cls, device: str) -> Limits:
        """Those of a kind of device, as torch names it."""
        return _LIMITS.get(device, _LIMITS["cpu"])

    @property
    def waiting(self) -> int:
        """Final hidden states that wait for the head at a time."""
        return self.states // 4


_LIMITS: Final = {"cpu": Limits(2**30, 2**30, 2**28), "cuda": Limits(2**33, 2**33, 2**31)}


@dataclass(frozen=True)
class Dimensions:
    """What of a model decides how much a sweep holds beside it.

    Attributes:
        hidden: Numbers of a hidden state.
        inner: Numbers that the matrices of the widest layer put out for one token, all together; of experts
            those that are chosen.
        heads: Attention heads.
        head: Numbers of one of them.
        vocabulary: Logits.
        layer: Numbers of the largest layer's tensors.
        fused: Whether attention never holds its scores.
        item: Bytes of a number.
    """

    hidden: int
    inner: int
    heads: int
    head: int
    vocabulary: int
    layer: int
    fused: bool
    item: int = 4

    @classmethod
    def of(cls, anatomy: Anatomy, item: int = 4) -> Dimensions:
        """Reads them off a model, which may be on no device.

        Args:
            anatomy: The model, taken apart.
            item: Bytes of a number.
        """
        config = anatomy.model.config.get_text_config(decoder=True)
        chosen = _most(config, "num_experts_per_tok")
        layers = []
        for parts in anatomy.parts:
            experts = {
                name: bank.count
                for bank in parts.banks
                for name in (*bank.fused, *(each for group in bank.listed for each in group))
            }
            shapes = {
                name: tuple(tensor.shape)
                if not parts.transposed(name)
                else (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2])
                for name, tensor in parts.tensors.items()
                if tensor.dim() > 1
            }
            layers.append(
                (
                    put_out(shapes, experts, chosen),
                    sum(tensor.numel() for tensor in parts.tensors.values()),
                )
            )
        hidden, heads = int(config.hidden_size), _most(config, "num_attention_heads") or 1
        return cls(
            hidden=hidden,
            inner=max(inner for inner, _ in layers),
            heads=heads,
            head=_most(config, "head_dim") or hidden // heads,
            vocabulary=int(config.vocab_size),
            layer=max(size for _, size in layers),
            fused=_fused(config),
            item=item,
        )

    def block(self, rows: int, length: int) -> int:
        """Bytes that a block holds at most while ``rows`` windows of ``length`` tokens go through it."""
        each = _AROUND * self.hidden + _SPREAD * self.inner
        scores = 0 if self.fused else _SCORE_MATRICES * self.heads * length
        # A mask that is not needed for every family, and then in the dtype of the scores.
        return int(rows * length * (each + length + scores) * self.item)

    def frame(self, rows: int, length: int) -> int:
        """Bytes of the embeddings of so many windows and of what their blocks are given beside them."""
        masks = length * (1 if self.fused else 2 * self.item)
        rotary = length * (_ROTARY * self.head + _LABEL)
        return rows * length * (self.hidden * self.item + masks + _LABEL) + rotary


def _most(config: Any, name: str) -> int | None:
    """A size that a configuration states, the largest where it states one for each layer."""
    value = getattr(config, name, None)
    stated = value if isinstance(value, list | tuple) else [value]
    return max((each for each in stated if isinstance(each, int)), default=None)


def _fused(config: Any) -> bool:
    """Whether no kernel falls back to attention that holds its scores, by what the configuration says."""
    uneven = getattr(config, "v_head_dim", None) is not None
    single = getattr(config, "multi_query", False)
    return getattr(config, "_attn_implementation", None) != "eager" and not (uneven or single)


def put_out(
    shapes: Mapping[str, tuple[int, ...]], experts: Mapping[str, int], chosen: int | None
) -> int:
    """Numbers that a layer's matrices put out for one token.

    Args:
        shapes: Each matrix's shape by its name: ``[out, in]``, or ``[count, out, in]`` of fused experts.
        experts: Of how many experts it is, for those that are of experts.
        chosen: How many of them a token goes through; None for all.
    """
    total = 0.0
    for name, shape in shapes.items():
        whole = prod(shape[:-1])
        count = experts.get(name)
        total += whole if count is None or chosen is None else whole * min(1.0, chosen / count)
    return round(total)


@dataclass(frozen=True)
class Rows:
    """A micro-batch by its shape: windows, their length in tokens, and how many tokens count."""

    rows: int
    length: int
    scored: int

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> tuple[Rows, ...]:
        """The shapes of micro-batches."""
        return tuple(
            cls(len(batch.input_ids), batch.input_ids[0].numel(), int(batch.scored.sum()))
            for batch in batches
        )

    @classmethod
    def evenly(cls, tokens: int, window: int, micro_batch: int) -> tuple[Rows, ...]:
        """The shapes of micro-batches of windows side by side.

        Args:
            tokens: Scored tokens in all.
            window: Tokens of a window.
            micro_batch: Tokens that go through a block at a time.
        """
        most = max(1, micro_batch // window)
        whole, rest = divmod(tokens, window)
        found = [
            cls(min(most, whole - first), window, min(most, whole - first) * window)
            for first in range(0, whole, most)
        ]
        return (*found, cls(1, rest, rest)) if rest else tuple(found)

    @property
    def tokens(self) -> int:
        """Tokens that go through a block."""
        return self.rows * self.length


@dataclass(frozen=True)
class Footprint:
    """What a sweep holds beside the loaded model where it holds the most, in bytes.

    Attributes:
        states: Embeddings and hidden states between layers, with masks and labels.
        final: Final hidden states that wait for the head, or of the base.
        scores: Losses, divergences and agreements.
        edits: Edited tensors, or a layer that was read from disk.
        block: What is allocated inside a block.
        logits: A chunk of logits with all that is computed from it.
    """

    states: int = 0
    final: int = 0
    scores: int = 0
    edits: int = 0
    block: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.final + self.scores + self.edits + self.block + self.logits


def split(sizes: Sequence[int], room: int) -> Iterator[range]:
    """Splits things of these sizes into runs of neighbours that fit the room, one at least in each."""
    start, held = 0, 0
    for place, size in enumerate(sizes):
        if place > start and held + size > room:
            yield range(start, place)
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield range(start, len(sizes))


def live(plans: int, layers: int, *, streamed: bool) -> int:
    """How many states of one part a walk holds at most: depth first one for each slot, else one for each plan.

    Besides, the embeddings, what a layer is about to give, and the base's final states.
    """
    return (plans if streamed else layers) + 3


def predicted(
    dimensions: Dimensions,
    batches: Sequence[Rows],
    base: Plan,
    variants: Sequence[Plan],
    device: str,
    *,
    streamed: bool = False,
) -> Footprint:
    """Bounds what a sweep holds beside the loaded model.

    Edited tensors are taken to be whole layers, which is the most that an edit can make.

    Args:
        dimensions: The model's.
        batches: The micro-batches.
        base: The plan that the variants are compared with.
        variants: The plans to compare.
        device: Its kind, as torch names it.
        streamed: Whether layers stay on disk.
    """
    distinct = list(dict.fromkeys([base, *variants]))
    limits = Limits.on(device)
    sizes = [batch.tokens * dimensions.hidden * dimensions.item for batch in batches]
    room = limits.states // live(len(distinct), len(base.steps), streamed=streamed)
    parts = [[batches[place] for place in part] for part in split(sizes, room)]
    largest = max(parts, key=lambda part: sum(batch.tokens for batch in part))
    walk = _Walk(dimensions, largest, base, frozenset(variants), limits, device)
    others = sum(batch.scored for batch in batches) - walk.scored
    width = dimensions.hidden * dimensions.item
    walk.hold("final", min(others * width, limits.base))
    walk.hold("scores", others * (_SCORES * len(walk.variants) + 4))
    walk.run(distinct, streamed=streamed)
    # At last the scores of all parts are joined, which takes them twice.
    walk.touch(scores=(others + walk.scored) * (_SCORES * len(walk.variants) + 4))
    return walk.peak


class _Walk:
    """Goes through one part of a sweep as the sweep itself does, and adds up instead of computing."""

    def __init__(
        self,
        dimensions: Dimensions,
        part: Sequence[Rows],
        base: Plan,
        variants: frozenset[Plan],
        limits: Limits,
        device: str,
    ) -> None:
        # Here, because who only asks for dimensions must not wait for torch.
        from pytest_layerguard.lab.head import chunk_bytes

        self.variants = variants
        self.scored = sum(batch.scored for batch in part)
        self.peak = Footprint()
        self._now: Counter[str] = Counter()
        self._base = base
        self._limits = limits
        width = dimensions.hidden * dimensions.item
        self._state = sum(batch.tokens for batch in part) * width
        self._final = self.scored * width
        self._frames = sum(dimensions.frame(batch.rows, batch.length) for batch in part)
        self._labels = self.scored * _LABEL + sum(batch.tokens for batch in part)
        self._micro = max(batch.tokens for batch in part) * width
        self._block = max(dimensions.block(batch.rows, batch.length) for batch in part)
        self._chunk = chunk_bytes(self.scored, dimensions.vocabulary, device)
        self._layer = dimensions.layer * dimensions.item
        self._room = limits.edits
        self._edited: dict[Weights, bool] = {}
        self._waiting = self._passing = self._ready = 0

    def hold(self, what: str, size: int) -> None:
        """Holds so many bytes more, or fewer."""
        self._now[what] += size
        self.touch()

    def touch(self, **more: int) -> None:
        """Holds more for a moment."""
        now = self._now
        if sum(now.values()) + sum(more.values()) > self.peak.total:
            self.peak = Footprint(**{name: now[name] + more.get(name, 0) for name in now | more})

    def run(self, plans: Sequence[Plan], *, streamed: bool) -> None:
        """Goes through the trie of these plans, the base's shell first."""
        self.hold("states", self._labels)
        shells = dict.fromkeys([self._base.shell, *(plan.shell for plan in plans)])
        for place, shell in enumerate(shells):
            self.hold("states", self._frames)
            self.touch(block=self._block)
            if place:
                self.hold("states", -self._frames)
            members = [plan for plan in plans if plan.shell == shell]
            if streamed:
                self._go_through(members)
            else:
                self._descend(members, 0, 0)
        self._score()
        self.hold("states", -self._frames)

    def _descend(self, plans: Sequence[Plan], depth: int, own: int) -> None:
        branches: dict[Step, list[Plan]] = {}
        for plan in plans:
            if len(plan.steps) > depth:
                branches.setdefault(plan.steps[depth], []).append(plan)
        ended = [plan for plan in plans if len(plan.steps) == depth]
        order = sorted(branches.items(), key=lambda branch: self._base not in branch[1])
        if self._base in ended:
            self._arrive(ended)
            ended = []
        for position, (step, members) in enumerate(order):
            made = self._materialise(step.weights)
            if position == len(order) - 1 and not ended:
                # States give way to those of the next layer one micro-batch at a time.
                self._step(self._state - own, made)
                own = 0
            else:
                self._step(self._state, made)
            self._descend(members, depth + 1, self._state)
        if ended:
            self._arrive(ended)
        self.hold("states", -own)

    def _step(self, more: int, made: int) -> None:
        self.touch(states=max(0, more - self._micro), block=self._block, edits=made)
        self.hold("states", more)

    def _materialise(self, weights: Weights) -> int:
        """Holds a layer's edited tensors where there is room to keep them; returns what is held for the moment."""
        if not weights.edits:
            return 0
        if weights not in self._edited:
            keeps = self._layer <= self._room
            self._edited[weights] = keeps
            if keeps:
                self._room -= self._layer
                self.hold("edits", self._layer)
            self.touch(edits=self._layer)
        return 0 if self._edited[weights] else self._layer

    def _go_through(self, plans: Sequence[Plan]) -> None:
        front: list[tuple[list[Plan], int]] = [([*plans], 0)]
        # The first state is the embeddings, which the frames hold.
        users = Counter({0: 2})
        for slot in range(len(self._base.steps)):
            waiting: dict[int, dict[Weights, list[tuple[list[Plan], int]]]] = {}
            further: list[tuple[list[Plan], int]] = []
            for members, at in front:
                by_weights: dict[Weights | None, list[Plan]] = {}
                for plan in members:
                    by_weights.setdefault(plan.weights_at(slot), []).append(plan)
                users[at] += len(by_weights) - 1
                for weights, those in by_weights.items():
                    if weights is None:
                        further.append((those, at))
                    else:
                        tasks = waiting.setdefault(weights.layer, {})
                        tasks.setdefault(weights, []).append((those, at))
            front = further
            for tasks in waiting.values():
                self.hold("edits", self._layer)
                for weights, groups in tasks.items():
                    made = self._layer if weights.edits else 0
                    self.touch(edits=2 * made)
                    for those, at in groups:
                        users[at] -= 1
                        new = len(users)
                        users[new] = 1
                        self._step(self._state if users[at] else 0, made)
                        front.append((those, new))
                self.hold("edits", -self._layer)
        for members, at in sorted(front, key=lambda group: self._base not in group[0]):
            self._arrive(members)
            self.hold("states", -self._state if at else 0)

    def _arrive(self, plans: Sequence[Plan]) -> None:
        # What the micro-batches give is joined, which takes it twice.
        self.touch(final=self._final, block=max(self._final, self._block))
        self.hold("final", self._final)
        self._ready += sum(plan in self.variants for plan in plans)
        self._waiting += self._final
        # The base's are kept to the end.
        self._passing += 0 if self._base in plans else self._final
        if self._waiting > self._limits.waiting:
            self._score()

    def _score(self) -> None:
        scores = self.scored * (_SCORES * self._ready + 4)
        self.hold("scores", scores)
        self.touch(scores=scores, logits=self._chunk)
        self.hold("final", -self._passing)
        self._waiting = self._passing = self._ready = 0
