"""Queries over the two indexes: a tenant's tasks, newest first (`listing`), and the open tasks by due time (`open`).

Both indexes hold keys only. They are updated shortly after the table.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.errors import RecordUnreadable, TaskNotFound
from llm_server.orchestration.domain.ports.listing import Page, TaskFilter
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, batch, calling, writing
from llm_server.storage.listing import Bounds, Round, Span, fill_page, listing_key, newest

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LISTING_BOUNDS = Bounds(max_round=100, max_call=1_000)
"""How many tasks a listing looks at. A batch read takes at most 100 keys; 1,000 tasks cost about 520 read units."""
DUE_PAGE = 100


class Listing:
    """A tenant's tasks. `shown` returns the task of a state's item, or raises TaskNotFound if it must not be shown."""

    def __init__(self, client: DynamoDBClient, table: str, shown: Callable[[Mapping[str, Any]], Task]) -> None:
        self._client = client
        self._table = table
        self._shown = shown

    def page(self, tenant: str, *, size: int, token: str, task_filter: TaskFilter) -> Page:
        read = partial(self._read, tenant)
        return fill_page(read, task_filter, size=size, token=token, bounds=LISTING_BOUNDS)

    def newest(self, tenant: str, *, most: int, task_filter: TaskFilter) -> Sequence[Task]:
        return newest(partial(self._read, tenant), task_filter, most=most, max_round=LISTING_BOUNDS.max_round)

    def _read(self, tenant: str, span: Span, limit: int) -> Round:
        """Query the index for the newest keys in a span, then read their states.

        BETWEEN includes the end of the span, so the query asks for one more entry and the end is dropped.
        """
        with calling():
            answer = self._client.query(
                TableName=self._table,
                IndexName="listing",
                KeyConditionExpression="tenant = :tenant AND created BETWEEN :first AND :end",
                ExpressionAttributeValues={
                    ":tenant": {"S": tenant},
                    ":first": {"S": span.first},
                    ":end": {"S": span.end},
                },
                ScanIndexForward=False,
                Limit=limit + 1,
            )
        entries = [row for row in answer["Items"] if row["created"]["S"] != span.end]
        rows = entries[:limit]
        more = "LastEvaluatedKey" in answer or len(entries) > limit
        states = self._states([{"pk": row["pk"], "sk": row["sk"]} for row in rows])
        return Round(tasks=states, end=rows[-1]["created"]["S"] if rows and more else "")

    def _states(self, keys: list[dict[str, Any]]) -> list[Task]:
        tasks = []
        for row in batch(self._client, self._table, keys):
            with suppress(TaskNotFound, RecordUnreadable):  # expired, or stored by a newer version
                tasks.append(self._shown(row))
        return sorted(tasks, key=listing_key, reverse=True)


class OpenTasks:
    """The open tasks, which the sweep looks at. `shown` has the same meaning as in `Listing`."""

    def __init__(self, client: DynamoDBClient, table: str, shown: Callable[[Mapping[str, Any]], Task]) -> None:
        self._client = client
        self._table = table
        self._shown = shown

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        keys = [items.key(ref, "STATE") for ref in dict.fromkeys(refs)]  # DynamoDB refuses repeated keys
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
        """Yield the due tasks of one shard, earliest first, with one query for each 100 that are consumed."""
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
        """Postpone only if `rev` has not changed either.

        A claim does not change the due time, and the look at the end of its lease must not be postponed.
        """
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
    """Return whether the sweep must look at the task on time at `due_ms`: when a lease ends, or near a deadline."""
    return (task.status.is_active and due_ms <= task.lease_ms) or task.is_near_deadline(due_ms)
