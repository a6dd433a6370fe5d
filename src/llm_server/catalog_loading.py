"""Load the packaged catalogue, merge the user's file over it, and add a discovered engine if none is configured."""

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
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import NO_MODEL, Settings


class LoadedCatalog(NamedTuple):
    """The catalogue, and a note for the user that says which engines answer, and why."""

    catalog: Catalog
    engines_note: str


def overlay(settings: Settings) -> dict[str, Any]:
    """Return the content of the user's configuration file, or {} if none is set.

    Raises:
        ConfigurationError: the file cannot be read or is not valid TOML.
    """
    if settings.config is None:
        return {}
    try:
        return tomllib.loads(settings.config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"The configuration {settings.config} cannot be read: {error}.") from error


def configured_catalog(settings: Settings) -> Catalog:
    """Return the packaged catalogue with the user's file merged over it. Raises ConfigurationError."""
    packaged = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))
    return catalog_file.load(packaged, overlay(settings), source=str(settings.config or ""))


def load_catalog(
    settings: Settings,
    *,
    loopback: Sequence[LoopbackServer] = (),
    own_port: int | None = None,
    may_demonstrate: bool = False,
) -> LoadedCatalog:
    """Return the configured catalogue; if it has no engine but the embedded one, add the first one that is found.

    `loopback` are the servers to try on this machine; the one at `own_port` is skipped. If `may_demonstrate`, the
    demonstration model answers if it is on this machine and nothing else is found.

    Raises:
        ConfigurationError: the file is wrong, the model of LLM_SERVER_MODEL is not on this machine, an engine's
            `timeout_s` is longer than a worker can wait, or an engine is required and none was found.
    """
    catalog = configured_catalog(settings)
    model = None if settings.on_aws or settings.model == NO_MODEL else settings.model
    if model:
        file = model_files.locate(model, catalog.models, settings.models_dir)
        model_files.require(file, named_by="LLM_SERVER_MODEL")
    configured = [name for name, spec in catalog.engines.items() if spec.kind != "embedded"]
    if configured:
        note = f"{', '.join(configured)} (configured in {settings.config})."
        note += _missing_keys(catalog, Credentials(settings.environ))
        model_is_used = False
    else:
        demonstration_model = _demonstration_model(settings, catalog) if may_demonstrate else None
        discovered = discover(
            settings.environ,
            loopback=loopback,
            own_port=own_port,
            model=model,
            demonstration_model=demonstration_model,
        )
        note = f"{discovered.name}: {discovered.reason}"
        model_is_used = discovered.spec.model == model
        spec = _within(discovered.spec, settings.window.whole_s)
        catalog = msgspec.structs.replace(catalog, engines={**catalog.engines, discovered.name: spec})
    if model and not model_is_used:
        note += " LLM_SERVER_MODEL is not used."
    _check_required(catalog, settings)
    _check_time_outs(catalog, settings)
    return LoadedCatalog(catalog, note)


def _demonstration_model(settings: Settings, catalog: Catalog) -> str | None:
    """Return the demonstration model of this machine; None if it has none, or LLM_SERVER_MODEL forbids it."""
    return None if settings.model == NO_MODEL else model_files.demonstration_model(catalog.models, settings.models_dir)


def _check_required(catalog: Catalog, settings: Settings) -> None:
    """Raise ConfigurationError if an engine is required, but only a demonstration would answer."""
    if settings.require_engine and all(spec.demonstration for spec in catalog.engines.values()):
        advice = (
            "set OPENAI_API_KEY, ANTHROPIC_API_KEY or LLM_SERVER_MODEL, start an LLM server on this machine, or "
            "describe an engine in LLM_SERVER_CONFIG"
        )
        if settings.on_aws:
            advice = "deploy with OpenAIKeyName, AnthropicKeyName or a ConfigFile that has engines (docs/aws.md)"
        raise ConfigurationError(f"LLM_SERVER_REQUIRE_ENGINE is true, but no engine was found: {advice}.")


def _within(found: EngineSpec, max_s: int) -> EngineSpec:
    """Return a found engine with a time-out of its own lowered to `max_s` seconds, because no configuration could."""
    return found if found.timeout_s is None else msgspec.structs.replace(found, timeout_s=min(found.timeout_s, max_s))


def _check_time_outs(catalog: Catalog, settings: Settings) -> None:
    """Check that a claim is long enough for one call of each engine. The embedded engine answers at once.

    Raises:
        ConfigurationError: an engine's `timeout_s`, its own or the default one, is longer than the window.
    """
    window = settings.window
    for name, spec in catalog.engines.items():
        timeout_s = catalog.timeout_s(name)
        if spec.kind != "embedded" and timeout_s > window.whole_s:
            whose = "a timeout_s" if spec.timeout_s else "the default timeout_s (defaults.timeout_s)"
            longer = window.longer if settings.on_aws else f"{window.longer} to {Window.lease_for(timeout_s)}"
            raise ConfigurationError(
                f"Engine {name} has {whose} of {timeout_s}, but a worker waits at most {window.whole_s} s for a call: "
                f"six sevenths of LLM_SERVER_LEASE_S, which is {window.lease_s}. Lower timeout_s, or {longer}."
            )


def _missing_keys(catalog: Catalog, secrets: Credentials) -> str:
    """Return a sentence that names the engines whose API key is not set, or "" if all keys are set."""
    missing = [
        f"{name} has no key ({spec.api_key} is not set)"
        for name, spec in catalog.engines.items()
        if not has_credentials(secrets, spec)
    ]
    return f" {'; '.join(missing)}." if missing else ""
