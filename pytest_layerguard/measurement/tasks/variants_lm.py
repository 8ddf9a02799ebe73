"""A model and its variants as a model of lm-evaluation-harness, which asks all of them at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.tokenization import end_of_text_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_layerguard.measurement.tasks.asked_model import AskedModel
    from pytest_layerguard.models.plan import Plan

_CONTEXT: Final = 2048
"""The context of a model that states none, as lm-evaluation-harness has it."""


NEW_TOKENS: Final = 256
"""How many new tokens a task asks for that does not say."""


class VariantsLM(TemplateLM):  # type: ignore[misc]
    """Answers requests as lm-evaluation-harness's ``hf`` model would, with every plan of a model.

    What is returned are the untouched model's responses.

    Attributes:
        responses: Every plan's responses to the requests that were answered last.
    """

    def __init__(self, model: AskedModel) -> None:
        super().__init__()
        self.tokenizer = model.loaded.tokenizer
        self.responses: Mapping[Plan, Sequence[Any]] = {}
        self._model = model

    @property
    def eot_token_id(self) -> int:
        """The end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """The longest text, in tokens."""
        return self._model.context or _CONTEXT

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokenise a text, by default with the special tokens that the tokenizer adds and the text does not have."""
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(
            str(self.tokenizer.decode(self.prefix_token_id))
        ):
            given = {"add_special_tokens": False}
        ids: list[int] = self.tokenizer.encode(string, **given)
        return ids

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, window by window."""
        pairs: list[tuple[list[int], list[int]]] = []
        counts: list[int] = []
        for request in requests:
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            made = [utils.make_disjoint_window(window) for window in windows]
            pairs += made
            counts.append(len(made))

        def summed(values: Sequence[float]) -> list[float]:
            left = iter(values)
            return [sum(next(left) for _ in range(count)) for count in counts]

        found = self._model.likelihoods(pairs)
        self.responses = {
            plan: summed([each.value for each in values]) for plan, values in found.items()
        }
        return list(self.responses[self._model.base])

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations up to a stop.

        Raises:
            MeasurementError: If the task asks for samples, or for more new tokens than the model's context has.
        """
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        texts = {plan: [""] * len(requests) for plan in self._model.plans}
        for asked, places in groups.items():
            found = self._continued(
                [requests[place].args[0] for place in places], json.loads(asked)
            )
            for plan, continued in found.items():
                for place, text in zip(places, continued, strict=True):
                    texts[plan][place] = text
        self.responses = texts
        return texts[self._model.base]

    def _continued(self, contexts: Sequence[str], asked: dict[str, Any]) -> dict[Plan, list[str]]:
        wanted = normalize_gen_kwargs(asked, NEW_TOKENS)
        if wanted.get("do_sample") or wanted.get("num_beams", 1) > 1:
            raise MeasurementError("the task samples or searches beams; greedy tasks can be asked")
        tokens = int(wanted["max_gen_toks"])
        stops = handle_stop_sequences(
            wanted["until"], eos=self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        )
        room = self.max_length - tokens
        if room < 1:
            raise MeasurementError(
                f"the task asks for {tokens:,} new tokens, and the model's context has {self.max_length:,}"
            )
        ends = frozenset(end_of_text_ids(self._model.loaded.model, self.tokenizer))
        prompts = [self.tok_encode(context)[-room:] for context in contexts]

        def text(ids: Sequence[int]) -> str:
            ended = next((place for place, token in enumerate(ids) if token in ends), None)
            return str(self.tokenizer.decode(list(ids[:ended]), skip_special_tokens=True))

        def done(ids: Sequence[int]) -> bool:
            return bool(ends & set(ids)) or any(stop in text(ids) for stop in stops if stop)

        return {
            plan: [postprocess_generated_text(text(ids[:tokens]), stops, None) for ids in rows]
            for plan, rows in self._model.continuations(prompts, tokens, done).items()
        }

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = self._model.likelihoods(pairs)
        self.responses = {plan: [tuple(each) for each in values] for plan, values in found.items()}
        return list(self.responses[self._model.base])
