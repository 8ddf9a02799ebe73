"""Models of this machine: loaded whole and untouched, or refused with a reason."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from hub.tiny import model, save, tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from pytest_layerguard import reference
from pytest_layerguard.bet.bet import ModelSpec, Needs
from pytest_layerguard.environment import devices
from pytest_layerguard.environment.captured_output import quiet, scrubbed
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models import loading
from pytest_layerguard.models.loading import load, model_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENCODER_DECODER = {
    **dict.fromkeys(("d_model", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 16),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 2),
    "d_kv": 8,
    "vocab_size": 29,
    "max_position_embeddings": 64,
}
"""Sizes of a small Bart, and of a small T5."""


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """A tiny model in the tree of a bet folder, to be harmed."""
    (tmp_path / "tree" / "bets").mkdir(parents=True)
    return shutil.copytree(tiny_folder, tmp_path / "tree" / "model")


def asked(of: Callable[..., Any], folder: Path, written: Any = None, **conditions: Any) -> Any:
    spec = ModelSpec.model_validate({"path": "../model"} if written is None else written)
    (source,) = spec.checkpoints().values()
    bets = folder.parent / "bets"
    return of(
        spec,
        source,
        bet_file=bets / "bet.yaml",
        bets=bets,
        conditions=Conditions(**{"device": "cpu"} | conditions),
    )


def refused(folder: Path, written: Any = None, **conditions: Any) -> str:
    with pytest.raises(MeasurementError) as caught:
        asked(load, folder, written, **conditions)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


class TestWhole:
    def test_a_folder(self, folder: Path) -> None:
        loaded = asked(load, folder)
        ids = torch.tensor([[1, 3, 4]])

        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert torch.equal(loaded.model(ids).logits, model()(ids).logits)
        assert loaded.tokenizer("a b").input_ids == [1, 3, 4]

    def test_provenance(self, folder: Path) -> None:
        found = dict(asked(load, folder).provenance)

        assert json.loads(json.dumps(found)) == found
        assert found["model"] == {"kind": "path", "name": "../model", "revision": None}
        assert found["class"] == "LlamaForCausalLM"
        assert found["parameters"] == sum(p.numel() for p in model().parameters())
        assert (found["stored_dtype"], found["dtype"]) == ("float32", "float32")
        assert (found["device"], found["attention"]) == ("cpu", "sdpa")
        assert found["versions"]["transformers"] == transformers.__version__
        assert {len(digest) for digest in found["digests"].values()} == {71}

    @pytest.mark.parametrize("name", reference.NAMES)
    def test_the_reference_models(self, folder: Path, name: str) -> None:
        loaded = asked(load, folder, name)
        shipped = reference.manifest()["models"][name]

        assert loaded.provenance["digests"]["weights"] == shipped["weights"]
        assert (loaded.provenance["stored_dtype"], loaded.provenance["dtype"]) == (
            "float16",
            "float32",
        )

    def test_a_reference_model_that_was_changed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reference, "folder", lambda _name: folder)

        assert "not those that were shipped" in refused(folder, "reference")

    def test_the_reference_before_training(self, folder: Path) -> None:
        loaded = asked(load, folder, "reference@init")

        assert (
            loaded.provenance["digests"]["weights"]
            == reference.manifest()["models"]["reference"]["initial"]
        )
        assert asked(model_key, folder, "reference@init") != asked(model_key, folder, "reference")

    def test_nobody_hears_the_libraries(
        self, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asked(load, folder)

        assert capfd.readouterr() == ("", "")
        assert caplog.records == []

    def test_the_users_own_settings_are_left_as_they_were(self, folder: Path) -> None:
        chatter = transformers.utils.logging
        before = (chatter.get_verbosity(), chatter.is_progress_bar_enabled())
        handlers = list(transformers.logging.get_logger("transformers").handlers)
        asked(load, folder)

        assert (chatter.get_verbosity(), chatter.is_progress_bar_enabled()) == before
        assert transformers.logging.get_logger("transformers").handlers == handlers

    def test_tied_embeddings_are_not_missing(self, folder: Path) -> None:
        save(folder, tie_word_embeddings=True)

        loaded = asked(load, folder)

        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight

    def test_a_multimodal_wrapper(self, folder: Path) -> None:
        text = {
            "vocab_size": 29,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        shutil.rmtree(folder)
        with quiet():
            config = Gemma3Config(
                text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=28
            )
            Gemma3ForConditionalGeneration(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)

        loaded = asked(load, folder)

        assert len(loaded.model.get_decoder().layers) == 2
        assert loaded.model(torch.tensor([[1, 3]])).logits.shape[-1] == 29

    def test_a_family_with_buffers_of_older_versions(self, folder: Path) -> None:
        shutil.rmtree(folder)
        GPT2LMHeadModel(
            GPT2Config(vocab_size=29, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        ).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        change_weights(
            folder,
            lambda tensors: tensors.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32)}),
        )

        assert len(asked(load, folder).model.transformer.h) == 2


class TestDtype:
    def stored(self, folder: Path, dtype: torch.dtype) -> None:
        change_weights(
            folder,
            lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}),
        )
        change_config(folder, dtype=str(dtype).removeprefix("torch."))

    def test_small_models_compute_in_fp32(self, folder: Path) -> None:
        self.stored(folder, torch.bfloat16)

        found = asked(load, folder).provenance

        assert (found["stored_dtype"], found["dtype"]) == ("bfloat16", "float32")

    def test_large_models_compute_as_they_are_stored(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.stored(folder, torch.bfloat16)
        monkeypatch.setattr(loading, "LARGEST_IN_FP32", 1_000)

        assert asked(load, folder).provenance["dtype"] == "bfloat16"

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_the_bets_say_wins(self, folder: Path, dtype: str) -> None:
        self.stored(folder, torch.bfloat16)

        assert (
            asked(load, folder, {"path": "../model", "dtype": dtype}).provenance["dtype"] == dtype
        )

    def test_values_that_do_not_fit(self, folder: Path) -> None:
        change_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(1e6))

        assert "infinite in float16" in refused(folder, {"path": "../model", "dtype": "float16"})
        asked(load, folder)

    def test_integers_are_no_weights(self, folder: Path) -> None:
        self.stored(folder, torch.int8)

        assert "stored as I8" in refused(folder)


class TestOptions:
    def test_attention(self, folder: Path) -> None:
        written = {"path": "../model", "attn_implementation": "eager"}

        assert asked(load, folder, written).provenance["attention"] == "eager"
        assert asked(model_key, folder, written) != asked(model_key, folder)

    def test_an_attention_that_is_not_installed(self, folder: Path) -> None:
        with pytest.raises(UnavailableError, match="needs a package that is not installed"):
            asked(load, folder, {"path": "../model", "attn_implementation": "flash_attention_2"})

    def test_device_map(self, folder: Path) -> None:
        pytest.importorskip("accelerate")
        loaded = asked(load, folder, {"path": "../model", "device_map": "auto"})

        assert loaded.model(torch.tensor([[1, 3]])).logits.isfinite().all()


class TestDamaged:
    @pytest.mark.parametrize("size", [0, 4, 100, 3_000])
    def test_truncated_weights(self, folder: Path, size: int) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

        assert "is truncated or damaged" in refused(folder)

    @pytest.mark.parametrize("byte", [0, 7, 9, 40])
    def test_a_flipped_bit_in_the_header(self, folder: Path, byte: int) -> None:
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[byte] ^= 0x10
        path.write_bytes(content)

        refused(folder)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_no_numbers(self, folder: Path, value: float) -> None:
        def harm(tensors: dict[str, torch.Tensor]) -> None:
            tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value

        change_weights(folder, harm)

        assert "1 of 384 values of model.layers.1.mlp.up_proj.weight" in refused(folder)

    def test_missing_weights_are_not_made_up(self, folder: Path) -> None:
        change_weights(folder, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))

        reported = refused(folder)

        assert "1 weight(s) are missing" in reported
        assert "model.layers.0.mlp.up_proj.weight" in reported

    def test_weights_of_a_layer_too_many(self, folder: Path) -> None:
        change_config(folder, num_hidden_layers=1)

        reported = refused(folder)

        assert "have no place in the model" in reported
        assert "model.layers.1." in reported

    def test_weights_of_another_shape(self, folder: Path) -> None:
        def harm(tensors: dict[str, torch.Tensor]) -> None:
            tensors["model.norm.weight"] = torch.ones(17)

        change_weights(folder, harm)

        assert "model.norm.weight is [17] in its files and [16] by config.json" in refused(folder)

    def test_weights_of_another_shape_in_every_layer(self, folder: Path) -> None:
        change_config(folder, intermediate_size=48)
        logger = logging.getLogger("transformers")
        level = logger.level
        # As TRANSFORMERS_VERBOSITY=error does.
        logger.setLevel(logging.ERROR)
        try:
            reported = refused(folder)
        finally:
            logger.setLevel(level)

        assert "model.layers.{0, 1}.mlp.up_proj.weight is [" in reported
        assert "16] in its files and [48, 16] by config.json" in reported
        assert "above report" not in reported

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
    def test_a_configuration_that_cannot_be_read(self, folder: Path, content: bytes) -> None:
        (folder / "config.json").write_bytes(content)

        assert "config.json" in refused(folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"hidden_size": "wide"},
            {"hidden_size": -1},
            {"num_attention_heads": 0},
            {"vocab_size": 10},
        ],
    )
    def test_a_configuration_that_makes_no_sense(
        self, folder: Path, change: dict[str, Any]
    ) -> None:
        change_config(folder, **change)

        refused(folder)

    @pytest.mark.parametrize(
        ("kind", "reported"),
        [("brand_new", "does not know"), (None, "has no model_type"), (3, "does not know")],
    )
    def test_an_unknown_architecture(self, folder: Path, kind: Any, reported: str) -> None:
        change_config(folder, model_type=kind)

        assert reported in refused(folder)

    def test_an_architecture_that_writes_no_text(self, folder: Path) -> None:
        shutil.rmtree(folder)
        BertModel(
            BertConfig(
                vocab_size=29,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
            )
        ).save_pretrained(folder)
        tokenizer().save_pretrained(folder)

        refused(folder)

    @pytest.mark.parametrize("kind", [BartForConditionalGeneration, T5ForConditionalGeneration])
    def test_an_encoder_with_a_decoder(self, folder: Path, kind: type[PreTrainedModel]) -> None:
        shutil.rmtree(folder)
        kind(kind.config_class(**ENCODER_DECODER)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)

        assert "is an encoder-decoder model (is_encoder_decoder in config.json)" in refused(folder)

    def test_the_decoder_of_an_encoder_and_a_decoder(self, folder: Path) -> None:
        shutil.rmtree(folder)
        BartForCausalLM(BartConfig(**ENCODER_DECODER)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)

        assert type(asked(load, folder).model) is BartForCausalLM

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()

        assert "has no weights" in refused(folder)

    def test_no_folder(self, folder: Path) -> None:
        assert "does not exist" in refused(folder, {"path": "../nowhere"})

    def test_a_shard_that_is_missing(self, folder: Path) -> None:
        shutil.rmtree(folder)
        model().save_pretrained(folder, max_shard_size="8KB")
        tokenizer().save_pretrained(folder)
        asked(load, folder)
        sorted(folder.glob("*.safetensors"))[0].unlink()

        assert "names files that are missing" in refused(folder)


class TestTokenizer:
    def test_none(self, folder: Path) -> None:
        for path in folder.glob("tokenizer*"):
            path.unlink()

        assert "has no tokenizer" in refused(folder)

    def test_one_that_does_not_fit(self, folder: Path) -> None:
        tokenizer((*tokenizer().get_vocab(), "more", "words")).save_pretrained(folder)

        assert "the tokenizer does not fit: its largest id is 30" in refused(folder)

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}'])
    def test_one_that_is_damaged(self, folder: Path, content: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(content)

        assert "tokenizer" in refused(folder)


class TestRefused:
    def test_pickles(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

        assert "runs whatever code is in it" in refused(folder)

    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
    def test_code(self, folder: Path, tmp_path: Path, file: str) -> None:
        mark = tmp_path / "ran"
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
        change_config(folder, model_type="evil")
        path = folder / file
        code = {
            "AutoConfig": "evil.C",
            "AutoModelForCausalLM": "evil.M",
            "AutoTokenizer": ["evil.T", None],
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))

        assert "refused" in refused(folder) or "does not know" in refused(folder)
        assert not mark.exists()

    def test_code_that_is_not_needed_is_not_run(self, folder: Path, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
        change_config(folder, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})

        assert type(asked(load, folder).model).__name__ == "LlamaForCausalLM"
        assert not mark.exists()

    def test_the_user_may_allow_code(self, folder: Path) -> None:
        (folder / "own.py").write_text(
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
            "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        )
        change_config(
            folder,
            model_type="own",
            auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
        )

        assert "--layerguard-allow-remote-code" in refused(folder)
        assert type(asked(load, folder, allow_remote_code=True).model).__name__ == "Own"

    def test_an_adapter(self, folder: Path) -> None:
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')

        assert "is an adapter" in refused(folder)

        # As peft saves it.
        (folder / "config.json").unlink()

        assert "is an adapter" in refused(folder)

    @pytest.mark.parametrize(
        ("change", "reported"),
        [
            ({"quantization_config": {"quant_method": "magic"}}, "'magic' is not supported"),
            ({"attn_implementation": "evil/kernel"}, "names a kernel"),
            ({"text_config": {"_attn_implementation": "evil/kernel"}}, "names a kernel"),
            ({"transformers_weights": "../../x.safetensors"}, "transformers_weights"),
        ],
    )
    def test_what_a_configuration_must_not_ask_for(
        self, folder: Path, change: dict[str, Any], reported: str
    ) -> None:
        change_config(folder, **change)

        assert reported in refused(folder)

    def test_an_index_that_names_files_elsewhere(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
        index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

        assert "allowed: safetensors files beside it" in refused(folder)

    def test_a_link_that_leads_outside(self, folder: Path) -> None:
        secret = folder.parents[1] / "secret.safetensors"
        (folder / "model.safetensors").rename(secret)
        (folder / "model.safetensors").symlink_to(secret)

        assert "leads out of what bets may read" in refused(folder)

    def test_a_folder_outside(self, folder: Path) -> None:
        outside = folder.rename(folder.parents[1] / "outside")
        written = {"path": "../../outside"}
        tree = folder.parent

        assert "--layerguard-root" in refused(tree / "model", written)
        asked(load, tree / "model", written, roots=(outside,))

    def test_a_hub_model_that_is_not_pinned(self, folder: Path) -> None:
        with pytest.raises(UnavailableError, match="--layerguard-allow-unpinned"):
            asked(load, folder, {"hub": "acme/any", "revision": "unpinned"})


class TestKey:
    def test_it_follows_the_content(self, folder: Path) -> None:
        before = asked(model_key, folder)
        copied = shutil.copytree(folder, folder.parent / "copy")
        change_config(folder, max_position_embeddings=65)

        assert asked(model_key, folder) != before
        assert asked(model_key, copied, {"path": "../copy"}) == before

    def test_it_needs_no_torch(self, folder: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from pytest_layerguard.bet.bet import ModelSpec;"
            "from pytest_layerguard.environment.conditions import Conditions;"
            "from pytest_layerguard.models.loading import model_key;"
            "spec = ModelSpec.model_validate({'path': '../model'}); bets = Path(sys.argv[1], 'bets');"
            "print(model_key(spec, spec.checkpoints()[None], bet_file=bets / 'b.yaml', bets=bets,"
            " conditions=Conditions()), 'torch' in sys.modules, 'transformers' in sys.modules)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, folder.parent], capture_output=True, text=True, check=True
        )

        assert ran.stdout.split() == [asked(model_key, folder), "False", "False"]

    def test_it_needs_no_hub(self, folder: Path) -> None:
        written = {"hub": "acme/any", "revision": "0" * 40}

        assert asked(model_key, folder, written) == asked(model_key, folder, written)
        assert asked(model_key, folder, written | {"revision": "unpinned"}) is None


class TestMachine:
    def test_out_of_memory_on_the_way_to_the_device(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(transformers.PreTrainedModel, "to", full)

        assert "out of memory; the 4,848 parameters alone take" in refused(folder)

    def test_out_of_memory_while_loading(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(transformers.LlamaForCausalLM, "__init__", full)

        assert "the host is out of memory" in refused(folder)

    def test_a_device_that_is_not_there(self, folder: Path) -> None:
        with pytest.raises(UnavailableError, match=r"no such device here\. There is: cpu"):
            asked(load, folder, device="cuda:77")


class TestNeeds:
    def test_none(self) -> None:
        devices.require(None, Conditions(device="cpu"))
        devices.require(Needs(memory="1MiB"), Conditions(device="cpu"))

    def test_more_memory_than_there_is(self) -> None:
        with pytest.raises(
            UnavailableError, match=r"needs 9e\+03 GiB of memory; this machine has "
        ):
            devices.require(Needs(memory="9000GiB"), Conditions(device="cpu"))

    def test_a_gpu_where_the_user_chose_the_cpu(self, gpus: None) -> None:
        with pytest.raises(
            UnavailableError, match=r"measures on cpu, though there is cuda:0 \(H, 24 GiB\)"
        ):
            devices.require(Needs(gpu="1GiB"), Conditions(device="cpu"))

    def test_a_gpu_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        with pytest.raises(
            UnavailableError, match="needs a GPU of 24 GiB; this machine has no CUDA GPU"
        ):
            devices.require(Needs(gpu="24GiB"), Conditions())

    def test_a_larger_gpu(self, gpus: None) -> None:
        devices.require(Needs(gpu="24GiB"), Conditions())
        with pytest.raises(UnavailableError, match=r"of 80 GiB; there is cuda:0 \(H, 24 GiB\)"):
            devices.require(Needs(gpu="80GiB"), Conditions())

    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = SimpleNamespace(name="H", total_memory=24 * 2**30)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)


def test_tokens_are_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-own-secret")

    reported = scrubbed("a my-own-secret b hf_abcDEF123456 c Bearer xyz \x1b[31mred")

    assert reported == "a *** b *** c Bearer *** [31mred"


class TestExpectedDevice:
    """The device in the header of a run, which costs no import of torch."""

    @pytest.mark.parametrize(
        ("version", "cards", "device"),
        [
            ("2.13.0+cpu", ["H"], "auto (cpu)"),
            ("2.13.0", ["NVIDIA H100", "NVIDIA A10"], "auto (NVIDIA A10, NVIDIA H100)"),
            ("2.13.0", [], "auto (cpu)"),
        ],
    )
    def test_auto_comes_to(
        self,
        version: str,
        cards: list[str],
        device: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for card in cards:
            (tmp_path / card).mkdir()
            (tmp_path / card / "information").write_text(f"Model: \t {card}\nIRQ: 1\n")
        monkeypatch.setattr(devices.metadata, "version", lambda _name: version)
        monkeypatch.setattr(devices.sys, "platform", "linux")
        monkeypatch.setattr(devices, "_NVIDIA", tmp_path)
        monkeypatch.setattr(devices, "_OTHER_GPUS", ())
        assert devices.expected("auto") == device
        assert devices.expected("cuda:1") == "cuda:1"

    def test_it_stays_open_where_only_torch_knows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices.metadata, "version", lambda _name: "2.13.0")
        monkeypatch.setattr(devices, "_OTHER_GPUS", (str(tmp_path),))
        assert devices.expected("auto") == "auto"
