"""`POST /tasks/quote` answers what `POST /tasks?dry_run=true` answers, at its own path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server import wiring
from llm_server.orchestration.domain.receipt import Receipt
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.quotes.quote import NO_LIMIT
from support.builders import a_request, a_task
from support.in_process_server import CalledServer, called_server

BODY = {"prompt": "Fix this Python stack trace.", "metadata": {"ticket": "1"}}


def test_a_quote_answers_the_same_as_a_dry_run_and_stores_nothing(server: CalledServer) -> None:
    quote, dry = server.post(BODY, "tasks/quote"), server.post(BODY, "tasks?dry_run=true")

    assert quote.status == 200
    assert (quote.json, quote.json["mode"]) == (dry.json, "Agent")
    assert server.get("tasks").json["tasks"] == []
    assert server.get("metrics").json["total_requests"] == 0


def test_a_quote_validates_the_body_like_a_task(server: CalledServer) -> None:
    for body in ({"prompt": " "}, {"prompt": "x", "role": "Missing-Agent"}, {"prompt": "x", "promt": "x"}):
        quote, task = server.post(body, "tasks/quote"), server.post(body)

        assert (quote.status, quote.detail) == (422, task.detail)


def test_a_quote_takes_no_query_parameter(server: CalledServer) -> None:
    answer = server.post(BODY, "tasks/quote?dry_run=true")

    assert (answer.status, answer.detail) == (
        422,
        "Unknown query parameter 'dry_run'; this call takes no query parameters.",
    )


def test_a_quote_needs_the_scope_tasks(server: CalledServer) -> None:
    tasks, metrics = server.with_key("acme", "tasks"), server.with_key("acme", "metrics")

    assert tasks.post(BODY, "tasks/quote").status == 200
    assert metrics.post(BODY, "tasks/quote").status == 403


def test_the_path_of_quotes_is_not_a_task_id(server: CalledServer) -> None:
    """It accepts POST only; similar paths belong to tasks that do not exist."""
    for method in ("GET", "DELETE", "PUT"):
        answer = server.call(method, "tasks/quote")
        assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS"), method

    assert (server.get("tasks/quotes").status, server.get("tasks/quotes").detail) == (404, "No task has this id.")
    assert server.post({}, "tasks/quote/cancel").detail == "No task has this id."


PRICED = """
[defaults]
triage = "off"

[engines.mini]
kind = "openai"
source = "api"
model = "m"
base_url = "https://127.0.0.1:9/v1"
price = {input = 1, output = 2}
"""
CHAT = {"prompt": "Why is the sky blue?", "mode": "Chat"}


@pytest.fixture
def priced(tmp_path: Path) -> Iterator[CalledServer]:
    """A server with one hosted engine, which cannot be reached."""
    with called_server(tmp_path, PRICED) as server:
        yield server


def quote(server: CalledServer, **fields: Any) -> Any:
    return server.post(CHAT | fields, "tasks/quote").json["quote"]


def finish(server: CalledServer, tenant: str, number: int, **changes: Any) -> None:
    """Store Completed tasks of the engine `mini` that cost 1, 2, 3 ... micro-USD and took as many seconds."""
    now_ms = wiring.now_ms()
    for n in range(1, number + 1):
        receipt = Receipt(calls=1, cost_microusd=n)
        wanted: dict[str, Any] = {"status": Status.COMPLETED, "engine": "mini", "receipt": receipt}
        wanted |= {"created_ms": now_ms, "finished_ms": now_ms + n * 1000, "tenant": tenant, "answer_fence": 1}
        server.store.add(a_task(**wanted | changes), a_request())


def test_without_a_limit_nothing_bounds_the_cost(priced: CalledServer) -> None:
    """The worst case of one claim says which limit would shorten no answer."""
    shown = quote(priced)

    assert (shown["ceiling_microusd"], shown["ceiling_reason"]) == (None, NO_LIMIT)
    assert shown["worst_case_microusd"] > 0
    assert quote(priced, mode="Plan")["worst_case_microusd"] is None
    assert (shown["expected_microusd"], shown["expected_seconds"], shown["sample"]) == (None, None, 0)


def test_a_limit_is_the_ceiling(priced: CalledServer) -> None:
    for mode in ("Chat", "Agent", "Plan"):
        assert quote(priced, mode=mode, limits={"max_cost_usd": 0.29})["ceiling_microusd"] == int(0.29 * 1_000_000)


def test_local_engines_cost_nothing(server: CalledServer) -> None:
    assert quote(server)["ceiling_microusd"] == quote(server, limits={"max_cost_usd": 1})["ceiling_microusd"] == 0


def test_what_is_expected_comes_from_tasks_like_it(priced: CalledServer) -> None:
    """Of the same mode, role and engine; one more task and the figures are told."""
    finish(priced, "local", 19)
    finish(priced, "local", 30, role="QA-Agent")
    finish(priced, "local", 30, mode=Mode.AGENT)
    finish(priced, "local", 30, engine="other")
    finish(priced, "local", 30, status=Status.FAILED, error="No.", answer_fence=None)
    few = quote(priced)
    finish(priced, "local", 1)
    enough = quote(priced)

    assert (few["sample"], few["expected_microusd"]) == (19, None)
    assert enough["sample"] == 20
    assert enough["expected_microusd"] == {"p50": 9, "p90": 17}
    assert enough["expected_seconds"] == {"p50": 9, "p90": 17}


def test_nothing_is_told_of_other_tenants(priced: CalledServer) -> None:
    finish(priced, "acme", 25)

    assert quote(priced.with_key("acme", "tasks"))["sample"] == 25
    assert quote(priced.with_key("rival", "tasks"))["sample"] == 0
