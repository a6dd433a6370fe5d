"""Profiles, roles and engines as data: the packaged catalogue with the user's overlay merged over it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from llm_server.orchestration.errors import ConfigurationError, UnknownName

Tier = Literal["fast", "strong"]
Positive = Annotated[int, msgspec.Meta(gt=0)]
Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures that hold unless an engine or role says otherwise.

    `strong_share` is the share of tasks, the most complex ones, whose calls go to the strong tier; without it role and
    complexity decide. `answer_gate`: whether a faulty answer of a cheap engine is asked for again of a strong one.
    """

    timeout_s: Positive
    max_output_tokens: Positive
    confidence_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    parallel_steps: Positive
    profile: str
    planner: str
    synthesis_tier: Tier
    answer_gate: bool
    strong_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who does a task: a system prompt and how its engine is to be called.

    What a `reviewed` role does as a step is judged, in plans of a profile that names who judges.
    """

    profiles: tuple[str, ...]
    purpose: str
    system_prompt: str
    tier: Tier = "fast"
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.3
    reviewed: bool = False


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A field of work: the roles that name it, the one to fall back to, and who judges and repairs steps, if any do."""

    purpose: str
    default_role: str
    judged_by: str | None = None
    repaired_by: str | None = None


class EnginePrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD for a million tokens; for models the price library does not know."""

    input: Price
    output: Price


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine as configured.

    `api_key` is a reference: `env:NAME`, `ssm:NAME` (an SSM SecureString) or `secretsmanager:NAME`.
    `source` decides about money: calls to a `local` engine cost nothing. `max_tokens_field` and `send_temperature` are
    for servers that refuse the usual field names (OpenAI's reasoning models). The `model` of kind `llamacpp` is a GGUF
    file or a name from the catalogue's models; `context` is how many tokens its prompt and answer may have together.
    """

    kind: Literal["openai", "anthropic", "bedrock", "llamacpp", "embedded"]
    source: Literal["local", "api"]
    model: str = ""
    base_url: str | None = None
    api_key: Annotated[str, msgspec.Meta(pattern=r"^(env|ssm|secretsmanager):.+$")] | None = None
    tier: Tier | None = None
    toggle: bool = True
    locked: bool = False
    max_concurrency: Positive = 64
    timeout_s: Positive | None = None
    region: str | None = None
    context: Positive | None = None
    price: EnginePrice | None = None
    price_provider: str | None = None
    json_schema: bool = True
    send_temperature: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


class LocalModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GGUF file that `llm-server models pull` fetches; `context` is what its engine gets unless it says otherwise."""

    url: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Positive
    licence: str
    context: Positive


class Catalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is configured."""

    defaults: Defaults
    profiles: dict[str, Profile]
    roles: dict[str, Role]
    engines: dict[str, EngineSpec]
    models: dict[str, LocalModel] = {}

    def role(self, name: str) -> Role:
        """Raises UnknownName."""
        if name not in self.roles:
            raise UnknownName("role", name, self.roles)
        return self.roles[name]

    def profile(self, name: str) -> Profile:
        """Raises UnknownName."""
        if name not in self.profiles:
            raise UnknownName("profile", name, self.profiles)
        return self.profiles[name]

    def roles_of(self, profile: str) -> list[str]:
        """The names of a profile's roles, in the order of the file."""
        return [name for name, role in self.roles.items() if profile in role.profiles]

    def step_roles(self) -> list[str]:
        """Who may do a step of a plan: everybody but the planner, who would only plan again."""
        return [name for name in self.roles if name != self.defaults.planner]

    def profile_of(self, role: str) -> str:
        """The profile a role is shown under when the caller named none: the default one if it has the role."""
        profiles = self.role(role).profiles
        return self.defaults.profile if self.defaults.profile in profiles else profiles[0]

    def timeout_s(self, engine: str) -> int:
        """The longest one call to this engine may take, in seconds."""
        return self.engines[engine].timeout_s or self.defaults.timeout_s


