"""A small HTTP client for any LLM-Server; it knows the HTTP contract and nothing of the server's code.

ClientError
├── ServerRefused       the server understood and said no (4xx): change what was asked
└── ServerUnreachable   no answer, an answer above 499, or not an LLM-Server's answer: try again later
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

DEFAULT_URL = "http://localhost:8000"
FINAL = frozenset({"Completed", "Failed", "Cancelled"})
MAX_HOLD_S = 25  # the server's own limit for `Prefer: wait` (API.md)

_PAUSE_S = 1.0  # between two polls when the server named none
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 60.0
_CONNECT_S, _READ_S = 5.0, 30.0
_SENDS = 3
_FAILED_POLLS = 5  # in a row: a server that starts again finds its tasks again, so waiting for it is right


class ClientError(Exception):
    """A call did not succeed; the message is one sentence fit to be shown."""

    def __init__(self, message: str, *, retryable: bool, pause_s: float = _PAUSE_S) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.pause_s = pause_s


class ServerRefused(ClientError):
    """The server answered 4xx; the message is its `detail`."""


class ServerUnreachable(ClientError):
    """Nobody answered, or not as an LLM-Server that works does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One JSON document: as it came (`body`) and parsed; `pause_s` is how long to leave the server alone."""

    body: bytes
    document: Mapping[str, Any]
    pause_s: float = _PAUSE_S

    @property
    def task_id(self) -> str:
        """Empty when the document names no task."""
        return str(self.document.get("task_id") or "")

    @property
    def status(self) -> str:
        """One word of API.md, or empty."""
        return str(self.document.get("status") or "")

    @property
    def final(self) -> bool:
        """Whether nothing changes the task any more, but for a retry of one that Failed."""
        return self.status in FINAL


class Client:
    """Calls one server; `base_url` may end in a path (an API Gateway stage).

    `key` is an API key, "" for a server without. It goes as X-Api-Key: a gateway may want Authorization for itself.

    Raises:
        ValueError: `base_url` is not an http or https address.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = _checked(base_url)
        self._key = {"X-Api-Key": key} if key else {}
        self._clock = clock
        self._sleep = sleep
        self._http = urllib3.PoolManager()

    def submit(self, task: Mapping[str, Any], *, hold_s: int = 0) -> Answer:
        """Create a task; the server may hold its answer up to `hold_s` seconds for the end of it.

        Sent up to three times while the server is away, under one Idempotency-Key: it makes one task.
        """
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'} | ({"Prefer": f"wait={hold_s}"} if hold_s > 0 else {})
        for _ in range(_SENDS - 1):
            try:
                return self._call("POST", "/tasks", task, headers, read_s=_READ_S + hold_s, naming="task_id")
            except ServerUnreachable as error:
                if not error.retryable:
                    raise
                self._sleep(error.pause_s)
        return self._call("POST", "/tasks", task, headers, read_s=_READ_S + hold_s, naming="task_id")

    def decide(self, task: Mapping[str, Any]) -> Answer:
        """Ask how the task would be carried out; nothing is stored or spent."""
        return self._call("POST", "/tasks?dry_run=true", task, naming="mode")

    def task(self, task_id: str) -> Answer:
        """Read everything the server knows of one task."""
        return self._call("GET", f"/tasks/{quote(task_id, safe='')}", naming="task_id")

    def cancel(self, task_id: str) -> Answer:
        """End a task that is not final; cancelled again, nothing changes."""
        return self._call("POST", f"/tasks/{quote(task_id, safe='')}/cancel", naming="task_id")

    def retry(self, task_id: str) -> Answer:
        """Take a Failed task up again; refused when it is in any other state."""
        return self._call("POST", f"/tasks/{quote(task_id, safe='')}/retry", naming="task_id")

    def delete(self, task_id: str) -> None:
        """Remove a task that no worker has."""
        self._call("DELETE", f"/tasks/{quote(task_id, safe='')}", naming=None)

    def metrics(self) -> Answer:
        """Read the nine figures."""
        return self._call("GET", "/metrics", naming="server_status")

    def engines(self) -> Answer:
        """Read every engine, how it is switched and how it is."""
        return self._call("GET", "/engines", naming="engines")

    def switch_engine(self, name: str, changes: Mapping[str, bool | None]) -> Answer:
        """Switch what `changes` names of an engine, None for what is configured."""
        return self._call("PATCH", f"/engines/{quote(name, safe='')}", changes, naming="status")

    def deadline(self, timeout_s: float) -> float:
        """Return the moment on this client's clock that is `timeout_s` away."""
        return self._clock() + timeout_s

    def follow(self, answer: Answer, *, until: float) -> Iterator[Answer]:
        """Poll the task and yield each newer answer, until one is final or the `deadline` has passed.

        Each pause is the one the server asked for (Retry-After); the last poll happens at the deadline.
        A server that is busy or away is asked again, at most five times in a row.
        """
        failed, pause_s = 0, answer.pause_s
        while not answer.final and (left_s := until - self._clock()) > 0:
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

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        naming: str | None,
        read_s: float = _READ_S,
    ) -> Answer:
        """Call once; the answer must be a JSON object in which `naming` has a value, or 204 where that is None."""
        try:
            response = self._http.request(
                method,
                f"{self.base_url}/api/v1{path}",
                body=None if body is None else json.dumps(body).encode(),
                headers={
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                    **self._key,
                    **(headers or {}),
                },
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
                retries=False,
                redirect=False,
            )
        except HTTPError as error:
            raise ServerUnreachable(
                f"No LLM-Server answers at {self.base_url}: {_cause(error)}.", retryable=True
            ) from error
        pause_s = _pause(response.headers.get("Retry-After"))
        document = _parsed(response.data)
        if response.status >= 400:
            raise self._failure(response.status, document, pause_s)
        ours = document.get(naming) if naming else response.status == 204
        if response.status >= 300 or not ours:
            message = f"{self.base_url} answered {response.status}, but not as an LLM-Server does."
            raise ServerUnreachable(message, retryable=False)
        return Answer(body=response.data, document=document, pause_s=pause_s)

    def _failure(self, status: int, document: Mapping[str, Any], pause_s: float) -> ClientError:
        """Name a 4xx or 5xx; `message` is API Gateway's own word for `detail`."""
        said = document.get("detail") or document.get("message") or f"{self.base_url} answered {status}."
        if status >= 500:
            return ServerUnreachable(str(said), retryable=True, pause_s=pause_s)
        return ServerRefused(str(said), retryable=status == 429, pause_s=pause_s)


def _checked(base_url: str) -> str:
    trimmed = base_url.strip().rstrip("/").removesuffix("/api/v1")
    try:
        url = urllib3.util.parse_url(trimmed)
    except LocationParseError:
        url = urllib3.util.Url()
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ValueError(f"{base_url!r} is not an address such as http://localhost:8000.")
    return trimmed


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object, an empty one for anything else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _pause(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or _PAUSE_S)
    except ValueError:  # an HTTP date: no LLM-Server sends one
        return _PAUSE_S
    return min(max(seconds, _MIN_PAUSE_S), _MAX_PAUSE_S) if seconds >= 0 else _PAUSE_S


def _cause(error: HTTPError) -> str:
    """Name the reason without the objects urllib3 puts around it."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return (getattr(root, "strerror", None) or str(root) or type(root).__name__).rstrip(".")
