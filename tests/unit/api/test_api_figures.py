"""Metrics, usage, catalogue and health: what they answer, and what they never show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_server import __version__
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.ports.store import Store
from llm_server.wiring import now_ms
from support.builders import NOW_MS, a_failed_attempt, a_failure, a_request, a_task, an_attempt, an_output, claimed
from support.in_process_server import DOWN, CalledServer, FailingStore, called_server

NINE = [
    *("server_status", "llm_status", "tokens_per_second", "average_response_time", "total_requests"),
    *("active_tasks", "queue_length", "success_rate", "api_costs"),
]
ENGINES = """
[engines.far]
kind = "openai"
source = "api"
model = "gpt-5-mini"
base_url = "https://secret.example/v1"
api_key = "env:SECRET_NAME"

[engines.off]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
toggle = false

[engines.locked]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
locked = true
"""


def test_metrics_have_exactly_nine_fields_and_nulls_before_the_first_task(server: CalledServer) -> None:
    """This shape must never change: speed, mean and rate are null while there is nothing to measure."""
    answer = server.get("metrics")

    assert (answer.status, list(answer.json)) == (200, NINE)
    assert answer.json == {
        "server_status": "online",
        "llm_status": {"embedded": "online"},
        "tokens_per_second": None,
        "average_response_time": None,
        "total_requests": 0,
        "active_tasks": 0,
        "queue_length": 0,
        "success_rate": None,
        "api_costs": 0.0,
    }


def test_metrics_agree_with_the_stored_tasks(server: CalledServer) -> None:
    """One task Queued, one Processing, two Completed, one Failed; counts are integers."""
    for number in range(5):
        task = a_task(f"t{number}")
        server.store.add(task, a_request())
        if number == 0:
            continue
        processing = claimed(task)
        server.store.save(task, processing)
        if number in (2, 3):
            answer = an_output(attempts=(an_attempt(tokens_out=30, duration_ms=2_000, cost_microusd=1_250_000),))
            server.store.save(processing, processing.completed(answer), answer)
        if number == 4:
            failure = a_failure(attempts=(a_failed_attempt(),))
            server.store.save(processing, processing.failed(failure), failure)

    metrics = server.get("metrics").json
    assert metrics == {
        "server_status": "online",
        "llm_status": {"embedded": "online"},
        "tokens_per_second": 15.0,
        "average_response_time": 2.0,
        "total_requests": 5,
        "active_tasks": 1,
        "queue_length": 1,
        "success_rate": 100 * 2 / 3,
        "api_costs": 2.5,
    }
    assert {type(metrics[name]) for name in ("total_requests", "active_tasks", "queue_length")} == {int}


def test_usage_shows_todays_spending_and_the_tasks_in_flight(server: CalledServer) -> None:
    """In micro-USD; yesterday's spending does not count."""
    for number, created_ms in enumerate((NOW_MS, now_ms())):
        task = a_task(f"t{number}", created_ms=created_ms)
        server.store.add(task, a_request())
        processing = claimed(task, now_ms=created_ms)
        server.store.save(task, processing)
        answer = an_output(created_ms=created_ms, attempts=(an_attempt(cost_microusd=41 + number),))
        server.store.save(processing, processing.completed(answer), answer)
    server.created()

    assert server.get("usage").json == {
        "tenant": "local",
        "day": day_of(now_ms()),
        "spent_microusd": 42,
        "tasks_in_flight": 1,
        "limits": {"requests_per_minute": None, "tasks_in_flight": None, "usd_per_day": None, "sources": None},
        "charged_microusd": None,
        "unsettled_microusd": None,
    }


def test_metrics_show_whether_each_engine_can_accept_work(tmp_path: Path) -> None:
    """An engine whose key is missing is offline."""
    with called_server(tmp_path, ENGINES) as server:
        metrics = server.get("metrics").json

    assert metrics["llm_status"] | {"embedded": "any"} == {
        "far": "offline",
        "off": "disabled",
        "locked": "locked",
        "embedded": "any",
    }


def test_the_catalogue_shows_the_configuration_without_secrets(tmp_path: Path) -> None:
    """It does not show key references, addresses and system prompts."""
    with called_server(tmp_path, ENGINES) as server:
        answer = server.get("catalog")

    assert set(answer.json) == {"profiles", "roles", "engines"}
    assert answer.json["engines"]["far"] == {
        "kind": "openai",
        "model": "gpt-5-mini",
        "source": "api",
        "tier": None,
        "toggle": True,
        "locked": False,
        "max_concurrency": 64,
        "tools": True,
        "vision": False,
        "structured_output": "json_schema",
        "demonstration": False,
        "note": None,
    }
    assert set(answer.json["roles"]["Chat-Agent"]) == {"purpose", "profiles", "tier", "examples"}
    assert answer.json["profiles"]["General"]["roles"][0] == "Chat-Agent"
    for secret in (b"SECRET", b"secret.example", b"127.0.0.1", b"api_key", b"You are"):
        assert secret not in answer.body


def test_health_and_catalogue_work_without_a_store(
    server: CalledServer, server_on: Callable[[Store], CalledServer]
) -> None:
    """A server whose database is down still answers them."""
    without = server_on(FailingStore(server.store, DOWN))

    assert without.get("health").json == {"status": "ok", "version": __version__}
    assert without.get("catalog").status == 200
