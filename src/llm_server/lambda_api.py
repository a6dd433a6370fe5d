"""The API function: passes API Gateway events (HTTP API 2.0 and REST 1.0) to the FastAPI app.

The app itself requires an API key for each call except /health, so the gateway may let all calls through.
"""

import gc
import sys

gc.disable()  # a collection during the imports takes 12 % of a cold start and frees no memory
# FastAPI imports pydantic.v1 only to refuse its models. None makes that import fail, for a 6 % faster cold start.
sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]  # the stub does not allow None

import json
import logging
from base64 import b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from mangum.protocols import HTTPCycle

from llm_server import substrates, wiring
from llm_server.api import edge, errors
from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.settings import Settings

MAX_ANSWER_BYTES = 6_291_556
"""Lambda's limit for an answer, encoded as JSON.

https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""
_NOT_A_REQUEST = (RuntimeError, LookupError, TypeError, AttributeError)
"""What Mangum raises for an event of a format that it does not know, or without a part that its format requires."""

_log = logging.getLogger(__name__)


class _Handler(Mangum):
    """Mangum, with a 400 for a body that is not base64, and with large answers encoded to fit Lambda's limit.

    An event that is not an HTTP request, such as a warm-up call or a message of a queue, is answered and has no effect.
    So is an event that lacks a part of its request, such as the method.
    """

    def __call__(self, event: Any, context: Any) -> Any:
        request = _without_nulls(event)
        try:
            adapter = self.infer(request, context)
            cycle = HTTPCycle(adapter.scope, adapter.body)
        except Base64Error:
            path = request.get("rawPath") or request.get("path") or ""
            return _refuse_body({name.lower(): value for name, value in request["headers"].items()}, path)
        except _NOT_A_REQUEST:
            _log.info("event ignored", extra={"event_keys": sorted(event) if isinstance(event, dict) else []})
            return {"ignored": "The event is not an HTTP request of API Gateway."}
        return _fit(adapter(cycle(self.app)))


def _without_nulls(event: Any) -> dict[str, Any]:
    """Return an event without the parts that are null, and with headers; {} if it has no request context.

    The test page of a REST API sends null for the headers and for the query if none is given.
    """
    if not isinstance(event, dict) or not isinstance(event.get("requestContext"), dict):
        return {}
    given = {name: value for name, value in event.items() if value is not None}
    context = {name: value for name, value in event["requestContext"].items() if value is not None}
    return {"headers": {}} | given | {"requestContext": context}


def _refuse_body(headers: Mapping[str, str], path: str) -> dict[str, Any]:
    """Answer 400 in the form that errors have on this path; `headers` are the request's, with names in lower case."""
    request_id = edge.id_of(headers.get("x-request-id", ""), wiring.new_id)
    detail = "The body is not valid base64, although the event is marked as base64-encoded."
    answer = edge.in_form_of(path, errors.answer("body_not_base64", detail, request_id=request_id))
    edge.name_answer(answer.headers, request_id)
    return {"statusCode": 400, "headers": dict(answer.headers), "body": bytes(answer.body).decode()}


def _fit(answer: dict[str, Any]) -> dict[str, Any]:
    """Encode the body of an answer in base64 if the answer would be larger than Lambda allows.

    The body is JSON inside JSON: a text of quotation marks becomes four times as long, while base64 adds a
    third. An HTTP API decodes the body; a REST API does so if its `binaryMediaTypes` are set.
    """
    if answer["isBase64Encoded"] or len(json.dumps(answer)) <= MAX_ANSWER_BYTES:
        return answer
    return answer | {"body": b64encode(answer["body"].encode()).decode(), "isBase64Encoded": True}


_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)

_service = substrates.aws_service(_settings, works=False)
handler = _Handler(
    create_app(_service, wiring.new_id, executor=InlineExecutor(_service)),
    lifespan="off",
    text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, errors.MEDIA_TYPE],
)

gc.freeze()
gc.enable()
