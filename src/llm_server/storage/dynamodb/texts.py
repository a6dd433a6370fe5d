"""A task's request and outputs: items of its partition, several for a text that is too long for one item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items, packing
from llm_server.storage.dynamodb.calls import ConditionFailed, pages, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Texts:
    """Texts as items. Their time to live ends after that of their task; it is unset if `Retention.keep_ms` is None."""

    def __init__(self, client: DynamoDBClient, table: str, retention: Retention) -> None:
        self._client = client
        self._table = table
        self._retention = retention

    def put(self, ref: TaskRef, sk: str, text: str, written_ms: int, **condition: Any) -> None:
        head = self.put_parts(ref, sk, text, written_ms)
        writing(partial(self._client.put_item, TableName=self._table, Item=head, **condition))

    def put_parts(self, ref: TaskRef, sk: str, text: str, written_ms: int) -> dict[str, Any]:
        """Write the parts that do not fit in the first item. Return the first item, which the caller must write."""
        head, *parts = self.items(ref, sk, text, written_ms)
        self.put_items(parts)
        return head

    def put_items(self, items: Iterable[dict[str, Any]]) -> None:
        for item in items:
            writing(partial(self._client.put_item, TableName=self._table, Item=item))

    def remove_items(self, items: Iterable[dict[str, Any]]) -> None:
        for item in items:
            key = {name: item[name] for name in ("pk", "sk")}
            writing(partial(self._client.delete_item, TableName=self._table, Key=key))

    def items(self, ref: TaskRef, sk: str, text: str, written_ms: int, *, salt: bytes = b"") -> list[dict[str, Any]]:
        """Return the items of a text without writing them. The first item names the others. `salt`: as for `split`."""
        head, parts = packing.split(ref, sk, text, self._retention.of_text(written_ms), salt=salt)
        return [head, *parts]

    def rows(self, ref: TaskRef, **projection: Any) -> Iterator[dict[str, Any]]:
        """Return every item of a task's partition, including its state."""
        return pages(
            self._client.query,
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": items.partition(ref)}},
            ConsistentRead=True,
            **projection,
        )

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
        """Return the keys of all texts and their parts, but not the key of the state."""
        return [row for row in self.rows(ref, ProjectionExpression="pk, sk") if row["sk"]["S"] != "STATE"]
