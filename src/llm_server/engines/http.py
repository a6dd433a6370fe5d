"""Exchange JSON with an engine over HTTP, with limits for time and size, and the base class of engines that do so."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    IncompleteRead,
    InvalidChunkLength,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeout

from llm_server.engines.connections import EnginePool, cancellable
from llm_server.engines.failures import failure_of_status, unusable_answer
from llm_server.engines.wire import Wire
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""More than the 4 MB of text that a task may store take up as JSON.

A text between the two limits is read, and refused later with an error that names its size.
"""
_NO_RETRIES = urllib3.Retry(False, redirect=False)


class HttpWire(Wire):
    """Base class of engines whose calls are one POST of a JSON object each.

    A subclass defines the path, the headers, the body, and how the answer is read. The URL is the specification's
    `base_url` and `path`. `api_key` is called for each call; it returns None for an engine without a key.
    """

    path: ClassVar[str]

    def __init__(self, spec: EngineSpec, pool: EnginePool, api_key: Callable[[], str | None]) -> None:
        super().__init__(spec)
        self._pool = pool
        self._api_key = api_key
        self._url = f"{(spec.base_url or '').rstrip('/')}{self.path}"

    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        key = self._api_key()
        answer = exchange(
            self._pool,
            "POST",
            self._url,
            headers=self._headers(key),
            body=self._body(call),
            private=(call.prompt, key or ""),
            timeout_s=timeout_s,
            cancellation=call.cancellation,
        )
        return self._read(call, answer)

    @abstractmethod
    def _headers(self, key: str | None) -> Mapping[str, str]:
        """Return the headers that this API needs in addition to those of every exchange."""

    @abstractmethod
    def _body(self, call: EngineCall) -> dict[str, Any]:
        """Return the JSON body of a call."""

    @abstractmethod
    def _read(self, call: EngineCall, answer: dict[str, Any]) -> Completion:
        """Return the completion of a 2xx answer; raise EngineUnavailable or PromptRefused if it has none."""


def exchange(
    pool: EnginePool,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
    private: tuple[str, ...] = (),
    timeout_s: float,
    cancellation: Cancellation | None = None,
) -> dict[str, Any]:
    """Send one request without retries, and return its answer: a JSON object of at most 16 MiB.

    `timeout_s` limits the whole exchange except name resolution. An error message of the engine that repeats one of
    the `private` texts is not shown.

    Raises:
        EngineUnavailable: no connection, no answer in time, or the answer is not a JSON object.
        PromptRefused: the body is not valid Unicode, or the engine refused it (`BadRequest`).
        TaskCancelled: the task was cancelled. The socket is closed, or will be closed as soon as it is connected.
    """
    encoded, cancellation = _encoded(body), cancellation or Cancellation()
    try:
        with cancellable(cancellation):
            status, retry_after, data = _sent(pool, method, url, headers, encoded, timeout_s)
    except EngineUnavailable as error:
        if cancellation.is_cancelled:
            raise TaskCancelled from error
        raise
    if 200 <= status < 300:
        return _decoded(data)
    raise failure_of_status(status, retry_after=retry_after, message=_error_message(data), private=private)


def _sent(
    pool: EnginePool, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
) -> tuple[int, str, bytes]:
    """Return status, Retry-After and body. Raises EngineUnavailable."""
    try:
        response = pool.request(
            method,
            url,
            body=body,
            headers={"content-type": "application/json", "user-agent": "llm-server", **headers},
            timeout=urllib3.Timeout(total=max(timeout_s, 0.001)),
            retries=_NO_RETRIES,
            preload_content=False,
        )
        try:
            data = response.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        finally:
            response.close()
    except HTTPError as error:
        raise _unavailable(error) from error
    if len(data) > MAX_ANSWER_BYTES:
        raise unusable_answer("The engine's answer is larger than 16 MiB.")
    return response.status, response.headers.get("retry-after", ""), data


def _unavailable(error: HTTPError) -> EngineUnavailable:
    """Return the failure for an error of urllib3. The error's text is not shown, because it may contain addresses."""
    if isinstance(error, ConnectTimeoutError):
        return EngineUnavailable("The engine cannot be reached.", kind="unreachable")
    if isinstance(error, HTTPTimeout):
        return EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
    if isinstance(error, SSLError):
        return EngineUnavailable("The TLS connection to the engine failed.", kind="unreachable")
    if isinstance(error, IncompleteRead | InvalidChunkLength):
        return EngineUnavailable("The engine broke off its answer.", may_be_billed=True)
    if isinstance(error, ProtocolError):
        cause = error.args[-1]
        if isinstance(cause, TimeoutError):
            return EngineUnavailable("The engine did not take the prompt in time.", kind="timeout")
        if isinstance(cause, OSError | IncompleteRead):
            return EngineUnavailable("The engine closed the connection.", may_be_billed=True)
        return EngineUnavailable("The engine's answer is not valid HTTP.", kind="garbage")
    if isinstance(error, DecodeError):
        return unusable_answer("The engine's answer cannot be decoded.")
    return EngineUnavailable("The engine cannot be reached at the configured address.", kind="unreachable")


def _encoded(body: Mapping[str, Any] | None) -> bytes | None:
    try:
        return None if body is None else msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise PromptRefused("The prompt is not valid Unicode.") from error


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise unusable_answer("The engine's answer is not JSON.") from error
    if not isinstance(answer, dict):
        raise unusable_answer("The engine's answer is not a JSON object.")
    return answer


def _error_message(data: bytes) -> str:
    """Return the message of an error body: that of {"error": {"message"}}, {"error"} or {"message"}, else ""."""
    try:
        answer = _decoded(data)
    except EngineUnavailable:
        return ""
    error = answer.get("error", answer)
    message = error.get("message", "") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""
