"""Cancelling on a running server closes the connection to the engine within a second."""

from __future__ import annotations

import queue
import select
import time
from pathlib import Path
from typing import Any

from faults.ledger import Ledger
from support.fake_engine import a_config, fake_engine
from support.server_process import serving

CANCELS = 10
MAX_CLOSED_S = 1.0
WAIT_S = 10


def test_the_engines_connection_is_closed_within_a_second_of_a_cancel(tmp_path: Path, ledger: Ledger) -> None:
    """The call would take a minute. The task is Cancelled, the call is on its receipt, and the worker is free."""
    asked, closed_at = queue.Queue[float](), queue.Queue[float]()

    def until_closed(handler: Any) -> None:
        asked.put(time.monotonic())
        if select.select([handler.connection], [], [], WAIT_S)[0] and handler.connection.recv(1) == b"":
            closed_at.put(time.monotonic())
        handler.close_connection = True

    took_s, tasks = list[float](), list[Any]()
    with (
        fake_engine() as engine,
        serving(tmp_path / "t.db", "--workers", "1", env=a_config(tmp_path, one=engine)) as server,
    ):
        for n in range(CANCELS):
            engine.script(until_closed)
            task_id = server.submit(f"Say {n}.", mode="Chat")["task_id"]
            asked.get(timeout=WAIT_S)
            cancelled_at = time.monotonic()
            answer = server.call("POST", f"/tasks/{task_id}/cancel")
            took_s.append(closed_at.get(timeout=WAIT_S) - cancelled_at)
            another = server.submit("Say another.", mode="Chat", wait_s=WAIT_S)
            assert (answer.status, answer.json()["status"], another["status"]) == (200, "Cancelled", "Completed")
            tasks.append(server.call("GET", f"/tasks/{task_id}").json())

    note = f"connection closed after at most {max(took_s) * 1000:.0f} ms"
    ledger.enter(f"cancel while the engine thinks, {CANCELS} times", "SQLite", 0, [], note)
    assert max(took_s) < MAX_CLOSED_S
    assert [[a["error"] for a in task["attempts"]] for task in tasks] == [["The task was cancelled."]] * CANCELS
