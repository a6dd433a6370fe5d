"""Cancelling on a running server: the engine's connection is closed within a second."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

from fake_engine import _Handler, a_config, fake_engine
from running_server import serving


def test_the_engines_connection_is_closed_within_a_second_of_a_cancel(tmp_path: Path) -> None:
    """The call would take a minute; its task is Cancelled with the call on its receipt, and the worker is free."""
    asked, closed_at = threading.Event(), list[float]()

    def until_closed(handler: _Handler) -> None:
        asked.set()
        if select.select([handler.connection], [], [], 10)[0] and handler.connection.recv(1) == b"":
            closed_at.append(time.monotonic())
        handler.close_connection = True

    with (
        fake_engine() as engine,
        serving(tmp_path / "t.db", "--workers", "1", env=a_config(tmp_path, one=engine)) as server,
    ):
        engine.script(until_closed)
        task_id = server.submit("Say one.", mode="Chat")["task_id"]
        assert asked.wait(10)
        cancelled_at = time.monotonic()
        answer = server.call("POST", f"/tasks/{task_id}/cancel")
        another = server.submit("Say two.", mode="Chat", wait_s=10)
        task = server.call("GET", f"/tasks/{task_id}").json()

    assert (answer.status, answer.json()["status"], another["status"]) == (200, "Cancelled", "Completed")
    assert len(closed_at) == 1
    assert closed_at[0] - cancelled_at < 1
    assert [a["error"] for a in task["attempts"]] == ["The task was cancelled."]
