"""What is known of a model before it is loaded: from its configuration, never from its weights.

The defaults that a configuration leaves out are those of its class in transformers, so the model
is built on the meta device, where parameters have shapes and no numbers. That takes seconds for
the import alone, so the facts are kept on disk by the digest of the configuration. A folder whose
tensors all have the names that Llama and its kin use needs neither: the headers of its files list
the shapes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_layerguard import reference
from pytest_layerguard.bet.bet import INIT, REFERENCE_NAMES
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.catalogue.recognised import (
    Recognised,
    RecognisedCandidate,
    recognised,
)
from pytest_layerguard.checkpoints.checkpoint import open_checkpoint
from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError
from pytest_layerguard.checkpoints.files import CONFIG, read_header, read_json, weight_files
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.atomic_write import write_if_possible
from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.models.hub import Repository
from pytest_layerguard.models.model_folder import refuse_parts
from pytest_layerguard.models.published import gguf_file, published

if TYPE_CHECKING:
    from pytest_layerguard.bet.criteria.scope import Fact, ModelScope
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions

NUMBERS: Final = ("parameters", "layers", "experts", "hidden_size")
"""The facts that are numbers, in the order in which they are shown."""
_FORM: Final = 4
"""Counts the changes of what is remembered."""
_LARGEST_CONFIG: Final = 1_000_000
_LARGEST_DEPTH: Final = 2_048
"""No decoder is deeper, and building one would take for ever."""
_DEPTHS: Final = re.compile("layer|depth|block|stage")
_SIZE: Final = re.compile(r"(?i)(?<![\w.])(?P<count>\d+(?:\.\d+)?)\s*(?P<unit>[KMBT])(?![\w.])")
_UNITS: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_EXPERTS: Final = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
_NOT_COUNTED: Final = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "dtype",
    "torch_dtype",
)
"""Keys that change how a model is run or stored and not how many parameters it has."""
_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_OWN_NAMES: Final = re.compile(
    rf"{re.escape(_EMBEDDING)}|model\.norm\.weight|{re.escape(_HEAD)}|model\.layers\.(?P<layer>\d+)\.(?:"
    r"self_attn\.(?:[qkvo]_proj\.(?:weight|bias)|qkv_proj\.weight|[qk]_norm\.weight)|"
    r"mlp\.(?:gate|up|down|gate_up)_proj\.(?:weight|bias)|"
    r"(?:mlp|block_sparse_moe)\.(?:gate\.weight|experts\.\d+\.(?:gate_proj|up_proj|down_proj|w[123])\.weight)|"
    r"(?:input|post_attention|(?:pre|post)_feedforward)_layernorm\.weight)"
)
"""Tensors that are parameters. A file with one that the model lacks, or without one that it has, does not load."""
_FLOATS: Final = {"F64", "F32", "F16", "BF16"}


class ModelFactsError(Exception):
    """A configuration from which not all facts can be read; the text says why."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model that a scope may name, apart from its name; None if unknown.

    Attributes:
        parameters: All of them, tied ones once.
        layers: Decoder layers.
        experts: Experts of a layer, the most over the layers; 0 for a dense model.
        hidden_size: Width of the residual stream.
        families: The configuration's `model_type`, and that of the decoder inside a wrapper.
        vocabulary: The number of logits.
    """

    parameters: int | None = None
    layers: int | None = None
    experts: int | None = None
    hidden_size: int | None = None
    families: tuple[str, ...] = ()
    vocabulary: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Fact]) -> ModelFacts:
        """Return the facts by name, as a record has them."""
        numbers = {
            name: int(value)
            for name in NUMBERS
            if isinstance(value := facts.get(name), int | float)
        }
        family = facts.get("family")
        return cls(**numbers, families=(family,) if isinstance(family, str) else ())

    @property
    def numbers(self) -> dict[str, int | None]:
        """The facts that are numbers, by name."""
        return {name: getattr(self, name) for name in NUMBERS}

    @property
    def body(self) -> tuple[int, int, int] | None:
        """Layers, width and experts: what two copies of one model share; None if not all known."""
        if self.layers is None or self.hidden_size is None or self.experts is None:
            return None
        return self.layers, self.hidden_size, self.experts


@dataclass(frozen=True)
class KnownModel:
    """What is known of one checkpoint.

    Attributes:
        name: What a scope's `name` is compared with; None for a folder, whose name proves nothing.
        shown: Its name in messages.
        facts: The facts of its configuration.
        missing: Why not all facts are known, or None.
        absent: Whether that is because the configuration cannot be had here.
        lack: What is wanting to have it, or None.
    """

    name: str | None
    shown: str
    facts: ModelFacts = field(default_factory=ModelFacts)
    missing: str | None = None
    absent: bool = False
    lack: Lack | None = None

    def scope_facts(self, *, name: str | None = None) -> Iterator[Mapping[str, Fact]]:
        """Yield the facts for a scope, once for each family; `name` replaces a missing name."""
        for family in self.facts.families or (None,):
            yield {**self.facts.numbers, "family": family, "name": self.name or name}

    def inside(self, scope: ModelScope, *, name: str | None = None) -> Truth:
        """Return whether a scope covers the model in any of its families."""
        return Truth.any(scope.covers(facts) for facts in self.scope_facts(name=name))

    def to_record(self) -> Mapping[str, Fact]:
        """Return the facts as a record has them."""
        return {**next(self.scope_facts()), "name": self.shown}


KnownModels = Mapping[str | None, KnownModel]
"""The checkpoints of a bet by name; None for the only one."""


class FindsModels(Protocol):
    """Finds what is known of models without loading them; `ModelLookup` is one."""

    def checkpoints(self, document: BetDocument, bets: Path) -> KnownModels:
        """Return what is known of every checkpoint of a bet."""

    def named(self, name: str) -> KnownModel:
        """Return what is known of a reference model or a model on the hub."""

    def recognised(self, document: BetDocument, bets: Path) -> Recognised:
        """Return what the candidates of a bet are, by their arms."""


@dataclass
class ModelLookup:
    """Reads the configurations of models, each once."""

    conditions: Conditions
    offline: bool = False
    _folders: dict[Path, KnownModel] = field(default_factory=dict)
    _hub_models: dict[tuple[str, str | None], KnownModel] = field(default_factory=dict)
    _compared: dict[tuple[Path, Path], RecognisedCandidate] = field(default_factory=dict)

    def checkpoints(self, document: BetDocument, bets: Path) -> KnownModels:
        """Return what is known of every checkpoint of a bet.

        Raises MeasurementError for a model that does not exist, is damaged or out of the bet's
        reach: it cannot be measured either.
        """
        reach = AllowedPaths.of(document.path, bets, self.conditions)
        return {
            name: self.source(source, reach)
            for name, source in document.bet.model.checkpoints().items()
        }

    def recognised(self, document: BetDocument, bets: Path) -> Recognised:
        """Return what the candidates of a bet are, by their arms.

        Raises MeasurementError for files that are damaged or out of the bet's reach, and where base
        and candidate are no two forms of one model.
        """
        kept = None if self.conditions.fresh else self.conditions.cache
        reach = AllowedPaths.of(document.path, bets, self.conditions)
        return recognised(document.bet, reach, kept, self._compared)

    def source(self, source: ModelSource, reach: AllowedPaths) -> KnownModel:
        """Return what is known of one checkpoint; raises MeasurementError as `checkpoints`."""
        match source.kind:
            case "reference":
                return self._reference(source.name)
            case "path":
                return self.folder(reach.directory(source.name, "model.path"), source.name, reach)
            case "gguf":
                try:
                    file = gguf_file(source, reach, "model.gguf")
                except UnavailableError as error:
                    return _published(source, error)
                if file not in self._folders:
                    self._folders[file] = self._of_gguf(file, source.name)
                return self._folders[file]
            case _:
                return self._hub(source.name, source.revision)

    def folder(self, path: Path, shown: str, reach: AllowedPaths) -> KnownModel:
        """Return what is known of a model folder; raises MeasurementError where it is none."""
        refuse_parts({entry.name for entry in path.iterdir()}, f"model {shown}")
        file = reach.file(str(path / CONFIG), "model.path")
        if file not in self._folders:
            config = read_json(file, f"model {shown}")
            facts = facts_of_headers(path, config)
            self._folders[file] = (
                self._from_config(None, shown, config)
                if facts is None
                else KnownModel(None, shown, facts)
            )
        return self._folders[file]

    def _of_gguf(self, file: Path, shown: str) -> KnownModel:
        try:
            config = open_checkpoint(file, f"model {shown}").config
        except UnavailableError as error:
            return KnownModel(None, shown, missing=str(error), absent=True)
        return self._from_config(None, shown, config)

    def named(self, name: str, revision: str | None = None) -> KnownModel:
        """Return what is known of a reference model, or of a model on the hub, if there is one."""
        if name in REFERENCE_NAMES:
            return self._reference(name)
        try:
            return self._hub(name, revision)
        except MeasurementError as error:
            return KnownModel(name, name, missing=str(error), absent=True)

    def _reference(self, name: str) -> KnownModel:
        return KnownModel(name, name, facts_of_reference(name.removesuffix(INIT)))

    def _hub(self, name: str, revision: str | None) -> KnownModel:
        pinned = None if revision == UNPINNED else revision
        if (name, pinned) not in self._hub_models:
            self._hub_models[name, pinned] = self._fetched(Repository("model", name, pinned))
        return self._hub_models[name, pinned]

    def _fetched(self, repository: Repository) -> KnownModel:
        """Read config.json from the hub's cache, or from the hub if it is not there."""
        name = repository.name
        # The cache first: a pinned file cannot have changed, and asking takes seconds.
        path = repository.cached(CONFIG)
        if path is None and self.offline:
            return KnownModel(name, name, missing=f"{repository}: not in the cache", absent=True)
        try:
            if path is None:
                commit, _ = repository.listing()
                path = repository.fetch(CONFIG, commit)
        except UnavailableError as error:
            return KnownModel(name, name, missing=str(error), absent=True, lack=error.lack)
        return self._from_config(name, name, read_json(path, str(repository)))

    def _from_config(self, name: str | None, shown: str, config: Mapping[str, Any]) -> KnownModel:
        try:
            # A run that measures everything again trusts nothing in the cache.
            kept = None if self.conditions.fresh else self.conditions.cache
            return KnownModel(name, shown, facts_of_config(config, kept))
        except ModelFactsError as error:
            return KnownModel(name, shown, missing=str(error))


