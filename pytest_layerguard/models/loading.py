"""Load a model and check that it is the one named: pinned, complete, with finite weights."""

from __future__ import annotations

import errno
import gc
import json
import re
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from math import prod
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import LoadCheckpoint
from pytest_layerguard.bet.bet import INIT
from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.checkpoints.checkpoint import Adapter, Checkpoint, has_tokenizer
from pytest_layerguard.environment import devices, file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths, quoted
from pytest_layerguard.environment.captured_output import first_line, quiet, scrubbed
from pytest_layerguard.environment.conditions import UNPINNED_FLAG, Conditions
from pytest_layerguard.environment.garbage_collection import no_garbage_collection
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.environment.versions import versions
from pytest_layerguard.models import compressed
from pytest_layerguard.models.model_folder import (
    TOKENIZER_FILES,
    VOCABULARIES,
    ModelFolder,
    inspect,
    inspect_gguf,
    refuse_code,
    refuse_links,
)
from pytest_layerguard.models.published import gguf_file
from pytest_layerguard.models.tokenization import check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pytest_layerguard.bet.arguments import CandidateArguments
    from pytest_layerguard.bet.bet import ModelSpec
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.models.streaming import LayerStore

LARGEST_IN_FP32: Final = 2_000_000_000
"""The most parameters with which a model computes in fp32, whatever dtype it is stored in."""

_LONGEST_KEY: Final = 200
_PIECE: Final = 2**22
_NEEDS_GPU: Final = re.compile(r"\b(GPU|CUDA|XPU)\b", re.IGNORECASE)
_MISMATCH: Final = re.compile(
    r"^(\S.*?) *\|.*ckpt: *torch\.Size\((.*?)\) vs model: *torch\.Size\((.*?)\)", re.MULTILINE
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured.

    Attributes:
        model: In evaluation mode, on its device, no parameter requiring a gradient.
        tokenizer: The model's own tokenizer.
        provenance: Plain data for a record: the model as named, digests, dtypes, device, versions.
        store: The layers, embeddings and head, if they stay on disk.
        bytes: Bytes of the files of weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, Any]
    store: LayerStore | None = None
    bytes: int = 0


@dataclass(frozen=True)
class CandidateFiles:
    """The files of a candidate, found and checked, and not loaded yet.

    Attributes:
        arguments: What the bet says of it.
        folder: The model, or that which an adapter is laid over.
        adapter: The adapter, or None.
    """

    arguments: CandidateArguments
    folder: ModelFolder
    adapter: Adapter | None

    @property
    def served(self) -> bool:
        """Whether it runs as its format computes."""
        return isinstance(self.arguments, LoadCheckpoint) and self.arguments.form == "served"

    @property
    def name(self) -> str:
        """The candidate's name in messages."""
        return self.adapter.name if self.adapter is not None else self.folder.name

    @property
    def bytes(self) -> int:
        """The bytes of its own files of weights."""
        return self.adapter.nbytes if self.adapter is not None else self.folder.bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """Its own weights."""
        return self.adapter if self.adapter is not None else self.folder.checkpoint

    @property
    def tokenizer(self) -> Path | None:
        """The folder or GGUF file of its own tokenizer, or None where it has none."""
        if self.adapter is None and self.folder.gguf is not None:
            return self.folder.gguf if has_tokenizer(self.folder.checkpoint) else None
        if self.adapter is None:
            return self.folder.path
        own = {each.name for each in self.adapter.path.iterdir()}
        return self.adapter.path if own & VOCABULARIES else None

    def dtype(self, base: str) -> str:
        """Return the dtype to compute in beside a base that computes in ``base``."""
        if self.arguments.dtype is not None:
            return self.arguments.dtype
        own = compressed.own_dtype(self.folder) if self.served else None
        return own or base

    def digests(self) -> dict[str, str]:
        """Return the digests of its own files."""
        return self.folder.digests() if self.adapter is None else _adapter_digests(self.adapter)


