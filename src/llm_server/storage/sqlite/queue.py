"""The embedded queue. A power cut may lose messages (synchronous=NORMAL); the sweep sends them again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import HAS_OWNER


class SqliteQueue:
    """The Queue port over the file of the tasks. Receiving a message removes it, because it is only a wake-up."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._database = Database(path)
        self._clock = clock
        self._sent = threading.Condition()
        self._sends = 0

    def close(self) -> None:
        self._database.close()

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        row = (str(ref), self._clock() + delay_s * 1000)
        self._database.write(lambda db: db.execute("INSERT INTO messages (ref, visible_ms) VALUES (?, ?)", row))
        with self._sent:
            self._sends += 1
            self._sent.notify()

    def replace_lost(self) -> int:
        """Send a message for each task that needs one and has none.

        Call this only in the process that holds the file. The tasks are Queued tasks whose worker was killed before it
        claimed them, and Cancelled tasks whose worker was killed before it recorded the cost of its calls. Returns how
        many messages were sent.
        """
        wanted = f"(status = 'Queued' OR status = 'Cancelled' AND {HAS_OWNER})"
        forgotten = "tenant || '/' || task_id NOT IN (SELECT ref FROM messages)"
        query = f"SELECT tenant || '/' || task_id, ? FROM tasks WHERE {wanted} AND {forgotten}"
        return self._database.write(
            lambda db: db.execute(f"INSERT INTO messages (ref, visible_ms) {query}", (self._clock(),)).rowcount
        )

    def depth(self) -> int:
        with self._database.reading() as db:
            return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])

    def receive(self, wait_s: float) -> TaskRef | None:
        """Take one message. Wait at most `wait_s` seconds for one, then return None."""
        end = time.monotonic() + wait_s
        while True:
            seen = self._sends  # read before the queue, so that a message sent after this line ends the wait
            ref = self._take()
            left_s = end - time.monotonic()
            if ref is not None or left_s <= 0:
                return ref
            with self._sent:  # the lambda does not outlive this iteration of the loop
                self._sent.wait_for(lambda: self._sends != seen, min(left_s, 0.5))  # noqa: B023

    def _take(self) -> TaskRef | None:
        now_ms = self._clock()
        with self._database.reading() as db:  # if no message is ready, no write lock is taken
            if db.execute("SELECT 1 FROM messages WHERE visible_ms <= ? LIMIT 1", (now_ms,)).fetchone() is None:
                return None
        first = "SELECT id FROM messages WHERE visible_ms <= ? ORDER BY visible_ms, id LIMIT 1"
        row = self._database.write(
            lambda db: db.execute(f"DELETE FROM messages WHERE id = ({first}) RETURNING ref", (now_ms,)).fetchone()
        )
        return TaskRef.parse(row[0]) if row else None
