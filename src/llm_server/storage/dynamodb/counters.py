"""Updates counts in the transaction that saves a task: totals, gauges, a tenant's spending, a key's open tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import fields

from llm_server.orchestration.domain.counters import Counters, change, day_of, in_flight_change
from llm_server.orchestration.domain.engines.state import EngineRecords
from llm_server.orchestration.domain.retention import SPENDING_KEPT_MS
from llm_server.orchestration.domain.task import Task
from llm_server.storage.dynamodb import engine_states as engines
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import batch, calling

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_FIGURES = [f.name for f in fields(Counters)]


class CounterShards:
    """Counters that are spread over `shards` items. `draw(n)` chooses the shard of a write: a random number below n."""

    def __init__(self, client: DynamoDBClient, table: str, *, draw: Callable[[int], int], shards: int) -> None:
        self._client = client
        self._table = table
        self._draw = draw
        self._shards = shards

    def changes(
        self, before: Task | None, after: Task, *, max_in_flight: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the updates that count a task's change of state, for the transaction that saves the state."""
        if step := in_flight_change(before, after):
            flight = items.addition(self._table, items.in_flight_key(after.counted_for), {"tasks": step})
            if max_in_flight is not None:
                flight["ConditionExpression"] = "attribute_not_exists(#tasks) OR #tasks < :most"
                flight["ExpressionAttributeValues"][":most"] = items.number(max_in_flight)
            yield {"Update": flight}
        delta = change(before, after).nonzero()
        if delta:
            yield {"Update": items.addition(self._table, _shard(self._draw(self._shards)), delta)}
        if cost := delta.get("cost_microusd"):
            spending = items.addition(
                self._table, _spending(after.tenant, day_of(after.updated_ms)), {"microusd": cost}
            )
            spending["UpdateExpression"] += " SET #ttl = if_not_exists(#ttl, :ttl)"
            spending["ExpressionAttributeNames"]["#ttl"] = "ttl"
            ends_s = (after.updated_ms + SPENDING_KEPT_MS) // 1000
            spending["ExpressionAttributeValues"][":ttl"] = items.number(ends_s)
            yield {"Update": spending}

    def overview(self) -> tuple[Counters, EngineRecords]:
        """Return the sum of the shards, and the engines' records, in one read."""
        total, found = Counters(), EngineRecords()
        keys = [_shard(n) for n in range(self._shards)]
        for row in batch(self._client, self._table, [*keys, engines.KEY]):
            if row["pk"] == engines.KEY["pk"]:
                found = engines.records_of(row)
            else:
                total += Counters(**{name: int(row[name]["N"]) for name in _FIGURES if name in row})
        return total, found

    def spent_microusd(self, tenant: str, day: str) -> int:
        with calling():
            answer = self._client.get_item(TableName=self._table, Key=_spending(tenant, day), ConsistentRead=True)
        return int(answer["Item"]["microusd"]["N"]) if "Item" in answer else 0


def _shard(number: int) -> dict[str, Any]:
    return {"pk": {"S": f"CTR#{number}"}, "sk": {"S": "ALL"}}


def _spending(tenant: str, day: str) -> dict[str, Any]:
    return {"pk": {"S": f"USE#{tenant}"}, "sk": {"S": day}}
