"""Record the calls to DynamoDB and SQS, compute their cost, and inject faults.

Emulators report a capacity of 1 for everything, so units are computed from the items:
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError

Item = Mapping[str, Any]
INDEXES = {"open": ("open", "due"), "listing": ("tenant", "created")}
"""The keys of each index; both indexes project keys only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call with its operation and its arguments."""

    operation: str
    arguments: Mapping[str, Any]
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def puts(self) -> list[Item]:
        """The items that the call writes completely."""
        if self.operation == "PutItem":
            return [self.arguments["Item"]]
        writes = self.arguments.get("TransactItems", [])
        return [write["Put"]["Item"] for write in writes if "Put" in write]

    @property
    def updates(self) -> int:
        """The number of items that the call changes in place; each of them is smaller than 1 KB."""
        writes = self.arguments.get("TransactItems", [])
        return sum("Update" in write for write in writes) + (self.operation == "UpdateItem")

    @property
    def read_units(self) -> float:
        """One unit for each 4 KB of a query (all rows together) or of another item; half without consistent reads."""
        consistent = bool(self.arguments.get("ConsistentRead"))
        match self.operation:
            case "GetItem":
                read = [size(self.answer.get("Item", {}))]
            case "Query":
                read = [sum(map(size, self.answer["Items"]))]
            case "BatchGetItem":
                read = [size(row) for rows in self.answer["Responses"].values() for row in rows]
                asked = sum(len(table["Keys"]) for table in self.arguments["RequestItems"].values())
                read += [0] * (asked - len(read))
                consistent = all(table.get("ConsistentRead") for table in self.arguments["RequestItems"].values())
            case _:
                read = []
        each = 1.0 if consistent else 0.5
        return each * sum(max(1, math.ceil(read_bytes / 4096)) for read_bytes in read)


@dataclass(slots=True)
class Wire:
    """The recorded calls, and the faults that the next calls of an operation will meet."""

    calls: list[Call] = field(default_factory=list)
    before: dict[str, deque[Callable[[], Any]]] = field(default_factory=dict)
    after: dict[str, deque[Callable[[], Any]]] = field(default_factory=dict)

    @property
    def operations(self) -> Counter[str]:
        return Counter(call.operation for call in self.calls)

    def refuse(
        self, operation: str, code: str, *, reasons: tuple[str, ...] = (), times: int = 1, after: int = 0
    ) -> None:
        """Answer the next `times` calls, after the first `after`, with an error instead of executing them."""
        body: dict[str, Any] = {"Error": {"Code": code, "Message": "refused by the test"}}
        if reasons:
            body["CancellationReasons"] = [{"Code": reason} for reason in reasons]
        answer = SimpleNamespace(status_code=400), body
        nothing: list[Callable[[], Any]] = [lambda: None] * after
        self.before.setdefault(operation, deque()).extend([*nothing, *[lambda: answer] * times])

    def meanwhile(self, operation: str, act: Callable[[], Any], *, calls_later: int = 0) -> None:
        """Run a function just before a call is executed; the call itself is not changed."""
        nothing: list[Callable[[], Any]] = [lambda: None] * calls_later
        self.before.setdefault(operation, deque()).extend([*nothing, lambda: act() and None])

    def lose_reply(self, operation: str, *, times: int = 1, after: int = 0) -> None:
        """Execute the next `times` calls, after the first `after`, but lose their answers."""

        def lost() -> None:
            raise ReadTimeoutError(endpoint_url="https://dynamodb.invalid")

        nothing: list[Callable[[], Any]] = [lambda: None] * after
        self.after.setdefault(operation, deque()).extend([*nothing, *[lost] * times])

    def write_units(self) -> int:
        """Return the cost of the recorded writes. Transactions cost double; each new or removed index entry costs 1."""
        units, entries = 0, dict[tuple[str, str, str], tuple[Any, ...]]()
        for call in self.calls:
            factor = 2 if call.operation == "TransactWriteItems" else 1
            units += factor * (call.updates + sum(math.ceil(size(item) / 1024) for item in call.puts))
            for item in call.puts:
                units += _index_units(item, entries)
        return units

    def read_units(self) -> float:
        """Return the cost of the recorded reads; reads of keys only are counted by the size of the keys."""
        return sum(call.read_units for call in self.calls)


@contextmanager
def recording(*clients: BaseClient) -> Iterator[Wire]:
    """Record the calls of clients to DynamoDB or SQS, and inject faults."""
    wire = Wire()

    def called(params: Mapping[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        context["call"] = Call(operation=model.name, arguments=params)
        wire.calls.append(context["call"])

    def to_be_carried_out(model: Any, **_: Any) -> Any:
        acts = wire.before.get(model.name)
        return acts.popleft()() if acts else None

    def carried_out(model: Any, parsed: Mapping[str, Any], context: Mapping[str, Any], **_: Any) -> None:
        context["call"].answer.update(parsed)
        acts = wire.after.get(model.name)
        if acts:
            acts.popleft()()

    hooks: list[tuple[str, Callable[..., Any]]] = [
        ("before-parameter-build", called),
        ("before-call", to_be_carried_out),
        ("after-call", carried_out),
    ]
    services = [(client, client.meta.service_model.service_name) for client in clients]
    for client, service in services:
        for event, hook in hooks:
            client.meta.events.register(f"{event}.{service}", hook)
    yield wire
    for client, service in services:
        for event, hook in hooks:
            client.meta.events.unregister(f"{event}.{service}", hook)


def size(item: Item) -> int:
    """Return the bytes of an item: names and values in UTF-8; a number takes one byte for two digits, and one more.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "L":
        return 3 + sum(1 + _value_size(each) for each in content)
    if kind == "B":
        return len(content)
    return math.ceil(len(content) / 2) + 1 if kind == "N" else len(content.encode())


def _index_units(item: Item, entries: dict[tuple[str, str, str], tuple[Any, ...]]) -> int:
    """Return the write units of an item's index entries; `entries` keeps them from call to call."""
    units = 0
    for index, names in INDEXES.items():
        key = (index, item["pk"]["S"], item["sk"]["S"])
        old = entries.pop(key, None)
        if all(name in item for name in names):
            entries[key] = tuple(str(item[name]) for name in names)
        new = entries.get(key)
        units += 0 if old == new else (old is not None) + (new is not None)
    return units
