"""Adapter for Bedrock's Converse API.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from botocore.eventstream import ParserError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EventStreamError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from llm_server.engines.answer_schemas import for_api
from llm_server.engines.failures import BROKE_OFF, BadRequest, failure_of_body, failure_of_status, unusable_answer
from llm_server.engines.forms.converse import messages, tool_calls, tool_fields
from llm_server.engines.parts import EngineParts
from llm_server.engines.streams.assembly import broken, failed, not_an_event
from llm_server.engines.streams.converse import ConverseStream
from llm_server.engines.streams.event_reader import EventReader
from llm_server.engines.usage import converse_usage
from llm_server.engines.wire import (
    Wire,
    completion,
    join_texts,
    json_object,
    json_objects,
    missing_completion,
    private_texts,
    refusal,
)
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable, TaskCancelled

MAX_ANSWER_CHARS = 16 * 1024 * 1024
_TOO_LARGE = "The engine's answer is larger than 16 MiB."
_STATUS_OF_CODE = {
    "ThrottlingException": 429,
    "ServiceQuotaExceededException": 429,
    "ModelNotReadyException": 429,
    "ModelTimeoutException": 504,
    "ModelErrorException": 500,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 403,
    "ExpiredTokenException": 403,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
}
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
_BROKEN_OFF = (ConnectionClosedError, ResponseStreamingError)
# botocore does not check an answer's form, and raises these if it has another one, such as a gateway's error page.
_UNREADABLE = (ResponseParserError, AttributeError, TypeError, ValueError, RecursionError)
_OUTAGES = frozenset({"throttlingException", "serviceUnavailableException"})
_REFUSED = frozenset({"guardrail_intervened", "content_filtered"})
_TRUNCATED = frozenset({"max_tokens", "model_context_window_exceeded"})
_FAILED = frozenset({"malformed_model_output", "malformed_tool_use"})


def bedrock_client(spec: EngineSpec, timeout_s: float) -> Any:
    """Make a Converse client that does not retry; `timeout_s` is the longest wait for the next byte."""
    import boto3
    from botocore.config import Config

    once: Any = {"total_max_attempts": 1}
    config = Config(retries=once, connect_timeout=5, read_timeout=timeout_s, max_pool_connections=spec.max_concurrency)
    return boto3.session.Session().client(
        "bedrock-runtime", region_name=spec.region, endpoint_url=spec.base_url, config=config
    )


def build(name: str, parts: EngineParts, *, client: Callable[[EngineSpec, float], Any] = bedrock_client) -> Engine:
    """Build the engine with this name; `client` makes its boto3 client at the first call."""
    spec = parts.spec(name)
    return BedrockEngine(spec, partial(client, spec, parts.catalog.timeout_s(name)))


class BedrockEngine(Wire):
    """Calls the Converse API of Amazon Bedrock through boto3.

    `client` makes the boto3 client and is called once, at the first call.

    boto3 limits the wait for the next byte, but not the wait for the whole answer. Each call therefore runs in a thread
    of its own. A call that takes too long, or whose task is cancelled, is abandoned; its thread ends when the answer
    arrives.
    """

    def __init__(self, spec: EngineSpec, client: Callable[[], Any]) -> None:
        super().__init__(spec)
        self._make_client = client
        self._client: Any = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(spec.max_concurrency, thread_name_prefix="bedrock")

    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        if call.on_text is not None:
            return self._streamed(call, call.on_text, timeout_s)
        cancelled: Future[None] = Future()
        with call.cancellation.on_cancel(lambda: cancelled.set_result(None)):
            answer = self._threads.submit(self._converse, call)
            either: list[Future[Any]] = [answer, cancelled]
            wait(either, timeout=max(timeout_s, 0.0), return_when=FIRST_COMPLETED)
        if answer.done():
            return _read(call, answer.result())
        was_sent = not answer.cancel()
        if cancelled.done():
            raise TaskCancelled
        raise EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=was_sent)

    def _streamed(self, call: EngineCall, on_text: Callable[[str], None], timeout_s: float) -> Completion:
        """Ask for a stream; its events come from a thread that reads them, and their text is passed on by this one."""
        assembly, until_s = ConverseStream(), time.monotonic() + timeout_s
        with EventReader(call.cancellation, idle_s=self._spec.idle_timeout_s, until_s=until_s) as events:
            reading = self._threads.submit(events.read, lambda: self._event_stream(call))
            try:
                for event in events:
                    piece = assembly.take(event)
                    if assembly.has_begun:
                        events.limit_idle_time()
                    if assembly.size > MAX_ANSWER_CHARS:
                        raise unusable_answer(_TOO_LARGE)
                    if piece:
                        on_text(piece)
                    if assembly.is_over:
                        break
                if not assembly.is_finished:
                    raise EngineUnavailable(BROKE_OFF, may_be_billed=True)
            except EngineUnavailable as error:
                if reading.cancel():  # the thread had not begun, so nothing was sent
                    error.may_be_billed = False
                failure = broken(error, assembly, call)
                if call.cancellation.is_cancelled:
                    raise TaskCancelled(failure.usage) from error
                raise failure from error.__cause__
        return _read(call, assembly.answer())

    def _converse(self, call: EngineCall) -> dict[str, Any]:
        arguments = self._arguments(call)
        with _failures(call):
            answer: dict[str, Any] = self._ready_client().converse(**arguments)
        return answer

    def _event_stream(self, call: EngineCall) -> Generator[Any]:
        """Yield the events of a streamed answer, and close it at the end."""
        arguments = self._arguments(call)
        with _failures(call):
            stream = self._ready_client().converse_stream(**arguments)["stream"]
        try:
            yield from stream
        except EventStreamError as error:
            raise failed(outage=_code_of(error) in _OUTAGES) from error
        except HTTPError as error:
            raise failure_of_body(error) from error
        except (ParserError, *_UNREADABLE) as error:
            raise not_an_event() from error
        except BotoCoreError as error:
            raise _unavailable(error) from error
        finally:
            stream.close()

    def _ready_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _arguments(self, call: EngineCall) -> dict[str, Any]:
        limits: dict[str, Any] = {"maxTokens": call.max_output_tokens}
        if self._spec.send_temperature:
            limits["temperature"] = min(call.temperature, 1.0)
        if self._spec.stop_texts:
            limits["stopSequences"] = list(self._spec.stop_texts)
        arguments: dict[str, Any] = {
            "modelId": self._spec.model,
            "messages": messages(call),
            "inferenceConfig": limits,
            **tool_fields(call),
        }
        if call.system:
            arguments["system"] = [{"text": call.system}]
        if call.answer_schema:
            schema = msgspec.json.encode(for_api(call.answer_schema, self._spec)).decode()
            structure = {"jsonSchema": {"name": call.answer_schema.name, "schema": schema}}
            arguments["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
        return arguments


@contextmanager
def _failures(call: EngineCall) -> Iterator[None]:
    """Turn the exceptions of a request through boto3 into engine failures."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error, call) from error
    except ParamValidationError as error:
        raise BadRequest("The installed version of boto3 does not support this call.") from error
    except _UNREADABLE as error:
        raise unusable_answer("The engine's answer cannot be read.") from error
    except BotoCoreError as error:
        raise _unavailable(error) from error


