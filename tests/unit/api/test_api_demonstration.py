"""A task that the embedded engine answered is marked as a demonstration, whatever is configured later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_server.storage import records
from support.builders import a_task, an_attempt, an_output, claimed
from support.in_process_server import CalledServer, called_server
from support.scripted_service import Served

HEADER = "llm-server-demonstration"
OTHER = """
[engines.main]
kind = "openai"
source = "local"
model = "m"
base_url = "http://localhost:9/v1"
"""


def test_every_answer_with_its_result_has_the_demonstration_header(server: CalledServer) -> None:
    """When it is read, when it is unchanged (304), and when it is repeated under its Idempotency-Key."""
    body = {"prompt": "Say hello."}
    first = server.post(body, idempotency_key="k")
    task_id = first.json["task_id"]
    open_ = server.get(f"tasks/{task_id}")
    server.work()
    done = server.get(f"tasks/{task_id}")
    unchanged = server.get(f"tasks/{task_id}", if_none_match=done.headers["etag"])
    again = server.post(body, idempotency_key="k")

    assert [answer.headers.get(HEADER) for answer in (first, open_)] == [None, None]
    assert (open_.json["demonstration"], done.json["demonstration"]) == (False, True)
    assert [answer.status for answer in (done, unchanged, again)] == [200, 304, 200]
    assert [answer.headers.get(HEADER) for answer in (done, unchanged, again)] == ["true"] * 3
    assert list(again.json) == ["task_id", "status", "result", "error"]


def test_an_awaited_answer_has_the_demonstration_header(server: CalledServer) -> None:
    with server.working():
        answer = server.post({"prompt": "Say hello."}, prefer="wait=10")

    assert (answer.status, answer.json["status"], answer.headers[HEADER]) == (200, "Completed", "true")


def test_a_repeated_approval_of_a_completed_plan_has_the_demonstration_header(server: CalledServer) -> None:
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    body = {"plan_hash": server.get(f"tasks/{task_id}").json["plan"]["hash"]}
    first = server.post(body, f"tasks/{task_id}/approve")
    server.work()
    again = server.post(body, f"tasks/{task_id}/approve")

    assert (first.headers.get(HEADER), again.json["status"], again.headers[HEADER]) == (None, "Completed", "true")


def test_a_cancelled_task_is_not_marked_as_a_demonstration(server: CalledServer) -> None:
    """It has no answer."""
    task_id = server.created()
    cancelled = server.call("POST", f"tasks/{task_id}/cancel")

    assert (cancelled.status, cancelled.headers.get(HEADER)) == (200, None)
    assert server.get(f"tasks/{task_id}").json["demonstration"] is False


def test_the_mark_stays_when_an_llm_is_configured_later(tmp_path: Path) -> None:
    with called_server(tmp_path) as before:
        task_id = before.created()
        before.work()
    with called_server(tmp_path, OTHER) as after:
        task, metrics = after.get(f"tasks/{task_id}"), after.get("metrics").json

    assert (task.json["demonstration"], task.headers[HEADER]) == (True, "true")
    assert (metrics["llm_status"].get("embedded"), metrics["success_rate"]) == (None, 100.0)


def test_an_answer_of_another_engine_stores_no_demonstration_mark(served: Served) -> None:
    """Neither the task nor the attempt is stored with the field."""
    ref = served.submit()
    served.work()
    snapshot = served.get(ref)
    stored = records.encode(snapshot.task) + "".join(records.encode(output) for output in snapshot.outputs.values())

    assert (snapshot.task.status, snapshot.task.demonstration) == ("Completed", False)
    assert "demonstration" not in stored


@pytest.mark.parametrize("last", [True, False])
def test_the_call_that_gave_the_answer_decides_about_the_mark(last: bool) -> None:
    """An LLM may answer after the embedded engine, or the reverse."""
    calls = (an_attempt(demonstration=not last), an_attempt(demonstration=last))
    completed = claimed(a_task()).completed(an_output(attempts=calls))

    assert completed.demonstration is last
    assert json.loads(records.encode(completed)).get("demonstration", False) is last
    assert records.task(records.encode(completed)) == completed