def locate_candidate(
    arguments: CandidateArguments,
    base: ModelSource,
    *,
    bet_file: Path,
    bets: Path,
    conditions: Conditions,
) -> CandidateFiles:
    """Find a candidate's files and check them without loading any; download them if needed.

    Args:
        arguments: What the bet says of it.
        base: The base, which an adapter is laid over and a cast loads anew.
        bet_file: The bet file.
        bets: The bet folder.
        conditions: The user's permissions.

    Raises:
        MeasurementError: If they are not those of a model that may be loaded.
        UnavailableError: If they cannot be had here.
    """
    reach = AllowedPaths.of(bet_file, bets, conditions)
    source = arguments.source
    if source is not None and source.kind == "adapter":
        return CandidateFiles(arguments, locate(base, reach, conditions), _adapter(source, reach))
    key = "load_checkpoint" if source is not None else "model"
    return CandidateFiles(arguments, locate(source or base, reach, conditions, key), None)


def _adapter(source: ModelSource, reach: AllowedPaths) -> Adapter:
    """Find an adapter's files and check them.

    Raises:
        MeasurementError: If they are missing or damaged, or lead out of what bets may read.
    """
    path = reach.directory(source.name, "load_checkpoint.adapter")
    name = f"adapter {quoted(source.name)}"
    refuse_links(path, name, reach.holds)
    return Adapter(path, name)


def _adapter_digests(adapter: Adapter) -> dict[str, str]:
    path = adapter.path
    tokenizer = {name: path / name for name in TOKENIZER_FILES if (path / name).exists()}
    return {
        "weights": file_digests.of_files({file.name: file for file in adapter.files}),
        "config": file_digests.of_file(path / "adapter_config.json"),
        "tokenizer": file_digests.of_files(tokenizer),
    }


def load_candidate(
    files: CandidateFiles, spec: ModelSpec, source: ModelSource, dtype: str, conditions: Conditions
) -> LoadedModel:
    """Load a candidate in the place of a base.

    Args:
        files: The candidate.
        spec: The placement and attention implementation of the base.
        source: The base, of which a cast is made.
        dtype: The dtype to compute in.
        conditions: The user's permissions, and the device.

    Returns:
        The candidate, with its own tokenizer, or with None where it has none.

    Raises:
        MeasurementError: If it is damaged, refused or not fit to be measured.
        UnavailableError: If the format's library or the GPU that it needs is missing.
    """
    device = devices.resolve(conditions)
    folder = files.folder
    conditions.budget.check("parameters", folder.parameters, f"{files.name}: parameters")
    conditions.progress(f"loading {files.name}")
    served = files.served and files.adapter is None and folder.is_compressed
    # What a library of its format runs is small, and a GGUF file is run by none.
    whole = files.adapter is not None or (served and folder.gguf is None)
    placement = "memory" if whole else spec.placement
    wanted = spec.model_copy(update={"dtype": dtype, "placement": placement})
    store: LayerStore | None = None
    if files.arguments.source is None and source.name.endswith(INIT):
        model = _initial(source.name, wanted)
    else:
        model, store = _from_folder(folder, wanted, conditions, device, served=served)
    if files.adapter is not None:
        with quiet():
            try:
                model = compressed.adapted(model, files.adapter.path, merged=not files.served)
            except UnavailableError:
                raise
            except Exception as error:  # peft fails in as many ways as there are adapters
                raise MeasurementError(
                    f"{files.name}: cannot be laid over the base: {first_line(error)}"
                ) from None
    tokenizer: Any = None
    if files.tokenizer is not None:
        tokenizer = _tokenizer(files.tokenizer, files.name, conditions)
    _check_finite(model, store, files.name)
    if spec.device_map is not None:
        _check_places(model, folder)
    elif not served and store is None:
        model = _moved(model, device, folder)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    devices.vacate()
    return LoadedModel(model, tokenizer, {"class": type(model).__name__, "dtype": dtype}, store)


