"""Makes the adapter of each configured engine. Workers import this, so an adapter is imported when it is needed."""

from __future__ import annotations

from typing import assert_never

from llm_server.engines.parts import EngineParts
from llm_server.orchestration.domain.catalog import EngineKind
from llm_server.orchestration.domain.engine_call import Engine


def build(parts: EngineParts) -> dict[str, Engine]:
    """Make the adapter of every engine; none opens a connection or fetches a key before its first call.

    Raises:
        ConfigurationError: an engine of kind `llamacpp` that is switched on has no model on this machine, or its extra
            is not installed.
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
        case "embedded":
            from llm_server.engines.embedded import build
        case _:
            assert_never(kind)
    return build(name, parts)
