"""Count from the tasks and their engine calls what the store's counters must show."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import fields

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.receipt import Receipt
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef


def recounted(snapshots: Iterable[Snapshot]) -> Counters:
    """Return what the counters must show if these are all tasks."""
    found = list(snapshots)
    attempts = [attempt for snapshot in found for attempt in snapshot.attempts]
    answered = [attempt for attempt in attempts if attempt.error is None]
    statuses = [snapshot.task.status for snapshot in found]
    return Counters(
        total=len(found),
        queued=statuses.count(Status.QUEUED),
        active=statuses.count(Status.PROCESSING) + statuses.count(Status.PLANNED),
        completed=statuses.count(Status.COMPLETED),
        failed=statuses.count(Status.FAILED),
        cancelled=statuses.count(Status.CANCELLED),
        calls=len(answered),
        failed_calls=len(attempts) - len(answered),
        api_calls=sum(attempt.source == "api" for attempt in answered),
        unpriced_calls=sum(attempt.cost_microusd is None for attempt in attempts),
        tokens_in=sum(attempt.tokens_in for attempt in answered),
        tokens_out=sum(attempt.tokens_out for attempt in answered),
        duration_ms=sum(attempt.duration_ms for attempt in answered),
        cost_microusd=sum(attempt.cost_microusd or 0 for attempt in attempts),
    )


def audit(store: Store, refs: Iterable[TaskRef], *, before: Counters | None = None) -> None:
    """Fail unless the store's counters agree with its tasks.

    `refs` are all of its tasks, or all that came since its counters were `before`.
    """
    snapshots = [store.get(ref) for ref in refs]

    assert store.overview()[0] == (before or Counters()) + recounted(snapshots)
    for snapshot in snapshots:
        counted = recounted([snapshot])
        assert snapshot.task.receipt == Receipt(**{f.name: getattr(counted, f.name) for f in fields(Receipt)})
        assert (snapshot.result is not None) == (snapshot.task.status is Status.COMPLETED)
