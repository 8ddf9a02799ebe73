"""Find where two configurations make another function of the same weights."""

from __future__ import annotations

import re
from math import isclose
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHOWN_BY_WEIGHTS: Final = frozenset(
    {"num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size"}
)
_BOOKKEEPING: Final = re.compile(
    r"^_|_token_id$|dropout|^output_|experts$|loss|^(?:architectures|auto_map|bos|chunk_size_feed_forward|"
    r"compression_config|dtype|id2label|initializer_range|is_decoder|is_encoder_decoder|label2id|"
    r"max_position_embeddings|max_window_layers|name_or_path|pretraining_tp|problem_type|quantization_config|"
    r"return_dict|tie_word_embeddings|torch_dtype|transformers_version|use_cache)$"
)
"""Keys that no forward pass reads, or that say how the file is stored."""


def other_settings(
    base: Mapping[str, Any], candidate: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each setting that differs: the key, the base's value and the candidate's.

    A key that a configuration leaves out has the default of its class in transformers.
    """
    ours, theirs = _whole(base), _whole(candidate)
    for key in sorted(ours.keys() & theirs.keys()):
        if key in _SHOWN_BY_WEIGHTS or _BOOKKEEPING.search(key):
            continue
        one, other = ours[key], theirs[key]
        by_layer = isinstance(one, list) and len(one) == ours.get("num_hidden_layers")
        if by_layer and ours.get("num_hidden_layers") != theirs.get("num_hidden_layers"):
            continue
        if not _same(one, other):
            yield key, one, other


def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return dict(config)
    plain = {key: value for key, value in config.items() if "quantization" not in key}
    try:
        made: dict[str, Any] = CONFIG_MAPPING[kind].from_dict(plain).to_dict()
    except Exception:  # each class refuses values in its own way; loading says what is wrong
        return dict(config)
    return made


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=1e-5)
    return bool(one == other)
