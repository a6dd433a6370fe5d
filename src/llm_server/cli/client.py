"""Makes the commands' calls to the HTTP API; it imports none of the server's code."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from llm_server.cli.connection import READ_S, Answer, ClientError, Connection, ServerUnreachable
from llm_server.cli.watching.event_source import EventSource

DEFAULT_URL = "http://localhost:8000"
MAX_HOLD_S = 25
"""The most seconds that the server grants to `Prefer: wait`."""
MAX_PAGE = 100
"""The most tasks that the server puts on one page of a list."""

_SENDS = 3
_FAILED_POLLS = 5  # in a row; a short outage does not end the waiting, because tasks survive a restart of the server


class Tasks(NamedTuple):
    """Some tasks of a list, newest first; `more` says whether the server may have older tasks that match."""

    tasks: list[Mapping[str, Any]]
    more: bool


class Client:
    """Makes calls to one server. `base_url` and `key` are those of `Connection`; `clock` and `sleep` count in seconds.

    Every method that calls the server raises ClientError if the call fails.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = Connection(base_url, key=key)
        self._call = self._connection.call
        self._clock = clock
        self._sleep = sleep

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    def submit(self, task: Mapping[str, Any], *, hold_s: int = 0) -> Answer:
        """Create a task; the server may hold its response for up to `hold_s` seconds until the task ends.

        If the server cannot be reached, send the request up to three times with one Idempotency-Key, so that it
        creates one task.
        """
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'} | ({"Prefer": f"wait={hold_s}"} if hold_s > 0 else {})
        for _ in range(_SENDS - 1):
            try:
                return self._call("POST", "/tasks", task, headers, read_s=READ_S + hold_s, field="task_id")
            except ServerUnreachable as error:
                if not error.retryable:
                    raise
                self._sleep(error.pause_s)
        return self._call("POST", "/tasks", task, headers, read_s=READ_S + hold_s, field="task_id")

    def decide(self, task: Mapping[str, Any]) -> Answer:
        """Ask how the task would be carried out; the server stores nothing and spends nothing."""
        return self._call("POST", "/tasks?dry_run=true", task, field="mode")

    def task(self, task_id: str) -> Answer:
        """Read one task with its result, plan, engine calls and history."""
        return self._call("GET", _path(task_id), field="task_id")

    def tasks(self, filters: Iterable[tuple[str, str]], *, limit: int) -> Tasks:
        """Read the newest tasks that match the filters, at most `limit`.

        `filters` are query parameters of `GET /tasks`. The server looks at a bounded number of tasks in each call, so
        a page may be short or empty and still be followed by another one.
        """
        matches: list[Mapping[str, Any]] = []
        filters, token = list(filters), ""
        while True:
            size = str(min(limit - len(matches), MAX_PAGE))
            query = urlencode([*filters, ("page_size", size), *([("page_token", token)] if token else [])])
            page = self._call("GET", f"/tasks?{query}", field="tasks").document
            matches += page["tasks"]
            token = str(page.get("next_page_token") or "")
            if not token or len(matches) >= limit:
                return Tasks(matches[:limit], bool(token))

    def event_source(self, task_id: str, *, on_lost: Callable[[str], None]) -> EventSource:
        """Return the events of a task, as they happen."""
        return EventSource(self._connection, task_id, on_lost=on_lost, clock=self._clock, sleep=self._sleep)

    def cancel(self, task_id: str) -> Answer:
        """Cancel a task that is not final; calling this again has no further effect."""
        return self._call("POST", _path(task_id, "/cancel"), field="task_id")

    def retry(self, task_id: str) -> Answer:
        """Start a Failed task again; the server refuses it for a task with another status."""
        return self._call("POST", _path(task_id, "/retry"), field="task_id")

    def approve(self, task_id: str, plan_hash: str, max_cost_usd: float | None = None) -> Answer:
        """Approve the plan with this hash, and limit the cost of its task; repeating the call has no further effect."""
        limit = {} if max_cost_usd is None else {"max_cost_usd": max_cost_usd}
        return self._call("POST", _path(task_id, "/approve"), {"plan_hash": plan_hash} | limit, field="task_id")

    def reject(self, task_id: str, plan_hash: str) -> Answer:
        """Reject the plan with this hash, which cancels the task; calling this again has no further effect."""
        return self._call("POST", _path(task_id, "/reject"), {"plan_hash": plan_hash}, field="task_id")

    def delete(self, task_id: str) -> None:
        """Delete a task; the server refuses it while a worker has the task."""
        self._call("DELETE", _path(task_id), field=None)

    def metrics(self) -> Answer:
        """Read the server's nine figures."""
        return self._call("GET", "/metrics", field="server_status")

    def engines(self) -> Answer:
        """Read the engines with their switches and their status."""
        return self._call("GET", "/engines", field="engines")

    def switch_engine(self, name: str, changes: Mapping[str, bool | None]) -> Answer:
        """Set the switches of an engine that `changes` names; None restores the configured value."""
        return self._call("PATCH", f"/engines/{quote(name, safe='')}", changes, field="status")

    def deadline(self, timeout_s: float) -> float:
        """Return the time on this client's clock in `timeout_s` seconds."""
        return self._clock() + timeout_s

    def follow(self, answer: Answer, *, until: float) -> Iterator[Answer]:
        """Poll the task and yield newer answers until it is final, its plan waits for approval, or `until` is reached.

        Wait before each poll as long as the server asked for (Retry-After); poll a last time at `until`. If the server
        is busy or cannot be reached, try again, at most five times in a row.
        """
        failed, pause_s = 0, answer.pause_s
        while not (answer.final or answer.awaiting_approval) and (left_s := until - self._clock()) > 0:
            self._sleep(min(pause_s, left_s))
            try:
                answer = self.task(answer.task_id)
            except ClientError as error:
                failed += 1
                if not error.retryable or failed > _FAILED_POLLS:
                    raise
                pause_s = error.pause_s
            else:
                failed, pause_s = 0, answer.pause_s
                yield answer


def _path(task_id: str, action: str = "") -> str:
    """Return the path of a task; percent-encode characters of the id that could change the path."""
    return f"/tasks/{quote(task_id, safe='')}{action}"
