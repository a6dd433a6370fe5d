"""Make the catalogue: merge the user's configuration file over the packaged one, and check the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llm_server.orchestration.configuration import catalog_checks as checks
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import ConfigurationError


def load(packaged: Mapping[str, Any], overlay: Mapping[str, Any] | None = None, *, source: str = "") -> Catalog:
    """Merge an overlay over the packaged catalogue, table by table, and check it.

    Raises:
        ConfigurationError: the message names `source` (the overlay's file), the entry and the fault.
    """
    merged = _limit_concurrency(_merged(_without_stale_prompts(packaged, overlay or {}), overlay or {}))
    try:
        catalog = msgspec.convert(merged, Catalog)
    except msgspec.ValidationError as error:
        fault = checks.shape_fault(merged, error)
        raise ConfigurationError(f"The configuration {source} is wrong: {fault}.") from error
    faults = checks.faults(catalog)
    if faults:
        raise ConfigurationError(f"The configuration {source} is wrong: {faults[0]}.")
    return catalog


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _without_stale_prompts(packaged: Mapping[str, Any], overlay: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the packaged file without the `short_prompt` of roles whose `system_prompt` the overlay replaces.

    Otherwise small engines would still get the packaged words.
    """
    below, above = packaged.get("roles"), overlay.get("roles")
    if not isinstance(below, dict) or not isinstance(above, dict):
        return packaged
    replaced = {name for name, role in above.items() if isinstance(role, dict) and "system_prompt" in role}
    roles = {
        name: {field: value for field, value in role.items() if name not in replaced or field != "short_prompt"}
        for name, role in below.items()
    }
    return {**packaged, "roles": roles}


def _limit_concurrency(merged: dict[str, Any]) -> dict[str, Any]:
    """Give engines in the process a `max_concurrency` of 1 by default, because parallel calls slow one another."""
    engines = merged.get("engines")
    if not isinstance(engines, dict):
        return merged
    limited = dict(engines)
    for name, engine in engines.items():
        if isinstance(engine, dict) and engine.get("kind") == "llamacpp":
            limited[name] = {"max_concurrency": 1, **engine}
    return {**merged, "engines": limited}
