"""The store on AWS: one on-demand table.

| record | pk | sk | guarded by |
|---|---|---|---|
| request | T#<tenant>#<task> | REQ | - |
| state | same | STATE | absent, or `rev` is the predecessor's |
| output | same | PLAN, STEP#…, DRAFT#…, VERDICT#…, RES#…, TRY#… | the state in the same transaction; RES#: - |
| deleted task | same | STATE, without a body | `rev` of the state that it replaces |
| group of deltas | same | TEXT~<last number> | - |
| part of a long text | same | <sk of the text>~<digest>#<n> | written before the record that names it |
| counters | CTR#<shard> | ALL | the transaction that saves the state |
| spending | USE#<tenant> | <day> | same |
| engines: `engine:`, `toggle:` and `locked:` of each | ENG | STATE | for a swap, the state that it replaces |
| tasks in flight | KEY#<key id> | OPEN | the transaction that saves the state; the key's limit, if it has one |
| Idempotency-Key | IDEM#<tenant>#<digest> | KEY | absent, or the binding has expired |
| POST that may be repeated | IDEM#<tenant>#POST#<fingerprint> | <task id> | for a swap, the item that it replaces |

API keys and their other counts: api_keys.py.

The index `open` (open, due) holds the open tasks: those that must be looked at on time in SURE#<n>, the others in
OPEN#<n>. The index `listing` (tenant, created) holds every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.errors import ConversationBusy, TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.deltas import Delta, Pace
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.tasks import Due, IdempotencyBinding, T
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Request, Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage import records
from llm_server.storage.dynamodb import idempotency, items, packing
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, tries, writing
from llm_server.storage.dynamodb.conversations import Conversations
from llm_server.storage.dynamodb.counters import CounterShards
from llm_server.storage.dynamodb.deletions import Deletions
from llm_server.storage.dynamodb.deltas import Deltas
from llm_server.storage.dynamodb.engine_states import Engines
from llm_server.storage.dynamodb.indexes import Listing, OpenTasks
from llm_server.storage.dynamodb.texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


MAX_ROWS = 8
"""How many items of a request are written in one transaction, which holds 4 MB. The longest prompt has 8."""

MAX_READS = 6
"""With the pauses of `tries`, about 0.3 s in all. DynamoDB carries out a transaction in a few milliseconds."""


class DynamoStore:
    """The Store port over a table. `draw(n)` returns a random number below n: the counter shard of a write."""

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
        self._deltas = Deltas(client, table, self._texts)
        self._conversations = Conversations(client, table, self._retention, self._shown)
        self._deletions = Deletions(client, table, self._texts, self._retention.clock)

    def atomically(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:  # noqa: ARG002 - part of the port
        return use_case()

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        return idempotency.bind(self._client, self._table, tenant, key, binding, now_ms=now_ms)

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        return idempotency.bound(self._client, self._table, tenant, key, now_ms=now_ms)

    def note_original(self, tenant: str, fingerprint: str, original: Original) -> None:
        idempotency.note_original(self._client, self._table, tenant, fingerprint, original)

    def originals(self, tenant: str, fingerprint: str, *, now_ms: int) -> list[Original]:
        return idempotency.originals(self._client, self._table, tenant, fingerprint, now_ms=now_ms)

    def swap_original(self, tenant: str, fingerprint: str, before: Original, after: Original) -> bool:
        return idempotency.swap_original(self._client, self._table, tenant, fingerprint, before, after)

    def add(
        self,
        task: Task,
        request: Request,
        *,
        max_in_flight: int | None = None,
        conversation: Conversation | None = None,
    ) -> bool:
        if max_in_flight is not None or conversation is not None:
            return self._add_on_condition(task, request, max_in_flight, conversation)
        with suppress(ConditionFailed):  # an earlier call has stored the request
            absent = "attribute_not_exists(pk)"
            self._texts.put(task.ref, "REQ", records.encode(request), task.created_ms, ConditionExpression=absent)
        try:
            self._transact([self._put_state(task, "attribute_not_exists(pk)"), *self._counts(None, task)])
        except ConditionFailed:  # the task exists, or it was deleted and the request must not stay
            self.purge(task.ref)
            return False
        return True

    def _add_on_condition(
        self, task: Task, request: Request, most: int | None, conversation: Conversation | None
    ) -> bool:
        """Write state, request and counters in one transaction, so that a refused task leaves no prompt behind.

        The parts of a long request are in it too, as far as they fit: a transaction holds 4 MB, which a request without
        images does not exceed, because it is compressed. Further parts are written before it, and removed if the task
        is refused. Their names are random, so that a concurrent call with the same request does not lose its own.
        """
        rows = self._texts.items(task.ref, "REQ", records.encode(request), task.created_ms, salt=token_bytes(8))
        rows, before = rows[:MAX_ROWS], rows[MAX_ROWS:]
        self._texts.put_items(before)
        writes = [
            self._put_state(task, "attribute_not_exists(pk)"),
            *({"Put": {"TableName": self._table, "Item": row}} for row in rows),
            *self._counts(None, task, max_in_flight=most),
            *([self._conversations.advance(conversation)] if conversation else []),
        ]
        try:
            self._transact(writes)
        except ConditionFailed as error:
            self._texts.remove_items(before)
            if not self._is_known(task.ref):
                if most is None or (conversation and not self._conversations.is_next(conversation)):
                    raise ConversationBusy from error
                raise TooManyInFlight(most) from error
            self.purge(task.ref)
            return False
        return True

    def _is_known(self, ref: TaskRef) -> bool:
        """Return whether a task with this name is stored, or was deleted recently."""
        with calling():
            return "Item" in self._client.get_item(
                TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True
            )

    def get(self, ref: TaskRef) -> Snapshot:
        """Read a task; read it again, for about 0.3 s, while an output is missing that the state counts.

        A query is not isolated from transactions. It returns DRAFT, PLAN and RES before STATE, and the other items
        after it. So it can return a state without the output that the same transaction stored: if the transaction ran
        between two pages of the query, or while one page was read. The number of calls on the state's receipt shows
        this, at no cost. To read the state a second time would cost a read unit, and would not detect the second case.
        An output that is newer than the state can hide a missing one. That does no harm: the state has been replaced
        then, so the store rejects every save that is based on it. An output that is still missing after the last read
        is lost, and the task continues without it.
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
        if output is not None and output.is_answer:  # in the transaction, it would cost twice as much
            self.keep(after.ref, output)
        elif output is not None:
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

    def pace(self) -> Pace:
        """Return the pace at which a group of natural text costs one write unit, because it is compressed."""
        return Pace(max_bytes=1_024, max_wait_s=4)

    def append(self, ref: TaskRef, group: Sequence[Delta]) -> None:
        self._deltas.append(ref, group)

    def deltas(self, ref: TaskRef, *, after: int = 0) -> list[Delta]:
        return self._deltas.read(ref, after)

    def delete(self, task: Task) -> None:
        self._deletions.delete(task.ref, task.rev)

    def purge(self, ref: TaskRef) -> None:
        self._deletions.purge(ref)

    def erase(self, tenant: str) -> Erased:
        from llm_server.storage.dynamodb.erasure import Erasure  # here, because no function on AWS erases a tenant

        erasure = Erasure(self._client, self._table, self._texts, self._deletions, self._retention.clock)
        return erasure.erase(tenant)

    def add_conversation(self, conversation: Conversation) -> None:
        self._conversations.add(conversation)

    def conversation(self, tenant: str, conversation_id: str) -> Conversation:
        return self._conversations.read(tenant, conversation_id)

    def remove_conversation(self, conversation: Conversation) -> bool:
        return self._conversations.remove(conversation)

    def turns(self, refs: Sequence[TaskRef]) -> Iterator[Turn | None]:
        return self._conversations.turns(refs)

    def retain(self, task: Task) -> None:
        self._texts.retain(task.ref, self._retention.clock())

    def prune(self, limit: int) -> bool:  # noqa: ARG002 - part of the port
        """Do nothing: the table's time to live removes expired items."""
        return False

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        return self._open.peek_each(refs)

    def due(self, now_ms: int) -> Iterator[Due]:
        return self._open.due(now_ms)

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        return self._open.postpone(due, task, due_ms)

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        return self._listing.page(tenant, size=size, token=token, task_filter=task_filter)

    def newest(self, tenant: str, *, most: int, task_filter: TaskFilter) -> Sequence[Task]:
        return self._listing.newest(tenant, most=most, task_filter=task_filter)

    def overview(self) -> tuple[Counters, EngineRecords]:
        return self._counters.overview()

    def spent_microusd(self, tenant: str, day: str) -> int:
        return self._counters.spent_microusd(tenant, day)

    def engines(self) -> EngineRecords:
        return self._engines.read()

    def switch_engine(
        self, engine: str, changes: Mapping[SwitchName, bool | None], *, now_ms: int = 0
    ) -> EngineRecords:
        return self._engines.switch(engine, changes, now_ms)

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
        """Return the task of a state's item. Raises TaskNotFound if it is missing, deleted or expired."""
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
            # This does not depend on whether the task has a worker. Otherwise, each claim would change the index entry,
            # for two write units.
            sure = task.is_near_deadline(task.next_look_ms)
            item |= items.in_open(task.task_id, task.next_look_ms, sure=sure)
        return {"Put": put | ({"ExpressionAttributeValues": values} if values else {})}

    def _holds(self, task: Task) -> bool:
        try:
            return self.peek(task.ref) == task
        except TaskNotFound:
            return False