def load(
    spec: ModelSpec, source: ModelSource, *, bet_file: Path, bets: Path, conditions: Conditions
) -> LoadedModel:
    """Load one checkpoint.

    Args:
        spec: The dtype, placement and attention implementation to load it with.
        source: One of ``spec.checkpoints()``.
        bet_file: The bet file that names the model.
        bets: The bet folder; a local model lies below the folder that holds it.
        conditions: The user's permissions, and the device.

    Raises:
        MeasurementError: If the model is missing, damaged, refused or not fit to be measured.
        UnavailableError: If it is not available here.
    """
    device = devices.resolve(conditions)
    folder = locate(source, AllowedPaths.of(bet_file, bets, conditions), conditions)
    conditions.budget.check("parameters", folder.parameters, f"{folder.name}: parameters")
    conditions.progress(f"loading {folder.name}")
    store: LayerStore | None = None
    if source.name.endswith(INIT):
        model = _initial(source.name, spec)
    else:
        model, store = _from_folder(folder, spec, conditions, device)
    tokenizer = _tokenizer(folder.gguf or folder.path, folder.name, conditions)
    _check_finite(model, store, folder.name)
    check_tokenizer(tokenizer, model, folder.name)
    if spec.device_map is not None:
        _check_places(model, folder)
    elif store is None:
        model = _moved(model, device, folder)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    made_with = _provenance(source, folder, model, device=device)
    devices.vacate()
    return LoadedModel(model, tokenizer, made_with, store, folder.bytes)


def locate(
    source: ModelSource, reach: AllowedPaths, conditions: Conditions, key: str = "model"
) -> ModelFolder:
    """Find a checkpoint's files and check them without loading any; download them if needed.

    Args:
        source: The checkpoint.
        reach: What the bet may read.
        conditions: The user's permissions.
        key: The bet's key that names it, for messages.

    Raises:
        MeasurementError: If they are not those of a model that may be loaded.
        UnavailableError: If they are not available here.
    """
    if source.kind == "reference":
        return _shipped(source.name)
    if source.kind == "path":
        path = reach.directory(source.name, f"{key}.path")
        return inspect(path, f"model {quoted(source.name)}", inside=reach.holds)
    if source.kind == "gguf":
        file = gguf_file(source, reach, f"{key}.gguf")
        found = file_digests.of_file(file).removeprefix("sha256:")
        if found != source.sha256:
            raise MeasurementError(
                f"{key}.sha256: {quoted(source.name)} is another file: its digest is {found}"
            )
        return inspect_gguf(file, f"model {quoted(source.name)}")
    from pytest_layerguard.models.hub import fetch_model

    revision = _allowed_revision(source, conditions)
    path = fetch_model(source.name, revision, conditions, source.branch)
    revision_name = source.branch or source.revision
    return inspect(path, f"model {source.name}@{revision_name}", inside=_anywhere)


def model_key(
    spec: ModelSpec, source: ModelSource, *, bet_file: Path, bets: Path, conditions: Conditions
) -> str | None:
    """Return a digest of what :func:`load` would load; load nothing and use no network.

    Returns:
        The digest; equal digests mean equal weights, loaded in the same way. None if the weights
        are not known before they are fetched, as those of an unpinned revision.

    Raises:
        MeasurementError: If a folder is not a model that may be loaded.
    """
    if source.kind == "hub":
        if source.revision == UNPINNED:
            return None
        content: Any = {"hub": source.name, "revision": source.revision}
    else:
        reach = AllowedPaths.of(bet_file, bets, conditions)
        if source.kind == "adapter":
            files = _adapter_digests(_adapter(source, reach))
        else:
            files = locate(source, reach, conditions).decisive()
        content = files | {"init": source.name.endswith(INIT)}
    how = {
        "dtype": spec.dtype,
        "attention": spec.attn_implementation,
        "map": spec.device_map,
        "own_code": conditions.allow_remote_code,
    }
    return file_digests.of_text(json.dumps([content, how], sort_keys=True))


def _shipped(name: str) -> ModelFolder:
    base = name.removesuffix(INIT)
    folder = inspect(reference.folder(base), f"model {name}", inside=_anywhere)
    if folder.digests()["weights"] != reference.manifest()["models"][base]["weights"]:
        raise MeasurementError(
            f"{folder.name}: its weights are not those that were shipped; reinstall pytest-layerguard"
        )
    return folder


