"""The worker function: a batch of SQS messages, all at the same time, or the sweep.

A message is `{"task": "<tenant>/<task_id>"}`. The sweep is no message, for it would wait in the very queue it watches:
the schedule invokes the function with `{"sweep": true}`. Never imports fastapi: a cold start pays for it.
"""

import gc

gc.disable()  # nothing imported here is garbage; collecting while importing costs 12 % of a cold start

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llm_server import wiring
from llm_server.orchestration.domain.errors import StorageMisconfigured
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service
from llm_server.settings import Settings

MAX_BATCH = 10
RESERVE_MS = 5_000
"""What is kept of the function's time for the last writes."""

_log = logging.getLogger("llm_server.lambda_worker")
_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)
_service = wiring.aws_service(_settings, works=True)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Sweep, or process a batch; answers as `handle`."""
    return handle(_service, event, until_ms=wiring.now_ms() + context.get_remaining_time_in_millis() - RESERVE_MS)


def handle(service: Service, event: dict[str, Any], *, until_ms: int) -> dict[str, Any]:
    """Do what an event asks for, with a service, until the function's own time ends, `until_ms`.

    Answers a batch with only what must come again, `{"batchItemFailures": [{"itemIdentifier": <message id>}]}`, and a
    sweep with `{"woken": <tasks>}`. A sweep that fails raises, so that an alarm tells of it; the next one is a minute
    away. Raises ValueError: the event is neither.
    """
    match event:
        case {"sweep": True, **more} if not more:
            woken = service.sweep(lambda: wiring.now_ms() < until_ms)
            _log.info("sweep", extra={"woken": woken})
            return {"woken": woken}
        case {"Records": list(records)} if all("messageId" in record for record in records):
            return _batch(service, records, until_ms)
    raise ValueError('The event is neither a batch of SQS messages nor {"sweep": true}.')


def _batch(service: Service, records: list[dict[str, Any]], until_ms: int) -> dict[str, Any]:
    with ThreadPoolExecutor(max_workers=MAX_BATCH) as pool:
        done = list(pool.map(lambda record: _handled(service, record, until_ms), records))
    failed = [record["messageId"] for record, ok in zip(records, done, strict=True) if not ok]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _handled(service: Service, record: dict[str, Any], until_ms: int) -> bool:
    """Whether a message is done with; a malformed one is: it would be malformed the next time too."""
    message_id = record["messageId"]
    try:
        ref = TaskRef.parse(json.loads(record["body"]).get("task"))
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        _log.warning("malformed message", extra={"message_id": message_id})
        return True
    try:
        service.process(ref, owner=wiring.new_id(), until_ms=until_ms)
    except StorageMisconfigured as error:
        _log.error("the database cannot be used", extra={"message_id": message_id, "cause": error.cause})
        return False
    except Exception:  # one message's failure must not take the other nine along; it comes again
        _log.exception("message failed", extra={"message_id": message_id})
        return False
    return True


gc.freeze()
gc.enable()
