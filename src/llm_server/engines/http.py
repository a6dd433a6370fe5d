"""One exchange of JSON over HTTP: within a deadline, bounded in size, failures named by what they mean."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
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

from llm_server.engines import breakable as _lines
from llm_server.engines import failures as _failures
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled

ANSWER_MOST_BYTES = 16 * 1024 * 1024
"""More than JSON makes of the longest text a task may hold, so that one too long is counted and refused by name."""
CONNECTIONS_AN_ENGINE = 64


class EnginePool(urllib3.PoolManager):
    """Connections to engines for all threads: TLS verified, a read time-out that bounds the whole answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(num_pools=32, maxsize=CONNECTIONS_AN_ENGINE, **options)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


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
    """Send one request, never a second, and read its answer, a JSON object of at most 16 MiB.

    `timeout_s` bounds everything but name resolution, however slowly the engine sends. `private` is what the
    engine's error messages must not repeat.

    Raises:
        EngineUnavailable: no connection, no answer in time, or one that is no JSON object.
        PromptRefused: the engine refused the body; `BadRequest` when it said so by its status.
        TaskCancelled: `cancellation` was told; the socket is closed, or will be once it is connected.
    """
    encoded, cancellation = _encoded(body), cancellation or Cancellation()
    try:
        with _lines.breakable(cancellation):
            status, retry_after, data = _sent(pool, method, url, headers, encoded, timeout_s)
    except EngineUnavailable as error:
        if cancellation.told:
            raise TaskCancelled from error
        raise
    if 200 <= status < 300:
        return _decoded(data)
    raise _failures.of_status(status, retry_after=retry_after, said=_said(data), private=private)


def _sent(
    pool: EnginePool, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
) -> tuple[int, str, bytes]:
    """Raises EngineUnavailable; returns status, Retry-After and body otherwise."""
    try:
        response = pool.request(
            method,
            url,
            body=body,
            headers={"content-type": "application/json", "user-agent": "llm-server", **headers},
            timeout=urllib3.Timeout(total=max(timeout_s, 0.001)),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            data = response.read(ANSWER_MOST_BYTES + 1, decode_content=True)
        finally:
            response.close()
    except HTTPError as error:
        raise _unavailable(error) from error
    if len(data) > ANSWER_MOST_BYTES:
        raise EngineUnavailable("The engine's answer is larger than 16 MiB.", kind="garbage", may_be_billed=True)
    return response.status, response.headers.get("retry-after", ""), data


def _unavailable(error: HTTPError) -> EngineUnavailable:
    """Say what a failed exchange means; the error's own text may hold addresses and stays in the chain."""
    if isinstance(error, ConnectTimeoutError):
        return EngineUnavailable("The engine cannot be reached.", kind="unreachable")
    if isinstance(error, HTTPTimeout):
        return EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
    if isinstance(error, SSLError):
        return EngineUnavailable("The engine offers no TLS connection we trust.", kind="unreachable")
    if isinstance(error, IncompleteRead | InvalidChunkLength):
        return EngineUnavailable("The engine broke off its answer.", may_be_billed=True)
    if isinstance(error, ProtocolError):
        cause = error.args[-1]
        if isinstance(cause, TimeoutError):
            return EngineUnavailable("The engine did not take the prompt in time.", kind="timeout")
        if isinstance(cause, OSError | IncompleteRead):
            return EngineUnavailable("The engine closed the connection.", may_be_billed=True)
        return EngineUnavailable("The engine does not speak HTTP.", kind="garbage")
    if isinstance(error, DecodeError):
        return EngineUnavailable("The engine's answer cannot be decoded.", kind="garbage", may_be_billed=True)
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
        raise EngineUnavailable("The engine's answer is not JSON.", kind="garbage", may_be_billed=True) from error
    if not isinstance(answer, dict):
        raise EngineUnavailable("The engine's answer is no JSON object.", kind="garbage", may_be_billed=True)
    return answer


def _said(data: bytes) -> str:
    """The message of an error body, in any wire's form: {"error": {"message"}}, {"error"} or {"message"}."""
    try:
        answer = _decoded(data)
    except EngineUnavailable:
        return ""
    error = answer.get("error", answer)
    message = error.get("message", "") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


class _TimedReader(io.RawIOBase):
    """Reads a socket until a fixed moment; a socket's own time-out starts anew with every byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """An answer whose headers and body must all arrive within the read time-out it starts with."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock))


class _HTTPConnection(_lines.Breakable, HTTPConnection):
    response_class = _TimedResponse


class _HTTPSConnection(_lines.Breakable, HTTPSConnection):
    response_class = _TimedResponse


class _HTTPPool(_lines.BreakablePool, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_lines.BreakablePool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
