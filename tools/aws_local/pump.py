"""A stand-in for Lambda's event source: receive messages, invoke a function, delete the messages that succeeded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from aws_local.invocation import Event

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

BATCH_SIZE = 10

_log = logging.getLogger(__name__)


class Pump:
    """Passes a queue's messages to a function, as the template's event source does.

    `invoke` takes an SQS event and returns the function's answer. The messages in its `batchItemFailures` stay in the
    queue and are delivered again after the visibility time-out; if `invoke` raises, all messages are.
    """

    def __init__(self, sqs: SQSClient, *, queue_url: str, queue_arn: str, invoke: Callable[[Event], Any]) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._queue_arn = queue_arn
        self._invoke = invoke

    def deliver(self, *, wait_s: int = 0) -> int:
        """Deliver one batch, after waiting up to `wait_s` seconds for it; return the number of its messages."""
        messages = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=BATCH_SIZE,
            WaitTimeSeconds=wait_s,
            MessageSystemAttributeNames=["All"],
        ).get("Messages", [])
        if messages:
            self._settle(messages, self._failed(messages))
        return len(messages)

    def deliver_all(self) -> int:
        """Deliver until the queue is empty; return the number of messages."""
        delivered = 0
        while batch := self.deliver():
            delivered += batch
        return delivered

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        while not stop.is_set():
            try:
                self.deliver(wait_s=1)
            except (BotoCoreError, ClientError):
                _log.exception("queue unreachable")
                stop.wait(1)

    def _failed(self, messages: Sequence[MessageTypeDef]) -> set[str]:
        sent = {message["MessageId"] for message in messages}
        try:
            answer = self._invoke({"Records": [self._record(message) for message in messages]})
        except Exception:  # as Lambda, go on after any error of the function
            _log.exception("function failed")
            return sent
        return failures(answer, sent)

    def _settle(self, messages: Sequence[MessageTypeDef], failed: set[str]) -> None:
        done = [message for message in messages if message["MessageId"] not in failed]
        if done:
            self._sqs.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(done)
                ],
            )

    def _record(self, message: MessageTypeDef) -> Event:
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": dict(message.get("Attributes", {})),
            "messageAttributes": {},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._queue_arn,
            "awsRegion": self._queue_arn.split(":")[3],
        }


def failures(answer: Any, sent: set[str]) -> set[str]:
    """Return the ids of the failed messages, read from a function's answer as Lambda does.

    All messages succeeded if the answer or its list is empty; all failed if the answer is malformed.
    """
    if not answer or not answer.get("batchItemFailures"):
        return set()
    try:
        failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    except (KeyError, TypeError):
        return sent
    return failed if failed <= sent else sent
