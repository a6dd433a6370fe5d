"""What the two indexes answer: a tenant's tasks, newest first (`listing`), and what is open and due (`open`).

Both hold keys only and lag behind the table by moments.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.errors import RecordUnreadable, TaskNotFound
from llm_server.orchestration.domain.ports import Due, Page
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, batch, calling, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PAGE_ROUNDS = 10
DUE_PAGE = 100


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
            with suppress(TaskNotFound, RecordUnreadable):  # deleted or expired, and still in the index; or not for us
                tasks.append(self._shown(row))
        return sorted(tasks, key=records.listing_key, reverse=True)


class OpenTasks:
    """What the sweep looks at; `shown` as for the listing."""

    def __init__(self, client: DynamoDBClient, table: str, shown: Callable[[Mapping[str, Any]], Task]) -> None:
        self._client = client
        self._table = table
        self._shown = shown

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        keys = [items.key(ref, "STATE") for ref in dict.fromkeys(refs)]  # a key that is named twice is refused
        found: dict[TaskRef, Task | None] = {}
        for row in batch(self._client, self._table, keys, consistent=True):
            try:
                found[items.ref(row)] = self._shown(row)
            except TaskNotFound:
                continue
            except RecordUnreadable:
                found[items.ref(row)] = None
        return found

    def due(self, now_ms: int) -> Iterator[Due]:
        for name, shards in (("SURE", items.SURE_SHARDS), ("OPEN", items.OPEN_SHARDS)):
            entries = [self._entries(f"{name}#{shard}", now_ms) for shard in range(shards)]
            yield from heapq.merge(*entries, key=lambda due: due.due_ms)

    def _entries(self, shard: str, now_ms: int) -> Iterator[Due]:
        """What is due of one shard, the oldest first; one query for each hundred that are taken."""
        start: dict[str, Any] = {}
        while True:
            with calling():
                answer = self._client.query(
                    TableName=self._table,
                    IndexName="open",
                    KeyConditionExpression="#open = :open AND due <= :now",
                    ExpressionAttributeNames={"#open": "open"},
                    ExpressionAttributeValues={":open": {"S": shard}, ":now": items.number(now_ms)},
                    Limit=DUE_PAGE,
                    **start,
                )
            yield from (Due(items.ref(row), int(row["due"]["N"])) for row in answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        """By its `rev` too: a claim leaves the due time as it was, and its lease must not go unwatched."""
        entry = items.in_open(due.ref.task_id, due_ms, sure=task is not None and _is_sure(task, due_ms))
        condition, values = "due = :seen", {":seen": items.number(due.due_ms)}
        if task is not None:
            condition, values = f"{condition} AND rev = :rev", values | {":rev": items.number(task.rev)}
        move = partial(
            self._client.update_item,
            TableName=self._table,
            Key=items.key(due.ref, "STATE"),
            UpdateExpression="SET due = :next, #open = :open",
            ConditionExpression=condition,
            ExpressionAttributeNames={"#open": "open"},
            ExpressionAttributeValues=values | {":next": entry["due"], ":open": entry["open"]},
        )
        try:
            writing(move)
        except ConditionFailed:
            return False
        return True


def _is_sure(task: Task, due_ms: int) -> bool:
    """Whether the look at `due_ms` must not be late: at the end of a claim, or near a deadline."""
    return (task.status.is_active and due_ms <= task.lease_ms) or task.is_near_deadline(due_ms)
