"""Events for `sam local invoke`: the samples in `samples`, with the API key and the tasks of one emulator."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aws_local.invocation import Event
from aws_local.resources import Resources
from llm_server import wiring
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from llm_server.orchestration.service import Service

SAMPLES = Path(__file__).parent / "samples"
SAMPLE_TOKEN = "llms_000000000001_" + "0" * 64
SAMPLE_TASKS = ("01979f5e-7a3c-7b21-9c4d-5e6f708192a3", "01979f5e-7b10-7c05-8a1f-2b3c4d5e6f70")
TENANT = "local"

_DAY_S = 24 * 3600
_DEADLINE_S = 1
_PROMPT = "Explain what a message queue does, in two sentences."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """The ids of stored tasks, by the state that they are in."""

    queued: Sequence[str]
    completed: str
    failed: str

    def of_events(self) -> Mapping[str, Sequence[str]]:
        """Return the ids that take the place of SAMPLE_TASKS, by the name of the event; each changes its own task."""
        to_cancel, to_delete, *in_batch = self.queued
        return {
            "api-v2-get-task": [self.completed],
            "api-v2-cancel-task": [to_cancel],
            "api-v2-delete-task": [to_delete],
            "api-v2-retry-task": [self.failed],
            "sqs-batch": in_batch,
        }


def store_tasks(settings: Settings, sqs: SQSClient) -> Tasks:
    """Store one task for each event that names one. The embedded engine answers those that are carried out.

    The queued tasks stay so for a day, or until an event names them: their messages go to a queue that no worker reads,
    and the sweep does not look at them before.
    """
    unread = sqs.create_queue(QueueName="llm-server-unread")["QueueUrl"]
    aside = replace(settings, queue_url=unread, sweep_s=_DAY_S, config=None, require_engine=False, environ={})
    service = wiring.aws_service(aside, works=True)
    failed = _submit(service, Limits(deadline_s=_DEADLINE_S))
    overdue_s = time.monotonic() + _DEADLINE_S + 0.1
    queued = [_submit(service) for _ in range(4)]
    completed = _submit(service)
    _process(service, completed)
    time.sleep(max(0.0, overdue_s - time.monotonic()))
    _process(service, failed)
    return Tasks(queued=queued, completed=completed, failed=failed)


def write(folder: Path, *, token: str, tasks: Tasks, made: Resources) -> None:
    """Write every sample as `<folder>/<name>.json`, with this API key and with the ids of these tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    named = tasks.of_events()
    for sample in sorted(SAMPLES.glob("*.json")):
        text = sample.read_text(encoding="utf-8").replace(SAMPLE_TOKEN, token)
        for of_sample, of_emulator in zip(SAMPLE_TASKS, named.get(sample.stem, ()), strict=False):
            text = text.replace(of_sample, of_emulator)
        event = _with_origin(json.loads(text), made.queue_arn)
        (folder / sample.name).write_text(json.dumps(event, indent=2) + "\n", encoding="utf-8")


def _submit(service: Service, limits: Limits | None = None) -> str:
    return service.submit(TENANT, NewTask(prompt=_PROMPT, limits=limits or Limits())).task_id


def _process(service: Service, task_id: str) -> None:
    service.process(TaskRef(TENANT, task_id), owner=wiring.new_id())


def _with_origin(event: Event, queue_arn: str) -> Event:
    """Return an event of SQS as this queue would deliver it; return other events unchanged."""
    for record in event.get("Records", ()):
        digest = hashlib.md5(record["body"].encode(), usedforsecurity=False).hexdigest()
        record |= {"md5OfBody": digest, "eventSourceARN": queue_arn, "awsRegion": queue_arn.split(":")[3]}
    return event
