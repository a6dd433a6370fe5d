"""What an engine is taken to be able to do if its configuration does not say it."""

from typing import Any

import pytest

from llm_server.engines import discovery
from llm_server.orchestration.domain.engines.catalog import EngineSpec


@pytest.mark.parametrize(
    ("fields", "tools", "vision"),
    [
        ({"kind": "anthropic", "source": "api"}, True, True),
        ({"kind": "anthropic", "source": "local"}, False, False),
        ({"kind": "openai", "source": "api", "base_url": "https://api.openai.com/v1"}, True, True),
        ({"kind": "openai", "source": "api", "base_url": "https://api.deepseek.com/v1"}, True, False),
        ({"kind": "openai", "source": "api", "base_url": "https://api.openai.com.example.org/v1"}, True, False),
        ({"kind": "openai", "source": "local", "base_url": "http://127.0.0.1:8080/v1"}, False, False),
        ({"kind": "bedrock", "source": "api", "model": "global.anthropic.claude-haiku-5-5"}, True, True),
        ({"kind": "bedrock", "source": "api", "model": "meta.llama3-8b-instruct-v1:0"}, True, False),
        ({"kind": "llamacpp", "source": "local"}, False, False),
        ({"kind": "demonstration", "source": "local"}, False, False),
        ({"kind": "embedded", "source": "local"}, False, False),
    ],
)
def test_tools_and_vision_have_defaults_by_kind_and_source(fields: Any, tools: bool, vision: bool) -> None:
    spec = EngineSpec(**fields)

    assert (spec.tools, spec.vision) == (tools, vision)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "llamacpp"])
@pytest.mark.parametrize("value", [True, False])
def test_the_configuration_decides(kind: Any, value: bool) -> None:
    for source in ("api", "local"):
        spec = EngineSpec(kind=kind, source=source, tools=value, vision=not value)

        assert (spec.tools, spec.vision) == (value, not value)


def test_the_engines_that_a_key_in_the_environment_finds_take_both() -> None:
    for spec in (discovery.OPENAI, discovery.ANTHROPIC):
        assert (spec.tools, spec.vision) == (True, True)
