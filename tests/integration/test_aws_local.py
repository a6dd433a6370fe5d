"""The emulators have the resources of the template; pump and schedule do what Lambda and EventBridge do."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from aws_local import ministack, schedule
from aws_local.pump import Pump, failures
from support.aws_emulators import Substrate
from support.deployment import an_event


class Recorder:
    """A worker that records its events and answers, or raises, `answer`."""

    def __init__(self, answer: Any = None) -> None:
        self.events: list[Any] = []
        self._answer = answer

    def __call__(self, event: Any) -> Any:
        self.events.append(event)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer(event) if callable(self._answer) else self._answer

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for event in self.events for record in event["Records"]]


def a_pump(on: Substrate, worker: Recorder) -> Pump:
    return Pump(on.sqs, queue_url=on.queue_url, queue_arn=on.made.queue_arn, invoke=worker)


def waiting(on: Substrate) -> int:
    """Return the number of messages in the queue, delivered or not."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = on.sqs.get_queue_attributes(QueueUrl=on.queue_url, AttributeNames=names)["Attributes"]
    return sum(int(value) for value in attributes.values())


def test_the_table_is_the_one_of_the_template(aws_substrate: Substrate) -> None:
    on = aws_substrate
    table = on.dynamodb.describe_table(TableName=on.table)["Table"]
    ttl = on.dynamodb.describe_time_to_live(TableName=on.table)["TimeToLiveDescription"]

    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
    assert {index["IndexName"] for index in table["GlobalSecondaryIndexes"]} == {"open", "listing"}
    assert ttl["AttributeName"] == "ttl"
    assert ttl["TimeToLiveStatus"] == ("ENABLED" if on.name == "moto" else "DISABLED")  # see `ministack_substrate`


def test_the_queue_is_the_one_of_the_template(aws_substrate: Substrate) -> None:
    on = aws_substrate
    attributes = on.sqs.get_queue_attributes(QueueUrl=on.queue_url, AttributeNames=["All"])["Attributes"]

    assert attributes["VisibilityTimeout"] == "1080"
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith("-DeadLetterQueue")


def test_a_transaction_shows_in_both_indexes(aws_substrate: Substrate) -> None:
    """The store depends on these four operations, so an emulator must get them right."""
    on = aws_substrate
    state = {"pk": "T#local#1", "sk": "STATE", "open": "OPEN#3", "tenant": "local", "created": "2026-07-07"}
    item: Any = {**{name: {"S": value} for name, value in state.items()}, "due": {"N": "5"}}
    put: Any = {"Put": {"TableName": on.table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}
    count: Any = {
        "Update": {
            "TableName": on.table,
            "Key": {"pk": {"S": "CTR#0"}, "sk": {"S": "ALL"}},
            "UpdateExpression": "ADD queued :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
    }
    on.dynamodb.transact_write_items(TransactItems=[put, count])
    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        on.dynamodb.transact_write_items(TransactItems=[put, count])

    due = on.dynamodb.query(
        TableName=on.table,
        IndexName="open",
        KeyConditionExpression="#open = :open AND due < :now",
        ExpressionAttributeNames={"#open": "open"},
        ExpressionAttributeValues={":open": {"S": "OPEN#3"}, ":now": {"N": "6"}},
    )
    listed = on.dynamodb.query(
        TableName=on.table,
        IndexName="listing",
        KeyConditionExpression="tenant = :tenant",
        ExpressionAttributeValues={":tenant": {"S": "local"}},
    )
    counted = on.dynamodb.get_item(TableName=on.table, Key=count["Update"]["Key"])
    assert [found["pk"]["S"] for found in due["Items"]] == ["T#local#1"]
    assert [found["pk"]["S"] for found in listed["Items"]] == ["T#local#1"]
    assert counted["Item"]["queued"] == {"N": "1"}


def test_counts_are_exact_under_64_threads(aws_substrate: Substrate) -> None:
    """Without the lock, moto loses updates, and race tests on it would report bugs that our code does not have."""
    on = aws_substrate

    def add(_: int) -> None:
        for _ in range(50):
            on.dynamodb.update_item(
                TableName=on.table,
                Key={"pk": {"S": "CTR#0"}, "sk": {"S": "ALL"}},
                UpdateExpression="ADD tasks :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(add, range(64)))

    found = on.dynamodb.get_item(TableName=on.table, Key={"pk": {"S": "CTR#0"}, "sk": {"S": "ALL"}})
    assert found["Item"]["tasks"] == {"N": "3200"}


def test_a_client_made_by_the_code_under_test_finds_the_emulator(aws_substrate: Substrate) -> None:
    assert boto3.client("dynamodb").describe_table(TableName=aws_substrate.table)


def test_ministack_listens_on_loopback_only(ministack_endpoint: str) -> None:
    """It does not require a password. 127.0.0.2 stands for the machine's other addresses."""
    port = int(ministack_endpoint.rpartition(":")[2])
    with socket.socket() as other:
        other.settimeout(1)
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_ministack_stops_when_its_user_is_done() -> None:
    with ministack.running() as endpoint:
        pass
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) != 0


def test_a_delivered_message_leaves_the_queue(aws_substrate: Substrate) -> None:
    worker = Recorder()
    aws_substrate.sqs.send_message(QueueUrl=aws_substrate.queue_url, MessageBody='{"task": "local/1"}')

    assert a_pump(aws_substrate, worker).deliver() == 1
    assert worker.bodies == ['{"task": "local/1"}']
    assert waiting(aws_substrate) == 0


def test_only_failed_messages_stay_in_the_queue(aws_substrate: Substrate) -> None:
    def refuses_two(event: Any) -> Any:
        failed = [record["messageId"] for record in event["Records"] if record["body"] == "two"]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}

    for body in ("one", "two", "three"):
        aws_substrate.sqs.send_message(QueueUrl=aws_substrate.queue_url, MessageBody=body)
    worker = Recorder(refuses_two)

    assert a_pump(aws_substrate, worker).deliver_all() == 3
    assert waiting(aws_substrate) == 1


def test_a_crash_of_the_worker_loses_no_message(moto_substrate: Substrate) -> None:
    moto_substrate.sqs.send_message(QueueUrl=moto_substrate.queue_url, MessageBody="one")

    a_pump(moto_substrate, Recorder(RuntimeError("out of memory"))).deliver()
    assert waiting(moto_substrate) == 1


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": [{"itemIdentifier": "a"}]}, {"a"}),
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, {"a", "b"}),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, {"a", "b"}),
        ({"batchItemFailures": [{"ItemIdentifier": "a"}]}, {"a", "b"}),
    ],
)
def test_a_partial_batch_response_is_read_as_lambda_reads_it(answer: Any, failed: set[str]) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"""
    assert failures(answer, {"a", "b"}) == failed


@pytest.mark.parametrize("answer", [None, RuntimeError("out of memory")])
def test_the_sweep_is_repeated_until_it_is_stopped(answer: Any) -> None:
    """Also after a failure. Each event is the template's, sent to the function directly and not through the queue."""
    stop, worker = threading.Event(), Recorder(answer)

    def invoke(event: Any) -> Any:
        if len(worker.events) == 1:
            stop.set()
        return worker(event)

    sweeping = threading.Thread(target=schedule.sweep, args=(invoke, stop), kwargs={"every_s": 0.01}, daemon=True)
    sweeping.start()
    sweeping.join(5)

    assert not sweeping.is_alive()
    assert worker.events == [an_event("sweep")] * 2
