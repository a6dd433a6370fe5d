"""Removes everything that is stored for a tenant.

No index leads to a tenant's Idempotency-Keys and conversations, or to texts whose task is gone, so the whole table is
read: half a read unit for 4 KB, doubled because the read is consistent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.errors import RecordUnreadable, TaskLost
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import calling, pages, writing
from llm_server.storage.dynamodb.deletions import Deletions
from llm_server.storage.dynamodb.texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_OF_TENANT = (
    "begins_with(pk, :tasks) OR begins_with(pk, :bindings) OR begins_with(pk, :conversations) OR pk = :spending"
)

_KINDS = {"IDEM": "idempotency_keys", "CONV": "conversations", "USE": "days_of_spending"}
"""The field of `Erased` that counts an item, by the beginning of its partition key."""


class Erasure:
    """Reads the table once, and removes what belongs to a tenant. A tenant's name has no `#`, so prefixes are exact."""

    def __init__(
        self, client: DynamoDBClient, table: str, texts: Texts, deletions: Deletions, clock: Callable[[], int]
    ) -> None:
        self._client = client
        self._table = table
        self._texts = texts
        self._deletions = deletions
        self._clock = clock

    def erase(self, tenant: str) -> Erased:
        erased, seen = Erased(), set[TaskRef]()
        for row in self._rows(tenant):
            if not row["pk"]["S"].startswith("T#"):
                erased += self._erase_item(row)
            elif not _is_gravestone(row) and (ref := items.ref(row)) not in seen:
                seen.add(ref)
                erased += self._erase_task(ref)
        return erased

    def _rows(self, tenant: str) -> Iterator[Mapping[str, Any]]:
        """Return the keys of all items of a tenant, and the `rev` of states."""
        return pages(
            self._client.scan,
            TableName=self._table,
            FilterExpression=_OF_TENANT,
            ProjectionExpression="pk, sk, rev",
            ExpressionAttributeValues={
                ":tasks": {"S": f"T#{tenant}#"},
                ":bindings": {"S": f"IDEM#{tenant}#"},
                ":conversations": {"S": f"CONV#{tenant}#"},
                ":spending": {"S": f"USE#{tenant}"},
            },
            ConsistentRead=True,
        )

    def _erase_item(self, row: Mapping[str, Any]) -> Erased:
        """Remove an Idempotency-Key, a conversation, or the spending of a day."""
        key = {"pk": row["pk"], "sk": row["sk"]}
        writing(partial(self._client.delete_item, TableName=self._table, Key=key))
        kind = row["pk"]["S"].partition("#")[0]
        return Erased(**{_KINDS[kind]: 1})

    def _erase_task(self, ref: TaskRef) -> Erased:
        """Remove a task that is not in use; or the texts that are left of one that is gone."""
        with calling():
            answer = self._client.get_item(TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True)
        row = answer.get("Item")
        if row is None:
            self._texts.remove(ref)
            return Erased()
        if items.is_gravestone(row):
            self._deletions.purge(ref)
            return Erased()
        if self._is_in_use(row):
            return Erased(in_use=1)
        try:
            self._deletions.delete(ref, int(row["rev"]["N"]))
        except TaskLost:  # it was changed in between, so it is not final any more
            return Erased(in_use=1)
        return Erased(tasks=1)

    def _is_in_use(self, row: Mapping[str, Any]) -> bool:
        try:
            return items.task(row).is_in_use(self._clock())
        except RecordUnreadable:
            return False


def _is_gravestone(row: Mapping[str, Any]) -> bool:
    """Return whether a key is that of a gravestone, which stays. Its texts, if any are left, have keys of their own."""
    return row["sk"]["S"] == "STATE" and "rev" not in row
