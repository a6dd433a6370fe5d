"""The records of all engines, in one item.

Each state and each setting of a switch is an attribute of its own, so that concurrent changes never undo each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, EngineSwitch, SwitchName
from llm_server.storage import records
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY = {"pk": {"S": "ENG"}, "sk": {"S": "STATE"}}
PREFIX = "engine:"
SWITCHES: tuple[SwitchName, ...] = ("toggle", "locked")
CHANGED = "changed:"


class Engines:
    """The EngineStateStore part of the store."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def read(self) -> EngineRecords:
        return records_of(self._row())

    def switch(self, engine: str, changes: Mapping[SwitchName, bool | None], now_ms: int) -> EngineRecords:
        update = _switching(engine, changes, now_ms)
        answer = writing(
            lambda: self._client.update_item(TableName=self._table, Key=KEY, ReturnValues="ALL_NEW", **update)
        )
        return records_of(answer["Attributes"])

    def save(self, engine: str, state: EngineState) -> None:
        self._put(engine, state)

    def swap(self, engine: str, before: EngineState, after: EngineState) -> bool:
        row = self._row()
        stored = row.get(PREFIX + engine)
        if records_of(row).state(engine) != before:
            return False
        condition = "attribute_not_exists(#engine)" if stored is None else "#engine = :before"
        try:  # compare the stored text: an older version may have written the same state differently
            self._put(engine, after, condition, {} if stored is None else {":before": stored})
        except ConditionFailed:
            return False
        return True

    def _row(self) -> Mapping[str, Any]:
        with calling():
            answer = self._client.get_item(TableName=self._table, Key=KEY, ConsistentRead=True)
        return answer.get("Item", {})

    def _put(
        self, engine: str, state: EngineState, condition: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": KEY,
            "UpdateExpression": "SET #engine = :state",
            "ExpressionAttributeNames": {"#engine": PREFIX + engine},
            "ExpressionAttributeValues": {":state": {"S": records.encode(state)}, **(values or {})},
        }
        writing(partial(self._client.update_item, **update | ({"ConditionExpression": condition} if condition else {})))


def records_of(row: Mapping[str, Any]) -> EngineRecords:
    states = {name: records.engine_state(value["S"]) for name, value in _of(row, PREFIX)}
    settings = {switch: {name: value["BOOL"] for name, value in _of(row, f"{switch}:")} for switch in SWITCHES}
    changed = {name: int(value["N"]) for name, value in _of(row, CHANGED)}
    switched = {name for values in (changed, *settings.values()) for name in values}
    switches = {
        name: EngineSwitch(
            toggle=settings["toggle"].get(name), locked=settings["locked"].get(name), changed_ms=changed.get(name, 0)
        )
        for name in switched
    }
    return EngineRecords(states=states, switches=switches)


def _of(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(prefix), value) for name, value in row.items() if name.startswith(prefix))


def _switching(engine: str, changes: Mapping[SwitchName, bool | None], now_ms: int) -> dict[str, Any]:
    """Return the arguments of an update that sets the settings that have a value, and the time; removes the others."""
    to_set = {switch: on for switch, on in changes.items() if on is not None}
    to_remove = [f"#{switch}" for switch in changes if switch not in to_set]
    settings = ", ".join(["#changed = :changed", *(f"#{switch} = :{switch}" for switch in to_set)])
    return {
        "UpdateExpression": f"SET {settings}" + (f" REMOVE {', '.join(to_remove)}" if to_remove else ""),
        "ExpressionAttributeNames": {"#changed": CHANGED + engine}
        | {f"#{switch}": f"{switch}:{engine}" for switch in changes},
        "ExpressionAttributeValues": {":changed": {"N": str(now_ms)}}
        | {f":{switch}": {"BOOL": on} for switch, on in to_set.items()},
    }
