"""The embedded queue. A wake-up may be lost in a power cut (synchronous=NORMAL): the sweep replaces it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from llm_server.orchestration.ports import Clock
from llm_server.orchestration.task import TaskRef
from llm_server.storage.sqlite_file import Database


class SqliteQueue:
    """The Queue port over the same file. A message is taken when it is received: it is only a wake-up."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._database = Database(path, durable=False)
        self._clock = clock
        self._sent = threading.Condition()

    def close(self) -> None:
        self._database.close()

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        with self._database.transaction() as db:
            row = (str(ref), self._clock() + delay_s * 1000)
            db.execute("INSERT INTO messages (ref, visible_ms) VALUES (?, ?)", row)
        with self._sent:
            self._sent.notify()

    def replace_lost(self) -> int:
        """Send a message for every task without one that only a message wakes; for a process that is the only one.

        Queued ones, whose workers were killed before they could claim, and Cancelled ones, whose workers were killed
        before they could put down what they had paid. Returns how many.
        """
        wanted = "(status = 'Queued' OR status = 'Cancelled' AND json_extract(body, '$.owner') <> '')"
        forgotten = "tenant || '/' || task_id NOT IN (SELECT ref FROM messages)"
        query = f"SELECT tenant || '/' || task_id, ? FROM tasks WHERE {wanted} AND {forgotten}"
        with self._database.transaction() as db:
            return db.execute(f"INSERT INTO messages (ref, visible_ms) {query}", (self._clock(),)).rowcount

    def depth(self) -> int:
        with self._database.reading() as db:
            return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])

    def receive(self, wait_s: float) -> TaskRef | None:
        """Take one message, waiting at most `wait_s` seconds for it."""
        end = time.monotonic() + wait_s
        with self._sent:
            while (ref := self._take()) is None:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    return None
                self._sent.wait(min(left_s, 0.5))
        return ref

    def _take(self) -> TaskRef | None:
        first = "SELECT id FROM messages WHERE visible_ms <= ? ORDER BY visible_ms, id LIMIT 1"
        with self._database.transaction() as db:
            row = db.execute(f"DELETE FROM messages WHERE id = ({first}) RETURNING ref", (self._clock(),)).fetchone()
        return TaskRef.parse(row[0]) if row else None
