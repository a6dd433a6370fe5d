"""Engine calls on behalf of a role, within the time and the budget of a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.dispatch.balancer import Balancer, Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.terms import Accept, Announce, CallTerms, OpenItem
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.conversation import History
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.call import AnswerSchema, Completion, EngineCall, SmallVariant
from llm_server.orchestration.domain.engines.catalog import Catalog, Role, Tier
from llm_server.orchestration.domain.errors import UnknownName
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.execution import prompts, told
from llm_server.orchestration.execution.output_limits import output_limit
from llm_server.orchestration.routing import tiers


class Claim(Struct, frozen=True, kw_only=True):
    """What all calls of one claim share. `left_bytes` is how large the next output may be.

    `timed_out` are the calls of earlier claims that timed out.
    `announce` stores that a call is about to be made (see `CallTerms`). `open_item` begins the stream of a call's text;
    None if the task does not stream. `history` are the earlier turns of the task's conversation.
    """

    task: Task
    request: Request
    until_ms: int
    deadline_ms: int | None
    budget: Budget
    cancellation: Cancellation
    allowed: AllowedEngines
    announce: Announce
    open_item: OpenItem | None = None
    left_bytes: int = MAX_TEXTS_BYTES
    timed_out: tuple[Attempt, ...] = ()
    history: History = field(default_factory=History)


class RoleCall(Struct, frozen=True, kw_only=True):
    """A call to make on behalf of a role; `role` None is the synthesis, which has no role.

    `gate_request` is the request that the answer gate checks the answer against; None skips the gate, because a
    structured answer is checked by the code that asked for it, and the caller's own schema by `CallTerms.accept`. The
    task's `max_output_tokens` does not limit the calls with a schema of the server. `knows_history`: the model is told
    the earlier turns.

    `is_answer`: the call for the answer in Chat or Agent mode. It alone gets the caller's own messages and tools.
    """

    role: str | None
    prompt: str
    purpose: str
    tier: Tier | None = None
    schema: AnswerSchema | None = None
    gate_request: str | None = None
    knows_history: bool = True
    is_answer: bool = False


class RoleCaller:
    """Makes calls with the system prompt, limits and tier of a role; the balancer chooses the engine."""

    def __init__(self, catalog: Catalog, balancer: Balancer) -> None:
        self._catalog = catalog
        self._balancer = balancer

    def ask(self, claim: Claim, call: RoleCall, *, earlier: tuple[Attempt, ...] = ()) -> Reply:
        """Make one call. `earlier` are attempts of the same claim that no stored output will hold before the call."""
        try:
            engine_call, terms = self._prepared(claim, call)
        except UnknownName as error:  # the role was removed from the configuration after the task was created
            return Reply(failure=error)
        return self._balancer.call(engine_call, replace(terms, earlier=earlier, fault=self._gate(claim, call)))

    def foresee(self, claim: Claim, calls: Iterable[RoleCall]) -> tuple[Attempt, ...]:
        """Return the attempts with which these calls would begin now, as they are if they are lost.

        A call that no engine can take now, or that has to wait, is left out.
        """
        foreseen = list[Attempt]()
        for call in calls:
            beside_microusd = sum(attempt.withheld_microusd for attempt in foreseen)
            with suppress(UnknownName):
                attempt = self._balancer.foresee(*self._prepared(claim, call), beside_microusd=beside_microusd)
                foreseen += [attempt] if attempt else []
        return tuple(foreseen)

    def worst_case(self, claim: Claim, call: RoleCall) -> int | None:
        """Return the most that `ask` reserves for a call, in micro-USD; None if that is unknown."""
        try:
            engine_call, terms = self._prepared(claim, call)
        except UnknownName:
            return None
        repair = None
        if terms.accept:
            from llm_server.orchestration.execution.json_result import largest_repair  # rarely needed

            repair = largest_repair(engine_call)
        return self._balancer.worst_case(engine_call, terms.allowed, repair=repair)

    def _prepared(self, claim: Claim, call: RoleCall) -> tuple[EngineCall, CallTerms]:
        """Return a call as an engine gets it, with the system prompt and the limits of its role, and its terms.

        Raises:
            UnknownName: the role is not configured.
        """
        role = self._catalog.role(call.role) if call.role else None
        schema = None if call.schema and call.schema.is_callers else call.schema
        callers_limit = claim.request.limits.max_output_tokens
        limit = partial(output_limit, self._catalog.defaults, role, schema, callers_limit)
        history = claim.history if call.knows_history else None
        writes_answer = call.is_answer or schema is None
        instructed = partial(told.system, instructions=claim.request.instructions if writes_answer else "")
        engine_call = EngineCall(
            system=instructed(role.system_prompt if role else prompts.SYNTHESIS_SYSTEM),
            messages=told.messages(claim.request, history, call.prompt, is_answer=call.is_answer),
            max_output_tokens=limit(small=False),
            temperature=role.temperature if role else 0.2,
            answer_schema=call.schema,
            small=SmallVariant(system=instructed(_short_system(role)), max_output_tokens=limit(small=True)),
            tools=claim.request.tools if call.is_answer else (),
            tool_choice=claim.request.tool_choice if call.is_answer else None,
            turns_dropped=history.missing if history else 0,
            cancellation=claim.cancellation,
        )
        terms = CallTerms(
            purpose=call.purpose,
            tier=tiers.tier_of(role, claim.request.complexity, self._catalog.defaults, preferred=call.tier),
            until_ms=claim.until_ms,
            allowed=claim.allowed,
            budget=claim.budget,
            escalates=self._escalates,
            timed_out=tuple(attempt for attempt in claim.timed_out if attempt.purpose == call.purpose),
            announce=claim.announce,
            open_item=None if schema else claim.open_item,
            accept=_accept(call),
            line=claim.task.line,
        )
        return engine_call, terms

    @property
    def _escalates(self) -> bool:
        """Whether the answer gate is on and the configuration lets tasks use the strong tier."""
        return self._catalog.defaults.answer_gate and self._catalog.defaults.strong_share != 0

    def _gate(self, claim: Claim, call: RoleCall) -> Callable[[Completion], str | None] | None:
        """Return the check for faults in an answer; None without a request, or if the answer gate is off."""
        if call.gate_request is None or not self._catalog.defaults.answer_gate:
            return None
        # Imported here because it takes 15 ms, and the API function does not need it.
        from llm_server.orchestration.answer_gate import gate

        limit_is_callers = claim.request.limits.max_output_tokens is not None
        fault = partial(gate.fault, call.gate_request, call.prompt, limit_is_callers=limit_is_callers)
        # Function calls are the answer: a text beside them, or none, has no fault.
        return lambda completion: None if completion.tool_calls else fault(completion)


def answer_call(task: Task, request: Request) -> RoleCall:
    """Return the call for the answer in Chat or Agent mode."""
    prompt, tier, schema = request.prompt, tiers.preferred_tier(request.complexity), callers_schema(request)
    gate_request = None if schema else prompt
    return RoleCall(
        role=task.role,
        prompt=prompt,
        purpose="answer",
        tier=tier,
        schema=schema,
        gate_request=gate_request,
        is_answer=True,
    )


def callers_schema(request: Request) -> AnswerSchema | None:
    """Return the schema that the caller gave for the result; None without one."""
    return None if request.output_schema is None else AnswerSchema(name="answer", schema=request.output_schema)


def _accept(call: RoleCall) -> Accept | None:
    """Return what reads the answers to a call with the caller's schema; None for other calls."""
    if call.schema is None or not call.schema.is_callers:
        return None
    # Imported here because the validator takes long to import, and most tasks have no schema.
    from llm_server.orchestration.execution.json_result import accept

    return partial(accept, call.schema.schema)


def _short_system(role: Role | None) -> str:
    """Return the system prompt for small engines: the role's short prompt; its usual one if it has no short one."""
    return (role.short_prompt or role.system_prompt) if role else prompts.SHORT_SYNTHESIS_SYSTEM
