"""The adapters of HTTP APIs, each connected to a fake server, for the contract suites."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.config import Config
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.bedrock import BedrockEngine
from llm_server.engines.connections import EnginePool
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.engines.call import Engine, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from support.fake_engine import FakeEngine, Fault, fake_engine

KEY = "sk-canary-1f9c2e7ab8"
CALL = EngineCall(system="You answer.", messages=user("Why is the sky blue, canary 7741?"), max_output_tokens=64)
WIRES = ("openai", "anthropic", "bedrock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """An adapter, its server, and how its API says that an answer was cut or refused."""

    engine: Engine
    server: FakeEngine
    cut: Callable[[dict[str, Any]], object]
    refused: Callable[[dict[str, Any]], object]

    def fails(
        self, fault: Fault, *, timeout_s: float = 5.0, on_text: Callable[[str], None] | None = None
    ) -> EngineUnavailable | PromptRefused:
        """Call with a fault, for a stream if there is `on_text`; return the failure, whose message must be fit."""
        self.server.script(fault)
        with pytest.raises((EngineUnavailable, PromptRefused)) as caught:
            self.engine.complete(replace(CALL, on_text=on_text), timeout_s=timeout_s)
        assert isinstance(caught.value, EngineUnavailable | PromptRefused)
        for secret in (KEY, "canary", self.server.text):
            assert secret not in str(caught.value)
        return caught.value


@pytest.fixture(scope="module")
def pool() -> EnginePool:
    return EnginePool()


@pytest.fixture
def server() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


@pytest.fixture(params=WIRES)
def wired(request: pytest.FixtureRequest, server: FakeEngine, pool: EnginePool) -> Wired:
    return wire(request.param, server, pool)


def wire(name: str, server: FakeEngine, pool: EnginePool, **fields: Any) -> Wired:
    """Return an adapter by its name; `fields` are further fields of the engine's configuration."""
    return {"openai": _openai, "anthropic": _anthropic, "bedrock": _bedrock}[name](server, pool, fields)


def _openai(server: FakeEngine, pool: EnginePool, fields: Mapping[str, Any]) -> Wired:
    spec = EngineSpec(kind="openai", source="api", model="m", base_url=server.base_url, **fields)
    return Wired(
        engine=OpenAIEngine(spec, pool, lambda: KEY),
        server=server,
        cut=lambda answer: answer["choices"][0].update(finish_reason="length"),
        refused=lambda answer: answer["choices"][0].update(finish_reason="content_filter"),
    )


def _anthropic(server: FakeEngine, pool: EnginePool, fields: Mapping[str, Any]) -> Wired:
    spec = EngineSpec(kind="anthropic", source="api", model="m", base_url=server.url, **fields)
    return Wired(
        engine=AnthropicEngine(spec, pool, lambda: KEY),
        server=server,
        cut=lambda answer: answer.update(stop_reason="max_tokens"),
        refused=lambda answer: answer.update(stop_reason="refusal"),
    )


def _bedrock(server: FakeEngine, pool: EnginePool, fields: Mapping[str, Any]) -> Wired:
    spec = EngineSpec(kind="bedrock", source="api", model="m", region="eu-west-1", **fields)
    return Wired(
        engine=BedrockEngine(spec, partial(_converse_client, server.url)),
        server=server,
        cut=lambda answer: answer.update(stopReason="max_tokens"),
        refused=lambda answer: answer.update(stopReason="content_filtered"),
    )


def _converse_client(url: str) -> Any:
    return boto3.session.Session().client(
        "bedrock-runtime",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key=KEY,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=2),
    )
