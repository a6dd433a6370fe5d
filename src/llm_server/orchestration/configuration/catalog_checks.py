"""Find the faults of a configuration. Each fault is a text that names the entry and the allowed values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from llm_server.orchestration.domain.engines.catalog import (
    FIXED_SOURCES,
    REQUIRED_FIELDS,
    Catalog,
    EngineSpec,
    LocalModel,
    Profile,
    Role,
)

MAX_SHORT_PROMPT_CHARS = 300
MAX_EXAMPLES = 20
MAX_EXAMPLE_CHARS = 4_000
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ADDED_PATHS = ("/chat/completions", "/v1/messages")
"""The paths that the adapters append to a `base_url`."""


def shape_fault(merged: Mapping[str, Any], error: msgspec.ValidationError) -> str:
    """Return why a configuration cannot be read as a catalogue.

    The reason names an unknown field, or a field whose value is not allowed, with its whole path. For any other fault,
    the text of `error` follows the name of the entry.
    """
    for fault in _shape_faults(merged, inspect.type_info(Catalog), ""):
        return fault
    return f"{_place(merged)}{error}"


def _shape_faults(value: Any, kind: inspect.Type, path: str) -> Iterator[str]:
    """Yield a text for each unknown field and for each value that is not allowed, with its whole path."""
    if isinstance(kind, inspect.UnionType) and value is not None:
        for other in kind.types:
            yield from _shape_faults(value, other, path)
    elif isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        fields = {field.encode_name: field.type for field in kind.fields}
        for name, content in value.items():
            here = f"{path}.{name}" if path else name
            if name not in fields:
                yield f"{here} is unknown; known are {', '.join(fields)}"
            else:
                yield from _shape_faults(content, fields[name], here)
    elif isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        for name, content in value.items():
            yield from _shape_faults(content, kind.value_type, f"{path}.{name}")
    elif isinstance(kind, inspect.LiteralType) and value not in kind.values:
        yield f"{path} is {str(value)[:60]!r}; allowed are {', '.join(map(str, kind.values))}"
    elif isinstance(kind, inspect.Metadata) and not _fits(value, kind.type):
        allowed = (kind.extra_json_schema or {}).get("description")
        yield f"{path} must be {allowed}"  # the value is not shown: it may be a secret key


def _fits(value: Any, kind: inspect.Type) -> bool:
    pattern = kind.pattern if isinstance(kind, inspect.StrType) else None
    return pattern is None or (isinstance(value, str) and re.search(pattern, value) is not None)


def _place(merged: Mapping[str, Any]) -> str:
    """Return the name of the first wrong entry, such as `roles.QA-Agent: `; "" if each entry alone is right.

    It is needed because the error of msgspec names the field, but not the entry.
    """
    for table, kind in (("profiles", Profile), ("roles", Role), ("engines", EngineSpec), ("models", LocalModel)):
        entries = merged.get(table)
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            try:
                msgspec.convert(entry, kind)
            except msgspec.ValidationError:
                return f"{table}.{name}: "
    return ""


def faults(catalog: Catalog) -> list[str]:
    """Return the contradictions between the entries of a catalogue, and the values that cannot work."""
    faults = [
        f"roles.{name}.profiles names the unknown profile {profile!r}; known are {', '.join(catalog.profiles)}"
        for name, role in catalog.roles.items()
        for profile in role.profiles
        if profile not in catalog.profiles
    ]
    faults += [f"roles.{name}.profiles is empty" for name, role in catalog.roles.items() if not role.profiles]
    faults += [
        f"roles.{name}.short_prompt must be one line of 1 to {MAX_SHORT_PROMPT_CHARS} characters"
        for name, role in catalog.roles.items()
        if role.short_prompt is not None and not _is_short_line(role.short_prompt)
    ]
    for name, role in catalog.roles.items():
        faults += [f"roles.{name}.examples{fault}" for fault in _example_faults(role)]
    faults += [
        f"profiles.{name}.default_role {profile.default_role!r} is not a role of this profile"
        for name, profile in catalog.profiles.items()
        if profile.default_role not in catalog.roles_of(name)
    ]
    for name, profile in catalog.profiles.items():
        faults += [f"profiles.{name}.{fault}" for fault in _review_faults(catalog, profile)]
    if catalog.defaults.profile not in catalog.profiles:
        faults.append(f"defaults.profile {catalog.defaults.profile!r} is not a configured profile")
    if catalog.defaults.planner not in catalog.roles:
        faults.append(f"defaults.planner {catalog.defaults.planner!r} is not a configured role")
    for name, model in catalog.models.items():
        faults += [f"models.{name}.{fault}" for fault in _model_faults(name, model)]
    for name, engine in catalog.engines.items():
        faults += [f"engines.{name}.{fault}" for fault in _engine_faults(engine)]
    return faults + [
        f"engines.{name[:60]!r} is not a valid engine name: it is part of paths such as /engines/NAME, so it must not "
        'be blank, contain control characters, or have "." or ".." between slashes'
        for name in catalog.engines
        if not name.strip() or _CONTROL.search(name) or any(part in (".", "..") for part in name.split("/"))
    ]


def _is_short_line(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_SHORT_PROMPT_CHARS and not _CONTROL.search(text)


def _example_faults(role: Role) -> list[str]:
    if len(role.examples) > MAX_EXAMPLES:
        return [f" has {len(role.examples)} texts; at most {MAX_EXAMPLES} are allowed"]
    return [
        f"[{number}] must be a text of 1 to {MAX_EXAMPLE_CHARS:,} characters that is not blank"
        for number, example in enumerate(role.examples)
        if not example.strip() or len(example) > MAX_EXAMPLE_CHARS
    ]


def _review_faults(catalog: Catalog, profile: Profile) -> list[str]:
    roles = {"judged_by": profile.judged_by, "repaired_by": profile.repaired_by}
    faults = [
        f"{field} {role!r} is not a configured role"
        for field, role in roles.items()
        if role and role not in catalog.roles
    ]
    if bool(profile.judged_by) != bool(profile.repaired_by):
        faults.append("judged_by and repaired_by must be set together")
    return faults


def _engine_faults(engine: EngineSpec) -> list[str]:
    faults = [f"{field} is missing" for field in REQUIRED_FIELDS[engine.kind] if not getattr(engine, field)]
    if engine.base_url and not _is_address(engine.base_url):
        faults.append("base_url must have http:// or https://, a host, and optionally a port")
    if engine.base_url and "@" in engine.base_url:
        faults.append("base_url must not contain credentials; set api_key to a reference to them")
    faults += [
        f"base_url must not end with {added}, because the server adds it"
        for added in _ADDED_PATHS
        if (engine.base_url or "").rstrip("/").endswith(added)
    ]
    if engine.repeat_penalty is not None and engine.kind not in ("openai", "llamacpp"):
        faults.append("repeat_penalty is for the kinds openai and llamacpp; the API of other kinds has no such field")
    if engine.structured_output == "json_object" and engine.kind not in ("openai", "llamacpp"):
        faults.append(
            'structured_output "json_object" is for the kinds openai and llamacpp; others have "json_schema" or "none"'
        )
    if engine.small and engine.kind == "embedded":
        faults.append("small is for engines with a model; the embedded engine has none")
    if engine.source != FIXED_SOURCES.get(engine.kind, engine.source):
        faults.append(f'source must be "{FIXED_SOURCES[engine.kind]}" for an engine of the kind {engine.kind}')
    if engine.price and engine.source == "local":
        faults.append('price is for engines with source = "api"; calls to a local engine cost nothing')
    if engine.price and engine.price.cached_input is not None and engine.price.cached_input > engine.price.input:
        faults.append(
            "price.cached_input must not be higher than price.input; leave it out if cached input costs the same"
        )
    return faults


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0  # `port` raises ValueError if it is out of range
    except ValueError:
        return False
    return has_host and parts.scheme in ("http", "https") and not any(c.isspace() for c in url)


def _model_faults(name: str, model: LocalModel) -> list[str]:
    faults = []
    if not _MODEL_NAME.fullmatch(name):
        faults.append(
            "name may have only letters, digits, dots, hyphens and underscores, because it is part of a file name"
        )
    if not model.url.startswith(("https://", "http://")):
        faults.append("url must start with https://, or with http:// if it is on loopback")
    return faults
