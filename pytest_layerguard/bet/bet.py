"""The bet, key by key, as format 1 of the bet file defines it."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from pytest_layerguard.bet import arguments, rules
from pytest_layerguard.bet.arguments import (
    Intervention,
    Interventions,
    Seed,
    kinds_of,
    meant,
)
from pytest_layerguard.bet.criteria.evaluate import Criteria, NoCriteria
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.criteria.parse import RESERVED
from pytest_layerguard.bet.criteria.scope import ModelScope  # noqa: TC001 - pydantic reads it
from pytest_layerguard.bet.errors import closest, suggestion
from pytest_layerguard.bet.model_source import Dtype, ModelSource
from pytest_layerguard.bet.task_sources import TaskSource  # noqa: TC001 - pydantic resolves it
from pytest_layerguard.bet.text_sources import (
    HUB_NAME,
    UNPINNED,
    Revision,
    Sha256,
    TextSource,
)
from pytest_layerguard.bet.validation import (
    KEY,
    LIMITS,
    BetPart,
    RelativePath,
    Whole,
    gathered,
    invalid,
    reworded,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import CoreSchema

SLUG: Final = r"[a-z0-9][a-z0-9-]{0,79}"
"""The pattern of an id, and of the name of a record's file."""

SLUG_RULE: Final = "lower-case letters, digits and '-', at most 80, such as bet-40"

ReferenceName = Literal["reference", "reference-wide", "reference@init", "reference-wide@init"]
REFERENCE_NAMES: Final[tuple[str, ...]] = get_args(ReferenceName)

INIT: Final = "@init"
"""The end of a reference model's name that stands for the model before training."""

Status = Literal["proposed", "upheld", "falsified"]
Preset = Literal["gptq-2048", "lm-eval", "llama-cpp", "nfs-512-256", "nfs-512-256-as-published"]

_DEVICE: Final = re.compile("con|prn|aux|nul|(com|lpt)[0-9]")
_NAME_RULE: Final = (
    "a letter, then letters, digits or '_', at most 40, and no word of the criteria's own"
)
_NOT_NAMES: Final = RESERVED | set(METRICS)
_NAME: Final = rf"^(?!(?:{'|'.join(sorted(_NOT_NAMES))})$)[A-Za-z][A-Za-z0-9_]{{0,39}}$"


def _named(value: str) -> str:
    if not re.fullmatch(_NAME, value):
        raise invalid(f"must not be named {shown(value)}; {_NAME_RULE}")
    return value


Name = Annotated[str, AfterValidator(_named), WithJsonSchema({"type": "string", "pattern": _NAME})]
"""The name of an arm, a text, a task or a checkpoint, as a criterion writes it before a dot."""


def _portable(value: str) -> str:
    """Refuse the names of Windows devices, because a bet's record is a file named by its id."""
    if _DEVICE.fullmatch(value):
        raise invalid(f"must not be {shown(value)}, the name of a device on Windows; {SLUG_RULE}")
    return value


BetId = Annotated[str, Field(pattern=f"^{SLUG}$"), AfterValidator(_portable)]
Line = Annotated[str, Field(min_length=1, max_length=2_000)]
Prose = Annotated[str, Field(min_length=1, max_length=20_000)]
Prompts = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=10_000)], ...],
    Field(
        strict=False,
        min_length=1,
        max_length=LIMITS.prompts,
        description="the prompts, each continued",
    ),
]
NewTokens = Annotated[
    Whole, Field(ge=1, le=LIMITS.sample_tokens, description="how many new tokens for each prompt")
]


