"""Accepts a task: checks it, stores it with the decision how it is done, and wakes a worker. Quotes a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from llm_server.orchestration.access import idempotency, repeats
from llm_server.orchestration.access.idempotency import KEPT_MS
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.access.repeats import Repeatable
from llm_server.orchestration.conversations.follow_up import FollowStore, FollowUp
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import ConversationBusy, StateConflict, TaskNotFound
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.listing import TaskListing
from llm_server.orchestration.domain.ports.repeats import RepeatStore
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding, IdempotencyStore
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.quotes.quote import Quote
from llm_server.orchestration.tasks import engine_limits
from llm_server.orchestration.tasks.decision import Analysed, Decision, Decisions
from llm_server.orchestration.tasks.new_task import NewTask, normalise, validate
from llm_server.orchestration.tasks.wakeups import WakeUps

if TYPE_CHECKING:
    from llm_server.orchestration.quotes.quotes import Quotes


class Accepted(Struct, frozen=True, kw_only=True):
    """A stored task. `replayed`: an earlier call with the same Idempotency-Key created it."""

    task: Task
    result: str | None = None
    replayed: bool = False


class Quoted(Struct, frozen=True, kw_only=True):
    """How a task would be done, and its quote."""

    decision: Decision
    quote: Quote


class IntakeStore(FollowStore, IdempotencyStore, RepeatStore, TaskListing, Protocol):
    """The part of the store that the intake uses."""


class Intake:
    """Accepts tasks."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        store: IntakeStore,
        keyring: Keyring,
        wakeups: WakeUps,
        balancer: Balancer,
        clock: Clock,
        new_id: Callable[[], str],
        sweep_ms: int,
        prompt_max_chars: int,
        remote_images: bool = False,
    ) -> None:
        self._catalog = catalog
        self.decisions = Decisions(catalog=catalog, store=store, balancer=balancer, clock=clock)
        self._store = store
        self._keyring = keyring
        self._wakeups = wakeups
        self._balancer = balancer
        self._clock = clock
        self._new_id = new_id
        self._sweep_ms = sweep_ms
        self._validate = partial(
            validate, catalog=catalog, prompt_max_chars=prompt_max_chars, remote_images=remote_images
        )

    def quote(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Quoted:
        """Decide how a task would be done and quote it, without storing or spending anything.

        Raises:
            InvalidInput: the prompt is blank or too long, a name is unknown, or no engine can be used: as
                `engine_limits.limited`; or as `follow_up.find`.
            StateConflict: as `follow_up.find`.
        """
        from llm_server.orchestration.quotes.quotes import Prospect

        new = self._checked(new, payer)
        analysed = self.decisions.analyse(tenant, new)
        decision = self.decisions.decide(new, analysed)
        task, request = self._states(tenant, new, "", payer, analysed)
        prospect = Prospect(task=task, request=request, engine=decision.engine, is_triaged=decision.triage is not None)
        return Quoted(decision=decision, quote=self.quotes.of_new(prospect))

    @cached_property
    def quotes(self) -> Quotes:
        """Imported here, because the API function needs it only for a dry run."""
        from llm_server.orchestration.quotes.quotes import Quotes

        return Quotes(catalog=self._catalog, balancer=self._balancer, store=self._store)

    def submit(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Task:
        """Store a task, then wake a worker. Once this returns, the task is never lost.

        Raises:
            InvalidInput, StateConflict: as `quote`.
            QuotaExceeded: the daily limit of the payer's key is spent or reserved, or it allows no more open tasks.
            StorageUnavailable: it is unknown whether the task was stored.
        """
        self._keyring.check_spending(payer)
        new = self._checked(new, payer)
        analysed = self.decisions.analyse(tenant, new)
        task, request = self._states(tenant, new, self._new_id(), payer, analysed)
        self._store_new(task, request, payer, analysed.turns)
        return task

    def submit_once(
        self,
        tenant: str,
        new: NewTask,
        key: str,
        *,
        payer: Payer | None = None,
    ) -> Accepted:
        """Store one task, however often the same body is submitted under the same key within 24 hours.

        The key is bound before the task is stored, so every call with it uses the same task id. If an earlier call
        bound the key but stored no task, this call stores it. If the task is stored already, it is returned without
        checking the prompt or the payer's money.

        Raises:
            InvalidInput: as `quote`, or the key is bound to a task with another body.
            StateConflict: as `quote`, or the key's task was deleted.
            QuotaExceeded: the daily limit of the payer's key is spent or reserved, or it allows no more open tasks.
            StorageUnavailable: it is unknown whether the task was stored.
        """
        new, now_ms = normalise(new, self._catalog), self._clock()
        wanted = IdempotencyBinding(task_id=self._new_id(), body_hash=new.digest(), until_ms=now_ms + KEPT_MS)
        check = partial(self._checked, new, payer)
        bound = idempotency.bind(self._store, tenant, key, wanted, now_ms=now_ms, check=check)
        if bound != wanted and (earlier := self._replayed(tenant, bound.task_id)):
            return earlier
        if accepted := self._submit_as(bound.task_id, tenant, self._checked(new, payer), payer):
            return accepted
        raise StateConflict("The task of this Idempotency-Key was deleted.", code="idempotency_key_task_deleted")

    def submit_repeatable(self, tenant: str, new: NewTask, post: Repeatable, *, payer: Payer | None = None) -> Accepted:
        """Store a task of a POST without an Idempotency-Key, or take over the task of the POST that it repeats.

        Raises:
            InvalidInput, StateConflict, QuotaExceeded, StorageUnavailable: as `submit`.
        """
        new, task_id, now_ms = self._checked(new, payer), self._new_id(), self._clock()
        for earlier_id in repeats.taken_over(self._store, tenant, post, task_id, now_ms) if post.number else ():
            if accepted := self._replayed(tenant, earlier_id) or self._submit_as(earlier_id, tenant, new, payer):
                return accepted
        self._store.note_original(tenant, post.fingerprint, post.original(task_id, now_ms))
        accepted = self._submit_as(task_id, tenant, new, payer)
        assert accepted is not None, "a new id cannot be that of a deleted task"
        return accepted

    def _submit_as(self, task_id: str, tenant: str, checked: NewTask, payer: Payer | None) -> Accepted | None:
        """Store a task with a known id, unless it is stored. Returns None if it was stored and deleted."""
        self._keyring.check_spending(payer)
        try:
            analysed = self.decisions.analyse(tenant, checked)
            task, request = self._states(tenant, checked, task_id, payer, analysed)
            if self._store_new(task, request, payer, analysed.turns):
                return Accepted(task=task)
        except ConversationBusy:  # perhaps with this task, which another call has just stored
            if stored_meanwhile := self._replayed(tenant, task_id):
                return stored_meanwhile
            raise
        return self._replayed(tenant, task_id)

    def _replayed(self, tenant: str, task_id: str) -> Accepted | None:
        """Return the task of an earlier call, or None if it is not stored."""
        try:
            found = self._store.get(TaskRef(tenant, task_id))
        except TaskNotFound:
            return None
        return Accepted(task=found.task, result=found.result, replayed=True)

    def _store_new(self, task: Task, request: Request, payer: Payer | None, turns: FollowUp) -> bool:
        """Store a task and wake a worker. Returns False if an earlier call had stored it.

        A worker is woken in that case too, because the earlier call may have died before it did that.
        """
        is_new = self._store.add(
            task,
            request,
            max_in_flight=payer.limits.tasks_in_flight if payer else None,
            conversation=turns.conversation and turns.conversation.with_task(task.task_id, now_ms=task.created_ms),
        )
        self._wakeups.send(task.ref, task.priority)
        return is_new

    def _states(
        self, tenant: str, new: NewTask, task_id: str, payer: Payer | None, analysed: Analysed
    ) -> tuple[Task, Request]:
        """Return the state and the request to store for a new task with this analysis."""
        analysis, turns = analysed.analysis, analysed.turns
        now_ms = self._clock()
        task = Task(
            tenant=tenant,
            task_id=task_id,
            mode=analysis.mode,
            role=analysis.role,
            profile=analysed.profile,
            created_ms=now_ms,
            updated_ms=now_ms,
            due_ms=now_ms + self._sweep_ms,
            counted_for=payer.counted_for if payer else "",
            charge=payer.charge if payer else None,
            deadline_ms=new.limits.deadline_ms(now_ms),
            metadata=new.metadata,
            priority=new.priority,
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
            undecided=analysed.undecided,
            stream=new.stream,
            previous_task_id=turns.previous_task_id,
            conversation_id=new.conversation_id,
            earlier=turns.earlier,
            turns_before=turns.turns_before,
            messages=new.messages,
            instructions=new.instructions,
            tools=new.tools,
            tool_choice=new.tool_choice,
            output_schema=new.output_schema,
            needs_before=turns.needs,
        )
        return task, request

    def _checked(self, new: NewTask, payer: Payer | None) -> NewTask:
        """Return the task normalised, and limited to the engines that its caller's key allows. Raises InvalidInput."""
        new = self._validate(new)
        return engine_limits.limited(new, payer, self._balancer.fleet)
