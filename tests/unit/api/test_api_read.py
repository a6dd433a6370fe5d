"""`GET /tasks/{id}`: everything about a task, and cheap polling."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from llm_server.orchestration.domain.output import Review
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_failed_attempt, a_failure, a_request, a_task, an_attempt, an_output, claimed
from support.in_process_server import DOWN, CalledServer, FailingStore

DETAIL = (
    *("task_id", "status", "result", "error", "mode", "role", "profile", "engine", "waiting_for"),
    *("waiting_since", "receipt", "created_at"),
    *("updated_at", "finished_at", "awaiting_approval", "metadata", "confidence", "complexity", "reasons", "plan"),
    *("quote", "demonstration", "attempts", "events", "limits", "fault", "priority", "stream"),
    *("previous_task_id", "conversation_id", "tool_calls", "turns_before", "turns_dropped"),
)
NO_TASK = ("task_not_found", "No task has this id.")


def a_stored(server: CalledServer, task: Task | None = None) -> Task:
    """Store a claimed task."""
    queued = task or a_task()
    server.store.add(queued, a_request())
    processing = claimed(queued)
    server.store.save(queued, processing)
    return processing


def test_a_task_that_waits_for_engines_shows_which_and_since_when(server: CalledServer) -> None:
    """The fields are null again once a worker has claimed it."""
    processing = a_stored(server)
    waiting = processing.released(a_failure(error=None), due_ms=NOW_MS, counted=False, waiting_for="gpt, local")
    server.store.save(processing, waiting)
    queued = server.get(f"tasks/{waiting.task_id}").json
    server.store.save(waiting, claimed(waiting))
    again = server.get(f"tasks/{waiting.task_id}").json

    assert (queued["waiting_for"], queued["waiting_since"]) == ("gpt, local", "2025-10-09T08:53:22.000Z")
    assert (again["waiting_for"], again["waiting_since"]) == (None, None)


def test_a_queued_task_shows_its_decision(server: CalledServer) -> None:
    """The four fields come first; result, attempts and finish time are empty."""
    task = server.get(f"tasks/{server.created('Write a haiku.', metadata={'team': 'a'})}").json

    assert tuple(task) == DETAIL
    assert (task["status"], task["result"], task["error"], task["engine"]) == ("Queued", None, None, None)
    assert (task["plan"], task["attempts"], task["finished_at"]) == (None, [], None)
    assert task["receipt"] == dict.fromkeys(task["receipt"], 0)
    assert 0 <= task["confidence"] <= 1
    assert task["reasons"]
    assert task["metadata"] == {"team": "a"}


def test_a_completed_task_shows_its_answer_and_its_receipt(server: CalledServer) -> None:
    """The embedded engine made one attempt, and the receipt is the sum of the attempts."""
    task_id = server.created()
    server.work()

    task = server.get(f"tasks/{task_id}").json
    (attempt,) = task["attempts"]
    assert (task["status"], task["engine"], task["error"]) == ("Completed", "embedded", None)
    assert task["result"].startswith("No LLM is configured.")
    assert (attempt["engine"], attempt["source"], attempt["purpose"]) == ("embedded", "local", "answer")
    assert (attempt["cost_microusd"], attempt["error"], attempt["usage_estimated"]) == (0, None, True)
    assert task["receipt"]["calls"] == 1
    for sum_of in ("tokens_in", "tokens_out", "duration_ms", "cost_microusd"):
        assert task["receipt"][sum_of] == attempt[sum_of]


def test_a_plan_task_shows_its_plan_and_every_step(server: CalledServer) -> None:
    """Steps with order, status and result; one attempt for each step, the plan and the synthesis."""
    task_id = server.created("- Design a REST API for invoices\n- Write the tests\n", mode="Plan")
    server.work()

    task = server.get(f"tasks/{task_id}").json
    steps = task["plan"]["steps"]
    assert (task["mode"], task["status"], len(steps) >= 2) == ("Plan", "Completed", True)
    assert {step["status"] for step in steps} == {"Completed"}
    assert all(step["result"] and step["error"] is None for step in steps)
    assert list(steps[0]) == [
        *("id", "role", "instruction", "depends_on", "status", "result", "error", "cost_microusd", "review"),
        "fault",
    ]
    purposes = [attempt["purpose"] for attempt in task["attempts"]]
    judged = [f"verdict {step['id']}" for step in steps if step["review"]]
    assert sorted(purposes) == sorted(["plan", "synthesis", *(f"step {step['id']}" for step in steps), *judged])
    assert {step["review"]["verdict"] for step in steps if step["review"]} == {"pass"}
    assert (purposes[0], purposes[-1]) == ("plan", "synthesis")


def test_a_plan_in_progress_shows_the_status_of_each_step(server: CalledServer) -> None:
    """The cost of a step includes the calls of its review."""
    depends_on = {"s1": (), "s2": (), "s3": ("s1",), "s4": ("s3",), "s5": ("s2",), "s6": ("s5",)}
    steps = (Step(id=name, role="Chat-Agent", instruction="Do.", depends_on=d) for name, d in depends_on.items())
    task = a_stored(server)
    found = Review(verdict="fail", findings=("Off by one.",))
    for output in (
        an_output("PLAN", Plan(goal="All of it.", steps=tuple(steps)).to_json()),
        an_output("STEP#s1", "Done.", attempts=(for_step("s1"), for_step("s1", cost_microusd=None))),
        a_failure("STEP#s2", "No engine answered."),
        an_output("DRAFT#s3#0", "A draft.", attempts=(for_step("s3"),)),
        an_output("VERDICT#s3#0", None, attempts=(for_step("s3", "verdict"),), review=found),
    ):
        planned = task.progressed(output)
        server.store.save(task, planned, output)
        task = planned

    shown = server.get(f"tasks/{task.task_id}").json
    assert (shown["status"], shown["plan"]["goal"]) == ("Planned", "All of it.")
    assert [(s["status"], s["result"], s["error"], s["cost_microusd"]) for s in shown["plan"]["steps"]] == [
        ("Completed", "Done.", None, 300),
        ("Failed", None, "No engine answered.", 0),
        ("Running", None, None, 600),
        ("Waiting", None, None, 0),
        ("Skipped", None, None, 0),
        ("Skipped", None, None, 0),
    ]
    assert shown["plan"]["steps"][2]["review"] == {"verdict": "fail", "findings": ["Off by one."], "reason": None}


def test_a_started_step_of_a_cancelled_plan_shows_its_cost(server: CalledServer) -> None:
    """Its calls are stored at the end of the claim, because the step has no record.

    Names with a common prefix stay apart.
    """
    task = a_stored(server)
    steps = tuple(Step(id=name, role="Chat-Agent", instruction="Do.") for name in ("s", "s1", "t"))
    plan = an_output("PLAN", Plan(goal="All of it.", steps=steps).to_json())
    planned = task.progressed(plan)
    server.store.save(task, planned, plan)
    cancelled = planned.cancelled(now_ms=plan.created_ms)
    server.store.save(planned, cancelled)
    paid = an_output("TRY#1", None, attempts=(for_step("s"), for_step("s1"), for_step("s1", "fix")))
    server.store.save(cancelled, cancelled.settled(paid), paid)

    shown = server.get(f"tasks/{task.task_id}").json["plan"]["steps"]
    assert [(s["status"], s["cost_microusd"]) for s in shown] == [("Skipped", 300), ("Skipped", 600), ("Skipped", 0)]


def for_step(step: str, word: str = "step", **fields: Any) -> Attempt:
    return an_attempt(purpose=f"{word} {step}", **fields)


def test_a_failed_task_shows_its_error_and_its_cost(server: CalledServer) -> None:
    """The failed attempt is listed too."""
    task = a_stored(server)
    failure = a_failure("TRY#1", "No engine answered.", attempts=(an_attempt(), a_failed_attempt("Busy.")))
    server.store.save(task, task.failed(failure), failure)

    shown = server.get(f"tasks/{task.task_id}").json
    assert (shown["status"], shown["result"], shown["error"]) == ("Failed", None, "No engine answered.")
    assert [attempt["error"] for attempt in shown["attempts"]] == [None, "Busy."]
    assert (shown["receipt"]["cost_microusd"], shown["receipt"]["failed_calls"]) == (300, 1)


def test_an_attempt_shows_the_tokens_of_the_cache_and_of_the_reasoning(server: CalledServer) -> None:
    """They are parts of the totals, so the receipt needs none of them."""
    task = a_stored(server)
    parts = {
        "cache_read_tokens": 700,
        "cache_write_tokens": 200,
        "cache_write_1h_tokens": 50,
        "reasoning_tokens": 30,
        "usage_implausible": True,
    }
    answer = an_output(attempts=(an_attempt(tokens_in=1_000, tokens_out=40, **parts), an_attempt()))
    server.store.save(task, task.completed(answer), answer)

    shown = server.get(f"tasks/{task.task_id}").json
    plain = {"cache_read_tokens": 0, "cache_write_tokens": 0, "cache_write_1h_tokens": 0, "reasoning_tokens": 0}
    first, second = shown["attempts"]
    assert first | {"tokens_in": 1_000, "tokens_out": 40} | parts == first
    assert second | plain | {"usage_implausible": False} == second
    assert (shown["receipt"]["tokens_in"], shown["receipt"]["tokens_out"]) == (1_010, 60)


def test_an_unpriced_call_has_a_null_cost_and_is_counted(server: CalledServer) -> None:
    """A cost of 0 would be wrong."""
    task = a_stored(server)
    answer = an_output(attempts=(an_attempt(cost_microusd=None),))
    server.store.save(task, task.completed(answer), answer)

    shown = server.get(f"tasks/{task.task_id}").json
    assert shown["attempts"][0]["cost_microusd"] is None
    assert (shown["receipt"]["cost_microusd"], shown["receipt"]["unpriced_calls"]) == (0, 1)


def test_times_are_utc_with_milliseconds(server: CalledServer) -> None:
    """RFC 3339, so that they can be sorted as text."""
    task = a_stored(server, a_task(created_ms=NOW_MS - 1))
    answer = an_output(created_ms=NOW_MS + 7)
    server.store.save(task, task.completed(answer), answer)

    shown = server.get(f"tasks/{task.task_id}").json
    assert shown["created_at"] == "2025-10-09T08:53:19.999Z"
    assert shown["updated_at"] == shown["finished_at"] == "2025-10-09T08:53:20.007Z"
    assert shown["attempts"][0]["started_at"] == "2025-10-09T08:53:21.000Z"


def test_an_open_task_has_a_retry_after_and_a_final_one_does_not(server: CalledServer) -> None:
    """Polling ends when the task is final."""
    task_id = server.created()
    assert int(server.get(f"tasks/{task_id}").headers["retry-after"]) >= 1

    server.work()

    assert "retry-after" not in server.get(f"tasks/{task_id}").headers


@pytest.mark.parametrize("form", ["{}", "W/{}", '"old", {}', '"old",{} , "x"', "*"])
def test_an_unchanged_task_is_not_sent_again(server: CalledServer, form: str) -> None:
    """304 without a body, with the same ETag and Retry-After (RFC 9110, 13.1.2 and 15.4.5)."""
    task_id = server.created()
    first = server.get(f"tasks/{task_id}")

    again = server.get(f"tasks/{task_id}", if_none_match=form.format(first.headers["etag"]))
    assert (again.status, again.body) == (304, b"")
    for name in ("etag", "retry-after", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert re.fullmatch(r'"[^"]+"', first.headers["etag"])


@pytest.mark.parametrize("form", ["", '"nonsense"', "1", '"', ",,,", "W/"])
def test_another_tag_gets_the_whole_task(server: CalledServer, form: str) -> None:
    """Tags are quoted strings; text that is not a valid tag matches nothing."""
    assert server.get(f"tasks/{server.created()}", if_none_match=form).status == 200


def test_every_change_of_a_task_changes_its_tag(server: CalledServer) -> None:
    """A poll with an old tag gets the new state."""
    task_id = server.created()
    old = server.get(f"tasks/{task_id}").headers["etag"]

    server.work()

    assert server.get(f"tasks/{task_id}", if_none_match=old).status == 200


@pytest.mark.parametrize(
    "task_id",
    [
        "0199b2f4-0000-7000-8000-000000000000",
        "unknown",
        "%F0%9F%8C%8D",
        "%00",
        "a%00b",
        "%FF%FE",
        "x" * 5_000,
        "..",
        "%2e%2e",
        "a%2Fb",
        "a%23STATE",
        "'%20OR%201=1--",
        "%0A",
        "",
        "%25",
        "a/b",
    ],
)
def test_an_unknown_or_malformed_id_is_not_found(shared_server: CalledServer, task_id: str) -> None:
    """Always 404, never 422 or 5xx."""
    answer = shared_server.get(f"tasks/{task_id}")

    assert (answer.status, answer.code) in [(404, "task_not_found"), (404, "path_not_found")]


@pytest.mark.parametrize("task_id", ["a%20b", "a%23STATE", "x" * 65, "%F0%9F%8C%8D"])
def test_an_impossible_id_is_refused_without_a_read(
    server: CalledServer, server_on: Callable[[Store], CalledServer], task_id: str
) -> None:
    """DynamoDB would refuse some of these ids as keys, which would look like an outage."""
    answer = server_on(FailingStore(server.store, DOWN)).get(f"tasks/{task_id}")

    assert (answer.status, (answer.code, answer.detail)) == (404, NO_TASK)


def test_a_task_of_another_tenant_looks_like_an_unknown_task(server: CalledServer) -> None:
    """The bodies are equal byte for byte; both calls send the same request id."""
    task = a_stored(server, a_task(tenant="another"))

    theirs, none = server.get(f"tasks/{task.task_id}", x_request_id="r-1"), server.get("tasks/none", x_request_id="r-1")
    assert (theirs.status, theirs.body) == (none.status, none.body)
    assert (theirs.code, theirs.detail) == NO_TASK


def test_a_task_shows_the_fault_of_its_result(server: CalledServer) -> None:
    """A caller need not search the attempts for the one that gave the result."""
    processing = a_stored(server)
    answer = an_output(attempts=(an_attempt(fault="wrong arithmetic: 2 + 3 = 6"),))
    before = server.get(f"tasks/{processing.task_id}").json
    server.store.save(processing, processing.completed(answer), answer)

    after = server.get(f"tasks/{processing.task_id}").json

    assert (before["fault"], after["fault"]) == (None, "wrong arithmetic: 2 + 3 = 6")


def test_a_step_shows_the_fault_of_its_result(server: CalledServer) -> None:
    """The other step's result has none."""
    plan = Plan(goal="g", steps=tuple(Step(id=n, role="QA-Agent", instruction=n, depends_on=()) for n in "ab"))
    processing = a_stored(server, a_task(mode=Mode.PLAN))
    outputs = [
        an_output("PLAN", plan.to_json()),
        an_output("STEP#a", attempts=(an_attempt(purpose="step a", fault="a refusal"),)),
        an_output("STEP#b", attempts=(an_attempt(purpose="step b"),)),
    ]
    for output in outputs:
        server.store.save(processing, processing := processing.progressed(output), output)

    task = server.get(f"tasks/{processing.task_id}").json

    assert [step["fault"] for step in task["plan"]["steps"]] == ["a refusal", None]
    assert task["fault"] is None
