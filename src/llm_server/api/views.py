"""Convert domain values to the response schemas of the HTTP contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import asdict

from llm_server.api.schemas.conversations import ConversationView
from llm_server.api.schemas.events import EventDocument
from llm_server.api.schemas.keys import CreatedKey, KeyLimitsView, KeyView
from llm_server.api.schemas.server import (
    CatalogView,
    EngineNowView,
    EnginesView,
    EngineView,
    ProfileView,
    RoleView,
    UsageView,
)
from llm_server.api.schemas.tasks import (
    CostsView,
    DecisionView,
    EventView,
    QuoteView,
    TaskDetail,
    TaskLimits,
    TaskPage,
    TaskSummary,
    TaskView,
    TimesView,
    ToolCallView,
    TriageQuoteView,
)
from llm_server.api.schemas.work import AttemptView, PlanView, ReceiptView, ReviewView, StepView
from llm_server.orchestration.dispatch.fleet import EngineNow
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.api_key import Key, KeyLimits
from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec, Source, Sources
from llm_server.orchestration.domain.output import PLAN, OutputKey
from llm_server.orchestration.domain.plan import Step, StepStatus
from llm_server.orchestration.domain.ports.listing import Page
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD, Attempt
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.events.history import Event, history
from llm_server.orchestration.quotes.quote import Quote
from llm_server.orchestration.service import Usage
from llm_server.orchestration.tasks.intake import Quoted

_EPOCH = datetime(1970, 1, 1)  # in UTC; without a time zone, arithmetic takes half the time
_ATTEMPT = tuple(name for name in AttemptView.model_fields if name != "started_at")
_ENGINE = tuple(EngineView.model_fields)
_LIMITS = tuple(TaskLimits.model_fields)
_RECEIPT = tuple(ReceiptView.model_fields)
_TRIAGE = tuple(TriageQuoteView.model_fields)
_REVIEW = tuple(ReviewView.model_fields)


def task(task: Task, result: str | None = None) -> TaskView:
    return TaskView(task_id=task.task_id, status=task.status, result=result, error=task.error)


def detail(snapshot: Snapshot, quote: Quote | None = None) -> TaskDetail:
    request = snapshot.decided_request
    return TaskDetail(
        **_state(snapshot.task) | {"metadata": dict(snapshot.task.metadata or request.metadata)},
        result=snapshot.result,
        fault=snapshot.fault,
        confidence=request.confidence,
        complexity=request.complexity,
        reasons=list(request.reasons),
        plan=_plan(snapshot),
        quote=None if quote is None else quote_view(quote),
        demonstration=snapshot.task.demonstration,
        priority=snapshot.task.priority,
        stream=request.stream,
        previous_task_id=request.previous_task_id,
        conversation_id=request.conversation_id,
        turns_before=request.turns_before,
        tool_calls=[ToolCallView(**asdict(call)) for call in snapshot.tool_calls],
        turns_dropped=snapshot.turns_dropped,
        attempts=[_attempt(a) for a in snapshot.attempts],
        events=[_event(event) for event in history(snapshot)],
        limits=_limits(snapshot),
    )


def stream_event(event: Event) -> EventDocument:
    return EventDocument(
        number=event.number,
        event=event.name,
        at=_time(event.at_ms),
        actor=event.actor,
        detail=event.detail,
        step=event.step,
        engine=event.engine,
        item=event.item,
        text=event.text,
        tool_calls=event.tool_calls,
    )


def receipt(task: Task) -> ReceiptView:
    return ReceiptView(**_fields(task.receipt, _RECEIPT))


def page(page: Page) -> TaskPage:
    return TaskPage(tasks=[TaskSummary(**_state(t)) for t in page.tasks], next_page_token=page.next_token)


def conversation(conversation: Conversation, tasks: Sequence[Task]) -> ConversationView:
    return ConversationView(
        conversation_id=conversation.conversation_id,
        created_at=_time(conversation.created_ms),
        updated_at=_time(conversation.updated_ms),
        tasks=[TaskSummary(**_state(task)) for task in tasks],
    )


def _limits(snapshot: Snapshot) -> TaskLimits:
    limits = _fields(snapshot.request.limits, _LIMITS)
    if snapshot.task.max_cost_microusd is not None:
        limits["max_cost_usd"] = snapshot.task.max_cost_microusd / MICROUSD_PER_USD
    return TaskLimits(**limits | {"sources": _sources(snapshot.allowed_engines.sources)})


def quote_view(quote: Quote) -> QuoteView:
    expected, cost, time = quote.expected, quote.expected.microusd, quote.expected.seconds
    return QuoteView(
        ceiling_microusd=quote.ceiling_microusd,
        ceiling_reason=quote.ceiling_reason,
        worst_case_microusd=quote.worst_case_microusd,
        expected_microusd=None if cost is None else CostsView(p50=int(cost.p50), p90=int(cost.p90)),
        expected_seconds=None if time is None else TimesView(p50=round(time.p50, 3), p90=round(time.p90, 3)),
        sample=expected.sample,
    )


def decision(quoted: Quoted) -> DecisionView:
    decision = quoted.decision
    a, triage = decision.analysis, decision.triage
    return DecisionView(
        mode=a.mode,
        role=a.role,
        profile=decision.profile,
        engine=decision.engine,
        sources=_sources(decision.sources),
        triage=None if triage is None else TriageQuoteView(**_fields(triage, _TRIAGE)),
        quote=quote_view(quoted.quote),
        complexity=a.complexity,
        multi_step=a.multi_step,
        confidence=a.confidence,
        reasons=list(a.reasons),
        alternatives=list(a.alternatives),
    )


def usage(usage: Usage) -> UsageView:
    return UsageView(
        tenant=usage.tenant,
        day=usage.day,
        spent_microusd=usage.spent_microusd,
        tasks_in_flight=usage.tasks_in_flight,
        limits=_key_limits(usage.limits),
        charged_microusd=usage.charged.charged_microusd if usage.charged else None,
        unsettled_microusd=usage.charged.unsettled_microusd if usage.charged else None,
    )


def key(key: Key) -> KeyView:
    return KeyView(**_key(key))


def created_key(key: Key, token: str) -> CreatedKey:
    return CreatedKey(**_key(key), token=token)


def _key(key: Key) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "name": key.name,
        "limits": _key_limits(key.limits),
        "created_at": _time(key.created_ms),
        "expires_at": _time_or_none(key.expires_ms),
        "revoked_at": _time_or_none(key.revoked_ms),
    }


def _key_limits(limits: KeyLimits) -> KeyLimitsView:
    microusd = limits.microusd_per_day
    return KeyLimitsView(
        requests_per_minute=limits.requests_per_minute,
        tasks_in_flight=limits.tasks_in_flight,
        usd_per_day=None if microusd is None else microusd / MICROUSD_PER_USD,
        sources=_sources(limits.sources),
    )


def _sources(sources: Sources | None) -> list[Source] | None:
    return None if sources is None else list(sources)


def catalog(catalog: Catalog, engines: Mapping[str, EngineSpec]) -> CatalogView:
    return CatalogView(
        profiles={
            name: ProfileView(purpose=p.purpose, default_role=p.default_role, roles=catalog.roles_of(name))
            for name, p in catalog.profiles.items()
        },
        roles={
            name: RoleView(purpose=r.purpose, profiles=list(r.profiles), tier=r.tier, examples=list(r.examples))
            for name, r in catalog.roles.items()
        },
        engines={name: EngineView(**_engine(spec)) for name, spec in engines.items()},
    )


def engine(engine: EngineNow) -> EngineNowView:
    return EngineNowView.model_validate(_engine(engine.spec) | {"status": engine.status})


def engines(engines: Mapping[str, EngineNow]) -> EnginesView:
    return EnginesView(engines={name: engine(now) for name, now in engines.items()})


def _engine(spec: EngineSpec) -> dict[str, Any]:
    return _fields(spec, _ENGINE)


def _state(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "status": task.status,
        "error": task.error,
        "mode": task.mode,
        "role": task.role,
        "profile": task.profile,
        "engine": task.engine,
        "receipt": receipt(task),
        "created_at": _time(task.created_ms),
        "updated_at": _time(task.updated_ms),
        "finished_at": _time_or_none(task.finished_ms),
        "awaiting_approval": task.awaits_approval,
        "metadata": dict(task.metadata),
        **_waiting(task),
    }


def _waiting(task: Task) -> dict[str, Any]:
    """Return what a Queued task waits for while no engine is available, and since when."""
    if task.status is not Status.QUEUED or task.waiting_since_ms is None:
        return {"waiting_for": None, "waiting_since": None}
    return {"waiting_for": task.waiting_for, "waiting_since": _time(task.waiting_since_ms)}


def _plan(snapshot: Snapshot) -> PlanView | None:
    stored = snapshot.outputs.get(PLAN)
    if stored is None or stored.text is None:
        return None
    plan = plans.from_json(stored.text)
    ends = {step.id: snapshot.standing.get(OutputKey.of_step(step.id)) for step in plan.steps}
    finished = {name: output.error is None for name, output in ends.items() if output}
    status = snapshot.task.status
    statuses = plans.statuses(
        plan, finished, at_work=status.is_active and not snapshot.task.awaits_approval, is_final=status.is_final
    )
    return PlanView(
        goal=plan.goal, hash=plans.digest(stored.text), steps=[_step(s, statuses[s.id], snapshot) for s in plan.steps]
    )


def _step(step: Step, status: StepStatus, snapshot: Snapshot) -> StepView:
    output, review = snapshot.standing.get(OutputKey.of_step(step.id)), snapshot.review(step.id)
    return StepView(
        id=step.id,
        role=step.role,
        instruction=step.instruction,
        depends_on=list(step.depends_on),
        status=status.value,
        result=output.text if output else None,
        error=output.error if output else None,
        fault=snapshot.step_fault(step.id),
        cost_microusd=sum(a.cost_microusd or 0 for a in snapshot.attempts if a.step_id == step.id),
        review=ReviewView(**_fields(review, _REVIEW) | {"findings": list(review.findings)}) if review else None,
    )


def _event(event: Event) -> EventView:
    return EventView(event=event.name, at=_time(event.at_ms), actor=event.actor, detail=event.detail)


def _attempt(attempt: Attempt) -> AttemptView:
    """Return an attempt without the fields that only the task's history uses."""
    return AttemptView(started_at=_time(attempt.started_ms), **_fields(attempt, _ATTEMPT))


def _fields(value: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _time_or_none(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else _time(milliseconds)


def _time(milliseconds: int) -> str:
    """Format Unix milliseconds as RFC 3339 in UTC."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds") + "Z"
