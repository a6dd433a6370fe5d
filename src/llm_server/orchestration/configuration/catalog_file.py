"""The catalogue out of its files: the packaged one with the user's overlay merged over it, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llm_server.orchestration.configuration import catalog_checks as checks
from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.errors import ConfigurationError


def load(packaged: Mapping[str, Any], overlay: Mapping[str, Any] | None = None, *, source: str = "") -> Catalog:
    """Merge an overlay over the packaged catalogue, table by table, and check it.

    Raises:
        ConfigurationError: the sentence names the entry, what is wrong and `source`, the overlay's file.
    """
    merged = _one_call_at_a_time(_merged(packaged, overlay or {}))
    try:
        catalog = msgspec.convert(merged, Catalog)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"The configuration {source} is wrong: {checks.misfit(merged, error)}.") from error
    for fault in checks.faults(catalog):
        raise ConfigurationError(f"The configuration {source} is wrong: {fault}.")
    return catalog


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _one_call_at_a_time(merged: dict[str, Any]) -> dict[str, Any]:
    """A model in the process has one place unless told otherwise: calls beside each other only slow each other."""
    engines = merged.get("engines")
    if not isinstance(engines, dict):
        return merged
    in_process = {n: e for n, e in engines.items() if isinstance(e, dict) and e.get("kind") == "llamacpp"}
    return {**merged, "engines": {**engines, **{n: {"max_concurrency": 1, **e} for n, e in in_process.items()}}}