def _published(source: ModelSource, absent: UnavailableError) -> KnownModel:
    """Return what is known of a published file that is not here: its digest says what it holds."""
    known = published(source)
    assert known is not None
    facts = ModelFacts(**known.facts, families=(known.family,))
    return KnownModel(None, source.name, facts, str(absent), absent=True, lack=absent.lack)


def facts_of_reference(name: str) -> ModelFacts:
    """Return the facts of a reference model without importing torch.

    Its configuration has no defaults to fill in, and the header of its one safetensors file lists
    the shapes of its tensors.
    """
    folder = reference.folder(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    return ModelFacts(
        parameters=sum(map(math.prod, tensors.values())),
        layers=config["num_hidden_layers"],
        experts=config["num_experts"],
        hidden_size=config["hidden_size"],
        vocabulary=config["vocab_size"],
        families=(config["model_type"],),
    )


def facts_of_headers(folder: Path, config: Mapping[str, Any]) -> ModelFacts | None:
    """Return the facts of a folder without importing torch; None where that takes the model's class."""
    family = config.get("model_type")
    layers, width, vocabulary = (
        _whole(config.get(key)) for key in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    try:
        known = isinstance(family, str) and _in_transformers(family)
        if not known or {"quantization_config", "auto_map", "text_config"} & config.keys():
            return None
        files = weight_files({each.name: each for each in folder.iterdir()}, str(folder))
        headers = [read_header(file, str(folder))[0] for file in files.values()]
    except CheckpointError:
        return None
    tensors = {name: tensor for header in headers for name, tensor in header.items()}
    found = [_OWN_NAMES.fullmatch(name) for name in tensors]
    embedding = tensors.get(_EMBEDDING)
    if (
        not all(found)
        or not {tensor.dtype for tensor in tensors.values()} <= _FLOATS
        or layers != len({each["layer"] for each in found if each and each["layer"]})
        or embedding is None
        or embedding.shape != (vocabulary, width)
    ):
        return None
    tied = config.get("tie_word_embeddings")
    if tied is not False and _HEAD in tensors:
        if tied is None:
            return None
        del tensors[_HEAD]
    if tied is False and _HEAD not in tensors:
        return None
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return ModelFacts(
        parameters=sum(map(math.prod, shapes.values())),
        layers=layers,
        experts=_experts(config, shapes),
        hidden_size=width,
        vocabulary=vocabulary,
        families=(str(family),),
    )


def _in_transformers(family: str) -> bool:
    """Return whether transformers has a folder of this family's name."""
    found = find_spec("transformers")
    return (
        found is not None
        and found.origin is not None
        and family.isidentifier()
        and (Path(found.origin).parent / "models" / family).is_dir()
    )


def facts_of_config(config: Mapping[str, Any], cache: Path | None) -> ModelFacts:
    """Return the facts of a model by its configuration; imports torch unless they are in the cache.

    Raises ModelFactsError where transformers does not know such a model or will not build it.
    """
    text = json.dumps(config, sort_keys=True)
    if len(text) > _LARGEST_CONFIG:
        raise ModelFactsError(f"its config.json has more than {_LARGEST_CONFIG:,} characters")
    key = hashlib.sha256(f"{_FORM} {metadata.version('transformers')} {text}".encode()).hexdigest()
    kept = cache / "shapes" / f"{key}.json" if cache is not None else None
    if kept is not None and (known := _remembered(kept)) is not None:
        return known
    _refuse_deep(config)
    facts = _built(config)
    if kept is not None:
        write_if_possible(kept, json.dumps(asdict(facts)))
    return facts


def parameters_in_name(name: str) -> int | None:
    """Return the parameters that a name states: ``Qwen3-0.6B``, ``pythia-160m``, ``a 30M mixture``."""
    found = _SIZE.search(re.sub(r"[-_/]", " ", name))
    return None if found is None else round(float(found["count"]) * _UNITS[found["unit"].lower()])


def _remembered(path: Path) -> ModelFacts | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return ModelFacts(**{**data, "families": tuple(data["families"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _refuse_deep(config: Mapping[str, Any]) -> None:
    for key, value in _deep(config):
        size = len(value) if isinstance(value, list) else value
        if isinstance(size, int | float) and size > _LARGEST_DEPTH and _DEPTHS.search(key):
            raise ModelFactsError(
                f"its config.json says {printable(key)}: {size}, too many to build"
            )


def _deep(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _deep(inner)


def _built(config: Mapping[str, Any]) -> ModelFacts:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pytest_layerguard.environment.captured_output import first_line, quiet

    plain = {key: value for key, value in config.items() if key not in _NOT_COUNTED}
    family = plain.pop("model_type", None)
    if not isinstance(family, str):
        raise ModelFactsError("its config.json has no model_type")
    try:
        with quiet():
            made = AutoConfig.for_model(family, **plain)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(made, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # there are as many ways to fail as there are models
        raise ModelFactsError(f"transformers cannot build it: {first_line(error)}") from None
    sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    decoder = made.get_text_config(decoder=True)
    return ModelFacts(
        parameters=sum(math.prod(shape) for shape in sizes.values()),
        layers=_whole(getattr(decoder, "num_hidden_layers", None)),
        experts=_experts({key: getattr(decoder, key, None) for key in _EXPERTS}, sizes),
        hidden_size=_whole(getattr(decoder, "hidden_size", None)),
        vocabulary=_whole(getattr(decoder, "vocab_size", None)),
        families=tuple(dict.fromkeys((family, str(decoder.model_type)))),
    )


def _experts(config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Count experts by the tensors, where those are named so, or else by the configuration."""
    counts = [0]
    for name, shape in sizes.items():
        before, found, after = name.partition("experts.")
        if not found or before.endswith("shared_"):
            continue
        listed = re.match(r"(\d+)\.", after)
        if listed is not None:
            counts.append(int(listed[1]) + 1)
        elif len(shape) == 3:
            counts.append(shape[0])
    configured = [config.get(key) for key in _EXPERTS]
    return max(counts) or max((_most(value) for value in configured), default=0)


def _most(value: object) -> int:
    if isinstance(value, list | tuple):
        return max((_most(each) for each in value), default=0)
    return _whole(value) or 0


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
