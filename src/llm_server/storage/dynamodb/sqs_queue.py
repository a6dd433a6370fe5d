"""The queue on AWS: one SQS queue. A message names a task: `{"task": "<tenant>/<task_id>"}`.

Its MessageGroupId names the line that it waits in, so that SQS delivers by turns between lines ("fair queues"):
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import Line

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

MAX_DELAY_S = 900
_WAITING: list[QueueAttributeNameType] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
]


class SqsQueue:
    """The Queue port over an SQS queue."""

    def __init__(self, client: SQSClient, url: str) -> None:
        self._client = client
        self._url = url

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        try:
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=json.dumps({"task": str(ref)}),
                DelaySeconds=min(delay_s, MAX_DELAY_S),
                MessageGroupId=_group(Line(ref.tenant, priority)),
            )
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable("The queue does not answer; try again.") from error

    def depth(self) -> int:
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=_WAITING)
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable("The queue does not answer; try again.") from error
        return sum(int(answer["Attributes"][name]) for name in _WAITING)


def _group(line: Line) -> str:
    """Return the group of a line: a digest, because a group takes ASCII only, and must not tell tenants' names."""
    return sha256(f"{line.tenant}/{line.priority}".encode()).hexdigest()[:32]
