"""Makes the adapter of each configured engine. Workers import this: what is rarely needed comes later."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.connections import EnginePool
from llm_server.engines.credentials import Credentials
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.engine_call import Engine

if TYPE_CHECKING:
    from llm_server.engines.embedded import Analyse


def build(
    catalog: Catalog,
    credentials: Credentials,
    *,
    pool: EnginePool | None = None,
    bedrock: Callable[[EngineSpec, float], Any] | None = None,
    models_dir: Path = Path(),
    analyse: Analyse,
) -> dict[str, Engine]:
    """Make one adapter an engine; none opens a connection or fetches a key before its first call.

    `bedrock` makes the boto3 client of a specification, given the longest a call may take in seconds; `models_dir` is
    where pulled models are.

    Raises:
        ConfigurationError: an engine of kind `llamacpp` that is switched on has no model on this machine, or its extra
            is not installed.
    """
    pool = pool or EnginePool()
    engines: dict[str, Engine] = {}
    for name, spec in catalog.engines.items():
        if spec.kind == "bedrock":
            engines[name] = _bedrock(spec, catalog.timeout_s(name), bedrock)
        elif spec.kind == "embedded":
            engines[name] = _embedded(analyse)
        elif spec.kind == "llamacpp":
            engines[name] = _llamacpp(name, catalog, models_dir, pool)
        else:
            wire = OpenAIEngine if spec.kind == "openai" else AnthropicEngine
            engines[name] = wire(spec, pool, _key(spec, credentials))
    return engines


def _key(spec: EngineSpec, credentials: Credentials) -> Callable[[], str | None]:
    return partial(credentials.resolve, spec.api_key) if spec.api_key else lambda: None


def _bedrock(spec: EngineSpec, timeout_s: float, client: Callable[[EngineSpec, float], Any] | None) -> Engine:
    from llm_server.engines.bedrock import BedrockEngine, bedrock_client

    return BedrockEngine(spec, partial(client or bedrock_client, spec, timeout_s))


def _embedded(analyse: Analyse) -> Engine:
    from llm_server.engines.embedded import EmbeddedEngine

    return EmbeddedEngine(analyse)


def _llamacpp(name: str, catalog: Catalog, models_dir: Path, pool: EnginePool) -> Engine:
    from llm_server.engines.local import model_files
    from llm_server.engines.local.llamacpp import LlamaCppEngine, require_extra

    spec = catalog.engines[name]
    file = model_files.named(spec.model, catalog.models, models_dir)
    if spec.toggle:
        require_extra(f"engines.{name}")
        model_files.require(file, named_by=f"engines.{name}.model")
    return LlamaCppEngine(spec, file, pool)
