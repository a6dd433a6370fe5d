"""What the server does, in the words of its callers: submit, read, list, process, sweep, measure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from llm_server.orchestration import approval
from llm_server.orchestration.analysis import Analysis, analyse
from llm_server.orchestration.balancer import Balancer
from llm_server.orchestration.catalog import Catalog
from llm_server.orchestration.errors import (
    InvalidInput,
    NotClaimable,
    StorageUnavailable,
    TaskLost,
    TaskNotFound,
    UnknownName,
)
from llm_server.orchestration.metrics import Counters, day_of, summarise
from llm_server.orchestration.orchestrator import Orchestrator
from llm_server.orchestration.ports import Clock, Due, Page, Queue, Store
from llm_server.orchestration.task import Limits, Mode, Request, Snapshot, Status, Task, TaskRef

_log = logging.getLogger(__name__)

SWEEP_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a caller asks for; None leaves the choice to the analysis."""

    prompt: str
    profile: str | None = None
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, str] = field(default_factory=dict)
    plan_approval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a prompt would be done: the analysis, and the engine that would be asked first."""

    analysis: Analysis
    profile: str
    engine: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a tenant spent on a UTC day and what it has in flight."""

    tenant: str
    day: str
    spent_microusd: int
    tasks_in_flight: int


class Service:
    """The use cases, over the ports."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        store: Store,
        queue: Queue,
        balancer: Balancer,
        orchestrator: Orchestrator,
        clock: Clock,
        new_id: Callable[[], str],
        lease_s: int,
        sweep_s: int,
        prompt_max_chars: int,
    ) -> None:
        self.catalog = catalog
        self.prompt_max_chars = prompt_max_chars
        self._store = store
        self._queue = queue
        self._balancer = balancer
        self._orchestrator = orchestrator
        self._clock = clock
        self._new_id = new_id
        self._lease_ms = lease_s * 1000
        self._sweep_ms = sweep_s * 1000

    def now_ms(self) -> int:
        """The server's time, Unix milliseconds."""
        return self._clock()

    def decide(self, new: NewTask) -> Decision:
        """Decide mode, role and first engine, without storing or spending anything.

        Below the confidence threshold the mode is Chat with the profile's default role; what the caller chose stays.

        Raises:
            InvalidInput: the prompt is blank or too long, or a name is unknown.
        """
        new = self._checked(new)
        analysis, profile = self._analysed(new)
        tier = self._orchestrator.tier(analysis.role, analysis.complexity)
        engine = next(iter(self._balancer.candidates(tier, new.engine)), None)
        return Decision(analysis=analysis, profile=profile, engine=engine)

    def submit(self, tenant: str, new: NewTask) -> Task:
        """Store a task, then wake a worker. Once this returns, the task is never lost.

        Raises:
            InvalidInput: as `decide`.
            StorageUnavailable: nothing is known to have been stored.
        """
        new = self._checked(new)
        analysis, profile = self._analysed(new)
        now_ms = self._clock()
        task = Task(
            tenant=tenant,
            task_id=self._new_id(),
            mode=analysis.mode,
            role=analysis.role,
            profile=profile,
            created_ms=now_ms,
            updated_ms=now_ms,
            due_ms=now_ms + self._sweep_ms,
        )
        request = Request(
            prompt=new.prompt,
            engine=new.engine,
            limits=new.limits,
            metadata=new.metadata,
            confidence=analysis.confidence,
            complexity=analysis.complexity,
            reasons=analysis.reasons,
            plan_approval=new.plan_approval,
        )
        self._store.add(task, request)
        self._send(task.ref)
        return task

    def get(self, ref: TaskRef) -> Snapshot:
        """Read a task. Raises TaskNotFound."""
        return self._store.get(ref)

    def approve(self, ref: TaskRef, plan_hash: str, *, approve: bool) -> Snapshot:
        """Let a plan that waits be carried out, or cancel its task. Raises as `approval.decide`."""
        now_ms = self._clock()
        due_ms = now_ms + self._sweep_ms
        snapshot, moved = approval.decide(self._store, ref, plan_hash, approve=approve, now_ms=now_ms, due_ms=due_ms)
        if moved and approve:
            self._send(ref)
        return snapshot

    def is_final(self, ref: TaskRef) -> bool:
        """Whether a task has ended, at the price of the smallest read. Raises TaskNotFound."""
        return self._store.peek(ref).status.is_final

    def page(self, tenant: str, *, size: int, token: str, status: Status | None, role: str | None) -> Page:
        """List a tenant's tasks, newest first. Raises InvalidInput for a bad token or an unknown role."""
        if role is not None:
            self.catalog.role(role)
        return self._store.page(tenant, size=size, token=token, status=status, role=role)

    def metrics(self) -> dict[str, object]:
        """The nine figures of `GET /metrics`."""
        counters, states = self._store.overview()
        return summarise(counters, self._balancer.status(states))

    def counters(self) -> Counters:
        """Totals and gauges."""
        return self._store.overview()[0]

    def usage(self, tenant: str) -> Usage:
        """What the tenant spent today (UTC) and has in flight."""
        day = day_of(self._clock())
        counters = self.counters()
        return Usage(
            tenant=tenant,
            day=day,
            spent_microusd=self._store.spent_microusd(tenant, day),
            tasks_in_flight=counters.queued + counters.active,
        )

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None = None) -> None:
        """Carry a task out as far as one claim goes; a doubled, late or unknown wake-up does nothing.

        `until_ms` is when this worker's own time ends (Unix milliseconds); a claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: wake up again later; the lease decides who goes on.
        """
        now_ms = self._clock()
        try:
            snapshot = self._store.get(ref)
            has_plan = "PLAN" in snapshot.outputs
            task = snapshot.task.claimed(
                owner=owner, now_ms=now_ms, lease_ms=now_ms + self._lease_ms, has_plan=has_plan
            )
            self._store.save(snapshot.task, task)
        except (TaskNotFound, NotClaimable, TaskLost) as reason:
            _log.debug("wake-up not needed", extra={"task_id": ref.task_id, "reason": type(reason).__name__})
            return
        lease_end_ms = now_ms + self._lease_ms * 6 // 7
        try:
            self._carry_out(replace(snapshot, task=task), min(until_ms or lease_end_ms, lease_end_ms))
        except TaskLost:
            _log.warning("task lost to another worker", extra=_fields(task))

    def sweep(self) -> int:
        """Wake what is open and due: tasks whose message was lost and whose worker died. Returns how many it woke."""
        woken, waiting = 0, None
        for due in self._store.due(self._clock(), SWEEP_MOST):
            try:
                task = self._store.peek(due.ref)
            except TaskNotFound:
                continue
            if task.status is Status.QUEUED and waiting is None:
                waiting = self._queue.depth() >= self.counters().queued
            merely_waiting = task.status is Status.QUEUED and bool(waiting)
            woken += self._wake(due, task, merely_waiting=merely_waiting)
        return woken

    def _wake(self, due: Due, task: Task, *, merely_waiting: bool) -> bool:
        """Move the due time on, then send: in this order, so that two sweeps at once send once."""
        now_ms = self._clock()
        doubled_ms = now_ms + max(self._sweep_ms, now_ms - task.created_ms)
        if task.status.is_active and task.lease_ms > now_ms:
            self._store.postpone(due, task.lease_ms)
            return False
        if not self._store.postpone(due, doubled_ms) or merely_waiting:
            return False
        _log.info("task woken by the sweep", extra=_fields(task))
        return self._send(due.ref)

    def _carry_out(self, snapshot: Snapshot, until_ms: int) -> None:
        task = snapshot.task
        with closing(self._orchestrator.run(snapshot, until_ms=until_ms)) as states:
            for progress in states:
                output = progress.output
                if output and output.is_answer:
                    self._store.keep(task.ref, output)
                    output = None
                self._store.save(task, progress.task, output)
                task = progress.task
                level = logging.INFO if task.status.is_final else logging.DEBUG
                _log.log(level, "task state", extra=_fields(task))
                if task.status is Status.QUEUED:
                    self._send(task.ref, delay_s=progress.delay_s)

    def _send(self, ref: TaskRef, *, delay_s: int = 0) -> bool:
        """Wake a worker; when the queue cannot be reached the sweep does it later."""
        try:
            self._queue.send(ref, delay_s=delay_s)
        except StorageUnavailable:
            _log.warning("wake-up not sent", extra={"task_id": ref.task_id})
            return False
        return True

    def _checked(self, new: NewTask) -> NewTask:
        prompt = new.prompt.strip()
        if not prompt:
            raise InvalidInput(
                "prompt", "The prompt is blank; it needs at least one character that is not white space."
            )
        if len(prompt) > self.prompt_max_chars:
            detail = f"The prompt has {len(prompt)} characters; at most {self.prompt_max_chars} are taken."
            raise InvalidInput("prompt", detail)
        if new.profile is not None:
            self.catalog.profile(new.profile)
        if new.role is not None:
            self.catalog.role(new.role)
        if new.engine is not None:
            self._check_engine(new.engine)
        return replace(new, prompt=prompt)

    def _check_engine(self, name: str) -> None:
        """An engine asked for by name must be one that is allowed to answer."""
        if name not in self.catalog.engines:
            raise UnknownName("engine", name, self.catalog.engines)
        spec = self.catalog.engines[name]
        if spec.locked or not spec.toggle:
            state = "locked" if spec.locked else "switched off"
            raise InvalidInput("engine", f"Engine {name} is {state}; choose another or leave the field out.")

    def _analysed(self, new: NewTask) -> tuple[Analysis, str]:
        """The analysis, or the profile's default role in Chat mode where it is not sure enough; and the profile."""
        allowed = self.catalog.roles_of(new.profile) if new.profile else list(self.catalog.roles)
        analysis = analyse(new.prompt, role=new.role, profile=new.profile, mode=new.mode, roles=allowed)
        threshold = self.catalog.defaults.confidence_threshold
        if analysis.confidence >= threshold or new.role:
            return analysis, new.profile or self.catalog.profile_of(analysis.role)
        profile = new.profile or self.catalog.defaults.profile
        fallback = self.catalog.profile(profile).default_role
        mode = new.mode or Mode.CHAT
        reason = f"confidence {analysis.confidence:.2f} is below {threshold:g}: {fallback} answers in {mode} mode"
        return replace(analysis, mode=mode, role=fallback, reasons=(*analysis.reasons, reason)), profile


def _fields(task: Task) -> dict[str, object]:
    return {"task_id": task.task_id, "status": task.status.value, "attempt": task.fence}
