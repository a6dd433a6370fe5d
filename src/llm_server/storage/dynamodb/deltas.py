"""The text of streamed tasks: one item of the task's partition for each group of deltas, `TEXT~<last number>`.

Versions that do not know these items take them for parts of texts, because of the `~`, and pass over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage import deltas as stored
from llm_server.storage import records
from llm_server.storage.dynamodb import items, packing
from llm_server.storage.dynamodb.calls import pages
from llm_server.storage.dynamodb.texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_NUMBER = 2**53


class Deltas:
    """Stores the deltas of a group as one for each item, since no reader sees them before they are stored."""

    def __init__(self, client: DynamoDBClient, table: str, texts: Texts) -> None:
        self._client = client
        self._table = table
        self._texts = texts

    def append(self, ref: TaskRef, deltas: Sequence[Delta]) -> None:
        last = deltas[-1]
        self._texts.put(ref, _sort_key(last.number), stored.encode(stored.merged(deltas)), last.at_ms)

    def read(self, ref: TaskRef, after: int) -> list[Delta]:
        if not records.is_name(ref):
            return []
        rows = pages(
            self._client.query,
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": {"S": items.partition(ref)},
                ":first": {"S": _sort_key(after + 1)},
                ":last": {"S": _sort_key(MAX_NUMBER)},
            },
            ConsistentRead=True,
        )
        bodies = (packing.joined({row["sk"]["S"]: row}, row["sk"]["S"]) for row in rows)
        return [delta for body in bodies for delta in stored.decode(body) if delta.number > after]


def _sort_key(number: int) -> str:
    return f"TEXT~{number:016d}"
