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

Index `open` (open, due) holds what is not final; index `listing` (tenant, created) every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.errors import TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.metrics import Counters, change, day_of, in_flight_change
from llm_server.orchestration.outputs import Output
from llm_server.orchestration.ports import Due, EngineRecords, EngineState, KeyBinding, Page, SwitchName
from llm_server.orchestration.retention import Retention
from llm_server.orchestration.snapshot import Request, Snapshot
from llm_server.orchestration.task import Status, Task, TaskRef
from llm_server.storage import dynamodb_bindings as bindings
from llm_server.storage import dynamodb_items as items
from llm_server.storage import records
from llm_server.storage.dynamodb_calls import ConditionFailed, calling, tries, writing
from llm_server.storage.dynamodb_deletions import Deletions
from llm_server.storage.dynamodb_texts import Texts

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PAGE_ROUNDS = 10
SPENDING_KEPT_S = 40 * 24 * 3600
_FIGURES = [f.name for f in fields(Counters)]


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
        self._draw = draw
        self._counter_shards = counter_shards
        self._retention = retention or Retention()
        self._texts = Texts(client, table, self._retention)
        self._deletions = Deletions(client, table, self._texts, self._retention.clock)

    def bind_key(self, tenant: str, key: str, binding: KeyBinding, *, now_ms: int) -> KeyBinding:
        return bindings.bind(self._client, self._table, tenant, key, binding, now_ms=now_ms)

    def add(self, task: Task, request: Request, *, most_in_flight: int | None = None) -> None:
        if most_in_flight is not None:
            self._add_limited(task, request, most_in_flight)
            return
        with suppress(ConditionFailed):  # an earlier try got this far
            absent = "attribute_not_exists(pk)"
            self._texts.put(task.ref, "REQ", records.encode(request), task.created_ms, ConditionExpression=absent)
        try:
            self._transact([self._put_state(task, "attribute_not_exists(pk)"), *self._counts(None, task)])
        except ConditionFailed:  # added before; or deleted, and then the request must not stay
            self.purge(task.ref)

    def _add_limited(self, task: Task, request: Request, most: int) -> None:
        """One transaction for all of it, or each refused task would leave its prompt behind."""
        head = self._texts.put_parts(task.ref, "REQ", records.encode(request), task.created_ms)
        writes = [
            self._put_state(task, "attribute_not_exists(pk)"),
            {"Put": {"TableName": self._table, "Item": head}},
            *self._counts(None, task, most_in_flight=most),
        ]
        try:
            self._transact(writes)
        except ConditionFailed as error:
            if not self._is_known(task.ref):
                raise TooManyInFlight(most) from error
            self.purge(task.ref)

    def _is_known(self, ref: TaskRef) -> bool:
        """Whether a task has this name, or had it and was deleted."""
        with calling():
            return "Item" in self._client.get_item(
                TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True
            )

    def get(self, ref: TaskRef) -> Snapshot:
        snapshot = self._read(ref)
        if snapshot.task.status is Status.COMPLETED and snapshot.result is None:
            return self._read(ref)  # it was completed while we read: its answer sorts before its state
        return snapshot

    def peek(self, ref: TaskRef) -> Task:
        if not records.is_name(ref):
            raise TaskNotFound
        with calling():
            row = self._client.get_item(TableName=self._table, Key=items.key(ref, "STATE"), ConsistentRead=True)
        return self._shown(row.get("Item"))

    def save(self, before: Task, after: Task, output: Output | None = None) -> None:
        writes = [self._put_state(after, "rev = :rev", {":rev": items.number(before.rev)})]
        if output is not None:
            head = self._texts.put_parts(after.ref, output.key, records.encode(output), output.created_ms)
            writes.append({"Put": {"TableName": self._table, "Item": head}})
        try:
            self._transact([*writes, *self._counts(before, after)])
        except ConditionFailed as error:
            if not self._holds(after):
                raise TaskLost(after.task_id) from error

    def keep(self, ref: TaskRef, output: Output) -> None:
        self._texts.put(ref, output.key, records.encode(output), output.created_ms)

    def delete(self, task: Task) -> None:
        self._deletions.delete(task)

    def purge(self, ref: TaskRef) -> None:
        self._deletions.purge(ref)

    def retain(self, task: Task) -> None:
        self._texts.retain(task.ref, self._retention.clock())

    def prune(self, limit: int) -> None:
        """The table's own time to live does it."""

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

    def postpone(self, due: Due, due_ms: int) -> bool:
        move = partial(
            self._client.update_item,
            TableName=self._table,
            Key=items.key(due.ref, "STATE"),
            UpdateExpression="SET due = :next",
            ConditionExpression="due = :seen",
            ExpressionAttributeValues={":next": items.number(due_ms), ":seen": items.number(due.due_ms)},
        )
        try:
            writing(move)
        except ConditionFailed:
            return False
        return True

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

    def overview(self) -> tuple[Counters, EngineRecords]:
        keys = [{"pk": {"S": f"CTR#{n}"}, "sk": {"S": "ALL"}} for n in range(self._counter_shards)]
        total, engines = Counters(), EngineRecords()
        for row in self._batch([*keys, items.ENGINES_KEY]):
            if row["pk"]["S"] == "ENG":
                engines = items.engine_records(row)
            else:
                total += Counters(**{name: int(row[name]["N"]) for name in _FIGURES if name in row})
        return total, engines

    def spent_microusd(self, tenant: str, day: str) -> int:
        with calling():
            answer = self._client.get_item(
                TableName=self._table, Key={"pk": {"S": f"USE#{tenant}"}, "sk": {"S": day}}, ConsistentRead=True
            )
        return int(answer["Item"]["microusd"]["N"]) if "Item" in answer else 0

    def engines(self) -> EngineRecords:
        return items.engine_records(self._engines())

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        update = items.switching(engine, changes)
        answer = writing(
            lambda: self._client.update_item(
                TableName=self._table, Key=items.ENGINES_KEY, ReturnValues="ALL_NEW", **update
            )
        )
        return items.engine_records(answer["Attributes"])

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        self._put_engine(engine, state)

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        row = self._engines()
        stored = row.get(items.ENGINE_PREFIX + engine)
        if items.engine_records(row).state(engine) != before:
            return False
        condition = "attribute_not_exists(#engine)" if stored is None else "#engine = :before"
        try:  # the text as it is stored: an older version's record reads the same and is written otherwise
            self._put_engine(engine, after, condition, {} if stored is None else {":before": stored})
        except ConditionFailed:
            return False
        return True

    def _engines(self) -> Mapping[str, Any]:
        with calling():
            answer = self._client.get_item(TableName=self._table, Key=items.ENGINES_KEY, ConsistentRead=True)
        return answer.get("Item", {})

    def _put_engine(
        self, engine: str, state: EngineState, condition: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": items.ENGINES_KEY,
            "UpdateExpression": "SET #engine = :state",
            "ExpressionAttributeNames": {"#engine": items.ENGINE_PREFIX + engine},
            "ExpressionAttributeValues": {":state": {"S": records.encode(state)}, **(values or {})},
        }
        writing(partial(self._client.update_item, **update | ({"ConditionExpression": condition} if condition else {})))

    def _read(self, ref: TaskRef) -> Snapshot:
        if not records.is_name(ref):
            raise TaskNotFound
        rows = {row["sk"]["S"]: row for row in self._texts.rows(ref)}
        task = self._shown(rows.get("STATE"))
        outputs = {
            sk: records.OUTPUT.decode(items.joined(rows, sk))
            for sk in rows
            if sk not in ("STATE", "REQ") and not items.is_part(sk)
        }
        request = records.REQUEST.decode(items.joined(rows, "REQ"))
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
            item |= items.in_open(task.task_id, task.next_look_ms)
        return {"Put": put | ({"ExpressionAttributeValues": values} if values else {})}

    def _counts(
        self, before: Task | None, after: Task, *, most_in_flight: int | None = None
    ) -> Iterator[dict[str, Any]]:
        if step := in_flight_change(before, after):
            flight = items.addition(self._table, items.in_flight_key(after.counted_for), {"tasks": step})
            if most_in_flight is not None:
                flight["ConditionExpression"] = "attribute_not_exists(#tasks) OR #tasks < :most"
                flight["ExpressionAttributeValues"][":most"] = items.number(most_in_flight)
            yield {"Update": flight}
        delta = change(before, after).nonzero()
        if delta:
            key = {"pk": {"S": f"CTR#{self._draw(self._counter_shards)}"}, "sk": {"S": "ALL"}}
            yield {"Update": items.addition(self._table, key, delta)}
        if cost := delta.get("cost_microusd"):
            key = {"pk": {"S": f"USE#{after.tenant}"}, "sk": {"S": day_of(after.updated_ms)}}
            spending = items.addition(self._table, key, {"microusd": cost})
            spending["UpdateExpression"] += " SET #ttl = if_not_exists(#ttl, :ttl)"
            spending["ExpressionAttributeNames"]["#ttl"] = "ttl"
            spending["ExpressionAttributeValues"][":ttl"] = items.number(after.updated_ms // 1000 + SPENDING_KEPT_S)
            yield {"Update": spending}

    def _holds(self, task: Task) -> bool:
        try:
            return self.peek(task.ref) == task
        except TaskNotFound:
            return False

    def _listed(self, tenant: str, after: str, size: int) -> tuple[list[dict[str, Any]], str]:
        """One page of the listing index: the keys of the states, newest first, and where to go on."""
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
        for row in self._batch(keys):
            with suppress(TaskNotFound):  # deleted or expired, and still in the index
                tasks.append(self._shown(row))
        return sorted(tasks, key=records.listing_key, reverse=True)

    def _batch(self, keys: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        wanted: dict[str, Any] = {self._table: {"Keys": list(keys)}}
        if not wanted[self._table]["Keys"]:
            return
        for _ in tries():
            with calling():
                answer = self._client.batch_get_item(RequestItems=wanted)
            yield from answer["Responses"].get(self._table, [])
            wanted = answer.get("UnprocessedKeys", {})
            if not wanted:
                return
