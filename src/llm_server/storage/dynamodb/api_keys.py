"""API keys and what is counted for them, in the DynamoDB table of the tasks.

| record | pk | sk | guarded by |
|---|---|---|---|
| key | KEYS | <key id> | absent, or its text has not changed |
| requests of a minute | KEY#<key id> | MIN#<minute> | its count is below the limit |
| charges of a day | same | DAY#<day> | its sum stays within the limit |
| tasks in flight | same | OPEN | the transaction of the task's state (`DynamoStore`) |

In the charges of a day, `r:<name>` is an unsettled reservation, and `withheld` is the sum of the withheld amounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, pages, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MINUTES_KEPT_S = 3_600
DAYS_KEPT_S = 40 * 24 * 3600
MAX_WITHHOLD_TRIES = 5
"""How often reservations are read again because a late worker has settled one of them."""
_RESERVED = "r:"


class DynamoKeys:
    """The KeyStore port over the table."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def add_key(self, key: Key) -> bool:
        return self._put(key, "attribute_not_exists(pk)") or self.key(key.key_id) == key

    def swap_key(self, before: Key, after: Key) -> bool:
        row = self._read(_key(before.key_id))
        if not row or records.api_key(row["body"]["S"]) != before:
            return False
        # compare the stored text: another version may have written the same record differently
        return self._put(after, "body = :before", ExpressionAttributeValues={":before": row["body"]})

    def remove_key(self, key_id: str) -> None:
        counts = self._partition(f"KEY#{key_id}", ProjectionExpression="pk, sk")
        for key in (_key(key_id), *({"pk": row["pk"], "sk": row["sk"]} for row in counts)):
            writing(partial(self._client.delete_item, TableName=self._table, Key=key))

    def key(self, key_id: str) -> Key | None:
        row = self._read(_key(key_id))
        return records.api_key(row["body"]["S"]) if row else None

    def all_keys(self) -> list[Key]:
        return [records.api_key(row["body"]["S"]) for row in self._partition("KEYS")]

    def has_keys(self) -> bool:
        with calling():
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues={":pk": {"S": "KEYS"}},
                ConsistentRead=True,
                Limit=1,
            )
        return bool(answer["Items"])

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        ttl = minute * 60 + MINUTES_KEPT_S
        answer = self._update(
            _minute(key_id, minute),
            "ADD requests :one SET #ttl = if_not_exists(#ttl, :ttl)",
            "attribute_not_exists(requests) OR requests < :most",
            {":one": items.number(1), ":most": items.number(most), ":ttl": items.number(ttl)},
            {"#ttl": "ttl"},
        )
        return None if answer is None else most - int(answer["requests"]["N"])

    def reserve(self, account: Account, name: str, microusd: int, *, max_microusd: int) -> Charges | None:
        if microusd > max_microusd:  # the condition below always holds on a day without charges
            return _charges(self._read(_day(account)))
        done = self._update(
            _day(account),
            "SET #named = :cost, #ttl = if_not_exists(#ttl, :ttl) ADD microusd :cost",
            "attribute_not_exists(#named) AND (attribute_not_exists(microusd) OR microusd <= :most)",
            {
                ":cost": items.number(microusd),
                ":most": items.number(max_microusd - microusd),
                ":ttl": items.number(_start_s(account.day) + DAYS_KEPT_S),
            },
            {"#named": _RESERVED + name, "#ttl": "ttl"},
        )
        if done is not None:
            return None
        row = self._read(_day(account))
        if _RESERVED + name in row:  # reserved by an earlier call whose reply was lost
            return None
        return _charges(row)

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        self._update(
            _day(account),
            "REMOVE #named ADD microusd :change, withheld :withheld",
            "attribute_exists(#named)",
            {
                ":change": items.number(cost_microusd + withheld_microusd - reserved_microusd),
                ":withheld": items.number(withheld_microusd),
            },
            {"#named": _RESERVED + name},
        )

    def withhold(self, account: Account, claim: str) -> None:
        for _ in range(MAX_WITHHOLD_TRIES):
            day = self._read(_day(account))
            names = [name for name in day if name.startswith(f"{_RESERVED}{claim}#")]
            if not names or self._withheld(account, {name: int(day[name]["N"]) for name in names}):
                return

    def _withheld(self, account: Account, reserved: Mapping[str, int]) -> bool:
        """Withhold reservations. Returns False, with nothing written, if one was settled since it was read."""
        places = {f"#named{n}": name for n, name in enumerate(reserved)}
        done = self._update(
            _day(account),
            f"REMOVE {', '.join(places)} ADD withheld :withheld",
            " AND ".join(f"attribute_exists({place})" for place in places),
            {":withheld": items.number(sum(reserved.values()))},
            places,
        )
        return done is not None

    def use(self, account: Account) -> KeyUse:
        day, flights = self._read(_day(account)), self._read(items.in_flight_key(account.key_id))
        return KeyUse(**asdict(_charges(day)), tasks_in_flight=_figure(flights, "tasks"))

    def _partition(self, partition: str, **projection: Any) -> Iterator[dict[str, Any]]:
        """Return the items of a partition."""
        return pages(
            self._client.query,
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": partition}},
            ConsistentRead=True,
            **projection,
        )

    def _put(self, key: Key, condition: str, **values: Any) -> bool:
        """Write a key. Return False if the condition did not hold."""
        row: Any = {**_key(key.key_id), "body": {"S": records.encode(key)}}
        put = partial(self._client.put_item, TableName=self._table, Item=row, ConditionExpression=condition, **values)
        try:
            writing(put)
        except ConditionFailed:
            return False
        return True

    def _read(self, key: dict[str, Any]) -> dict[str, Any]:
        with calling():
            answer = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        return dict(answer.get("Item", {}))

    def _update(
        self, key: dict[str, Any], update: str, condition: str, values: dict[str, Any], names: dict[str, str]
    ) -> dict[str, Any] | None:
        """Update an item. Returns the item after the update; None if the condition did not hold."""
        row: dict[str, Any] = {}

        def write() -> None:
            answer = self._client.update_item(
                TableName=self._table,
                Key=key,
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ExpressionAttributeNames=names,
                ReturnValues="ALL_NEW",
            )
            row.update(answer["Attributes"])

        try:
            writing(write)
        except ConditionFailed:
            return None
        return row


def _charges(day: Mapping[str, Any]) -> Charges:
    return Charges(
        charged_microusd=_figure(day, "microusd"),
        under_way_microusd=sum(int(v["N"]) for name, v in day.items() if name.startswith(_RESERVED)),
        withheld_microusd=_figure(day, "withheld"),
    )


def _figure(row: Mapping[str, Any], name: str) -> int:
    return int(row[name]["N"]) if name in row else 0


def _key(key_id: str) -> dict[str, Any]:
    return {"pk": {"S": "KEYS"}, "sk": {"S": key_id}}


def _minute(key_id: str, minute: int) -> dict[str, Any]:
    return {"pk": {"S": f"KEY#{key_id}"}, "sk": {"S": f"MIN#{minute}"}}


def _day(account: Account) -> dict[str, Any]:
    return {"pk": {"S": f"KEY#{account.key_id}"}, "sk": {"S": f"DAY#{account.day}"}}


def _start_s(day: str) -> int:
    """Return the Unix seconds at which a UTC day begins."""
    return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
