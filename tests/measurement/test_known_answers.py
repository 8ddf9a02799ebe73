"""Numbers whose truth is known: by a plain float64 computation on full logits, or in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support import families
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_layerguard.measurement import token_scores
from pytest_layerguard.measurement.metrics.variant_metrics import base_metrics, variant_metrics
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.measurement.token_scores import TokenScores, compare
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import OuterWeights, Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, TokenPositions, batched, cut

ROWS, VOCABULARY = 300, 50


def scored(base: Tensor, variant: Tensor, labels: Tensor) -> tuple[Tensor, TokenScores]:
    """Scores logits ``[n, V]`` as they stand."""
    heads: list[Callable[[Tensor], Tensor]] = [lambda rows: rows.clone(), lambda rows: rows.clone()]
    losses, (scores,) = compare((base, heads[0]), [(variant, heads[1])], labels, base.shape[-1])
    return losses, scores


def plain(base: Tensor, variant: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of both, KL and agreement in float64, token by token, on all logits at once."""
    p, q = base.double().log_softmax(-1), variant.double().log_softmax(-1)
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    rows = torch.arange(len(labels))
    agreement = (base.argmax(-1) == variant.argmax(-1)).double()
    return -p[rows, labels], -q[rows, labels], terms.sum(-1), agreement


