"""Accepts a task: checks the prompt, decides how the task is done, stores it, and wakes a worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.access import idempotency
from llm_server.orchestration.access.idempotency import KEPT_MS
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.conversations import follow_up
from llm_server.orchestration.conversations.follow_up import NO_TURNS, FollowStore, FollowUp
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.catalog import Catalog, Sources
from llm_server.orchestration.domain.errors import ConversationBusy, StateConflict, TaskNotFound
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.listing import TaskListing
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding, IdempotencyStore
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.triage import TriageQuote, Undecided, undecided
from llm_server.orchestration.quotes.quote import Quote
from llm_server.orchestration.routing import tiers
from llm_server.orchestration.routing.analysis import Analysis, analyse, own_roles
from llm_server.orchestration.routing.own_roles import OwnRoles
from llm_server.orchestration.tasks import engine_limits
from llm_server.orchestration.tasks.new_task import NewTask, normalise, validate
from llm_server.orchestration.tasks.wakeups import WakeUps

if TYPE_CHECKING:
    from llm_server.orchestration.execution.triage import Triages
    from llm_server.orchestration.quotes.quotes import Quotes


class Accepted(Struct, frozen=True, kw_only=True):
    """A stored task. `replayed`: an earlier call with the same Idempotency-Key created it."""

    task: Task
    result: str | None = None
    replayed: bool = False


class Decision(Struct, frozen=True, kw_only=True):
    """How a task would be done: the analysis, and the engine that would be asked first (None if none can be asked).

    Only engines with one of the `sources` would be asked (None: any). If `triage` is not None, an engine would be asked
    for mode, role and complexity before that.
    """

    analysis: Analysis
    profile: str
    engine: str | None
    sources: Sources | None = None
    triage: TriageQuote | None = None


class Quoted(Struct, frozen=True, kw_only=True):
    """How a task would be done, and its quote."""

    decision: Decision
    quote: Quote


Analysed = tuple[Analysis, str, bool]
"""The analysis, the profile, and whether the role and the mode are those of the turn before."""


class IntakeStore(FollowStore, IdempotencyStore, TaskListing, Protocol):
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
    ) -> None:
        self._catalog = catalog
        self._own_roles = own_roles(catalog)
        self._store = store
        self._keyring = keyring
        self._wakeups = wakeups
        self._balancer = balancer
        self._clock = clock
        self._new_id = new_id
        self._sweep_ms = sweep_ms
        self._prompt_max_chars = prompt_max_chars

    def decide(self, new: NewTask, *, payer: Payer | None = None, tenant: str = "") -> Decision:
        """Decide mode, role and first engine, without storing or spending anything.

        If the confidence is below the configured threshold, the profile's default role answers in Chat mode.
        A mode or role that the caller chose is kept. The task before this one is one of the `tenant`.

        Raises:
            InvalidInput: the prompt is blank or too long, a name is unknown, or no engine can be used: as
                `engine_limits.limited`; or as `follow_up.find`.
            StateConflict: as `follow_up.find`.
        """
        new = self._checked(new, payer)
        return self._decided(new, self._analysed(new, self._turns_before(tenant, new)))

    def quote(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Quoted:
        """Decide how a task would be done and quote it, without storing or spending anything. Raises as `decide`."""
        from llm_server.orchestration.quotes.quotes import Prospect

        new = self._checked(new, payer)
        turns = self._turns_before(tenant, new)
        analysed = self._analysed(new, turns)
        decision = self._decided(new, analysed)
        task, request = self._states(tenant, new, "", payer, turns, analysed)
        prospect = Prospect(task=task, request=request, engine=decision.engine, is_triaged=decision.triage is not None)
        return Quoted(decision=decision, quote=self.quotes.of_new(prospect))

    @cached_property
    def quotes(self) -> Quotes:
        """Imported here for the same reason as the triage."""
        from llm_server.orchestration.quotes.quotes import Quotes

        return Quotes(catalog=self._catalog, balancer=self._balancer, store=self._store)

    def _decided(self, new: NewTask, analysed: Analysed) -> Decision:
        """Decide how a checked task with this analysis would be done."""
        analysis, profile, is_kept = analysed
        role, wanted = self._catalog.role(analysis.role), tiers.preferred_tier(analysis.complexity)
        tier = tiers.tier_of(role, analysis.complexity, self._catalog.defaults, preferred=wanted)
        sources = new.limits.sources
        allowed = AllowedEngines(engine=new.engine, sources=sources)
        engines, open_ = self._balancer.candidates(tier, allowed), () if is_kept else self._undecided(new, analysis)
        return Decision(
            analysis=analysis,
            profile=profile,
            engine=engines[0] if engines else None,
            sources=sources,
            triage=self._triages.quote(allowed, new.limits, new.prompt, profile, open_) if open_ else None,
        )

    def typical_triage(self) -> tuple[TriageQuote | None, float]:
        """Return what the triage of a typical prompt would cost, and the share of prompts that is triaged.

        The quote is None if no task can be triaged now.
        """
        return self._triages.typical(), self._triages.share

    @cached_property
    def _triages(self) -> Triages:
        """Imported here, because the API function needs it only for a dry run."""
        from llm_server.orchestration.execution.triage import Triages

        return Triages(catalog=self._catalog, balancer=self._balancer, clock=self._clock)

    def _undecided(self, new: NewTask, analysis: Analysis) -> tuple[Undecided, ...]:
        return undecided(
            self._catalog, confidence=analysis.confidence, role=new.role, mode=new.mode, profile=new.profile
        )

    def submit(self, tenant: str, new: NewTask, *, payer: Payer | None = None) -> Task:
        """Store a task, then wake a worker. Once this returns, the task is never lost.

        Raises:
            InvalidInput, StateConflict: as `decide`.
            QuotaExceeded: the daily limit of the payer's key is spent or reserved, or it allows no more open tasks.
            StorageUnavailable: it is unknown whether the task was stored.
        """
        self._keyring.check_spending(payer)
        new = self._checked(new, payer)
        turns = self._turns_before(tenant, new)
        task, request = self._prepared(tenant, new, self._new_id(), payer, turns)
        self._store_new(task, request, payer, turns)
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
            InvalidInput: as `decide`, or the key is bound to a task with another body.
            StateConflict: as `decide`, or the key's task was deleted.
            QuotaExceeded: the daily limit of the payer's key is spent or reserved, or it allows no more open tasks.
            StorageUnavailable: it is unknown whether the task was stored.
        """
        new, now_ms = normalise(new, self._catalog), self._clock()
        wanted = IdempotencyBinding(task_id=self._new_id(), body_hash=new.digest(), until_ms=now_ms + KEPT_MS)
        check = partial(self._checked, new, payer)
        bound = idempotency.bind(self._store, tenant, key, wanted, now_ms=now_ms, check=check)
        if bound != wanted and (earlier := self._replayed(tenant, bound)):
            return earlier
        checked = self._checked(new, payer)
        self._keyring.check_spending(payer)
        try:
            turns = self._turns_before(tenant, checked)
            task, request = self._prepared(tenant, checked, bound.task_id, payer, turns)
            if self._store_new(task, request, payer, turns):
                return Accepted(task=task)
        except ConversationBusy:  # perhaps with this task, which another call has just stored
            if stored_meanwhile := self._replayed(tenant, bound):
                return stored_meanwhile
            raise
        if stored_meanwhile := self._replayed(tenant, bound):
            return stored_meanwhile
        raise StateConflict("The task of this Idempotency-Key was deleted.", code="idempotency_key_task_deleted")

    def _replayed(self, tenant: str, bound: IdempotencyBinding) -> Accepted | None:
        """Return the task that a key is bound to, or None if it is not stored."""
        try:
            found = self._store.get(TaskRef(tenant, bound.task_id))
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

    def _turns_before(self, tenant: str, new: NewTask) -> FollowUp:
        if new.previous_task_id is None and new.conversation_id is None:
            return NO_TURNS
        return follow_up.find(
            self._store, tenant, previous_task_id=new.previous_task_id, conversation_id=new.conversation_id
        )

    def _analysed(self, new: NewTask, turns: FollowUp) -> Analysed:
        """Return the analysis, the profile, and whether the role and the mode are those of the turn before."""
        analysis, profile = analyse_task(new, self._catalog, self._own_roles)
        if turns.parent is None or new.role is not None or new.mode is not None:
            return analysis, profile, False
        kept = follow_up.kept(analysis, turns.parent, new.prompt, self._catalog, profile=new.profile)
        if kept is None:
            return analysis, profile, False
        return kept, new.profile or turns.parent.task.profile, True

    def _prepared(
        self, tenant: str, new: NewTask, task_id: str, payer: Payer | None, turns: FollowUp
    ) -> tuple[Task, Request]:
        """Return the state and the request to store for a new task."""
        return self._states(tenant, new, task_id, payer, turns, self._analysed(new, turns))

    def _states(
        self,
        tenant: str,
        new: NewTask,
        task_id: str,
        payer: Payer | None,
        turns: FollowUp,
        analysed: Analysed,
    ) -> tuple[Task, Request]:
        """Return the state and the request of a new task with this analysis."""
        analysis, profile, is_kept = analysed
        now_ms = self._clock()
        task = Task(
            tenant=tenant,
            task_id=task_id,
            mode=analysis.mode,
            role=analysis.role,
            profile=profile,
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
            undecided=() if is_kept else self._undecided(new, analysis),
            output_schema=new.output_schema,
            stream=new.stream,
            previous_task_id=turns.previous_task_id,
            conversation_id=new.conversation_id,
            earlier=turns.earlier,
            turns_before=turns.turns_before,
        )
        return task, request

    def _checked(self, new: NewTask, payer: Payer | None) -> NewTask:
        """Return the task normalised, and limited to the engines that its caller's key allows. Raises InvalidInput."""
        new = validate(new, self._catalog, prompt_max_chars=self._prompt_max_chars)
        return engine_limits.limited(new, payer, self._balancer.fleet)


def analyse_task(new: NewTask, catalog: Catalog, own: OwnRoles) -> tuple[Analysis, str]:
    """Analyse a prompt. Returns the analysis and the profile of the task.

    If the confidence is below the configured threshold, the profile's default role answers in Chat mode.
    """
    allowed = catalog.roles_of(new.profile) if new.profile else list(catalog.roles)
    analysis = analyse(new.prompt, role=new.role, profile=new.profile, mode=new.mode, roles=allowed, own=own)
    of_tier = tiers.reasons(analysis.complexity, catalog.defaults)
    analysis = replace(analysis, reasons=(*analysis.reasons, *of_tier))
    threshold = catalog.defaults.confidence_threshold
    if analysis.confidence >= threshold or new.role:
        return analysis, new.profile or catalog.profile_of(analysis.role)
    profile = new.profile or catalog.defaults.profile
    fallback = catalog.profile(profile).default_role
    mode = new.mode or Mode.CHAT
    reason = f"confidence {analysis.confidence:.2f} is below {threshold:g}: {fallback} answers in {mode} mode"
    return replace(analysis, mode=mode, role=fallback, reasons=(*analysis.reasons, reason)), profile
