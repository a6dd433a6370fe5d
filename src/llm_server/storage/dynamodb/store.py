"""The store on AWS: one on-demand table.

| record | pk | sk | guarded by |
|---|---|---|---|
| request | T#<tenant>#<task> | REQ | - |
| state | same | STATE | absent, or `rev` is the predecessor's |
| output | same | PLAN, STEP#…, DRAFT#…, VERDICT#…, RES#…, TRY#… | the state in its transaction; RES# alone |
| deleted task | same | STATE, without a body | the state it replaces, by its `rev` |
| part of a long text | same | <sk of the text>~<digest>#<n> | written before the record that names it |
| counters | CTR#<shard> | ALL | the transaction of the state they count |
| spending | USE#<tenant> | <day> | same |
| engines: `engine:`, `toggle:` and `locked:` of each | ENG | STATE | a swap of a state by the one it replaces |
| tasks in flight | KEY#<key id> | OPEN | the transaction of the state; at `add` also the key's limit |
| Idempotency-Key | IDEM#<tenant>#<digest> | KEY | absent, or its time is over |

API keys and their other counts: dynamodb_keys.py.

Index `open` (open, due) holds what is not final, in SURE#<n> what must be looked at on time and in OPEN#<n> the rest;
index `listing` (tenant, created) every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports import Due, IdempotencyBinding, Page
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Request, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.dynamodb import idempotency, items, packing
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, tries, writing
from llm_server.storage.dynamodb.counters import CounterShards
from llm_server.storage.dynamodb.deletions import Deletions
from llm_server.storage.dynamodb.engine_states import Engines
from llm_server.storage.dynamodb.indexes import Listing, OpenTasks
from llm_server.storage.dynamodb.texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


MAX_READS = 6
"""Within 0.3 s; to carry out a transaction takes some milliseconds."""


class DynamoStore:
    """The Store port over a table. `draw(n)` gives a random number below n: the counter shard of a write."""

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        *,
        draw: Callable[[int], int],
        counter_shards: int = 16,
        retention: Retention | None = None,
    ) -> None:
        self._client = client
        self._table = table
        self._retention = retention or Retention()
        self._counters = CounterShards(client, table, draw=draw, shards=counter_shards)
        self._counts = self._counters.changes
        self._engines = Engines(client, table)
        self._listing = Listing(client, table, self._shown)
        self._open = OpenTasks(client, table, self._shown)
        self._texts = Texts(client, table, self._retention)
        self._deletions = Deletions(client, table, self._texts, self._retention.clock)

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        return idempotency.bind(self._client, self._table, tenant, key, binding, now_ms=now_ms)

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        return idempotency.bound(self._client, self._table, tenant, key, now_ms=now_ms)

    def add(self, task: Task, request: Request, *, max_in_flight: int | None = None) -> bool:
        if max_in_flight is not None:
            return self._add_limited(task, request, max_in_flight)
        with suppress(ConditionFailed):  # an earlier try got this far
            absent = "attribute_not_exists(pk)"
            self._texts.put(task.ref, "REQ", records.encode(request), task.created_ms, ConditionExpression=absent)
        try:
            self._transact([self._put_state(task, "attribute_not_exists(pk)"), *self._counts(None, task)])
        except ConditionFailed:  # added before; or deleted, and then the request must not stay
            self.purge(task.ref)
            return False
        return True

    def _add_limited(self, task: Task, request: Request, most: int) -> bool:
        """One transaction for all of it, or each refused task would leave its prompt behind.

        The parts of a long one, too: to remove them afterwards could hit a twin whose request names the same. They fit:
        a transaction holds 4 MB, and the longest prompt, 1,000,000 characters of 21 bits at most, is packed.
        """
        rows = self._texts.items(task.ref, "REQ", records.encode(request), task.created_ms)
        writes = [
            self._put_state(task, "attribute_not_exists(pk)"),
            *({"Put": {"TableName": self._table, "Item": row}} for row in rows),
            *self._counts(None, task, max_in_flight=most),
        ]
        try:
            self._transact(writes)
        except ConditionFailed as error:
            if not self._is_known(task.ref):
                raise TooManyInFlight(most) from error
            self.purge(task.ref)
            return False
        return True

    def _is_known(self, ref: TaskRef) -> bool:
        """Whether a task has this name, or had it and was deleted."""
        with calling():
            return "Item" in self._client.get_item(
                TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True
            )

    def get(self, ref: TaskRef) -> Snapshot:
        """Read again, for a moment, where an output is missing that the state counts.

        A query is not isolated from transactions, and its rows come in order: DRAFT, PLAN and RES before the STATE, the
        others after it. So a state may come without the output that was stored with it: stored between two pages, or
        in one page while the transaction is carried out, item by item. The state's receipt tells, and costs nothing;
        to read the state before and after would cost a unit each, and not tell the latter. An output newer than the
        state may make up the number, but that state has been replaced, and no save that goes by it is accepted. What is
        still missing at the end is not late but lost, and the task goes on without it.
        """
        for _ in islice(tries(), MAX_READS):
            snapshot = self._read(ref)
            if snapshot.is_whole:
                break
        return snapshot

    def peek(self, ref: TaskRef) -> Task:
        if not records.is_name(ref):
            raise TaskNotFound
        with calling():
            row = self._client.get_item(TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True)
        return self._shown(row.get("Item"))

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, max_in_flight: int | None = None
    ) -> None:
        writes = [self._put_state(after, "rev = :rev", {":rev": items.number(before.rev)})]
        if output is not None:
            head = self._texts.put_parts(
                after.ref, records.output_key_text(output.key), records.encode(output), output.created_ms
            )
            writes.append({"Put": {"TableName": self._table, "Item": head}})
        try:
            self._transact([*writes, *self._counts(before, after, max_in_flight=max_in_flight)])
        except ConditionFailed as error:
            if self._holds(after):
                return
            if max_in_flight is not None and self._holds(before):
                raise TooManyInFlight(max_in_flight) from error
            raise TaskLost(after.task_id) from error

    def keep(self, ref: TaskRef, output: Output) -> None:
        self._texts.put(ref, records.output_key_text(output.key), records.encode(output), output.created_ms)

    def delete(self, task: Task) -> None:
        self._deletions.delete(task)

    def purge(self, ref: TaskRef) -> None:
        self._deletions.purge(ref)

    def retain(self, task: Task) -> None:
        self._texts.retain(task.ref, self._retention.clock())

    def prune(self, limit: int) -> None:
        """The table's own time to live does it."""

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        return self._open.peek_each(refs)

    def due(self, now_ms: int) -> Iterator[Due]:
        return self._open.due(now_ms)

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        return self._open.postpone(due, task, due_ms)

    def page(self, tenant: str, *, size: int, token: str, status: Status | None, role: str | None) -> Page:
        return self._listing.page(tenant, size=size, token=token, status=status, role=role)

    def overview(self) -> tuple[Counters, EngineRecords]:
        return self._counters.overview()

    def spent_microusd(self, tenant: str, day: str) -> int:
        return self._counters.spent_microusd(tenant, day)

    def engines(self) -> EngineRecords:
        return self._engines.read()

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        return self._engines.switch(engine, changes)

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        self._engines.save(engine, state)

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        return self._engines.swap(engine, before, after)

    def _read(self, ref: TaskRef) -> Snapshot:
        if not records.is_name(ref):
            raise TaskNotFound
        rows = {row["sk"]["S"]: row for row in self._texts.rows(ref)}
        task = self._shown(rows.get("STATE"))
        outputs = {
            records.parse_output_key(sk): records.output(packing.joined(rows, sk))
            for sk in rows
            if sk not in ("STATE", "REQ") and not packing.is_part(sk)
        }
        request = records.request(packing.joined(rows, "REQ")) if packing.is_whole(rows, "REQ") else EXPIRED_REQUEST
        return Snapshot(task=task, request=request, outputs=outputs)

    def _shown(self, row: Mapping[str, Any] | None) -> Task:
        """The task of a state's item. Raises TaskNotFound when there is none, or none any more."""
        if row is None or items.is_gravestone(row):
            raise TaskNotFound
        task = items.task(row)
        if self._retention.has_expired(task):
            raise TaskNotFound
        return task

    def _transact(self, writes: list[Any]) -> None:
        writing(partial(self._client.transact_write_items, TransactItems=writes))

    def _put_state(self, task: Task, condition: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        item = items.state(task, self._retention.of_task(task))
        put: dict[str, Any] = {"TableName": self._table, "Item": item, "ConditionExpression": condition}
        if not task.status.is_final:
            # whether it has a worker is left out: the entry must not change with the claim, that would be two units
            sure = task.is_near_deadline(task.next_look_ms)
            item |= items.in_open(task.task_id, task.next_look_ms, sure=sure)
        return {"Put": put | ({"ExpressionAttributeValues": values} if values else {})}

    def _holds(self, task: Task) -> bool:
        try:
            return self.peek(task.ref) == task
        except TaskNotFound:
            return False
