"""With LLM_SERVER_REQUIRE_ENGINE a server starts only with an engine of its own; the embedded engine does not count."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

import pytest

from llm_server import catalog_loading
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings

REQUIRED = {"LLM_SERVER_REQUIRE_ENGINE": "true"}
ON_AWS = {"LLM_SERVER_TABLE": "tasks", "LLM_SERVER_QUEUE_URL": "http://127.0.0.1:1/queue"}
ENGINE = """
[engines.own]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:1"
"""


def refusal(**variables: str) -> str:
    """Return why a server with these variables does not start; "" if it does."""
    try:
        catalog_loading.load_catalog(Settings.read(variables))
    except ConfigurationError as error:
        return str(error)
    return ""


def test_without_an_engine_the_server_does_not_start_and_says_what_to_set() -> None:
    assert refusal(**REQUIRED) == (
        "LLM_SERVER_REQUIRE_ENGINE is true, but no engine was found: set OPENAI_API_KEY, ANTHROPIC_API_KEY or "
        "LLM_SERVER_MODEL, start an LLM server on this machine, or describe an engine in LLM_SERVER_CONFIG."
    )


def test_on_aws_the_parameters_of_the_deployment_are_named() -> None:
    assert refusal(**REQUIRED, **ON_AWS) == (
        "LLM_SERVER_REQUIRE_ENGINE is true, but no engine was found: deploy with OpenAIKeyName, AnthropicKeyName or a "
        "ConfigFile that has engines (docs/aws.md)."
    )


@pytest.mark.parametrize("variables", [{}, {"LLM_SERVER_REQUIRE_ENGINE": "false"}])
def test_an_engine_is_required_only_where_it_is_said(variables: dict[str, str]) -> None:
    assert refusal(**variables) == ""


@pytest.mark.parametrize("key", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
def test_an_engine_that_is_found_by_its_key_is_enough(key: str) -> None:
    assert refusal(**REQUIRED, **ON_AWS, **{key: "ssm:/engines/key"}) == ""


@pytest.mark.parametrize(("overlay", "starts"), [(ENGINE, True), ("[defaults]\ntimeout_s = 60\n", False)])
def test_a_configuration_file_must_have_an_engine(tmp_path: Path, overlay: str, starts: bool) -> None:
    """CloudFormation cannot look into the file, so the functions refuse it at their start."""
    config = tmp_path / "engines.toml"
    config.write_text(overlay, encoding="utf-8")

    assert (refusal(**REQUIRED, **ON_AWS, LLM_SERVER_CONFIG=str(config)) == "") is starts


@pytest.mark.parametrize("function", ["lambda_api", "lambda_worker"])
def test_both_functions_refuse_to_start(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """An API function that starts would accept tasks that no worker carries out."""
    for name, value in {**REQUIRED, **ON_AWS, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LLM_SERVER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gc, "disable", lambda: None)  # the module would enable it again at its end
    monkeypatch.delitem(sys.modules, f"llm_server.{function}", raising=False)

    with pytest.raises(ConfigurationError, match="OpenAIKeyName"):
        importlib.import_module(f"llm_server.{function}")
