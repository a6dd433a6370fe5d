"""The API function: API Gateway events (HTTP API 2.0 and REST 1.0) into the FastAPI app.

Never open: the gateway may let everybody through, and the app asks each call but /health for a key.
"""

import gc
import sys

gc.disable()  # nothing imported here is garbage; collecting while importing costs 12 % of a cold start
# FastAPI loads pydantic's first version only to refuse its models, and does without where there is none: 6 %.
# None is how an import is told that there is no such module; the stub of sys.modules does not know
sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]

import json
import logging
from base64 import b64encode
from binascii import Error as NoBase64
from collections.abc import Mapping
from typing import Any

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

from llm_server import wiring
from llm_server.api import edge, errors
from llm_server.api.app import create_app
from llm_server.settings import Settings

MAX_ANSWER_BYTES = 6_291_556
"""What Lambda takes of an answer as JSON.

https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""


class _Handler(Mangum):
    """Mangum, to which a body that is no base64 would be a crash, and one that is too large an error of Lambda's."""

    def __call__(self, event: Any, context: Any) -> Any:
        try:
            return _fitting(super().__call__(event, context))
        except NoBase64:
            return _no_base64({name.lower(): value for name, value in (event.get("headers") or {}).items()})


def _no_base64(asked: Mapping[str, str]) -> dict[str, Any]:
    """The one answer that the app does not give, as it would."""
    request_id = edge.id_of(asked.get("x-request-id", ""), wiring.new_id)
    answer = errors.answer("body_not_base64", "The body is not valid base64.", request_id=request_id)
    edge.name_answer(answer.headers, request_id)
    return {"statusCode": 400, "headers": dict(answer.headers), "body": bytes(answer.body).decode()}


def _fitting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose body is JSON in JSON, or in base64 where that would be too large.

    Escaped twice, a text of quotes quadruples; base64 adds a third to whatever it is. An HTTP API decodes it, a REST
    API where its `binaryMediaTypes` say so.
    """
    if answer["isBase64Encoded"] or len(json.dumps(answer)) <= MAX_ANSWER_BYTES:
        return answer
    return answer | {"body": b64encode(answer["body"].encode()).decode(), "isBase64Encoded": True}


_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)

handler = _Handler(
    create_app(wiring.aws_service(_settings, works=False), wiring.new_id),
    lifespan="off",
    text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, errors.MEDIA_TYPE],
)

gc.freeze()
gc.enable()
