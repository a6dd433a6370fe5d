"""The catalogue: the configured profiles, roles, engines and models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, get_args

import msgspec

from llm_server.orchestration.domain.engines import demonstration
from llm_server.orchestration.domain.engines.chat import Need
from llm_server.orchestration.domain.errors import UnknownName
from llm_server.orchestration.domain.status import known_spelling

Tier = Literal["fast", "strong"]
StructuredOutput = Literal["json_schema", "json_object", "none"]
"""Whether an engine's API can be given a JSON schema, or be told to answer with any JSON object, or neither."""
Triaging = Literal["auto", "off", "always"]
"""Which tasks an engine triages: those whose analysis is unsure, none, or all that the caller did not decide."""
Source = Literal["local", "api"]
"""`local`: the engine runs on a machine of the operator. `api`: it is a hosted service."""
Sources = tuple[Source, ...]
"""A limit: only engines with one of these sources may be called. None instead of it means no limit."""

SOURCES: Sources = get_args(Source)
EngineKind = Literal["openai", "anthropic", "bedrock", "llamacpp", "demonstration", "embedded"]
"""How an engine is called. Each kind has an adapter."""
REQUIRED_FIELDS: Mapping[EngineKind, tuple[Literal["model", "base_url"], ...]] = {
    "openai": ("model", "base_url"),
    "anthropic": ("model", "base_url"),
    "bedrock": ("model",),
    "llamacpp": ("model",),
    "demonstration": ("model",),
    "embedded": (),
}
"""The fields of an EngineSpec that a kind needs, though other kinds may leave them empty."""
FIXED_SOURCES: Mapping[EngineKind, Source] = {
    "bedrock": "api",
    "demonstration": "local",
    "embedded": "local",
    "llamacpp": "local",
}
"""The source of the kinds that are always hosted, or always run in this process. Tasks can be limited to sources."""
Positive = Annotated[int, msgspec.Meta(gt=0)]
OPENAI_URL = "https://api.openai.com/"
IDLE_TIMEOUT_S = 60
"""How long an engine may be silent in the middle of a streamed answer, unless its configuration says otherwise.

A cut answer is paid for and lost, so this is long: a slow CPU needs seconds for a token, and some servers send a
function call only when it is complete. Without it, a dead connection would hold a worker until `timeout_s`.
"""
END_MARKS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""The ends of an answer in the chat templates of common open models. OpenAI's API takes at most four of them."""

REPEAT_PENALTY = 1.1
"""How strongly small engines are asked to avoid the tokens they just wrote; 1 changes nothing."""

Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
MAX_REASONING_TOKENS_OF_GROK = 16_384
"""How many tokens xAI's models may think beyond the output limit, unless the engine's configuration says otherwise.

xAI counts the reasoning apart from `completion_tokens`, and its limit need not cover it. The limits of OpenAI,
Anthropic, Google, DeepSeek, Mistral, Groq, Bedrock, vLLM, llama.cpp and Ollama include the reasoning.
"""
KeyReference = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(env|ssm|secretsmanager):.+$",
        description="env:NAME, ssm:NAME or secretsmanager:NAME; the key itself is kept there, not in this file",
    ),
]


CONTEXT_OF_FILE = 8_192
"""The context of an engine of kind `llamacpp` whose model is the user's own file, in tokens."""


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that apply unless an engine or role has its own.

    `plan_max_output_tokens` and `verdict_max_output_tokens` take the place of `max_output_tokens` for a plan and for a
    verdict. A small engine is asked for at most `small_max_output_tokens`, whatever the call is.

    `strong_share` is the share of tasks (0 to 1), the most complex ones, whose calls go to the strong tier. Without it,
    role and complexity decide. `answer_gate`: whether a strong engine is asked when a cheap one's answer has a fault.

    `context` is how many tokens the prompt, the earlier turns of a conversation and the answer may have together, for
    engines that have no `context`.

    `triage` says for which tasks a fast engine is asked for mode, role and complexity (ADR 47). With `auto` it is asked
    if the confidence is below `triage_threshold`, or below `confidence_threshold` if the former is not configured.
    """

    timeout_s: Positive
    max_output_tokens: Positive
    plan_max_output_tokens: Positive
    verdict_max_output_tokens: Positive
    small_max_output_tokens: Positive
    confidence_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    parallel_steps: Positive
    profile: str
    planner: str
    synthesis_tier: Tier
    answer_gate: bool
    strong_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    context: Positive = 32_768
    triage: Triaging = "auto"
    triage_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def triages(self, confidence: float) -> bool:
        """Return whether a task of this confidence is triaged, if the caller's choice does not decide it."""
        if self.triage != "auto":
            return self.triage == "always"
        return confidence < (self.confidence_threshold if self.triage_threshold is None else self.triage_threshold)


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role that does tasks or steps of plans: its system prompt and the settings of its engine calls.

    Small engines get `short_prompt` instead of the system prompt, if the role has one. `purpose` and `examples`, which
    are prompts that the role is for, let the analysis choose a role that the package does not know.

    The plan steps of a `reviewed` role are judged, if the task's profile names roles to judge and to repair them.
    """

    profiles: tuple[str, ...]
    purpose: str
    system_prompt: str
    short_prompt: str | None = None
    examples: tuple[str, ...] = ()
    tier: Tier = "fast"
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.3
    reviewed: bool = False


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A field of work: its default role, and the roles that judge and repair plan steps, if it has them.

    A profile's roles are those that name it in their `profiles`.
    """

    purpose: str
    default_role: str
    judged_by: str | None = None
    repaired_by: str | None = None


class EnginePrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD for a million tokens, for models that the price library does not know.

    Without `cached_input`, tokens that were read from the engine's prompt cache cost as much as `input`. Without
    `cache_write` and `cache_write_1h`, writing to it costs 1.25 times and 2 times as much, as at Anthropic and OpenAI,
    so that a cost is never too low. Reasoning costs as much as other output.
    """

    input: Price
    output: Price
    cached_input: Price | None = None
    cache_write: Price | None = None
    cache_write_1h: Price | None = None


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine as configured.

    `api_key` is a reference: `env:NAME`, `ssm:NAME` (an SSM SecureString) or `secretsmanager:NAME`.
    Calls to an engine whose `source` is `local` cost nothing. `max_tokens_field` and `send_temperature` are for servers
    that refuse the usual fields (OpenAI's reasoning models). The `model` of kind `llamacpp` is a GGUF file or a name
    from the catalogue's models, as is that of kind `demonstration`; `context` is how many tokens its prompt and answer
    may have together. For other kinds, it is what the earlier turns of a conversation have to fit into.
    `max_reasoning_tokens` is how many tokens the model may think beyond the output limit; it is for engines whose limit
    does not include the reasoning.

    `small` marks a small model on slow hardware, by default an engine of kind `llamacpp`. `stop` are the texts at which
    an answer ends, and `repeat_penalty` makes repetitions less likely (1 does not). Small engines have defaults for
    both: `stop_texts` and `repetition_penalty` are the values to send.

    `structured_output` is what the API is asked for if an answer must follow a schema; unless that is `json_schema`,
    the schema is in the prompt. `tools` and `vision` say whether the engine takes function tools and images.
    `idle_timeout_s` limits the wait for the next piece of a streamed answer after the first one.
    """

    kind: EngineKind
    source: Source
    model: str = ""
    base_url: str | None = None
    api_key: KeyReference | None = None
    tier: Tier | None = None
    toggle: bool = True
    locked: bool = False
    max_concurrency: Positive = 64
    timeout_s: Positive | None = None
    region: str | None = None
    context: Positive | None = None
    price: EnginePrice | None = None
    price_provider: str | None = None
    structured_output: StructuredOutput = "json_schema"
    send_temperature: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_reasoning_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    small: bool | None = None
    stop: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(ge=1, le=2)] | None = None
    tools: bool = None  # type: ignore[assignment]  # set below; a configuration cannot say None
    vision: bool = None  # type: ignore[assignment]  # `__post_init__` sets the default of the kind
    idle_timeout_s: Positive = IDLE_TIMEOUT_S

    def __post_init__(self) -> None:
        """Fill in what the engine can do if the configuration does not say it; tasks are not sent where it cannot be.

        Hosted APIs take function tools; of local servers that is not known. Images are taken by Anthropic's models,
        and by those that OpenAI itself serves; other servers of the same APIs have models without eyes.
        """
        is_hosted = self.source == "api"
        sees = self.kind == "anthropic" or (self.kind == "bedrock" and "anthropic.claude" in self.model)
        for name, default in (("tools", is_hosted), ("vision", is_hosted and (sees or self.is_openai))):
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, default)

    @property
    def is_openai(self) -> bool:
        """Whether the engine is OpenAI's own API."""
        return self.kind == "openai" and (self.base_url or "").startswith(OPENAI_URL)

    def takes(self, needs: Iterable[Need]) -> bool:
        """Return whether the engine takes all that a task asks of it."""
        return all({"tools": self.tools, "vision": self.vision}[need] for need in needs)

    @property
    def runs_in_process(self) -> bool:
        """Whether the model computes in the server's process."""
        return self.kind in ("llamacpp", "demonstration")

    @property
    def is_small(self) -> bool:
        return self.runs_in_process if self.small is None else self.small

    @property
    def demonstration(self) -> bool:
        """Whether the engine answers only while no other kind of engine is configured or found."""
        return self.kind in ("demonstration", "embedded")

    @property
    def triages(self) -> bool:
        """Whether the engine may be asked how a task is to be done: a real one for the fast tier that is not small.

        A small one would need most of the time for a question with all roles in it.
        """
        return self.tier in (None, "fast") and not self.demonstration and not self.is_small

    @property
    def note(self) -> str | None:
        """Return what users must know about the engine's answers; None if they are those of a usual engine."""
        match self.kind:
            case "demonstration":
                return demonstration.OF_MODEL
            case "embedded":
                return demonstration.OF_EMBEDDED
            case _:
                return None

    @property
    def stop_texts(self) -> tuple[str, ...]:
        if self.stop is not None:
            return self.stop
        return END_MARKS if self.is_small else ()

    @property
    def repetition_penalty(self) -> float | None:
        """Return the penalty to send; None if none is to be sent."""
        penalty = self.repeat_penalty or (REPEAT_PENALTY if self.is_small else 1)
        return None if penalty == 1 else penalty


class LocalModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GGUF file that `llm-server models pull` downloads; `context` is the default for engines that use it.

    `packaged` is where an installed Python package has the same file, as `package/file`. `demonstration` marks the
    model of the engine of that kind.
    """

    url: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits in lower case")]
    size_bytes: Positive
    licence: str
    context: Positive
    packaged: Annotated[str, msgspec.Meta(pattern=r"^\w+/[\w.-]+$", description="package/file")] | None = None
    demonstration: bool = False


class Catalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of roles, profiles, engines and models."""

    defaults: Defaults
    profiles: dict[str, Profile]
    roles: dict[str, Role]
    engines: dict[str, EngineSpec]
    models: dict[str, LocalModel] = {}

    def role(self, name: str) -> Role:
        """Return a role by its exact name. Raises UnknownName."""
        if name not in self.roles:
            raise UnknownName("role", name, self.roles)
        return self.roles[name]

    def role_name(self, name: str) -> str:
        """Return a role's name as it is configured; `name` may be in upper or lower case. Raises UnknownName."""
        spelled = known_spelling(name, self.roles)
        self.role(spelled)
        return spelled

    def profile(self, name: str) -> Profile:
        """Return a profile by its exact name. Raises UnknownName."""
        if name not in self.profiles:
            raise UnknownName("profile", name, self.profiles)
        return self.profiles[name]

    def roles_of(self, profile: str) -> list[str]:
        """Return the names of a profile's roles, in the order of the configuration."""
        return [name for name, role in self.roles.items() if profile in role.profiles]

    def step_roles(self) -> list[str]:
        """Return the roles that may do a step of a plan: all but the planner, which would only plan again."""
        return [name for name in self.roles if name != self.defaults.planner]

    def profile_of(self, role: str) -> str:
        """Return the profile of a task for which the caller chose only a role.

        This is the default profile if it has the role, otherwise the first profile of the role.
        """
        profiles = self.role(role).profiles
        return self.defaults.profile if self.defaults.profile in profiles else profiles[0]

    def timeout_s(self, engine: str) -> int:
        """Return the time limit of one call to an engine, in seconds."""
        return self.engines[engine].timeout_s or self.defaults.timeout_s

    def context(self, engine: str) -> int:
        """Return how many tokens the messages and the answer of a call to an engine may have together."""
        spec = self.engines[engine]
        if spec.context or not spec.runs_in_process:
            return spec.context or self.defaults.context
        return self.models[spec.model].context if spec.model in self.models else CONTEXT_OF_FILE

    def max_reasoning_tokens(self, engine: str) -> int:
        """Return how many tokens an engine's model may think in addition to the output limit of a call."""
        spec = self.engines[engine]
        if spec.max_reasoning_tokens is not None:
            return spec.max_reasoning_tokens
        return MAX_REASONING_TOKENS_OF_GROK if "grok" in spec.model.lower() else 0
