"""The queue on AWS: one SQS queue. A message names a task: `{"task": "<tenant>/<task_id>"}`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.task import TaskRef

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

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        body = json.dumps({"task": str(ref)})
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=body, DelaySeconds=min(delay_s, MAX_DELAY_S))
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable("The queue does not answer; try again.") from error

    def depth(self) -> int:
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=_WAITING)
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable("The queue does not answer; try again.") from error
        return sum(int(answer["Attributes"][name]) for name in _WAITING)
