"""A task's request and outputs: items of its partition, several where one item is too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items, packing
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Texts:
    """Items with a time to live that outlasts their task's; with `Retention.keep_ms` None they have none."""

    def __init__(self, client: DynamoDBClient, table: str, retention: Retention) -> None:
        self._client = client
        self._table = table
        self._retention = retention

    def put(self, ref: TaskRef, sk: str, text: str, written_ms: int, **condition: Any) -> None:
        head = self.put_parts(ref, sk, text, written_ms)
        writing(partial(self._client.put_item, TableName=self._table, Item=head, **condition))

    def put_parts(self, ref: TaskRef, sk: str, text: str, written_ms: int) -> dict[str, Any]:
        """Write what an item cannot hold as items of their own; returns the item that names them."""
        head, *parts = self.items(ref, sk, text, written_ms)
        for part in parts:
            writing(partial(self._client.put_item, TableName=self._table, Item=part))
        return head

    def items(self, ref: TaskRef, sk: str, text: str, written_ms: int) -> list[dict[str, Any]]:
        """A text as items that are not written yet, the one that names the others first."""
        head, parts = packing.split(ref, sk, text, self._retention.of_text(written_ms))
        return [head, *parts]

    def rows(self, ref: TaskRef, **projection: Any) -> Iterator[dict[str, Any]]:
        """Everything in a task's partition, its state among it."""
        query: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": items.partition(ref)}},
            "ConsistentRead": True,
            **projection,
        }
        while True:
            with calling():
                answer = self._client.query(**query)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def retain(self, ref: TaskRef, now_ms: int) -> None:
        until_ms = self._retention.of_text(now_ms)
        if until_ms is None:
            return
        for key in self._keys(ref):
            update: dict[str, Any] = {
                "TableName": self._table,
                "Key": key,
                "UpdateExpression": "SET #ttl = :ttl",
                "ConditionExpression": "attribute_exists(pk)",
                "ExpressionAttributeNames": {"#ttl": "ttl"},
                "ExpressionAttributeValues": {":ttl": items.seconds(until_ms)},
            }
            with suppress(ConditionFailed):
                writing(partial(self._client.update_item, **update))

    def remove(self, ref: TaskRef) -> None:
        for key in self._keys(ref):
            writing(partial(self._client.delete_item, TableName=self._table, Key=key))

    def _keys(self, ref: TaskRef) -> list[dict[str, Any]]:
        """The keys of all texts, parts included; not that of the state."""
        return [row for row in self.rows(ref, ProjectionExpression="pk, sk") if row["sk"]["S"] != "STATE"]
