"""The ports for counters and engine states, and the whole store that a database adapter offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.ports.conversations import ConversationStore
from llm_server.orchestration.domain.ports.deltas import DeltaStore
from llm_server.orchestration.domain.ports.listing import TaskListing
from llm_server.orchestration.domain.ports.repeats import RepeatStore
from llm_server.orchestration.domain.ports.tasks import IdempotencyStore, SweepIndex, TaskStore
from llm_server.orchestration.domain.ports.tenants import TenantStore

Overview = tuple[Counters, EngineRecords]
"""Totals and gauges, and the engines' records."""
KnownOverview = Callable[[], Overview | None]
"""Returns the overview from memory alone; None if the store must be asked.

It has every write that this process has acknowledged. It may miss for 50 ms what another process has written.
"""


def never_known() -> None:
    """Return None: for a store that keeps no overview in memory."""


class CounterStore(Protocol):
    """What is counted in the transactions of the tasks."""

    def overview(self) -> Overview:
        """Return totals and gauges, and the engines' records, in one read."""
        ...

    def spent_microusd(self, tenant: str, day: str) -> int:
        """Return the cost of a tenant's calls that were recorded on a UTC day (`YYYY-MM-DD`)."""
        ...


class EngineStateStore(Protocol):
    """What the processes share about the engines."""

    def engines(self) -> EngineRecords:
        """Return the records of all engines. One read, which sees every write that was acknowledged before it."""
        ...

    def switch_engine(
        self, engine: str, changes: Mapping[SwitchName, bool | None], *, now_ms: int = 0
    ) -> EngineRecords:
        """Change the settings of an engine's switch that `changes` names (at least one); the others stay.

        None returns a setting to its configured value. `now_ms` is stored as the time of the change. Repeating a call
        has no further effect.

        Returns the records of all engines after the change.
        """
        ...

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        """Replace an engine's state. Its switch does not change."""
        ...

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        """Replace an engine's state if it is still `before`. Returns False, with nothing written, if it is not."""
        ...


class Store(
    TaskStore,
    DeltaStore,
    ConversationStore,
    IdempotencyStore,
    RepeatStore,
    SweepIndex,
    TaskListing,
    CounterStore,
    EngineStateStore,
    TenantStore,
    Protocol,
):
    """Everything that a database adapter offers. Its users ask for the parts above.

    Any method may raise StorageUnavailable, and RecordUnreadable if this version cannot read a stored record.
    `peek_each` and `page` do not raise RecordUnreadable: they go on with the other tasks.
    """
