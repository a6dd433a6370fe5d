"""What the two indexes answer: a tenant's tasks, newest first (`listing`), and what is open and due (`open`).

Both hold keys only and lag behind the table by moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.errors import TaskNotFound
from llm_server.orchestration.ports import Due, Page
from llm_server.orchestration.task import Status, Task
from llm_server.storage import dynamodb_items as items
from llm_server.storage import records
from llm_server.storage.dynamodb_calls import ConditionFailed, batch, calling, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PAGE_ROUNDS = 10


class Listing:
    """`shown` gives the task of a state's item, and raises TaskNotFound where it must not be seen."""

    def __init__(self, client: DynamoDBClient, table: str, shown: Callable[[Mapping[str, Any]], Task]) -> None:
        self._client = client
        self._table = table
        self._shown = shown

    def page(self, tenant: str, *, size: int, token: str, status: Status | None, role: str | None) -> Page:
        found: list[Task] = []
        after = records.key_of(token) if token else ""
        for _ in range(PAGE_ROUNDS):
            listed, after = self._listed(tenant, after, size)
            for task in self._states(listed):
                if status not in (None, task.status) or role not in (None, task.role):
                    continue
                if len(found) == size:
                    return Page(found, records.token_of(records.listing_key(found[-1])))
                found.append(task)
            if not after:
                return Page(found, "")
        return Page(found, records.token_of(after))

    def _listed(self, tenant: str, after: str, size: int) -> tuple[list[dict[str, Any]], str]:
        """One page of the index: the keys of the states, and where to go on."""
        with calling():
            answer = self._client.query(
                TableName=self._table,
                IndexName="listing",
                KeyConditionExpression="tenant = :tenant" + (" AND created < :after" if after else ""),
                ExpressionAttributeValues={":tenant": {"S": tenant}} | ({":after": {"S": after}} if after else {}),
                ScanIndexForward=False,
                Limit=min(size + 1, 100),
            )
        rows = answer["Items"]
        more = "LastEvaluatedKey" in answer
        return [{"pk": row["pk"], "sk": row["sk"]} for row in rows], rows[-1]["created"]["S"] if rows and more else ""

    def _states(self, keys: list[dict[str, Any]]) -> list[Task]:
        tasks = []
        for row in batch(self._client, self._table, keys):
            with suppress(TaskNotFound):  # deleted or expired, and still in the index
                tasks.append(self._shown(row))
        return sorted(tasks, key=records.listing_key, reverse=True)


class OpenTasks:
    """What the sweep looks at."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def due(self, now_ms: int, limit: int) -> list[Due]:
        found: list[Due] = []
        for shard in range(items.OPEN_SHARDS):
            if len(found) >= limit:
                break
            with calling():
                answer = self._client.query(
                    TableName=self._table,
                    IndexName="open",
                    KeyConditionExpression="#open = :open AND due <= :now",
                    ExpressionAttributeNames={"#open": "open"},
                    ExpressionAttributeValues={":open": {"S": f"OPEN#{shard}"}, ":now": items.number(now_ms)},
                    Limit=limit - len(found),
                )
            found += [Due(items.ref(row), int(row["due"]["N"])) for row in answer["Items"]]
        return found

    def postpone(self, due: Due, task: Task, due_ms: int) -> bool:
        """By its `rev` too: a claim leaves the due time as it was, and its lease must not go unwatched."""
        move = partial(
            self._client.update_item,
            TableName=self._table,
            Key=items.key(due.ref, "STATE"),
            UpdateExpression="SET due = :next",
            ConditionExpression="due = :seen AND rev = :rev",
            ExpressionAttributeValues={
                ":next": items.number(due_ms),
                ":seen": items.number(due.due_ms),
                ":rev": items.number(task.rev),
            },
        )
        try:
            writing(move)
        except ConditionFailed:
            return False
        return True
