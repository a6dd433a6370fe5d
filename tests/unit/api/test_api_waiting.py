"""`Prefer: wait=N` (RFC 7240) and Retry-After."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from llm_server.api import waiting
from llm_server.orchestration.domain.errors import TaskNotFound
from llm_server.orchestration.domain.ports.store import Store
from support import asgi
from support.builders import NOW_MS, a_task
from support.in_process_server import DOWN, CalledServer, FailingStore
from support.recording_executor import RecordingExecutor


def test_a_task_that_ends_during_the_wait_is_answered_with_its_result(server: CalledServer) -> None:
    """200 with the granted wait, and without Retry-After."""
    with server.working():
        answer = server.post({"prompt": "Say hello."}, prefer="wait=20")

    assert (answer.status, list(answer.json)) == (200, ["task_id", "status", "result", "error"])
    assert (answer.json["status"], answer.json["error"]) == ("Completed", None)
    assert answer.json["result"].startswith("No LLM is configured.")
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["location"].endswith(answer.json["task_id"])
    assert "retry-after" not in answer.headers


def test_after_the_wait_the_answer_is_an_ordinary_202(server: CalledServer) -> None:
    """No worker runs, so the answer comes after one second and not before."""
    began_s = time.monotonic()

    answer = server.post({"prompt": "Say hello."}, prefer="wait=1")

    assert 1 <= time.monotonic() - began_s < 5
    assert (answer.status, answer.json["status"], answer.headers["retry-after"]) == (202, "Queued", "1")
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait=0", "wait", "wait=soon", "respond-async", ""])
def test_without_a_wait_preference_the_answer_comes_at_once(server: CalledServer, prefer: str) -> None:
    """A preference that the server does not understand is ignored (RFC 7240, section 2)."""
    answer = server.post({"prompt": "Say hello."}, prefer=prefer)

    assert (answer.status, "preference-applied" in answer.headers) == (202, False)


def test_several_prefer_headers_are_read_as_one_list(server: CalledServer) -> None:
    """RFC 7240, section 2."""
    headers = [*asgi.JSON.items(), ("prefer", "respond-async"), ("prefer", "wait=20")]
    with server.working():
        answer = server.call("POST", "tasks", headers=headers, parts=[b'{"prompt": "Say hello."}'])

    assert answer.headers["preference-applied"] == "wait=20"


def test_a_longer_wait_is_shortened_and_the_answer_says_so(server: CalledServer) -> None:
    """The time-out of API Gateway leaves 25 s."""
    with server.working():
        answer = server.post({"prompt": "Say hello."}, prefer="wait=9999")

    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=25")


def test_a_stopping_server_ends_all_waits(server: CalledServer) -> None:
    """The task is stored, and the caller gets 202 to poll later."""
    server.app.state.executor = RecordingExecutor()  # as the server ends all watches
    began_s = time.monotonic()

    assert server.post({"prompt": "Say hello."}, prefer="wait=20").status == 202
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("look", ["peek", "get"])
def test_a_failed_read_during_the_wait_is_not_an_error(
    server: CalledServer, server_on: Callable[[Store], CalledServer], look: str
) -> None:
    """The task is accepted: after a 503 the caller would send it again and pay twice."""
    served = server_on(FailingStore(server.store, DOWN, look))

    with server.working():
        answer = served.post({"prompt": "Say hello."}, prefer="wait=1")

    assert (answer.status, answer.json["status"]) == (202, "Queued")


class Invocation:
    """Context of a Lambda invocation with `left_s` seconds left."""

    def __init__(self, left_s: float) -> None:
        self._end_s = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end_s - time.monotonic()) * 1000)


def test_a_wait_ends_before_the_function_times_out(server: CalledServer) -> None:
    """Storing the task took most of the time: the caller gets the task's id and not a 500 of the gateway."""
    began_s, left_s = time.monotonic(), waiting.ANSWERING_S + 0.5
    headers = asgi.JSON | {"prefer": "wait=20"}
    scope = {"aws.context": Invocation(left_s)}
    answer = server.call("POST", "tasks", headers=headers, parts=[b'{"prompt": "Say hello."}'], server=scope)

    assert (answer.status, answer.json["status"]) == (202, "Queued")
    assert time.monotonic() - began_s < left_s


@pytest.mark.parametrize(("left_s", "possible_s"), [(29, 25), (27, 24), (3, 0), (0, 0)])
def test_a_wait_is_limited_by_the_remaining_time_of_the_function(left_s: float, possible_s: float) -> None:
    """The full wait is possible if storing the task took its usual time."""
    assert waiting.possible_s(25, {"aws.context": Invocation(left_s)}) == pytest.approx(possible_s, abs=0.5)
    assert waiting.possible_s(25, {}) == 25


@pytest.mark.parametrize("looks", [("peek", "get"), ("get",)])
def test_a_task_deleted_during_the_wait_is_answered_as_accepted(
    server: CalledServer, server_on: Callable[[Store], CalledServer], looks: tuple[str, ...]
) -> None:
    """The caller gets the id of the task that it created; 404 would not make sense for a POST."""
    gone = server_on(FailingStore(server.store, TaskNotFound(), *looks))

    with server.working():
        answer = gone.post({"prompt": "Say hello."}, prefer="wait=20")

    assert (answer.status, answer.json["status"]) == (202, "Queued")
    assert server.get(f"tasks/{answer.json['task_id']}").status == 200


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        ("wait=7", 7),
        ("WAIT=7", 7),
        ('wait="7"', 7),
        ("wait = 7", 7),
        ("respond-async, wait=7", 7),
        ("wait=7; strict, handling=lenient", 7),
        ("wait=7, wait=9", 7),
        ("wait=25", 25),
        ("wait=26", 25),
        ("wait=999999999", 25),
        ("wait=0", 0),
        ("", 0),
        ("wait", 0),
        ("wait=", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=7s", 0),
        ("await=7", 0),
        ("other; wait=7", 0),
        ("wait=" + "9" * 100_000, 0),
        ("wait" + " " * 100_000, 0),
        ("," * 100_000, 0),
    ],
)
def test_the_wait_is_parsed_from_the_prefer_header(prefer: str, wait_s: int) -> None:
    """The first `wait` counts, up to 25 s; other values mean no wait."""
    assert waiting.wished_s(prefer) == wait_s


@pytest.mark.parametrize(
    ("age_ms", "retry_s"), [(-60_000, 1), (0, 1), (1_999, 1), (2_000, 2), (29_999, 29), (30_000, 30), (3_600_000, 30)]
)
def test_older_tasks_are_polled_less_often(age_ms: int, retry_s: int) -> None:
    """From 1 s to 30 s, also if the clock was set back."""
    assert waiting.retry_after_s(a_task(created_ms=NOW_MS), NOW_MS + age_ms) == retry_s