def _allowed_revision(source: ModelSource, conditions: Conditions) -> str | None:
    if source.revision != UNPINNED:
        return source.revision
    if not conditions.allow_unpinned:
        raise UnavailableError(
            f"model.revision: {source.name} is not pinned to a commit, so what is measured may "
            f"change any day; pin it to a full commit hash, or allow it with {UNPINNED_FLAG}"
        )
    return None


def _anywhere(_path: object) -> bool:
    return True


def _initial(name: str, spec: ModelSpec) -> PreTrainedModel:
    import torch

    from pytest_layerguard.reference.initial_weights import InitialWeightsError, initial_model

    try:
        with quiet():
            model = initial_model(name.removesuffix(INIT))
    except InitialWeightsError as error:
        raise UnavailableError(str(error)) from None
    moved: PreTrainedModel = model.to(getattr(torch, spec.dtype or "float32"))
    return moved


def _from_folder(
    folder: ModelFolder,
    spec: ModelSpec,
    conditions: Conditions,
    device: str,
    *,
    served: bool = False,
) -> tuple[PreTrainedModel, LayerStore | None]:
    """Load a model; one that is stored quantised dequantised, unless it is ``served`` by its format's layers."""
    import torch
    from transformers import AutoConfig

    from pytest_layerguard.models.streaming import load_streamed

    if not conditions.allow_remote_code:
        refuse_code(folder)
    trusted: dict[str, Any] = {
        "trust_remote_code": conditions.allow_remote_code,
        "local_files_only": True,
    }
    small = folder.parameters <= LARGEST_IN_FP32
    options: dict[str, Any] = {"dtype": spec.dtype or ("float32" if small else folder.stored_dtype)}
    if spec.attn_implementation is not None:
        options["attn_implementation"] = spec.attn_implementation
    if spec.device_map is not None:
        options["device_map"] = spec.device_map
    _ = folder.checkpoint
    if served:
        compressed.require_library(folder)
        if device != "cpu" and spec.device_map is None:
            options["device_map"] = {"": device}
    if folder.gguf is not None:
        trusted["gguf_file"] = folder.gguf.name
    # The libraries of formats draw progress bars of their own.
    with quiet() as chatter, redirect_stderr(StringIO()):
        try:
            with no_garbage_collection():
                # What every class of models imports, before weights are made.
                import transformers.modeling_utils  # noqa: F401
            config = _plain_outputs(AutoConfig.from_pretrained(folder.path, **trusted))
            make = _auto_class(config, folder, conditions)
            with torch.device("meta"):
                empty = make.from_config(config, trust_remote_code=conditions.allow_remote_code)
            _check_size(empty, folder)
            load = partial(
                make.from_pretrained,
                folder.path,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **trusted,
                **options,
            )
            store: LayerStore | None = None
            if spec.placement == "stream":
                # Of a file in 16 bits transformers would convert all, and keep its pages in memory while it does.
                widened = options["dtype"] == "float32" != folder.stored_dtype
                if folder.is_compressed or widened:
                    load = partial(compressed.load_copy, empty, config, folder, options)
                model, report, store = load_streamed(make, config, device, load)
            elif folder.is_compressed and folder.gguf is None and not served:
                model, report = compressed.stored_model(type(empty), config, folder, options)
            else:
                model, report = load()
            if served:
                compressed.compute_in(model, getattr(torch, options["dtype"]), empty)
        except (MeasurementError, UnavailableError):
            raise
        except ImportError as error:
            raise UnavailableError(
                f"{folder.name}: needs a package that is not installed: {first_line(error)}"
            ) from None
        except MemoryError:
            raise _out_of_memory(folder, "the host") from None
        except Exception as error:
            if served and device == "cpu" and _NEEDS_GPU.search(str(error)):
                raise UnavailableError(
                    f"{folder.name}: its format runs on a GPU alone ({first_line(error)}); as: stored "
                    "measures its weights without one"
                ) from None
            raise _explained(error, folder, chatter) from None
    _check_report(report, folder)
    loaded: PreTrainedModel = model
    return loaded, store


