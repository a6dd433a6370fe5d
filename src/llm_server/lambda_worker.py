"""The worker function: a batch of SQS messages, all at the same time; only what must come again is given back.

A message is `{"task": "<tenant>/<task_id>"}` or `{"sweep": true}`. Never imports fastapi: a cold start pays for it.
"""

import gc

gc.disable()  # nothing imported here is garbage; collecting while importing costs 12 % of a cold start

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llm_server import wiring
from llm_server.orchestration.errors import StorageMisconfigured
from llm_server.orchestration.service import Service
from llm_server.orchestration.task import TaskRef
from llm_server.settings import Settings

BATCH_MOST = 10
RESERVE_MS = 5_000
"""What is kept of the function's time for the last writes."""

_log = logging.getLogger("llm_server.lambda_worker")
_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)
_service = wiring.aws_service(_settings, works=True)


def handler(event: dict[str, Any], context: Any) -> dict[str, list[dict[str, str]]]:
    """Process a batch; answers `{"batchItemFailures": [{"itemIdentifier": <message id>}]}`."""
    return handle(_service, event, until_ms=wiring.now_ms() + context.get_remaining_time_in_millis() - RESERVE_MS)


def handle(service: Service, event: dict[str, Any], *, until_ms: int) -> dict[str, list[dict[str, str]]]:
    """Process a batch with a service until the function's own time ends, `until_ms`."""
    records = event["Records"]
    with ThreadPoolExecutor(max_workers=BATCH_MOST) as pool:
        done = list(pool.map(lambda record: _handled(service, record, until_ms), records))
    failed = [record["messageId"] for record, ok in zip(records, done, strict=True) if not ok]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _handled(service: Service, record: dict[str, Any], until_ms: int) -> bool:
    """Whether a message is done with; a malformed one is: it would be malformed the next time too."""
    message_id = record["messageId"]
    try:
        ref = _wanted(record["body"])
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        _log.warning("malformed message", extra={"message_id": message_id})
        return True
    try:
        if ref is None:
            _log.info("sweep", extra={"woken": service.sweep()})
        else:
            service.process(ref, owner=message_id, until_ms=until_ms)
    except StorageMisconfigured as error:
        _log.error("the database cannot be used", extra={"message_id": message_id, "cause": error.cause})
        return False
    except Exception:  # one message's failure must not take the other nine along; it comes again
        _log.exception("message failed", extra={"message_id": message_id})
        return False
    return True


def _wanted(body: str) -> TaskRef | None:
    """The task a message names; None asks for the sweep. ValueError and its like for anything else."""
    message = json.loads(body)
    if message == {"sweep": True}:
        return None
    return TaskRef.parse(message.get("task"))


gc.freeze()
gc.enable()
