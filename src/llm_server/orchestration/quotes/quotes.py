"""Quote a task: what it may cost, by its limits, and what tasks like it cost before (ADR 56)."""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.ports.listing import TaskFilter, TaskListing
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import NEVER_MS, Task, TaskRef
from llm_server.orchestration.execution.role_call import Claim, RoleCaller, answer_call
from llm_server.orchestration.quotes import quote
from llm_server.orchestration.quotes.quote import Expected, Quote

MAX_PLANS = 256
"""For how many plans that wait for approval a process remembers what is expected of them."""


class Prospect(Struct, frozen=True, kw_only=True):
    """A task that is not stored, as it would be; `engine` would be asked first (None if none can be asked)."""

    task: Task
    request: Request
    engine: str | None
    is_triaged: bool


class Quotes:
    """Quotes new tasks, and plans that wait for approval. Reads the tasks of the caller's tenant and no others."""

    def __init__(self, *, catalog: Catalog, balancer: Balancer, store: TaskListing) -> None:
        self._balancer = balancer
        self._role_caller = RoleCaller(catalog, balancer)
        self._store = store
        self._at_rev = lru_cache(MAX_PLANS)(self._expected_at)

    def of_new(self, new: Prospect) -> Quote:
        """Quote a new task."""
        task, request = new.task, new.request
        allowed = AllowedEngines(engine=request.engine, sources=request.limits.sources, needs=request.needs)
        limit = request.limits.max_cost_microusd
        microusd, reason = quote.ceiling(limit, is_local=self._is_local(allowed))
        return Quote(
            ceiling_microusd=microusd,
            ceiling_reason=reason,
            worst_case_microusd=self._worst_case(new, allowed),
            expected=self._expected(task.tenant, task.mode, task.role, new.engine),
        )

    def of_plan(self, snapshot: Snapshot) -> Quote:
        """Quote the steps and the synthesis of a plan that waits for approval.

        What is expected is read once for each state of the task, so that a caller who polls it costs no further reads.
        """
        task = snapshot.task
        allowed, spent = snapshot.allowed_engines, snapshot.spent_microusd
        microusd, reason = quote.ceiling(
            snapshot.max_cost_microusd, spent_microusd=spent, is_local=self._is_local(allowed)
        )
        took_s = (task.updated_ms - task.created_ms) / 1000
        expected = self._at_rev(task.ref, task.rev, task.role).after(task.receipt.cost_microusd, took_s)
        return Quote(ceiling_microusd=microusd, ceiling_reason=reason, worst_case_microusd=None, expected=expected)

    def _is_local(self, allowed: AllowedEngines) -> bool:
        """Return whether a task may call local engines only, now and if other engines come back."""
        return {spec.source for spec in self._balancer.fleet.admitted(allowed).values()} == {"local"}

    def _worst_case(self, new: Prospect, allowed: AllowedEngines) -> int | None:
        """Return what the calls of one claim reserve; None if that is unknown.

        Calls of a plan have texts of other calls, and those of a task that follows others have texts of these.
        """
        task, request = new.task, new.request
        if new.is_triaged or task.mode is Mode.PLAN or request.turns_before:
            return None
        claim = Claim(
            task=task,
            request=request,
            until_ms=NEVER_MS,
            deadline_ms=None,
            budget=Budget(None),
            cancellation=Cancellation(),
            allowed=allowed,
            announce=lambda _: None,
        )
        return self._role_caller.worst_case(claim, answer_call(task, request))

    def _expected_at(self, ref: TaskRef, _rev: int, role: str) -> Expected:
        """Return what is expected of a plan, by its task, the revision of its state, and its role."""
        return self._expected(ref.tenant, Mode.PLAN, role, None)

    def _expected(self, tenant: str, mode: Mode, role: str, engine: str | None) -> Expected:
        """Return what Completed tasks of the tenant with this mode, role and engine tell.

        The engine of a task is the one that gave its answer, and a plan's may be another than the planner's, so in Plan
        mode the tasks of all engines are taken.
        """
        is_plan = mode is Mode.PLAN
        if engine is None and not is_plan:
            return Expected()
        alike = TaskFilter(
            statuses=frozenset([Status.COMPLETED]),
            role=role,
            mode=mode,
            engine=None if is_plan else engine,
        )
        return Expected.of(self._store.newest(tenant, most=quote.MAX_SAMPLE, task_filter=alike))
