"""Exchange JSON with an engine over HTTP, with limits for time and size, and the base class of engines that do so."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import msgspec
import urllib3
from msgspec import Struct
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from llm_server.engines.connections import EnginePool, TimedAnswer, cancellable
from llm_server.engines.failures import (
    MAX_ANSWER_BYTES,
    failure_of_body,
    failure_of_http,
    failure_of_status,
    too_large,
    unusable_answer,
)
from llm_server.engines.streams.assembly import Assembly, broken
from llm_server.engines.streams.http_body import Body
from llm_server.engines.streams.pump import READ_BYTES
from llm_server.engines.streams.sse import ServerSentEvent
from llm_server.engines.streams.text_reader import TextReader
from llm_server.engines.wire import Wire, decoded_object, private_texts
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled

MAX_END_S = 0.5
"""How long the end of the connection's use is waited for after the last event of a stream."""
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
        fields: dict[str, Any] = {
            "headers": self._headers(key),
            "body": self._body(call),
            "private": (*private_texts(call), key or ""),
            "timeout_s": timeout_s,
        }
        if call.on_text is None:
            answer = exchange(self._pool, "POST", self._url, cancellation=call.cancellation, **fields)
        else:
            request, assembly = Request(method="POST", url=self._url, **fields), self._assembly()
            answer = stream(self._pool, request, call, call.on_text, assembly, idle_s=self._spec.idle_timeout_s)
        return self._read(call, answer)

    @abstractmethod
    def _headers(self, key: str | None) -> Mapping[str, str]:
        """Return the headers that this API needs in addition to those of every exchange."""

    @abstractmethod
    def _body(self, call: EngineCall) -> dict[str, Any]:
        """Return the JSON body of a call; with `on_text`, it asks for a stream."""

    @abstractmethod
    def _assembly(self) -> Assembly[ServerSentEvent]:
        """Return what reads the events of one streamed answer."""

    @abstractmethod
    def _read(self, call: EngineCall, answer: dict[str, Any]) -> Completion:
        """Return the completion of a 2xx answer; raise EngineUnavailable or PromptRefused if it has none."""


class Request(Struct, frozen=True, kw_only=True):
    """One request. An error message of the engine that repeats one of the `private` texts is not shown.

    `timeout_s` limits the whole exchange except name resolution.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    private: tuple[str, ...] = ()
    timeout_s: float


def exchange(
    pool: EnginePool, method: str, url: str, *, cancellation: Cancellation | None = None, **fields: Any
) -> dict[str, Any]:
    """Send one request, with these fields, without retries; return its answer: a JSON object of at most 16 MiB.

    Raises:
        EngineUnavailable: no connection, no answer in time, or the answer is not a JSON object.
        PromptRefused: the body is not valid Unicode, or the engine refused it (`BadRequest`).
        TaskCancelled: the task was cancelled. The socket is closed, or will be closed as soon as it is connected.
    """
    request = Request(method=method, url=url, **fields)
    encoded, cancellation = _encoded(request.body), cancellation or Cancellation()
    try:
        with cancellable(cancellation), _response(pool, request, encoded) as response:
            return _whole(response, request)
    except EngineUnavailable as error:
        if cancellation.is_cancelled:
            raise TaskCancelled from error
        raise


def stream(
    pool: EnginePool,
    request: Request,
    call: EngineCall,
    on_text: Callable[[str], None],
    assembly: Assembly[ServerSentEvent],
    *,
    idle_s: float,
) -> dict[str, Any]:
    """Send one request without retries, pass the text of its answer on as it comes, and return the whole answer.

    From the first piece of the answer on, the engine may be silent for `idle_s` seconds. An engine that answers with
    JSON does not stream; its text is then not passed on. Other answers are limited to 16 MiB, too.

    Raises as `exchange`, and what `on_text` raises. A failure in the middle has the usage that is known.
    """
    encoded = _encoded(request.body)
    try:
        with cancellable(call.cancellation) as running, _response(pool, request, encoded) as response:
            answer = running.answer
            if answer is None or response.status != 200 or not _is_event_stream(response):
                return _whole(response, request)
            body = Body(chunked=answer.chunked, length=answer.length)
            limits = {"until_s": answer.until_s, "idle_s": idle_s}
            reader = TextReader(body, assembly, on_text, call.cancellation, **limits)
            _read(pool, answer, body, reader)
            if _is_at_end(answer, body):
                answer.close()
                response.release_conn()
    except EngineUnavailable as error:
        failure = broken(error, assembly, call)
        if call.cancellation.is_cancelled:
            raise TaskCancelled(failure.usage) from error
        raise failure from error.__cause__
    return assembly.answer()


def _is_event_stream(response: BaseHTTPResponse) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def _read(pool: EnginePool, answer: TimedAnswer, body: Body, reader: TextReader) -> None:
    """Read an answer up to its last event. Raises as `stream`."""
    if answer.getheader("content-encoding", "identity").lower() != "identity":  # it was not asked for
        raise unusable_answer("The engine's answer cannot be decoded.")
    first = answer.detach_body()
    if (first or body.is_over) and not reader.take(first):
        return
    try:
        pool.pump.read(answer.sock, reader.take, until_s=reader.until_s, check_s=reader.idle_s)
    except HTTPError as error:
        raise failure_of_body(error) from error


def _is_at_end(answer: TimedAnswer, body: Body) -> bool:
    """Read what follows the last event; return whether the connection can be used again. Give up if more follows."""
    if not body.is_over:
        answer.sock.settimeout(MAX_END_S)
        with suppress(OSError, EngineUnavailable):
            body.feed(answer.sock.recv(READ_BYTES))
    return body.is_over and not body.has_more


@contextmanager
def _response(pool: EnginePool, request: Request, body: bytes | None) -> Iterator[BaseHTTPResponse]:
    """Send a request; its answer is closed when the block ends. Raises EngineUnavailable."""
    try:
        response = pool.request(
            request.method,
            request.url,
            body=body,
            headers={"content-type": "application/json", "user-agent": "llm-server", **request.headers},
            timeout=urllib3.Timeout(total=max(request.timeout_s, 0.001)),
            retries=_NO_RETRIES,
            preload_content=False,
        )
    except HTTPError as error:
        raise failure_of_http(error) from error
    try:
        yield response
    finally:
        response.close()


def _whole(response: BaseHTTPResponse, request: Request) -> dict[str, Any]:
    """Read an answer that is not a stream. Raises as `exchange`."""
    try:
        data = response.read(MAX_ANSWER_BYTES + 1, decode_content=True)
    except HTTPError as error:
        raise failure_of_body(error) from error
    if len(data) > MAX_ANSWER_BYTES:
        raise too_large()
    if 200 <= response.status < 300:
        return decoded_object(data)
    retry_after, message = response.headers.get("retry-after", ""), _error_message(data)
    raise failure_of_status(response.status, retry_after=retry_after, message=message, private=request.private)


def _encoded(body: Mapping[str, Any] | None) -> bytes | None:
    try:
        return None if body is None else msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise PromptRefused("The prompt is not valid Unicode.") from error


def _error_message(data: bytes) -> str:
    """Return the message of an error body: that of {"error": {"message"}}, {"error"} or {"message"}, else ""."""
    try:
        answer = decoded_object(data)
    except EngineUnavailable:
        return ""
    error = answer.get("error", answer)
    message = error.get("message", "") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""
