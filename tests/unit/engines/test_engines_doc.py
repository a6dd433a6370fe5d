"""The examples in docs/engines.md are valid configuration."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llm_server.engines.credentials import Credentials
from llm_server.engines.factory import build
from llm_server.engines.parts import EngineParts
from llm_server.engines.prices import price
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.routing.analysis import analyse
from support.scripted_engine import a_usage

DOC = Path(__file__).parents[3] / "docs" / "engines.md"
TOML = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", DOC.read_text(), re.DOTALL)]
EXAMPLES = [example for example in TOML if "engines" in example]
NAMES = [name for example in EXAMPLES for name in example["engines"]]
PACKAGED: dict[str, Any] = {
    "defaults": {
        "timeout_s": 60,
        "max_output_tokens": 1024,
        "plan_max_output_tokens": 1024,
        "verdict_max_output_tokens": 1024,
        "small_max_output_tokens": 1024,
        "confidence_threshold": 0.7,
        "parallel_steps": 4,
        "profile": "general",
        "planner": "Planner-Agent",
        "synthesis_tier": "strong",
        "answer_gate": True,
    },
    "profiles": {"general": {"purpose": "Anything.", "default_role": "Planner-Agent"}},
    "roles": {"Planner-Agent": {"profiles": ["general"], "purpose": "Plans.", "system_prompt": "Plan."}},
    "engines": {"embedded": {"kind": "embedded", "source": "local"}},
}


def test_every_kind_of_server_has_an_example() -> None:
    wanted = {
        "openai",
        "azure",
        "ollama",
        "vllm",
        "llama-cpp",
        "lm-studio",
        "openrouter",
        "anthropic",
        "bedrock",
    }

    assert set(NAMES) == wanted


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_an_example_is_read_priced_and_made_into_an_adapter(example: dict[str, Any]) -> None:
    loaded = catalog_file.load(PACKAGED, example, source=DOC.name)
    (name,) = example["engines"]

    assert name in build(EngineParts(catalog=loaded, credentials=Credentials({}), analyse=analyse))
    assert price(loaded.engines[name], a_usage(1000, 1000)) is not None


def test_the_defaults_shown_are_defaults() -> None:
    """The page shows the values that hold if they are not set."""
    shown = [example["defaults"] for example in TOML if "defaults" in example]
    loaded = [catalog_file.load(PACKAGED, {"defaults": defaults}).defaults for defaults in shown]

    assert [(found.strong_share, found.answer_gate) for found in loaded] == [(0.2, False)]


def test_every_field_is_explained() -> None:
    fields = set(EngineSpec.__struct_fields__)

    assert fields <= set(re.findall(r"`(\w+)", DOC.read_text().partition("## Fields")[2]))
