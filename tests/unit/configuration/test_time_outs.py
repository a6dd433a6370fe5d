"""An engine whose time-out is longer than a worker can wait is refused at the start, on both substrates."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llm_server import catalog_loading
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings

ENGINE = """
[engines.slow]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:1"
"""
ON_AWS = {"LLM_SERVER_TABLE": "tasks", "LLM_SERVER_QUEUE_URL": "http://127.0.0.1:1/queue"}


def refusal(folder: Path, overlay: str, variables: Mapping[str, str] | None = None) -> str:
    """Return why a server with this configuration does not start; "" if it does."""
    config = folder / "engines.toml"
    config.write_text(overlay, encoding="utf-8")
    try:
        catalog_loading.load_catalog(Settings.read({"LLM_SERVER_CONFIG": str(config), **(variables or {})}))
    except ConfigurationError as error:
        return str(error)
    return ""


def test_an_engine_may_have_all_of_the_window(tmp_path: Path) -> None:
    """By default a lease has 210 s, and engine calls six sevenths of it."""
    assert refusal(tmp_path, ENGINE + "timeout_s = 180") == ""


def test_an_engine_that_may_take_longer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    refused = refusal(tmp_path, ENGINE + "timeout_s = 181")

    assert refused == (
        "Engine slow has a timeout_s of 181, but a worker waits at most 180 s for a call: six sevenths of "
        "LLM_SERVER_LEASE_S, which is 210. Lower timeout_s, or raise LLM_SERVER_LEASE_S to 212."
    )
    assert refusal(tmp_path, ENGINE + "timeout_s = 181", {"LLM_SERVER_LEASE_S": "211"}) != ""
    assert refusal(tmp_path, ENGINE + "timeout_s = 181", {"LLM_SERVER_LEASE_S": "212"}) == ""


@pytest.mark.parametrize(("lease_s", "timeout_s"), [("70", 60), ("210", 180), ("700", 600), ("7000", 600)])
def test_a_model_named_by_the_setting_has_the_time_that_a_worker_can_wait(
    tmp_path: Path, lease_s: str, timeout_s: int
) -> None:
    """At most ten minutes. The server adds this engine by itself, so no configuration could lower its time-out."""
    model = tmp_path / "small.gguf"
    model.write_bytes(b"GGUF")
    settings = Settings.read({"LLM_SERVER_MODEL": str(model), "LLM_SERVER_LEASE_S": lease_s})

    catalog = catalog_loading.load_catalog(settings).catalog

    assert catalog.timeout_s("llamacpp") == timeout_s


@pytest.mark.parametrize("timeout_s", [1, 5, 6, 7, 120, 174, 600, 36_000])
def test_the_lease_that_is_advised_is_the_shortest_that_is_enough(timeout_s: int) -> None:
    lease_s = Window.lease_for(timeout_s)

    assert Window(lease_s=lease_s - 1).whole_s < timeout_s <= Window(lease_s=lease_s).whole_s


def test_the_default_time_out_counts_as_well(tmp_path: Path) -> None:
    """It may come from the file, or from the server, whose default is 120 s."""
    of_file = refusal(tmp_path, f"[defaults]\ntimeout_s = 300\n{ENGINE}")
    of_server = refusal(tmp_path, ENGINE, {"LLM_SERVER_LEASE_S": "70"})

    assert of_file.startswith("Engine slow has the default timeout_s (defaults.timeout_s) of 300, but a worker waits")
    assert of_server.startswith("Engine slow has the default timeout_s (defaults.timeout_s) of 120, but a worker waits")
    assert refusal(tmp_path, ENGINE + "timeout_s = 60", {"LLM_SERVER_LEASE_S": "70"}) == ""


def test_an_engine_that_is_found_counts_as_well(tmp_path: Path) -> None:
    refused = refusal(tmp_path, "", {"LLM_SERVER_LEASE_S": "70", "OPENAI_API_KEY": "k"})

    assert "of 120, but a worker waits at most 60 s" in refused


def test_the_embedded_engine_answers_at_once_and_needs_no_window(tmp_path: Path) -> None:
    assert refusal(tmp_path, "", {"LLM_SERVER_LEASE_S": "5"}) == ""


def test_on_aws_the_way_out_is_a_parameter_of_the_deployment(tmp_path: Path) -> None:
    refused = refusal(tmp_path, ENGINE + "timeout_s = 600", {**ON_AWS, "LLM_SERVER_LEASE_S": "204"})

    assert refused.endswith("LLM_SERVER_LEASE_S, which is 204. Lower timeout_s, or deploy with a larger WorkerWindow.")


@pytest.mark.parametrize("module", ["llm_server.lambda_api", "llm_server.lambda_worker"])
def test_neither_function_starts(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda logs the error, answers each call with it, and counts it, so that an alarm goes off within a minute."""
    config = tmp_path / "engines.toml"
    config.write_text(ENGINE + "timeout_s = 600", encoding="utf-8")
    for name, value in {**ON_AWS, "LLM_SERVER_CONFIG": str(config), "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(gc, "disable", lambda: None)  # the module would enable it again at its end

    with pytest.raises(ConfigurationError, match="Engine slow has a timeout_s of 600"):
        importlib.import_module(module)
