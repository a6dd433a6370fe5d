"""The worker function: processes a batch of SQS messages in parallel, or sweeps.

A message is `{"task": "<tenant>/<task_id>"}`. For a sweep, the schedule invokes the function directly with
`{"sweep": true}`; a sweep message would wait at the end of the queue, which is longest when a sweep is needed most.
FastAPI is not imported, which keeps the cold start short.
"""

import gc

gc.disable()  # a collection during the imports takes 12 % of a cold start and frees no memory

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llm_server import substrates, wiring
from llm_server.orchestration.domain.errors import StorageMisconfigured
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service
from llm_server.settings import Settings

MAX_BATCH = 10
RESERVE_MS = 5_000
"""The part of an invocation's time that is reserved for the last writes to the store."""

_log = logging.getLogger("llm_server.lambda_worker")
_settings = Settings.read()
logging.getLogger("llm_server").setLevel(_settings.log_level)
_service = substrates.aws_service(_settings, works=True)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle an invocation by Lambda; see `handle`."""
    return handle(_service, event, until_ms=wiring.now_ms() + context.get_remaining_time_in_millis() - RESERVE_MS)


def handle(service: Service, event: dict[str, Any], *, until_ms: int) -> dict[str, Any]:
    """Process a batch of messages or sweep, until `until_ms` (Unix milliseconds) at the latest.

    Returns `{"batchItemFailures": [{"itemIdentifier": <message id>}]}` for a batch, with the messages that SQS must
    deliver again, and `{"woken": <number of tasks>}` for a sweep. Errors of a sweep are raised, so that an alarm goes
    off; the next sweep follows a minute later.

    Raises:
        ValueError: the event is neither a batch nor a sweep.
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
        done = list(pool.map(lambda record: _process(service, record, until_ms), records))
    failed = [record["messageId"] for record, ok in zip(records, done, strict=True) if not ok]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _process(service: Service, record: dict[str, Any], until_ms: int) -> bool:
    """Process a message; return False if SQS must deliver it again. A malformed message is dropped and logged."""
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
    except Exception:  # an error with one message must not fail the others of the batch; SQS delivers this one again
        _log.exception("message failed", extra={"message_id": message_id})
        return False
    return True


gc.freeze()
gc.enable()
