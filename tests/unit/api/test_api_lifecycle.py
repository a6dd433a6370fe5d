"""`POST /tasks/{id}/cancel`: what a caller does with a task after it was accepted."""

from __future__ import annotations

from called_server import CalledServer


def said(server: CalledServer, task_id: str, word: str, method: str = "POST") -> tuple[int, str | None]:
    """The status of the answer, and of the task in it."""
    answer = server.call(method, f"tasks/{task_id}/{word}")
    return answer.status, answer.json.get("status")


# cancel


def test_a_cancelled_task_is_answered_in_the_four_fields(server: CalledServer) -> None:
    """And cancelled again, as before."""
    task_id = server.created()

    answer = server.call("POST", f"tasks/{task_id}/cancel")

    assert (answer.status, answer.json) == (
        200,
        {"task_id": task_id, "status": "Cancelled", "result": None, "error": None},
    )
    assert said(server, task_id, "cancel") == (200, "Cancelled")
    metrics = server.get("metrics").json
    assert (metrics["queue_length"], metrics["active_tasks"], metrics["success_rate"]) == (0, 0, None)


def test_a_completed_task_is_not_cancelled(server: CalledServer) -> None:
    task_id = server.created()
    server.work()

    answer = server.call("POST", f"tasks/{task_id}/cancel")

    assert (answer.status, "Completed" in answer.detail) == (409, True)
    assert said(server, "unknown", "cancel") == (404, None)


def test_a_cancelled_plan_shows_what_was_not_begun_as_skipped(server: CalledServer) -> None:
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    assert said(server, task_id, "cancel") == (200, "Cancelled")

    assert {step["status"] for step in server.get(f"tasks/{task_id}").json["plan"]["steps"]} == {"Skipped"}