def load(packaged: Mapping[str, Any], overlay: Mapping[str, Any] | None = None, *, source: str = "") -> Catalog:
    """Merge an overlay over the packaged catalogue, table by table, and check it.

    Raises:
        ConfigurationError: the sentence names the entry, what is wrong and `source`, the overlay's file.
    """
    merged = _one_call_at_a_time(_merged(packaged, overlay or {}))
    try:
        catalog = msgspec.convert(merged, Catalog)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"The configuration {source} is wrong: {_place(merged)}{error}.") from error
    for fault in _faults(catalog):
        raise ConfigurationError(f"The configuration {source} is wrong: {fault}.")
    return catalog


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _place(merged: Mapping[str, Any]) -> str:
    """Which entry is wrong: msgspec names the field, but not the key of the table it stands in."""
    for table, kind in (("profiles", Profile), ("roles", Role), ("engines", EngineSpec), ("models", LocalModel)):
        entries = merged.get(table)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            try:
                msgspec.convert(entry, kind)
            except msgspec.ValidationError:
                return f"{table}.{name}: "
    return ""


def _one_call_at_a_time(merged: dict[str, Any]) -> dict[str, Any]:
    """A model in the process has one place unless told otherwise: calls beside each other only slow each other."""
    engines = merged.get("engines")
    if not isinstance(engines, dict):
        return merged
    in_process = {n: e for n, e in engines.items() if isinstance(e, dict) and e.get("kind") == "llamacpp"}
    return {**merged, "engines": {**engines, **{n: {"max_concurrency": 1, **e} for n, e in in_process.items()}}}


def _faults(catalog: Catalog) -> list[str]:
    faults = [
        f"roles.{name}.profiles names {profile!r}, known are {', '.join(catalog.profiles)}"
        for name, role in catalog.roles.items()
        for profile in role.profiles
        if profile not in catalog.profiles
    ]
    faults += [f"roles.{name}.profiles is empty" for name, role in catalog.roles.items() if not role.profiles]
    faults += [
        f"profiles.{name}.default_role {profile.default_role!r} is no role of this profile"
        for name, profile in catalog.profiles.items()
        if profile.default_role not in catalog.roles_of(name)
    ]
    for name, profile in catalog.profiles.items():
        faults += [f"profiles.{name}.{fault}" for fault in _review_faults(catalog, profile)]
    if catalog.defaults.profile not in catalog.profiles:
        faults.append(f"defaults.profile {catalog.defaults.profile!r} is no profile")
    if catalog.defaults.planner not in catalog.roles:
        faults.append(f"defaults.planner {catalog.defaults.planner!r} is no role")
    for name, model in catalog.models.items():
        faults += [f"models.{name}.{fault}" for fault in _model_faults(name, model)]
    for name, engine in catalog.engines.items():
        faults += [f"engines.{name}.{fault}" for fault in _engine_faults(engine)]
    return faults


def _review_faults(catalog: Catalog, profile: Profile) -> list[str]:
    named = {"judged_by": profile.judged_by, "repaired_by": profile.repaired_by}
    faults = [f"{field} {role!r} is no role" for field, role in named.items() if role and role not in catalog.roles]
    if bool(profile.judged_by) != bool(profile.repaired_by):
        faults.append("judged_by and repaired_by go together")
    return faults


def _engine_faults(engine: EngineSpec) -> list[str]:
    faults = []
    if engine.kind != "embedded" and not engine.model:
        faults.append("model is missing")
    if engine.kind in ("openai", "anthropic") and not engine.base_url:
        faults.append("base_url is missing")
    if engine.base_url and not _is_address(engine.base_url):
        faults.append("base_url must be http:// or https://, a host and perhaps a port")
    if engine.base_url and "@" in engine.base_url:
        faults.append("base_url must hold no credentials; name them by api_key")
    if engine.price and engine.source == "local":
        faults.append('price is for engines with source = "api"; calls to a local engine cost nothing')
    return faults


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0  # reading the port checks its range
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not any(c.isspace() for c in url)


def _model_faults(name: str, model: LocalModel) -> list[str]:
    faults = []
    if not _MODEL_NAME.fullmatch(name):
        faults.append("name must be letters, digits, dots, hyphens and underscores; it becomes part of a file's name")
    if not model.url.startswith(("https://", "http://")):
        faults.append("url must start with https:// (or http://, on loopback)")
    return faults
