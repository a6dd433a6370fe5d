"""The API function: API Gateway events (HTTP API 2.0 and REST 1.0) into the FastAPI app.

Never open: the gateway may let everybody through, and the app asks each call but /health for a key.
"""

import gc

gc.disable()  # nothing imported here is garbage; collecting while importing costs 12 % of a cold start

import logging

from mangum import Mangum

from llm_server import wiring
from llm_server.api.app import create_app
from llm_server.settings import Settings

_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)

handler = Mangum(create_app(wiring.aws_service(_settings, works=False), wiring.new_id), lifespan="off")

gc.freeze()
gc.enable()