def _plain_outputs(config: PreTrainedConfig) -> PreTrainedConfig:
    """Let the model return what it returns by default, whatever its configuration asks for besides."""
    for each in (config, *(getattr(config, name) for name in config.sub_configs)):
        if each is not None:
            each.return_dict = True
            each.output_hidden_states = False
            each.output_attentions = False
    return config


def _auto_class(config: PreTrainedConfig, folder: ModelFolder, conditions: Conditions) -> Any:
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    remote = conditions.allow_remote_code and "AutoModelForCausalLM" in getattr(
        config, "auto_map", {}
    )
    if config.is_encoder_decoder:
        raise MeasurementError(
            f"{folder.name}: {config.model_type} is an encoder-decoder model (is_encoder_decoder in "
            "config.json); allowed: decoder-only language models"
        )
    if remote or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise MeasurementError(
        f"{folder.name}: {config.model_type} is no decoder-only language model; allowed: "
        "architectures that transformers loads for causal language modelling"
    )


def _explained(error: Exception, folder: ModelFolder, chatter: list[str]) -> Exception:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(folder, "the device")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return MeasurementError(
            f"{folder.name}: the disk is full where its weights are converted, {tempfile.gettempdir()}; TMPDIR says "
            "where"
        )
    details = "; ".join(_mismatches(chatter)) or first_line(error)
    return MeasurementError(f"{folder.name}: cannot be loaded: {details}")


def _mismatches(chatter: list[str]) -> list[str]:
    """Find the tensors of a wrong shape in the table that transformers logs."""
    return [
        f"{found[1]} is {found[2]} in its files and {found[3]} by config.json"
        for text in chatter
        for found in _MISMATCH.finditer(scrubbed(text))
    ][:4]


def _check_size(empty: PreTrainedModel, folder: ModelFolder) -> None:
    """Refuse a configuration that describes far more parameters than the folder's files hold.

    transformers would draw the missing ones at random, which takes their memory first.

    Args:
        empty: The model, built from the configuration on the meta device.
        folder: The folder with the configuration.
    """
    described = sum(prod(each.shape) for each in empty.parameters())
    # A head that is tied to the embedding is stored once and, until it is tied, built twice.
    if described > 2 * folder.parameters + 2**20:
        raise MeasurementError(
            f"{folder.name}: config.json describes {described:,} parameters, and its files hold "
            f"{folder.parameters:,}. The checkpoint does not fit its config.json."
        )


def _check_finite(model: PreTrainedModel, store: LayerStore | None, name: str) -> None:
    """Refuse a model with NaN or infinite weights, as loaded and cast, but for layers that stay on disk."""
    import torch

    plain_dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

    for key, parameter in model.named_parameters():
        tensor: Tensor = parameter
        if store is not None and key in store.outer:
            tensor = store.outside(key)
        # The tensors of quantised layers have other dtypes, or are of classes that hold several.
        plain = type(tensor.detach()) is torch.Tensor and tensor.dtype in plain_dtypes
        if tensor.is_meta or not plain:
            continue
        # In pieces: what says of each value whether it is finite takes more than the values.
        pieces = torch.split(tensor.detach().reshape(-1), _PIECE)
        bad = sum(len(piece) - int(torch.isfinite(piece).sum()) for piece in pieces)
        if not bad:
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise MeasurementError(
            f"{name}: {bad:,} of {tensor.numel():,} values of {key} are NaN or infinite in {dtype}; "
            "the file is damaged, or the values do not fit that dtype (see model.dtype)"
        )


