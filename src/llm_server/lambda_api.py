"""The API function: API Gateway events (HTTP API 2.0 and REST 1.0) into the FastAPI app.

Never open: the gateway may let everybody through, and the app asks each call but /health for a key.
"""

import gc
import sys

gc.disable()  # nothing imported here is garbage; collecting while importing costs 12 % of a cold start
# FastAPI loads pydantic's first version only to refuse its models, and does without where there is none: 6 %
sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]

import logging
from binascii import Error as NoBase64
from typing import Any

from mangum import Mangum

from llm_server import wiring
from llm_server.api.app import create_app
from llm_server.settings import Settings


class _Handler(Mangum):
    """Mangum, to which a body that is no base64 would be a crash."""

    def __call__(self, event: Any, context: Any) -> Any:
        try:
            return super().__call__(event, context)
        except NoBase64:
            detail = '{"detail":"The body is not valid base64, as the event says it is."}'
            return {"statusCode": 400, "headers": {"content-type": "application/json"}, "body": detail}


_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)

handler = _Handler(create_app(wiring.aws_service(_settings, works=False), wiring.new_id), lifespan="off")

gc.freeze()
gc.enable()
