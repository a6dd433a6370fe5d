"""Build the adapters of the configured engines. Each adapter's module is imported only if it is used."""

from __future__ import annotations

from typing import assert_never

from llm_server.engines.parts import EngineParts
from llm_server.orchestration.domain.engines.call import Engine
from llm_server.orchestration.domain.engines.catalog import EngineKind


def build(parts: EngineParts) -> dict[str, Engine]:
    """Build the adapter of every engine, by name. Adapters connect and look up keys at their first call.

    Raises:
        ConfigurationError: the model file of a `llamacpp` or `demonstration` engine that is switched on is not on this
            machine, or the extra [local] is not installed.
    """
    return {name: _adapter(name, spec.kind, parts) for name, spec in parts.catalog.engines.items()}


def _adapter(name: str, kind: EngineKind, parts: EngineParts) -> Engine:
    match kind:
        case "openai":
            from llm_server.engines.openai import build
        case "anthropic":
            from llm_server.engines.anthropic import build
        case "bedrock":
            from llm_server.engines.bedrock import build
        case "llamacpp":
            from llm_server.engines.local.llamacpp import build
        case "demonstration":
            from llm_server.engines.local.demonstration import build
        case "embedded":
            from llm_server.engines.embedded import build
        case _:
            assert_never(kind)
    return build(name, parts)