def _spelt_out(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if "/" in value:
        raise invalid(
            f"must not be {shown(value)}; for a hub model write {{hub: ORG/NAME, revision: "
            "<40 hex>}, for a folder {path: DIR}"
        )
    if value not in REFERENCE_NAMES:
        close = suggestion(value, REFERENCE_NAMES) or ";"
        raise invalid(
            f"unknown model {shown(value)}{close} allowed: {', '.join(REFERENCE_NAMES)}, "
            "{path: DIR}, {hub: ORG/NAME, revision: <40 hex>}"
        )
    return {"reference": value}


class ModelSpec(BetPart):
    """Which model is judged, and how it is loaded."""

    reference: ReferenceName | None = Field(
        default=None, description="a model of the package, trained or before training (@init)"
    )
    path: RelativePath | None = Field(
        default=None, description="a local model folder, relative to the bet file"
    )
    hub: Annotated[str, Field(pattern=HUB_NAME)] | None = Field(
        default=None, description="ORG/NAME on the hub"
    )
    revision: Revision | None = Field(
        default=None,
        description=f"a full commit hash (40 lower-case hexadecimal digits), or {UNPINNED}",
    )
    revisions: dict[Name, str] | None = Field(
        default=None,
        min_length=1,
        max_length=LIMITS.checkpoints,
        description="several checkpoints by name: full commit hashes, or init and trained of a "
        f"reference model; {UNPINNED} takes the branch or tag of the checkpoint's own name",
    )
    paths: dict[Name, RelativePath] | None = Field(
        default=None,
        min_length=1,
        max_length=LIMITS.checkpoints,
        description="several checkpoints by name: local folders",
    )
    gguf: RelativePath | None = Field(
        default=None,
        description="a GGUF file of llama.cpp, relative to the bet file, dequantised as it is loaded",
    )
    sha256: Sha256 = None
    dtype: Dtype | None = Field(
        default=None,
        description="the dtype that the model computes in: float32, bfloat16 or float16",
    )
    device_map: Literal["auto"] | None = Field(
        default=None, description="auto spreads the model over the devices"
    )
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None
    ) = Field(default=None, description="the implementation of attention")
    placement: Literal["memory", "stream"] = Field(
        default="memory", description="memory, or stream for a model that does not fit into memory"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return _spelt_out(value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [
            key
            for key in ("reference", "path", "paths", "hub", "gguf")
            if getattr(self, key) is not None
        ]
        if not sources:
            raise invalid("must name a model; allowed: one of reference, path, paths, hub, gguf")
        if len(sources) > 1:
            raise invalid(f"does not go with {sources[0]}; a bet judges one model", sources[1])
        source = sources[0]
        if (self.sha256 is None) != (source != "gguf"):
            raise invalid(
                "has no meaning here; allowed with gguf only"
                if self.sha256
                else "is missing; the GGUF file's digest, 64 lower-case hexadecimal digits",
                "sha256",
            )
        if source == "hub":
            self._check_hub()
        elif self.revision is not None:
            raise invalid("has no meaning here; allowed with hub only", "revision")
        elif self.revisions is not None:
            self._check_reference_checkpoints(source)
        return self

    def _check_hub(self) -> None:
        if self.revision is not None and self.revisions is not None:
            raise invalid("does not go with revision; one, or several by name", "revisions")
        if self.revision is None and self.revisions is None:
            raise invalid(
                "is missing; give a full commit hash (40 lower-case hexadecimal digits), since a "
                f"branch may move; the word {UNPINNED} runs only under --layerguard-allow-unpinned",
                "revision",
            )
        for name, revision in (self.revisions or {}).items():
            if not re.fullmatch(r"[0-9a-f]{40}", revision) and revision != UNPINNED:
                raise invalid(
                    f"must not be {shown(revision)}; 40 lower-case hexadecimal digits, or {UNPINNED}",
                    "revisions",
                    name,
                )

    def _check_reference_checkpoints(self, source: str) -> None:
        if source != "reference":
            raise invalid("has no meaning here; allowed with hub or reference", "revisions")
        if str(self.reference).endswith(INIT):
            raise invalid("must be without @init beside revisions", "reference")
        for name, revision in (self.revisions or {}).items():
            if revision not in ("init", "trained"):
                close = suggestion(revision, ("init", "trained")) or ";"
                raise invalid(
                    f"must not be {shown(revision)}{close} allowed: init, trained",
                    "revisions",
                    name,
                )

    @property
    def name(self) -> str:
        """The model's reference name, path or hub name."""
        first = next(iter(self.checkpoints().values()))
        return str(self.reference or self.path or self.hub or self.gguf or first.name)

    def checkpoints(self) -> Mapping[str | None, ModelSource]:
        """Return every checkpoint by name, or ``{None: ...}`` for one without a name."""
        if self.paths is not None:
            return {name: ModelSource("path", path) for name, path in self.paths.items()}
        if self.path is not None:
            return {None: ModelSource("path", self.path)}
        if self.gguf is not None:
            return {None: ModelSource("gguf", self.gguf, sha256=self.sha256)}
        if self.reference is not None:
            revisions: dict[str | None, str] = dict((self.revisions or {}).items())
            return {
                name: ModelSource("reference", self.reference + (INIT if at == "init" else ""))
                for name, at in (revisions or {None: "trained"}).items()
            }
        hub = str(self.hub)
        if self.revisions is not None:
            return {
                name: ModelSource("hub", hub, at, name if at == UNPINNED else None)
                for name, at in self.revisions.items()
            }
        return {None: ModelSource("hub", hub, self.revision)}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        written = handler.resolve_ref_schema(handler(schema))
        forms = [["reference"], ["path"], ["paths"], ["hub", "revision"], ["hub", "revisions"]]
        forms.append(["gguf", "sha256"])
        one = {**written, "oneOf": [{"required": keys} for keys in forms]}
        return {"anyOf": [{"enum": list(REFERENCE_NAMES)}, one]}


class SampleSpec(BetPart):
    """Greedy text of exactly ``tokens`` new tokens, with end-of-text masked out."""

    prompts: Prompts
    tokens: NewTokens = 100


class GenerateSpec(BetPart):
    """Greedy text that runs free: the end of text ends it, after ``tokens`` new tokens at the latest."""

    prompts: Prompts
    tokens: NewTokens = 100
    chat: bool = Field(
        default=False, description="whether the model's chat template is applied to the prompts"
    )


class SpeakSpec(BetPart):
    """The eye test: text that is shown and never judged."""

    prompts: Prompts
    tokens: NewTokens = 100
    temperature: float = Field(default=1.0, ge=0, le=100, description="0 is greedy")
    seed: Seed = Field(default=0, description="the seed of the draws")


def _base_bound(value: Any) -> Any:
    if value == "none":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value < 1e300:
        raise invalid(f"must be a number above 1, or none, not {shown(value)}")
    return float(value)


class Measure(BetPart):
    """What is measured: the text, the windows, the samples, the tasks."""

    text: TextSource | None = Field(default=None, description="the text to score")
    texts: dict[Name, TextSource] | None = Field(
        default=None,
        min_length=1,
        max_length=LIMITS.texts,
        description="several texts by name",
    )
    tokens: Annotated[Whole, Field(ge=1, le=LIMITS.tokens)] | None = Field(
        default=None,
        description="how many tokens are scored (under nfs-512-256-as-published, read); by default, under a preset, "
        "all of the text",
    )
    window: Annotated[Whole, Field(ge=1, le=1_048_576)] | None = Field(
        default=None,
        description="scored tokens per window; by default 512, or the model's context if shorter; under a preset, the "
        "tokens that it reads at a time",
    )
    stride: Annotated[Whole, Field(ge=1, le=1_048_576)] | None = Field(
        default=None, description="tokens from one window to the next; by default the window"
    )
    bos: Literal["auto", "always", "never"] = Field(
        default="auto", description="whether windows start with BOS: auto, always or never"
    )
    positions: Literal["all", "last"] = Field(
        default="all", description="which positions of a window are scored: all or last"
    )
    preset: Preset | None = Field(
        default=None,
        description="a published contract instead of stride and bos; with window, at another size",
    )
    max_base_perplexity: (
        Annotated[
            float | Literal["none"],
            BeforeValidator(_base_bound),
            WithJsonSchema(
                {"anyOf": [{"type": "number", "exclusiveMinimum": 1}, {"const": "none"}]}
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="above it the base is unsound; by default half the vocabulary's size; none for no bound",
    )
    sample: SampleSpec | None = Field(
        default=None, description="greedy samples, which give unique tokens"
    )
    generate: GenerateSpec | None = Field(
        default=None, description="free-running text, which gives the metrics of generation"
    )
    tasks: dict[Name, TaskSource] | None = Field(
        default=None,
        min_length=1,
        max_length=LIMITS.tasks,
        description="questions with known answers, by name, which give the metrics NAME.accuracy and so on",
    )
    speak: SpeakSpec | None = Field(default=None, description="samples to look at, never judged")

    @model_validator(mode="before")
    @classmethod
    def _check_stop(cls, value: Any) -> Any:
        if isinstance(value, dict) and "stop" in value:
            raise invalid(
                "is gone: every variant is scored on the whole text; leave it out", "stop", KEY
            )
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.text is not None and self.texts is not None:
            problems.append((("texts",), "does not go with text; one, or several by name"))
        if self.preset is not None:
            fixed: list[str] = [key for key in ("stride", "bos") if key in self.model_fields_set]
            if self.positions == "last" and not self.preset.startswith("nfs-"):
                fixed.append("positions")
            message = f"is fixed by preset {self.preset}; leave one of the two out"
            problems.extend(((key,), message) for key in fixed)
            if self.window is not None and self.window < 4:
                problems.append((("window",), "must be at least 4 beside a preset"))
        if self.stride is not None and self.preset is None and self.stride > (self.window or 512):
            problems.append((("stride",), "must be at most the window, or tokens are left out"))
        if problems:
            raise invalid(problems)
        return self

    @property
    def named_texts(self) -> Mapping[str | None, TextSource]:
        """Every text by name, or ``{None: ...}`` for one without a name."""
        return {None: self.text} if self.text is not None else dict((self.texts or {}).items())


def _known_kind(value: str, info: ValidationInfo) -> str:
    kinds = kinds_of(info)
    if value not in kinds:
        close = meant(value, kinds)
        raise invalid(f"unknown intervention {shown(value)}{close} allowed: {', '.join(kinds)}")
    return value


class Closes(BetPart):
    """The door that a falsification closes."""

    interventions: tuple[Annotated[str, AfterValidator(_known_kind)], ...] = Field(
        strict=False, min_length=1, description="the kinds of intervention that are ruled out"
    )
    models: ModelScope = Field(description="the models, such as 'parameters <= 1e8'")


Figure = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]


class Evidence(BetPart):
    """Published figures that were not measured here: shown, never compared as if measured."""

    source: Line = Field(description="where it was published")
    model: Line | None = Field(default=None, description="the model that was measured")
    text: Line | None = Field(default=None, description="the text that was measured")
    verdict: Literal["STRICT", "LENIENT", "FALSIFIED", "CATASTROPHIC", "INCONCLUSIVE"] | None = (
        Field(default=None, description="the published verdict")
    )
    base: dict[Figure, float] | None = Field(
        default=None, description="the untouched model's figures by metric"
    )
    variants: dict[Line, dict[Figure, float]] | None = Field(
        default=None, description="each variant's figures by metric"
    )
    note: Prose | None = Field(default=None, description="what else a reader must know of it")


_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([KMGT]i?)?B")
_UNITS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def _bytes(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise invalid(f"must be a size such as 24GiB, not {shown(value)}")
    prefix = match[2] or ""
    size = int(float(match[1]) * (1024 if prefix.endswith("i") else 1000) ** _UNITS[prefix[:1]])
    if size < 1:
        raise invalid("must be more than nothing; a size such as 24GiB")
    return size


Size = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_SIZE.pattern}$"},
                {"type": "integer", "minimum": 1},
            ]
        }
    ),
]
"""A number of bytes, written as 24GiB."""