def drawn(kind: str, change: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    base = torch.randn((ROWS, VOCABULARY), generator=generator) * 3
    variant = base + change * torch.randn((ROWS, VOCABULARY), generator=generator)
    if kind == "peaked":
        base, variant = base * 40, variant * 40
    elif kind == "soft-capped":
        base, variant = 5 * torch.tanh(base / 5), 5 * torch.tanh(variant / 5)
    elif kind == "padded":
        # Rows of the head beyond the tokenizer's vocabulary: never trained, never masked.
        base[:, -8:] = variant[:, -8:] = 0
    elif kind == "masked":
        base[:, ::7] = variant[:, ::7] = -torch.inf
    elif kind == "masked in the base":
        base[:, ::7] = -torch.inf
    elif kind == "shifted":
        base, variant = base + 1000, variant + 1000
    return base, variant


@pytest.mark.parametrize("change", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize(
    "kind",
    ["plain", "peaked", "soft-capped", "padded", "masked", "masked in the base", "shifted"],
)
def test_every_score_equals_float64_on_full_logits(
    kind: str, change: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_scores, "_CHUNK_ELEMENTS", {"cpu": 7 * VOCABULARY})
    base, variant = drawn(kind, change)
    labels = torch.arange(ROWS) % 6 + 1
    losses, scores = scored(base, variant, labels)
    wanted = plain(base, variant, labels)
    torch.testing.assert_close(losses.double(), wanted[0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(scores.losses.double(), wanted[1], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(scores.kl.double(), wanted[2], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(scores.kl.double().mean(), wanted[2].mean(), rtol=1e-5, atol=1e-9)
    assert torch.equal(scores.agreement.double(), wanted[3])


@pytest.mark.parametrize("kind", ["plain", "masked in the base"])
def test_no_digit_depends_on_how_many_rows_are_scored_at_a_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, variant = drawn(kind, 0.3)
    labels = torch.arange(ROWS) % 6 + 1
    _, whole = scored(base, variant, labels)
    for blocks in (1, 7, ROWS):
        monkeypatch.setattr(token_scores, "_BLOCKS", {"cpu": blocks})
        _, scores = scored(base, variant, labels)
        for name in ("losses", "kl", "agreement"):
            assert torch.equal(getattr(scores, name), getattr(whole, name))


def test_a_large_vocabulary_biases_no_loss() -> None:
    """torch's fp32 `log_softmax` is off by 1e-5 here, in one direction."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn((8, 262_144), generator=generator) * 3
    labels = torch.arange(8)
    losses, scores = scored(base, base + 1, labels)
    wanted = plain(base, base, labels)[0]
    for found in (losses, scores.losses):
        assert abs(float((found.double() - wanted).mean())) < 1e-6


def test_a_chunk_that_is_the_bases_needs_no_head_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunk = 100
    monkeypatch.setattr(token_scores, "_CHUNK_ELEMENTS", {"cpu": chunk * VOCABULARY})
    base, variant = drawn("masked", 0.3)
    variant[:chunk] = base[:chunk]
    labels = torch.ones(ROWS, dtype=torch.long)
    ran: list[int] = []

    def head(rows: Tensor) -> Tensor:
        ran.append(len(rows))
        return rows.clone()

    _, (scores,) = compare((base, head), [(variant, head)], labels, VOCABULARY)
    assert ran == [chunk, chunk, chunk, chunk, chunk]
    _, without = scored(base, variant, labels)
    for name in ("losses", "kl", "agreement"):
        assert torch.equal(getattr(scores, name), getattr(without, name))


def test_a_divergence_below_the_rounding_of_a_log_probability_is_right() -> None:
    base, variant = drawn("plain", 1e-4)
    labels = torch.zeros(ROWS, dtype=torch.long)
    _, scores = scored(base, variant, labels)
    wanted = plain(base, variant, labels)[2]
    assert float(wanted.mean()) < 1e-8
    assert float(scores.kl.double().mean()) == pytest.approx(float(wanted.mean()), rel=1e-2)
    assert float(scores.kl.min()) >= 0


def test_a_token_that_only_the_variant_rules_out_makes_the_divergence_infinite() -> None:
    base, variant = drawn("plain", 0.1)
    variant[:, 3] = -torch.inf
    _, scores = scored(base, variant, torch.zeros(ROWS, dtype=torch.long))
    assert bool((scores.kl == torch.inf).all())


def test_the_same_logits_are_exactly_no_change() -> None:
    for kind in ("plain", "peaked", "masked"):
        base, _ = drawn(kind, 1.0)
        losses, scores = scored(base, base.clone(), torch.ones(ROWS, dtype=torch.long))
        assert torch.equal(losses, scores.losses)
        assert float(scores.kl.abs().max()) == 0
        assert float(scores.agreement.min()) == 1


def test_the_most_likely_token_is_found_where_normalising_would_round_it_away() -> None:
    # Two neighbours in fp32 that fall together once the logarithm of the sum is taken off.
    first = torch.tensor(0.1)
    second = torch.nextafter(first, torch.tensor(1.0))
    rest = [torch.tensor(-0.1)] * VOCABULARY
    base = torch.stack([first, second, *rest]).unsqueeze(0)
    variant = torch.stack([second, first, *rest]).unsqueeze(0)
    assert len(base.log_softmax(-1).unique()) == 2
    _, scores = scored(base, variant, torch.tensor([0]))
    assert scores.agreement.tolist() == [0.0]


def llama(vocabulary: int, hidden: int, **more: object) -> LlamaForCausalLM:
    """A Llama whose two layers add nothing to what goes through them."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return model


def batches_of(ids: list[int], tokens: int, window: int) -> list[Batch]:
    return batched(cut(ids, Contract(tokens, window, window, ())), 2)


def test_a_uniform_model_has_the_vocabularys_size_as_its_perplexity() -> None:
    model = llama(families.VOCABULARY, 16)
    model.lm_head.weight.zero_()
    batches = batches_of(families.text(129), 128, 16)
    base = Plan.untouched(2)
    swept = sweep(Runner(Anatomy.of(model)), batches, base, [], families.VOCABULARY)
    (perplexity,) = base_metrics(swept.base, TokenPositions.of(batches)).values()
    assert perplexity.value == pytest.approx(families.VOCABULARY, rel=1e-6)
    assert perplexity.low == pytest.approx(perplexity.high, rel=1e-9)


def bigram(seed: int, tokens: int) -> Tensor:
    """Log-probabilities of the next token ``[from, to]``."""
    generator = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn((tokens, tokens), generator=generator, dtype=torch.float64)
    ).log_softmax(-1)


def test_a_bigram_model_has_the_figures_of_its_table() -> None:
    size = 12
    table, other = bigram(1, size), bigram(2, size)
    model = llama(size, size)
    # One-hot embeddings; the final norm makes their one entry the root of the hidden size.
    model.model.embed_tokens.weight.copy_(torch.eye(size))
    model.lm_head.weight.copy_(table.T / math.sqrt(size))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (257,), generator=generator).tolist()
    batches = batches_of(ids, 256, 16)
    base = Plan.untouched(2)
    changed = Plan(
        base.steps,
        OuterWeights(("other",), {"lm_head.weight": (other.T / math.sqrt(size)).float()}),
    )
    swept = sweep(Runner(Anatomy.of(model)), batches, base, [base, changed], size)
    ground = TokenPositions.of(batches)

    before, after = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
    difference = table[before, after] - other[before, after]
    divergence = (table.exp() * (table - other)).sum(-1)[before].mean()
    agreement = (table.argmax(-1) == other.argmax(-1))[before].double().mean()
    metrics = variant_metrics(swept.base, [swept.variants[1]], ground, 1)
    assert metrics["base_perplexity"].value == pytest.approx(
        float((-table[before, after]).mean().exp()), rel=1e-6
    )
    assert metrics["perplexity"].value == pytest.approx(
        float((-other[before, after]).mean().exp()), rel=1e-6
    )
    assert metrics["perplexity_ratio"].value == pytest.approx(
        float(difference.mean().exp()), rel=1e-6
    )
    assert metrics["kl"].value == pytest.approx(float(divergence), rel=1e-6)
    assert metrics["top1_agreement"].value == pytest.approx(float(agreement), rel=1e-9)
    nothing = variant_metrics(swept.base, [swept.variants[0]], ground, 1)
    for name, exact in (("perplexity_ratio", 1), ("kl", 0), ("top1_agreement", 1)):
        assert (nothing[name].low, nothing[name].value, nothing[name].high) == (exact,) * 3


def test_word_and_byte_perplexity_share_out_the_same_total() -> None:
    batches = batches_of(families.text(65), 64, 16)
    losses = torch.full((64,), 0.5)
    text = "On ce upon\na  time"
    found = base_metrics(losses, TokenPositions.of(batches), text)
    assert found["perplexity"].value == pytest.approx(math.exp(0.5))
    assert found["word_perplexity"].value == pytest.approx(math.exp(32 / 5))
    assert found["byte_perplexity"].value == pytest.approx(math.exp(32 / 18))
    accented = base_metrics(losses, TokenPositions.of(batches), "été")
    assert accented["byte_perplexity"].value == pytest.approx(math.exp(32 / 5))
