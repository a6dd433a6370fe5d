"""Deletes a task: first its state, which hides it at once, then its texts.

The sweep completes interrupted deletions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.errors import TaskLost
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, writing
from llm_server.storage.dynamodb.texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_DELETION_MS = 60_000
"""A deletion that has not ended after this time counts as interrupted."""


class Deletions:
    """Replaces the state by a gravestone, which stays in the index of open tasks until the texts are removed."""

    def __init__(self, client: DynamoDBClient, table: str, texts: Texts, clock: Callable[[], int]) -> None:
        self._client = client
        self._table = table
        self._texts = texts
        self._clock = clock

    def delete(self, ref: TaskRef, rev: int) -> None:
        """Delete the task whose state has this `rev`. Raises TaskLost if the state has another one."""
        now_ms = self._clock()
        stone = items.gravestone(ref, now_ms + DELETED_KEPT_MS)
        put = partial(
            self._client.put_item,
            TableName=self._table,
            Item=stone | items.in_open(ref.task_id, now_ms + MAX_DELETION_MS),
            ConditionExpression="rev = :rev",
            ExpressionAttributeValues={":rev": items.number(rev)},
        )
        try:
            writing(put)
        except ConditionFailed as error:
            raise TaskLost(ref.task_id) from error
        self._bury(ref)

    def purge(self, ref: TaskRef) -> None:
        with calling():
            row = self._client.get_item(TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True)
        if "Item" in row and items.is_gravestone(row["Item"]):
            self._bury(ref)

    def _bury(self, ref: TaskRef) -> None:
        """Remove the texts, then take the gravestone out of the index, so that the sweep no longer looks at it."""
        self._texts.remove(ref)
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": items.key(ref, "STATE"),
            "UpdateExpression": "REMOVE #open, due",
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeNames": {"#open": "open"},
        }
        with suppress(ConditionFailed):
            writing(partial(self._client.update_item, **update))
