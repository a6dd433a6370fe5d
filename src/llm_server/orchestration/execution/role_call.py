"""Engine calls on behalf of a role, within the time and the budget of a claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llm_server.orchestration.dispatch.balancer import Balancer, Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import AllowedEngines, Catalog, Role, Tier
from llm_server.orchestration.domain.engine_call import AnswerSchema, Completion, EngineCall
from llm_server.orchestration.domain.errors import UnknownName
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.routing import tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What all calls of one claim share. `left_bytes` is how large the next output may be."""

    task: Task
    request: Request
    until_ms: int
    deadline_ms: int | None
    budget: Budget
    cancellation: Cancellation
    allowed: AllowedEngines
    left_bytes: int = MAX_TEXTS_BYTES


class RoleCaller:
    """Makes calls with the system prompt, limits and tier of a role; the balancer chooses the engine."""

    def __init__(self, catalog: Catalog, balancer: Balancer) -> None:
        self._catalog = catalog
        self._balancer = balancer

    def ask(
        self,
        claim: Claim,
        role_name: str | None,
        prompt: str,
        *,
        purpose: str,
        tier: Tier | None = None,
        schema: AnswerSchema | None = None,
        gate_request: str | None = None,
    ) -> Reply:
        """Make one call on behalf of a role; `role_name` None is the synthesis, which has no role.

        `gate_request` is the request that the answer gate checks the answer against; None skips the gate, because the
        caller of this method checks structured answers itself. The task's `max_output_tokens` limits only calls
        without a schema.
        """
        try:
            role = self._catalog.role(role_name) if role_name else None
        except UnknownName as error:  # the role was removed from the configuration after the task was created
            return Reply(failure=error)
        callers_limit = claim.request.limits.max_output_tokens
        call = EngineCall(
            system=role.system_prompt if role else prompts.SYNTHESIS_SYSTEM,
            prompt=prompt,
            max_output_tokens=self._output_limit(role, callers_limit if schema is None else None),
            temperature=role.temperature if role else 0.2,
            answer_schema=schema,
            cancellation=claim.cancellation,
        )
        terms = CallTerms(
            purpose=purpose,
            tier=tiers.tier_of(role, claim.request.complexity, self._catalog.defaults, preferred=tier),
            until_ms=claim.until_ms,
            allowed=claim.allowed,
            budget=claim.budget,
            escalates=self._escalates,
            fault=self._gate(gate_request, prompt, limit_is_callers=callers_limit is not None),
        )
        return self._balancer.call(call, terms)

    def _output_limit(self, role: Role | None, callers_limit: int | None) -> int:
        """Return the caller's limit, else the role's, else the catalogue's, in tokens."""
        if callers_limit is not None:
            return callers_limit
        if role is not None and role.max_output_tokens is not None:
            return role.max_output_tokens
        return self._catalog.defaults.max_output_tokens

    @property
    def _escalates(self) -> bool:
        """Whether the answer gate is on and the configuration lets tasks use the strong tier."""
        return self._catalog.defaults.answer_gate and self._catalog.defaults.strong_share != 0

    def _gate(
        self, request: str | None, prompt: str, *, limit_is_callers: bool
    ) -> Callable[[Completion], str | None] | None:
        """Return the check for faults in an answer; None without a request, or if faulty answers are not escalated."""
        if request is None or not self._escalates:
            return None
        # Imported here because it takes 15 ms, and the API function does not need it.
        from llm_server.orchestration.answer_gate import gate

        return partial(gate.fault, request, prompt, limit_is_callers=limit_is_callers)
