"""The use cases of the server: submit, read, list, change and process tasks, sweep, and measure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.access.key_creation import KeyCreation
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.access.repeats import Repeatable
from llm_server.orchestration.dispatch.fleet import EngineNow, Fleet
from llm_server.orchestration.domain.api_key import Caller, KeyLimits, KeyUse, Payer
from llm_server.orchestration.domain.counters import Counters, day_of, summarise
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec, StructuredOutput
from llm_server.orchestration.domain.engines.state import SwitchName
from llm_server.orchestration.domain.errors import EngineNotFound, InvalidInput
from llm_server.orchestration.domain.event_numbers import rev_of
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.commit import AfterCommit, at_once
from llm_server.orchestration.domain.ports.deltas import DeltaStore
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter, TaskListing
from llm_server.orchestration.domain.ports.store import (
    CounterStore,
    EngineStateStore,
    KnownOverview,
    Overview,
    never_known,
)
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.triage import TriageQuote
from llm_server.orchestration.events.history import Event, EventPage, of_delta
from llm_server.orchestration.events.numbered import has_ended, numbered
from llm_server.orchestration.events.recent_text import RecentText
from llm_server.orchestration.quotes.quote import Quote
from llm_server.orchestration.tasks.conversation_changes import Conversations
from llm_server.orchestration.tasks.intake import Accepted, Intake, Quoted
from llm_server.orchestration.tasks.lifecycle import Lifecycle
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.orchestration.tasks.sweep import Sweep

if TYPE_CHECKING:
    from llm_server.orchestration.tasks.worker import Worker

_log = logging.getLogger(__name__)


class Usage(Struct, frozen=True, kw_only=True):
    """The spending of a tenant on a UTC day, and the limits, charges and open tasks of the caller's key.

    `tasks_in_flight` counts the key's open tasks; it is None if the key does not limit them, because then they are not
    counted. On a server without keys it counts all open tasks.
    """

    tenant: str
    day: str
    spent_microusd: int
    tasks_in_flight: int | None
    limits: KeyLimits = field(default_factory=KeyLimits)
    charged: KeyUse | None = None


class ReadStore(TaskStore, DeltaStore, TaskListing, CounterStore, EngineStateStore, Protocol):
    """The part of the store that the service reads itself."""


class Service:
    """The use cases of the server. Each method calls the part that does the work; `wiring.py` connects the parts.

    `worker` is None in a process that carries out no tasks, such as the API function.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        prompt_max_chars: int,
        store: ReadStore,
        keyring: Keyring,
        key_creation: KeyCreation,
        fleet: Fleet,
        structured_output: Callable[[str], StructuredOutput],
        intake: Intake,
        conversations: Conversations,
        worker: Worker | None,
        lifecycle: Lifecycle,
        sweep: Sweep,
        clock: Clock,
        recent: RecentText,
        after_commit: AfterCommit = at_once,
        known_overview: KnownOverview = never_known,
    ) -> None:
        self.catalog = catalog
        self.prompt_max_chars = prompt_max_chars
        self.keys = keyring
        self.key_creation = key_creation
        self.conversations = conversations
        self._store = store
        self._fleet = fleet
        self._structured_output = structured_output
        self._intake = intake
        self._worker = worker
        self._lifecycle = lifecycle
        self._sweep = sweep
        self._clock = clock
        self._recent = recent
        self._after_commit = after_commit
        self._known_overview = known_overview

    def now_ms(self) -> int:
        """Return the server's time in Unix milliseconds."""
        return self._clock()

    def quote(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Quoted:
        """Decide how a task would be done and quote it, without storing or spending anything.

        Raises the errors of `Intake.quote`.
        """
        return self._intake.quote(tenant, new, payer=payer)

    def submit(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Task:
        """Store a task, then wake a worker. Once this returns, the task is never lost.

        Raises:
            InvalidInput, StateConflict: as `Intake.quote`.
            QuotaExceeded: the payer's key allows no more open tasks, or its daily limit is spent or reserved.
            StorageUnavailable: it is unknown whether the task was stored.
        """
        return self._intake.submit(tenant, new, payer=payer)

    def submit_once(
        self, tenant: str, new: NewTask, once: str | Repeatable | None, *, payer: Payer | None = None
    ) -> Accepted:
        """Submit a task, but only once within 24 hours for an Idempotency-Key, and for a POST and its repeats.

        Raises the errors of `Intake.submit_once` and `Intake.submit_repeatable`.
        """
        if once is None:
            return Accepted(task=self.submit(tenant, new, payer=payer))
        if isinstance(once, Repeatable):
            return self._intake.submit_repeatable(tenant, new, once, payer=payer)
        return self._intake.submit_once(tenant, new, once, payer=payer)

    def get(self, ref: TaskRef) -> Snapshot:
        """Read a task. Raises TaskNotFound."""
        return self._store.get(ref)

    def events(self, ref: TaskRef, *, after: int = 0) -> EventPage:
        """Return the events of a task with numbers above `after`. Raises TaskNotFound."""
        snapshot, now_ms = self._store.get(ref), self._clock()
        found = [event for event in numbered(snapshot, now_ms=now_ms) if event.number > after]
        if snapshot.request.stream:
            found = sorted([*found, *self._text(snapshot.task, after)], key=lambda event: event.number)
        return EventPage(events=tuple(found), ended=has_ended(snapshot.task, now_ms=now_ms))

    def _text(self, task: Task, after: int) -> list[Event]:
        """Return the pieces of a task's text up to the state that was read: before later ones, events may be missing.

        What is not stored yet is read first, because it may be stored in between.
        """
        recent = self._recent.of(task.ref, after=after)
        deltas = {delta.number: delta for delta in (*recent, *self._store.deltas(task.ref, after=after))}
        return [of_delta(delta) for number, delta in deltas.items() if rev_of(number) <= task.rev]

    def quote_of_plan(self, snapshot: Snapshot) -> Quote:
        """Quote the rest of a task whose plan waits for approval."""
        return self._intake.quotes.of_plan(snapshot)

    def approve(
        self,
        ref: TaskRef,
        plan_hash: str,
        *,
        approve: bool,
        payer: Payer | None = None,
        max_cost_microusd: int | None = None,
    ) -> Snapshot:
        """Approve a plan, or reject it, which cancels the task. Raises the errors of `Lifecycle.approve`."""
        return self._lifecycle.approve(
            ref, plan_hash, approve=approve, payer=payer, max_cost_microusd=max_cost_microusd
        )

    def cancel(self, ref: TaskRef) -> Snapshot:
        """Cancel a task that is not final. Raises the errors of `Lifecycle.cancel`."""
        snapshot = self._lifecycle.cancel(ref)
        # If the commit fails, the task goes on, so its calls must too: they would be paid again.
        if self._worker is not None:
            self._after_commit(partial(self._worker.cancelled, ref))
        return snapshot

    def retry(self, ref: TaskRef, *, payer: Payer | None = None) -> Snapshot:
        """Reopen a Failed task and wake a worker. Raises the errors of `Lifecycle.retry`."""
        return self._lifecycle.retry(ref, payer=payer)

    def delete(self, ref: TaskRef) -> None:
        """Remove a task that no worker has. Raises the errors of `Lifecycle.delete`."""
        self._lifecycle.delete(ref)

    def is_final(self, ref: TaskRef) -> bool:
        """Return whether a task is final; reads only its state. Raises TaskNotFound."""
        return self._store.peek(ref).status.is_final

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        """List a tenant's tasks that pass a filter, newest first; see `TaskListing.page`. Case of the role is ignored.

        Raises InvalidInput for an unknown token or role.
        """
        if task_filter.role is not None:
            task_filter = replace(task_filter, role=self.catalog.role_name(task_filter.role))
        return self._store.page(tenant, size=size, token=token, task_filter=task_filter)

    def metrics(self) -> dict[str, object]:
        """Return the nine fields of `GET /metrics`."""
        return self._metrics(self._store.overview())

    def known_metrics(self) -> dict[str, object] | None:
        """Return the metrics from memory alone; None if the store must be asked. See `KnownOverview`."""
        overview = self._known_overview()
        return None if overview is None else self._metrics(overview)

    def _metrics(self, overview: Overview) -> dict[str, object]:
        counters, records = overview
        return summarise(counters, self._fleet.status(records))

    def engine_specs(self) -> dict[str, EngineSpec]:
        """Return every configured engine with its switches applied, as this process last read them (within 5 s)."""
        return self._fleet.specs()

    def engine_places(self) -> dict[str, int]:
        """Return how many calls at a time each engine takes that tasks are sent to. See `Fleet.places`."""
        return self._fleet.places()

    def engines(self) -> dict[str, EngineNow]:
        """Return every configured engine with its switches, its status, and what this process knows of its API."""
        return {name: self._as_found(name, now) for name, now in self._fleet.now(self._store.engines()).items()}

    def _as_found(self, name: str, engine: EngineNow) -> EngineNow:
        spec = replace(engine.spec, structured_output=self._structured_output(name))
        return replace(engine, spec=spec)

    def switch_engine(self, name: str, changes: Mapping[SwitchName, bool | None]) -> EngineNow:
        """Switch an engine on or off, lock or unlock it. None restores the configured value; other switches stay.

        The change takes effect in this process at once and in other processes within 5 s. A restart keeps it.

        Raises:
            EngineNotFound: no engine with this name is configured.
            InvalidInput: `changes` is empty.
            StorageUnavailable: it is unknown whether the change was stored; the call can be repeated.
        """
        if name not in self.catalog.engines:
            raise EngineNotFound(name, self.catalog.engines)
        if not changes:
            raise InvalidInput("toggle", "The body needs toggle, locked or both.")
        engine = self._fleet.switch(name, changes)
        fields = {"engine": name, "toggle": engine.spec.toggle, "locked": engine.spec.locked}
        _log.info("engine switched", extra=fields)
        return self._as_found(name, engine)

    def when_engines_change(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must return at once, after each switch and each recovery of an engine here."""
        self._fleet.when_changed(callback)

    def wake_waiting(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Wake the tasks that wait for an engine, if one is back. Returns their number. See `Sweep.wake_waiting`."""
        return self._sweep.wake_waiting(may_continue)

    def counters(self) -> Counters:
        """Return totals and gauges."""
        return self._store.overview()[0]

    def typical_triage(self) -> tuple[TriageQuote | None, float]:
        """Return what the triage of a typical prompt would cost, and the share of prompts. See `Intake`."""
        return self._intake.decisions.typical_triage()

    def usage(self, caller: Caller) -> Usage:
        """Return what the caller's tenant spent today (UTC), and what its key allows and has used."""
        day, payer = day_of(self._clock()), caller.payer
        spent = self._store.spent_microusd(caller.tenant, day)
        if payer is None:
            counters = self.counters()
            in_flight = counters.queued + counters.active
            return Usage(tenant=caller.tenant, day=day, spent_microusd=spent, tasks_in_flight=in_flight)
        use, limits = self.keys.use(payer), payer.limits
        return Usage(
            tenant=caller.tenant,
            day=day,
            spent_microusd=spent,
            tasks_in_flight=None if limits.tasks_in_flight is None else use.tasks_in_flight,
            limits=limits,
            charged=None if limits.microusd_per_day is None else use,
        )

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None = None) -> None:
        """Claim a task and carry it out until it is final or released. Does nothing if the task cannot be claimed.

        `owner` must be unique for each call. If two calls had the same owner, both could treat one claim as their own.
        `until_ms` is when this worker's own time ends (Unix milliseconds). A claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: the message should come again later; the lease then decides which worker goes on.
        """
        assert self._worker is not None, "this process carries out no tasks"
        self._worker.process(ref, owner=owner, until_ms=until_ms)

    def sweep(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Wake open tasks that are due, for at most 45 s and while `may_continue()` is true. Returns their number."""
        return self._sweep.run(may_continue)