class Needs(BetPart):
    """What the machine must have, in bytes."""

    gpu: Size | None = Field(default=None, description="memory of one GPU, such as 24GiB")
    memory: Size | None = Field(default=None, description="memory of the host, such as 64GiB")


class Amends(BetPart):
    """A change of the bet after its result, declared with a reason."""

    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] = Field(
        description="the digest of the bet as its record has it: sha256: and 64 digits"
    )
    because: Prose = Field(description="why the bet was changed after its result")


class Bet(BetPart):
    """One claim about one intervention on one model, with its criteria."""

    id: BetId = Field(description=SLUG_RULE)
    title: Line = Field(description="a few words")
    claim: Prose = Field(description="the claim, in a sentence")
    status: Status = Field(description="proposed, upheld or falsified")
    model: ModelSpec = Field(description="reference, {path: DIR} or {hub: ORG/NAME, revision: ...}")
    intervention: Interventions | None = Field(
        default=None, description="what is done to the model; one, or a list in order"
    )
    arms: dict[Name, Interventions] | None = Field(
        default=None,
        min_length=1,
        max_length=LIMITS.arms,
        description="several interventions by name, to compare them",
    )
    measure: Measure = Field(description="what is measured, on which text")
    criteria: Criteria = Field(
        description="when the claim holds (lenient), and beside it strict and catastrophic"
    )
    closes: Closes | None = Field(
        default=None, description="which proposals this falsification rules out"
    )
    evidence: tuple[Evidence, ...] = Field(
        default=(), strict=False, description="published figures, shown beside what is measured"
    )
    needs: Needs | None = Field(default=None, description="what the machine must have")
    challenges: tuple[BetId, ...] = Field(
        default=(), strict=False, description="ids of the falsifications that this bets against"
    )
    acknowledges: tuple[BetId, ...] = Field(
        default=(),
        strict=False,
        description="ids of the falsifications whose stronger claim failed; this one claims less",
    )
    placeholders: tuple[Literal["strict", "lenient", "catastrophic"], ...] = Field(
        default=(),
        strict=False,
        description="criteria that `new` wrote and nobody has thought about: none is recorded",
    )
    amends: Amends | None = Field(
        default=None, description="a change of the bet after its result, and why"
    )
    links: tuple[Annotated[str, Field(pattern=r"""^https?://[^\s<>"'`]{1,2000}$""")], ...] = Field(
        default=(), strict=False, description="web addresses, starting with https://"
    )
    notes: Prose | None = Field(default=None, description="what else a reader should know")

    @property
    def claim_line(self) -> str:
        """The claim on one line. Its line breaks have no meaning."""
        return " ".join(self.claim.split())

    @property
    def arm_interventions(self) -> Mapping[str | None, tuple[Intervention, ...]]:
        """The interventions by arm, or ``{None: ...}`` without arms."""
        if self.intervention is not None:
            return {None: self.intervention}
        return dict((self.arms or {}).items())

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """The interventions of all arms."""
        return tuple(each for done in self.arm_interventions.values() for each in done)

    @property
    def results(self) -> Mapping[str | None, arguments.LoadResults] | None:
        """What was measured elsewhere, by arm, or None if the bet is measured here."""
        found = {
            arm: done[0].arguments
            for arm, done in self.arm_interventions.items()
            if isinstance(done[0].arguments, arguments.LoadResults)
        }
        return found or None

    @property
    def is_sweep(self) -> bool:
        """Whether an arm is applied to each of several targets in turn."""
        return any(each.arguments.is_sweep for each in self.interventions)

    @model_validator(mode="wrap")
    @classmethod
    def _plain_errors(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        errors: list[ValidationError] = []
        bet: Self | None = None
        try:
            bet = handler(value)
        except ValidationError as error:
            errors.append(reworded(error, cls.model_fields))
        if bet is not None:
            parts = dict(bet)
        elif isinstance(value, dict):
            parts = cls._sound_parts(value, errors[0], info)
        else:
            raise errors[0]
        errors.extend(rules.broken_rules(parts, info.context or {}))
        if errors:
            raise gathered(errors)
        assert bet is not None
        return bet

    @classmethod
    def _sound_parts(
        cls, value: Mapping[str, Any], error: ValidationError, info: ValidationInfo
    ) -> dict[str, Any]:
        """Return the fields without an error, so that the rules between them are checked too."""
        wrong = {detail["loc"][0] for detail in error.errors() if detail["loc"]}
        # What is only misspelt is not missing.
        unknown = (key for key in value if key not in cls.model_fields)
        wrong.update(close for key in unknown for close in closest(key, cls.model_fields))
        parts: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if name in wrong:
                continue
            if name in value:
                parts[name] = _adapter(name).validate_python(value[name], context=info.context)
            elif not field.is_required():
                parts[name] = field.default
        return parts


class Exploration(Bet):
    """A bet without criteria: measured to look at, and judged by nothing. Only Python can write one."""

    criteria: Criteria = NoCriteria()


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    field = Bet.model_fields[name]
    return TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
