"""Counters that change in the task's own transaction, and the metrics that are computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter, sub

from msgspec import Struct
from msgspec.structs import fields

from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD, Receipt
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task


class Counters(Struct, frozen=True, kw_only=True):
    """Totals since the store was created, and two gauges (`queued`, `active`).

    The change that one write makes to the counters is of this type too.
    """

    total: int = 0
    queued: int = 0
    active: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    calls: int = 0
    failed_calls: int = 0
    api_calls: int = 0
    unpriced_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    duration_ms: int = 0
    cost_microusd: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{name: getattr(self, name) + getattr(other, name) for name in NAMES})

    def nonzero(self) -> dict[str, int]:
        """Return the counters that are not 0, by name."""
        return {name: value for name, value in zip(NAMES, _VALUES(self), strict=True) if value}


NAMES = tuple(f.name for f in fields(Counters))
_VALUES = attrgetter(*NAMES)
_TOTALS = tuple(f.name for f in fields(Receipt))
_TOTAL_VALUES = attrgetter(*_TOTALS)


def change(before: Task | None, after: Task) -> Counters:
    """Return by how much a task's transition changes each counter. `before` is None for a new task."""
    totals, gauges = _TOTAL_VALUES(after.receipt), _gauges(after)
    if before is None:
        return Counters(total=1, **dict(zip(_TOTALS, totals, strict=True)), **gauges)
    totals = tuple(map(sub, totals, _TOTAL_VALUES(before.receipt)))
    earlier = _gauges(before)
    changes = {name: gauges[name] - earlier[name] for name in gauges}
    return Counters(**dict(zip(_TOTALS, totals, strict=True)), **changes)


def in_flight_change(before: Task | None, after: Task) -> int:
    """Return the change of the tasks in flight of the task's key: -1, 0 or 1 (0 if the key does not limit them)."""
    if not after.counted_for:
        return 0
    was_open = before is not None and not before.status.is_final
    is_open = not after.status.is_final
    return int(is_open) - int(was_open)


def day_of(now_ms: int) -> str:
    """Return the UTC day of a Unix time in milliseconds, as YYYY-MM-DD."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d")


def _gauges(task: Task) -> dict[str, int]:
    return {
        "queued": int(task.status is Status.QUEUED),
        "active": int(task.status.is_active),
        "completed": int(task.status is Status.COMPLETED),
        "failed": int(task.status is Status.FAILED),
        "cancelled": int(task.status is Status.CANCELLED),
    }


def summarise(counters: Counters, llm_status: Mapping[str, str]) -> dict[str, object]:
    """Return the nine fields of `GET /metrics`.

    Speeds and response times are those of answered calls. `success_rate` is the percentage of Completed tasks among the
    Completed and Failed ones; answers of the embedded engine count as Completed. `api_costs` is in USD, and null if
    every call to an API was unpriced.
    """
    finished = counters.completed + counters.failed
    all_unpriced = counters.api_calls > 0 and counters.unpriced_calls == counters.api_calls
    return {
        "server_status": "online" if "online" in llm_status.values() else "offline",
        "llm_status": dict(llm_status),
        "tokens_per_second": _ratio(counters.tokens_out * 1000, counters.duration_ms),
        "average_response_time": _ratio(counters.duration_ms / 1000, counters.calls),
        "total_requests": counters.total,
        "active_tasks": counters.active,
        "queue_length": counters.queued,
        "success_rate": _ratio(counters.completed * 100, finished),
        "api_costs": None if all_unpriced else counters.cost_microusd / MICROUSD_PER_USD,
    }


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
