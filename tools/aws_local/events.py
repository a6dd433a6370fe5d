"""The API key and the tasks that the files in `events/` name: `make aws-local` stores them in its emulator's table."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from aws_local.resources import Resources
from llm_server import catalog_loading, wiring
from llm_server.orchestration.access import tokens
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import SCOPES, NewKey
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.settings import Settings
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.store import DynamoStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from llm_server.orchestration.service import Service

KEY_ID = "000000000001"
SECRET = bytes(32)
TOKEN = tokens.format_token(KEY_ID, SECRET.hex())
TENANT = "local"

FAILED = "01979f5e-7a3c-7b21-9c4d-5e6f70819202"
"""The task of `api-v2-retry-task`."""
COMPLETED = "01979f5e-7a3c-7b21-9c4d-5e6f70819201"
"""The task of `api-v2-get-task`."""
QUEUED = (
    "01979f5e-7a3c-7b21-9c4d-5e6f70819203",
    "01979f5e-7a3c-7b21-9c4d-5e6f70819204",
    "01979f5e-7a3c-7b21-9c4d-5e6f70819205",
    "01979f5e-7a3c-7b21-9c4d-5e6f70819206",
)
"""The tasks of `api-v2-cancel-task` and `api-v2-delete-task`, and the two of `sqs-batch`."""

_DAY_S = 24 * 3600
_DEADLINE_S = 1
_PROMPT = "Explain what a message queue does, in two sentences."


class _NoWakeUps:
    """A queue that sends nothing, so that the stored tasks wait for their events."""

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        pass

    def depth(self) -> int:
        return 0


def fill(made: Resources, dynamodb: DynamoDBClient) -> None:
    """Store the key and the tasks in the table of an emulator; `dynamodb` is the client that made it.

    The embedded engine answers the task that is Completed. The sweep leaves the Queued tasks alone for a day.
    """
    keys = DynamoKeys(dynamodb, made.table)
    Keyring(keys, wiring.now_ms, lambda _: SECRET).add(KEY_ID, NewKey(tenant=TENANT, scopes=SCOPES))
    service = _service(made, dynamodb, keys)
    for limits in (Limits(deadline_s=_DEADLINE_S), Limits(), *(Limits() for _ in QUEUED)):
        service.submit(TENANT, NewTask(prompt=_PROMPT, limits=limits))
    _process(service, COMPLETED)
    time.sleep(_DEADLINE_S + 0.1)  # after its deadline a task fails
    _process(service, FAILED)


def _service(made: Resources, dynamodb: DynamoDBClient, keys: DynamoKeys) -> Service:
    """Build a service whose tasks get these ids in turn, with no setting of the shell: FAILED, COMPLETED, QUEUED."""
    settings = Settings(table=made.table, queue_url=made.queue_url, sweep_s=_DAY_S)
    return wiring.service_of(
        settings,
        store=DynamoStore(dynamodb, made.table, draw=random.randrange, retention=wiring.retention(settings)),
        key_store=keys,
        queue=_NoWakeUps(),
        catalog=catalog_loading.load_catalog(settings).catalog,
        new_id=iter((FAILED, COMPLETED, *QUEUED)).__next__,
    )


def _process(service: Service, task_id: str) -> None:
    service.process(TaskRef(TENANT, task_id), owner=wiring.new_id())
