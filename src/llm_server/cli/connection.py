"""Calls the HTTP API of one LLM-Server, and turns every failure into one sentence.

ClientError
├── ServerRefused       the server answered 4xx: change the request
└── ServerUnreachable   no answer, a 5xx answer, or the answer of another program
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError, LocationParseError

FINAL = frozenset({"Completed", "Failed", "Cancelled"})
READ_S = 30.0
"""Seconds to wait for an answer, in addition to the time for which the server was asked to hold it."""

_CONNECT_S = 5.0
_PAUSE_S = 1.0  # between two calls, if the server sent no Retry-After
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 60.0


class ClientError(Exception):
    """A call failed; the message is one sentence to show to the user."""

    def __init__(self, message: str, *, retryable: bool, pause_s: float = _PAUSE_S) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.pause_s = pause_s


class ServerRefused(ClientError):
    """The server answered 4xx; the message is the answer's `detail`."""


class ServerUnreachable(ClientError):
    """The server cannot be reached, answered 5xx, or is not an LLM-Server."""


class Answer(Struct, frozen=True, kw_only=True):
    """A JSON document, as bytes and parsed; `pause_s` is the number of seconds to wait before the next call."""

    body: bytes
    document: Mapping[str, Any]
    pause_s: float = _PAUSE_S

    @property
    def task_id(self) -> str:
        """Return the task's id, or "" if the document has none."""
        return str(self.document.get("task_id") or "")

    @property
    def status(self) -> str:
        """Return the task's or the engine's status, or "" if the document has none."""
        return str(self.document.get("status") or "")

    @property
    def final(self) -> bool:
        """Return whether the task has ended."""
        return self.status in FINAL

    @property
    def awaiting_approval(self) -> bool:
        """Return whether the task's plan waits for approval."""
        return bool(self.document.get("awaiting_approval"))


class Stream:
    """A response whose body is read part by part. `is_empty`: it is a 204. `is_whole`: it was sent with its length."""

    def __init__(self, response: urllib3.BaseHTTPResponse, base_url: str) -> None:
        self._response = response
        self._base_url = base_url
        self.is_empty = response.status == 204
        self.is_whole = "Content-Length" in response.headers

    def chunks(self) -> Iterator[bytes]:
        """Yield the parts of the body as they come. Raises ServerUnreachable if the connection is lost."""
        try:
            yield from self._response.stream(decode_content=False)
        except HTTPError as error:
            message = f"The connection to {self._base_url} was lost: {_cause(error)}."
            raise ServerUnreachable(message, retryable=True) from error


class Connection:
    """Calls one server below `/api/v1`; `base_url` may end in a path, such as the stage of an API Gateway.

    `key` is an API key, or "" for a server without keys. It is sent as X-Api-Key, because a gateway may use the
    Authorization header for itself.

    Raises:
        ValueError: `base_url` is not an http or https address.
    """

    def __init__(self, base_url: str, *, key: str = "") -> None:
        self.base_url = _checked(base_url)
        self._key = {"X-Api-Key": key} if key else {}
        self._http = urllib3.PoolManager()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        field: str | None,
        read_s: float = READ_S,
    ) -> Answer:
        """Send one request and return its answer.

        The answer must be a JSON object that has `field`; if `field` is None, it must be a 204.

        Raises:
            ServerRefused: the server answered 4xx.
            ServerUnreachable: the server did not answer, answered 5xx, or its answer is not an LLM-Server's.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        response = self._send(method, path, sent, body=data, read_s=read_s)
        pause_s = _pause(response.headers.get("Retry-After"))
        document = _parsed(response.data)
        if response.status >= 400:
            raise self._failure(response.status, document, pause_s)
        is_expected = response.status == 204 if field is None else document.get(field) is not None
        if response.status >= 300 or not is_expected:
            message = f"{self.base_url} answered {response.status}, but the answer is not that of an LLM-Server."
            raise ServerUnreachable(message, retryable=False)
        return Answer(body=response.data, document=document, pause_s=pause_s)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], *, read_s: float) -> Iterator[Stream]:
        """Open an event stream for the block. `read_s` is the longest time without any byte. Raises as `call`."""
        response = self._send("GET", path, headers, read_s=read_s, preload_content=False)
        try:
            if response.status >= 400:
                raise self._failure(
                    response.status, _parsed(response.data), _pause(response.headers.get("Retry-After"))
                )
            media_type = response.headers.get("Content-Type", "").partition(";")[0]
            if response.status != 204 and (response.status != 200 or media_type != "text/event-stream"):
                message = f"{self.base_url} answered {response.status}, but not with the events of an LLM-Server."
                raise ServerUnreachable(message, retryable=False)
            yield Stream(response, self.base_url)
        finally:
            response.close()

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], *, read_s: float, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(
                method,
                f"{self.base_url}/api/v1{path}",
                headers={**self._key, **headers},
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
                retries=False,
                redirect=False,
                **options,
            )
        except HTTPError as error:
            message = f"No LLM-Server answers at {self.base_url}: {_cause(error)}."
            raise ServerUnreachable(message, retryable=True) from error

    def _failure(self, status: int, document: Mapping[str, Any], pause_s: float) -> ClientError:
        """Return the error for a 4xx or 5xx; API Gateway's own errors have `message` instead of `detail`."""
        sentence = document.get("detail") or document.get("message") or f"{self.base_url} answered {status}."
        if status >= 500:
            return ServerUnreachable(str(sentence), retryable=True, pause_s=pause_s)
        return ServerRefused(str(sentence), retryable=status == 429, pause_s=pause_s)


def _checked(base_url: str) -> str:
    trimmed = base_url.strip().rstrip("/").removesuffix("/api/v1")
    try:
        url = urllib3.util.parse_url(trimmed)
    except LocationParseError:
        url = urllib3.util.Url()
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ValueError(f"{base_url!r} is not an http or https address, such as http://localhost:8000.")
    return trimmed


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object, or an empty one if the body is anything else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _pause(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or _PAUSE_S)
    except ValueError:  # an HTTP date; LLM-Server itself always sends seconds
        return _PAUSE_S
    return min(max(seconds, _MIN_PAUSE_S), _MAX_PAUSE_S) if seconds >= 0 else _PAUSE_S


def _cause(error: HTTPError) -> str:
    """Return the operating system's reason, without the objects that urllib3 wraps around it."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return (getattr(root, "strerror", None) or str(root) or type(root).__name__).rstrip(".")