def _check_report(report: Mapping[str, Any], folder: ModelFolder) -> None:
    """Refuse a model with weights that were missing from its files, or that have no place in it."""
    if failed := [*report["mismatched_keys"], *report["error_msgs"]]:
        raise MeasurementError(
            f"{folder.name}: {len(failed)} weight(s) do not fit: {_list_some([str(each) for each in failed])}"
        )
    if missing := sorted(report["missing_keys"]):
        raise MeasurementError(
            f"{folder.name}: {len(missing)} weight(s) are missing from its files, and would be "
            f"drawn at random: {_list_some(missing)}. The checkpoint does not fit its config.json."
        )
    unexpected = sorted(key for key in report["unexpected_keys"] if not _may_be_left_out(key))
    if unexpected:
        raise MeasurementError(
            f"{folder.name}: {len(unexpected)} stored weight(s) have no place in the model, and would "
            f"be left out: {_list_some(unexpected)}. The checkpoint does not fit its config.json."
        )


_OTHER_MODALITIES: Final = ("vision", "visual", "image", "audio", "multi_modal", "mm_projector")


def _may_be_left_out(key: str) -> bool:
    """Return whether a stored tensor belongs to a vision or audio part, or is a buffer of older versions."""
    return any(word in key for word in _OTHER_MODALITIES) or key.endswith(
        ("rotary_emb.inv_freq", "masked_bias", ".attn.bias")
    )


def _tokenizer(path: Path, name: str, conditions: Conditions) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, or of a GGUF file."""
    from transformers import AutoTokenizer

    inside: dict[str, Any] = {"gguf_file": path.name} if path.is_file() else {}
    with quiet():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                path.parent if inside else path,
                **inside,
                local_files_only=True,
                trust_remote_code=conditions.allow_remote_code,
            )
        except ImportError as error:
            raise UnavailableError(
                f"{name}: its tokenizer needs a package that is not installed: {first_line(error)}"
            ) from None
        except Exception as error:
            raise MeasurementError(
                f"{name}: its tokenizer cannot be loaded: {first_line(error)}"
            ) from None
    return tokenizer


def _moved(model: PreTrainedModel, device: str, folder: ModelFolder) -> PreTrainedModel:
    import torch

    try:
        moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
        return moved
    except (torch.OutOfMemoryError, MemoryError):
        needed = _out_of_memory(folder, device)
    # Only now is the half that was moved unreferenced.
    gc.collect()
    raise needed


def _check_places(model: PreTrainedModel, folder: ModelFolder) -> None:
    """Refuse a model of which a part would be read from slow memory for every token."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if len(places) > 1 and places & {"cpu", "disk"}:
        raise UnavailableError(
            f"{folder.name}: its {folder.parameters:,} parameters do not fit on the GPUs here"
        )


def _out_of_memory(folder: ModelFolder, where: str) -> MeasurementError:
    return MeasurementError(
        f"{folder.name}: {where} is out of memory; the {folder.parameters:,} parameters alone take "
        f"{folder.parameters * 2 / 2**30:.3g} GiB in 16 bits and twice that in fp32. Say so in the "
        "bet's needs, or set model.dtype."
    )


def _provenance(
    source: ModelSource, folder: ModelFolder, model: PreTrainedModel, *, device: str
) -> dict[str, Any]:
    import torch

    files = folder.digests()
    if source.name.endswith(INIT):
        files["weights"] = reference.manifest()["models"][source.name.removesuffix(INIT)]["initial"]
    weights = model.get_input_embeddings().weight
    return {
        "model": {"kind": source.kind, "name": source.name, "revision": source.revision}
        # The cache names the folder after the commit, also where the bet names none.
        | ({"commit": folder.path.name} if source.kind == "hub" else {}),
        "digests": files,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stored_dtype": "float32" if source.name.endswith(INIT) else folder.stored_dtype,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "device": device,
        "device_name": devices.name(device),
        "attention": getattr(model.config, "_attn_implementation", None),
        "experts": getattr(model.config, "_experts_implementation", None),
        "threads": torch.get_num_threads(),
        "versions": dict(versions()),
    }


def _list_some(keys: list[str]) -> str:
    return f"{', '.join(_shortened(key) for key in keys[:4])}{', ...' if len(keys) > 4 else ''}"


def _shortened(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}..."
