"""A server process asks its engine about prompts of which the analysis is unsure, and no failure of that is seen."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine, body, fake_engine, silence, status
from support.server_process import RunningServer, serving

CONFIG = """
[defaults]
confidence_threshold = 1.0 # the analysis is never sure

[engines.mini]
kind = "openai"
source = "api"
tier = "fast"
model = "fake-1"
base_url = "{url}"
price = {{input = 1000, output = 2000}}

[roles.Legal-Agent]
profiles = ["General"]
purpose = "Reads contracts for risks."
system_prompt = "You are a lawyer."
"""
PROMPT = "Is this clause enforceable in Iceland?"
DECISION = {"mode": "Agent", "role": "Legal-Agent", "complexity": 0.3}


def scripted(asked: Any) -> str:
    """Answer the question of a triage with the role of the overlay, and everything else with a text."""
    return json.dumps(DECISION) if is_triage(asked) else "It is not."


def is_triage(asked: Any) -> bool:
    return bool(asked.get("response_format", {}).get("json_schema", {}).get("name") == "triage")


@contextmanager
def triaging(folder: Path) -> Iterator[tuple[RunningServer, FakeEngine]]:
    with fake_engine(answer=scripted) as engine, serving(folder / "t.db", env=configured(folder, engine)) as server:
        yield server, engine


def configured(folder: Path, engine: FakeEngine) -> dict[str, str]:
    (folder / "engines.toml").write_text(CONFIG.format(url=engine.base_url), encoding="utf-8")
    return {"LLM_SERVER_CONFIG": str(folder / "engines.toml")}


def done(server: RunningServer, prompt: str = PROMPT, **fields: object) -> Any:
    return server.finished(server.submit(prompt, wait_s=20, **fields)["task_id"])


def purposes(task: Any) -> list[str]:
    return [attempt["purpose"] for attempt in task["attempts"]]


def test_an_unsure_prompt_is_decided_by_the_engine_with_a_role_of_the_overlay(tmp_path: Path) -> None:
    """Task, receipt, history, metrics and listing agree; the same prompt is not asked about again."""
    with triaging(tmp_path) as (server, engine):
        first, again, chosen = done(server), done(server), done(server, role="Writing-Agent")
        metrics = server.call("GET", "/metrics").json()
        listed = server.call("GET", "/tasks?role=Legal-Agent").json()["tasks"]
        asked = [request.body for request in engine.seen if request.body]

    assert (first["status"], first["result"]) == ("Completed", "It is not.")
    assert (first["mode"], first["role"], first["complexity"]) == ("Agent", "Legal-Agent", 0.3)
    assert first["reasons"][0] == "triage: mini decided: Agent mode, Legal-Agent, complexity 0.30"
    assert [purposes(task) for task in (first, again, chosen)] == [["triage", "answer"], ["answer"], ["answer"]]
    assert "triaged" in [event["event"] for event in again["events"]]
    assert [task["role"] for task in (again, chosen)] == ["Legal-Agent", "Writing-Agent"]
    costs = [task["receipt"]["cost_microusd"] for task in (first, again, chosen)]
    assert costs == [2 * 25_000, 25_000, 25_000], "each call has 11 tokens in and 7 out"
    assert metrics["api_costs"] == sum(costs) / 1_000_000
    assert {task["task_id"] for task in listed} == {first["task_id"], again["task_id"]}
    assert [is_triage(body) for body in asked] == [True, False, False, False]
    assert asked[0]["max_tokens"] == 60
    assert "Legal-Agent: Reads contracts for risks." in asked[0]["messages"][0]["content"]
    assert PROMPT not in asked[0]["messages"][0]["content"]
    assert PROMPT in asked[0]["messages"][1]["content"]
    assert asked[1]["messages"][0]["content"] == "You are a lawyer."


def test_the_start_and_a_quote_say_which_engine_is_asked_and_the_price(tmp_path: Path) -> None:
    with triaging(tmp_path) as (server, engine):
        quote = server.call("POST", "/tasks/quote", {"prompt": PROMPT}).json()
        decided = server.call("POST", "/tasks/quote", {"prompt": PROMPT, "role": "Legal-Agent"}).json()
        calls = [request for request in engine.seen if request.method == "POST"]

    line = next(line for line in server.printed.splitlines() if line.startswith("  triage"))
    assert re.fullmatch(
        r"  triage    mini is asked about prompts that the analysis is unsure of, about \d+%, "
        r"for about USD [0-9.]+ per 1,000 prompts",
        line,
    )
    assert quote["triage"]["engine"] == "mini"
    assert 0 < quote["triage"]["expected_microusd"] < quote["triage"]["ceiling_microusd"]
    assert decided["triage"] is None
    assert calls == []


@pytest.mark.parametrize("fault", [status(500), status(429, retry_after="1"), body("<html>"), silence])
def test_a_failure_of_a_triage_neither_fails_nor_delays_its_task_much(tmp_path: Path, fault: Any) -> None:
    """An engine that hangs for a triage is asked for the answer after a fifth of the time, at most 10 s."""
    with triaging(tmp_path) as (server, engine):
        engine.script(fault)
        began = time.monotonic()
        task = server.finished(server.submit(PROMPT, limits={"deadline_s": 20})["task_id"])
        took_s = time.monotonic() - began

    assert (task["status"], task["result"], task["mode"]) == ("Completed", "It is not.", "Chat")
    assert purposes(task)[0] == "triage"
    assert task["attempts"][0]["failure"] is not None
    assert task["reasons"][-1].endswith("so the analysis decides")
    assert took_s < 12, "4 s of a hanging call, or 5 s of the rest after a failure, and the answer"


def test_a_server_killed_during_a_triage_books_the_call_and_does_not_ask_again(tmp_path: Path) -> None:
    with fake_engine(answer=scripted) as engine:
        env = configured(tmp_path, engine)
        engine.script(silence)
        with serving(tmp_path / "t.db", env=env) as server:
            task_id = server.submit(PROMPT)["task_id"]
            end = time.monotonic() + 10
            while not engine.seen and time.monotonic() < end:
                time.sleep(0.01)
            server.kill()
        with serving(tmp_path / "t.db", env=env) as server:
            task = server.finished(task_id)
            metrics = server.call("GET", "/metrics").json()
        asked = [is_triage(request.body) for request in engine.seen]

    assert [(a["purpose"], a["failure"]) for a in task["attempts"]] == [("triage", "lost"), ("answer", None)]
    assert (task["status"], task["role"]) == ("Completed", "Chat-Agent")
    assert task["reasons"][-1].startswith("triage: the worker died")
    assert asked == [True, False]
    assert metrics["api_costs"] == task["receipt"]["cost_microusd"] / 1_000_000
