"""A quote: what a task may cost and how long it may take, before it is carried out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from llm_server.orchestration.domain.receipt import usd
from llm_server.orchestration.domain.task import Task

MIN_SAMPLE = 20
"""Nothing is expected of a task that has fewer finished tasks like it."""
MAX_SAMPLE = 200
"""How many of the newest tasks are looked at."""

LOCAL_ONLY = "Every engine that the task may call is local, and local engines cost nothing."
NO_LIMIT = (
    "The task has no max_cost_usd, and calls that fail or whose worker dies are made again; set limits.max_cost_usd "
    "to have a ceiling."
)


class Percentiles(Struct, frozen=True, kw_only=True):
    """The median and the 90th percentile of a sample."""

    p50: float
    p90: float


class Expected(Struct, frozen=True, kw_only=True):
    """What finished tasks cost and how long they took. None: fewer than 20 tasks of the `sample` tell it."""

    microusd: Percentiles | None = None
    seconds: Percentiles | None = None
    sample: int = 0

    @classmethod
    def of(cls, finished: Sequence[Task]) -> Expected:
        """Return what these Completed tasks cost and how long they took.

        A task with an unpriced call does not tell its cost. A task that waited for an approval, or was retried, does
        not tell its time, because it waited for its caller.
        """
        priced = [task.receipt.cost_microusd for task in finished if not task.receipt.unpriced_calls]
        unattended = [task for task in finished if task.approval is None and not task.retried_fence]
        times = [(task.finished_ms - task.created_ms) / 1000 for task in unattended if task.finished_ms is not None]
        return cls(microusd=_percentiles(priced), seconds=_percentiles(times), sample=len(finished))

    def after(self, spent_microusd: int, took_s: float) -> Expected:
        """Return what is expected of the rest of a task that has cost and taken this much so far."""
        return Expected(
            microusd=_less(self.microusd, spent_microusd), seconds=_less(self.seconds, took_s), sample=self.sample
        )


class Quote(Struct, frozen=True, kw_only=True):
    """What a task may cost and how long it may take.

    No run of the task costs more than `ceiling_microusd`; None if nothing bounds it. `ceiling_reason` says what bounds
    it, or why nothing does. `worst_case_microusd` is what all calls of one claim reserve, if the task is claimed once;
    None if that is not known before the task is carried out.
    """

    ceiling_microusd: int | None
    ceiling_reason: str
    worst_case_microusd: int | None
    expected: Expected


def ceiling(max_cost_microusd: int | None, *, spent_microusd: int = 0, is_local: bool) -> tuple[int | None, str]:
    """Return the most that the rest of a task can cost, and what bounds it; None if nothing does.

    `is_local`: every engine that the task may call is local.
    """
    if is_local:
        return 0, LOCAL_ONLY
    if max_cost_microusd is None:
        return None, NO_LIMIT
    left, limit = max(0, max_cost_microusd - spent_microusd), f"The max_cost_usd of {usd(max_cost_microusd)} bounds it"
    return left, f"{limit}, of which USD {usd(spent_microusd)} are spent." if spent_microusd else f"{limit}."


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles by nearest rank; None if there are too few values."""
    if len(values) < MIN_SAMPLE:
        return None
    ordered = sorted(values)
    return Percentiles(p50=_rank(ordered, 0.5), p90=_rank(ordered, 0.9))


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _less(expected: Percentiles | None, amount: float) -> Percentiles | None:
    if expected is None:
        return None
    return Percentiles(p50=max(0, expected.p50 - amount), p90=max(0, expected.p90 - amount))
