"""`POST /tasks/{id}/cancel`, `/retry` and `DELETE /tasks/{id}`: what a caller can do with an accepted task."""

from __future__ import annotations

from llm_server.orchestration.domain.task import TaskRef
from support.builders import an_output
from support.in_process_server import CalledServer


def said(server: CalledServer, task_id: str, word: str, method: str = "POST") -> tuple[int, str]:
    """Return the HTTP status, and the status of the task or the code of the error."""
    answer = server.call(method, f"tasks/{task_id}/{word}".rstrip("/"))
    return answer.status, answer.code if answer.status >= 400 else answer.json["status"]


def test_a_cancel_answers_the_four_fields(server: CalledServer) -> None:
    """A repeated cancel gets the same answer."""
    task_id = server.created()

    answer = server.call("POST", f"tasks/{task_id}/cancel")

    assert (answer.status, answer.json) == (
        200,
        {"task_id": task_id, "status": "Cancelled", "result": None, "error": None},
    )
    assert said(server, task_id, "cancel") == (200, "Cancelled")
    metrics = server.get("metrics").json
    assert (metrics["queue_length"], metrics["active_tasks"], metrics["success_rate"]) == (0, 0, None)


def test_a_completed_task_cannot_be_cancelled(server: CalledServer) -> None:
    task_id = server.created()
    server.work()

    answer = server.call("POST", f"tasks/{task_id}/cancel")

    assert (answer.status, answer.code, "Completed" in answer.detail) == (409, "task_final", True)
    assert said(server, "unknown", "cancel") == (404, "task_not_found")


def test_a_cancelled_plan_shows_unstarted_steps_as_skipped(server: CalledServer) -> None:
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    assert said(server, task_id, "cancel") == (200, "Cancelled")

    assert {step["status"] for step in server.get(f"tasks/{task_id}").json["plan"]["steps"]} == {"Skipped"}


# retry


def test_a_failed_task_can_be_retried(server: CalledServer) -> None:
    """202, because it is stored and queued as at first; a second retry is a conflict."""
    task_id = failed(server)

    answer = server.call("POST", f"tasks/{task_id}/retry")

    assert (answer.status, answer.headers["location"], answer.headers["retry-after"]) == (
        202,
        f"/api/v1/tasks/{task_id}",
        "1",
    )
    assert answer.json == {"task_id": task_id, "status": "Queued", "result": None, "error": None}
    again = server.call("POST", f"tasks/{task_id}/retry")
    assert (again.status, again.detail) == (409, "The task is Queued; only a task that has Failed can be retried.")
    server.work()
    assert server.get(f"tasks/{task_id}").json["status"] == "Completed"
    assert said(server, task_id, "retry") == (409, "task_not_failed")
    assert said(server, "unknown", "retry") == (404, "task_not_found")


def failed(server: CalledServer) -> str:
    """Create a task that failed before a worker claimed it."""
    task_id = server.created()
    task = server.store.peek(TaskRef("local", task_id))
    output = an_output("TRY#0", None, error="No.", attempts=())
    server.store.save(task, task.failed(output))
    return task_id


# delete


def test_a_deleted_task_is_not_found(server: CalledServer) -> None:
    """204 without a body; after that every call for the task gets 404."""
    task_id = server.created()
    server.work()

    answer = server.call("DELETE", f"tasks/{task_id}")

    assert (answer.status, answer.body) == (204, b"")
    assert server.get(f"tasks/{task_id}").status == 404
    assert said(server, task_id, "", method="DELETE")[0] == 404
    for word in ("cancel", "retry"):
        assert said(server, task_id, word) == (404, "task_not_found")
    assert server.get("tasks").json["tasks"] == []
    assert server.get("metrics").json["total_requests"] == 1


def test_a_task_that_a_worker_has_cannot_be_deleted(server: CalledServer) -> None:
    task_id = server.created()
    task = server.store.peek(TaskRef("local", task_id))
    now_ms = server.service.now_ms()
    server.store.save(task, task.claimed(owner="w", now_ms=now_ms, lease_ms=now_ms + 60_000, has_plan=False))

    answer = server.call("DELETE", f"tasks/{task_id}")

    assert (answer.status, answer.code) == (409, "task_in_progress")
    assert answer.detail.startswith("A worker has the task")
    assert server.get(f"tasks/{task_id}").json["status"] == "Processing"
