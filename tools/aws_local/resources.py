"""Create the template's table and queues on an emulator, with the properties that a deployment would have."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from aws_local.template import Document, Stack

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The names and addresses of the created resources, and the stack in which references to them can be resolved."""

    table: str
    queue_url: str
    queue_arn: str
    dead_letter_queue_url: str
    stack: Stack


def make(translated: Document, *, dynamodb: DynamoDBClient, sqs: SQSClient, prefix: str) -> Resources:
    """Create the table and the queues, each named `<prefix>-<logical id>`."""
    stack = Stack(translated)
    # The dead-letter queue comes first because the redrive policy of the other queue refers to it.
    for logical_id in ("DeadLetterQueue", "Queue"):
        url = sqs.create_queue(
            QueueName=f"{prefix}-{logical_id}", Attributes=_queue_attributes(stack.properties(logical_id))
        )["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        stack.names |= {logical_id: url, f"{logical_id}.Arn": arn}
    stack.names["Table"] = f"{prefix}-Table"
    _make_table(dynamodb, stack.names["Table"], stack.properties("Table"))
    return Resources(
        table=stack.names["Table"],
        queue_url=stack.names["Queue"],
        queue_arn=stack.names["Queue.Arn"],
        dead_letter_queue_url=stack.names["DeadLetterQueue"],
        stack=stack,
    )


def remove(made: Resources, *, dynamodb: DynamoDBClient, sqs: SQSClient) -> None:
    """Delete the resources that `make` created."""
    dynamodb.delete_table(TableName=made.table)
    sqs.delete_queue(QueueUrl=made.queue_url)
    sqs.delete_queue(QueueUrl=made.dead_letter_queue_url)


def _queue_attributes(properties: Document) -> dict[Any, str]:
    """Return the attributes of a queue for SQS, which takes them as strings under the names of the template."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in properties.items()
        if name not in {"QueueName", "Tags"}
    }


def _make_table(dynamodb: DynamoDBClient, table: str, properties: Document) -> None:
    dynamodb.create_table(
        TableName=table,
        BillingMode=properties["BillingMode"],
        AttributeDefinitions=properties["AttributeDefinitions"],
        KeySchema=properties["KeySchema"],
        GlobalSecondaryIndexes=properties["GlobalSecondaryIndexes"],
        SSESpecification={"Enabled": properties["SSESpecification"]["SSEEnabled"]},
    )
    dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=properties["TimeToLiveSpecification"])
    # Some emulators do not support backups; they are not needed here.
    with contextlib.suppress(ClientError):
        dynamodb.update_continuous_backups(
            TableName=table,
            PointInTimeRecoverySpecification=properties["PointInTimeRecoverySpecification"],
        )
