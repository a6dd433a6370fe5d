"""The catalogue a server starts with: the packaged one, the user's file over it, else the engine that is found."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from llm_server.engines.credentials import Credentials, has_credentials
from llm_server.engines.discovery import LoopbackServer, discover
from llm_server.engines.local import model_files
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings


class Found(NamedTuple):
    """The catalogue, and which engines answer and why."""

    catalog: Catalog
    why: str


def overlay(settings: Settings) -> dict[str, Any]:
    """The user's configuration file, {} without one. Raises ConfigurationError when it is no TOML."""
    if settings.config is None:
        return {}
    try:
        return tomllib.loads(settings.config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"The configuration {settings.config} cannot be read: {error}.") from error


def configured_catalog(settings: Settings) -> Catalog:
    """The packaged catalogue with the user's file over it. Raises ConfigurationError: the file is wrong."""
    packaged = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))
    return catalog_file.load(packaged, overlay(settings), source=str(settings.config or ""))


def load_catalog(settings: Settings, *, loopback: Sequence[LoopbackServer] = (), own_port: int | None = None) -> Found:
    """The packaged catalogue with the user's file over it and, where it configures no engine, the one that is found.

    Raises:
        ConfigurationError: the file is wrong, or LLM_SERVER_MODEL names no model on this machine.
    """
    catalog = configured_catalog(settings)
    model = None if settings.on_aws else settings.model
    if model:
        file = model_files.named(model, catalog.models, settings.models_dir)
        model_files.require(file, named_by="LLM_SERVER_MODEL")
    unused = " LLM_SERVER_MODEL is not used." if model else ""
    configured = [name for name, spec in catalog.engines.items() if spec.kind != "embedded"]
    if configured:
        without = _without_key(catalog, Credentials(settings.environ))
        return Found(catalog, f"{', '.join(configured)} (configured in {settings.config}).{without}{unused}")
    found = discover(settings.environ, loopback=loopback, own_port=own_port, model=model)
    unused = "" if found.spec.kind == "llamacpp" else unused
    engines = {**catalog.engines, found.name: found.spec}
    return Found(msgspec.structs.replace(catalog, engines=engines), f"{found.name}: {found.why}{unused}")


def _without_key(catalog: Catalog, secrets: Credentials) -> str:
    """Say which engines cannot answer for want of a key."""
    missing = [
        f"{name} has no key ({spec.api_key} is not set)"
        for name, spec in catalog.engines.items()
        if not has_credentials(secrets, spec)
    ]
    return f" {'; '.join(missing)}." if missing else ""