def _read(call: EngineCall, answer: dict[str, Any]) -> Completion:
    content = json_object(json_object(answer.get("output")).get("message")).get("content")
    stop_reason, usage = answer.get("stopReason"), converse_usage(answer)
    if stop_reason in _REFUSED:
        raise refusal(usage)
    if stop_reason in _FAILED:
        raise EngineUnavailable("The engine failed while it answered.", may_be_billed=True)
    if not isinstance(content, list):
        raise missing_completion()
    blocks = json_objects(content)
    text = join_texts(blocks)
    if len(text) > MAX_ANSWER_CHARS:
        raise unusable_answer(_TOO_LARGE)
    return completion(call, text, usage, truncated=stop_reason in _TRUNCATED, tool_calls=tool_calls(blocks))


def _refusal(error: ClientError, call: EngineCall) -> EngineUnavailable | BadRequest:
    fault, meta = json_object(error.response.get("Error")), json_object(error.response.get("ResponseMetadata"))
    return failure_of_status(
        _STATUS_OF_CODE.get(fault.get("Code", "")) or meta.get("HTTPStatusCode", 500),
        retry_after=json_object(meta.get("HTTPHeaders")).get("retry-after", ""),
        message=fault.get("Message", ""),
        private=private_texts(call),
    )


def _code_of(error: ClientError) -> str:
    code = json_object(error.response.get("Error")).get("Code", "")
    return code if isinstance(code, str) else ""


def _unavailable(error: BotoCoreError) -> EngineUnavailable:
    if isinstance(error, _NO_CREDENTIALS):
        return EngineUnavailable("No AWS credentials were found for this engine.", kind="credentials")
    if isinstance(error, ReadTimeoutError):
        return EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
    if isinstance(error, _BROKEN_OFF):
        return EngineUnavailable("The engine closed the connection.", may_be_billed=True)
    return EngineUnavailable("The engine cannot be reached.", kind="unreachable")
