"""One engine call in the name of a role, within what a task's claim has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llm_server.orchestration.dispatch.balancer import Balancer, Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import Catalog, Tier
from llm_server.orchestration.domain.engine_call import AnswerSchema, Completion, EngineCall
from llm_server.orchestration.domain.errors import UnknownName
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.routing import tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What every call of one claim shares."""

    task: Task
    request: Request
    until_ms: int
    deadline_ms: int | None
    budget: Budget
    cancellation: Cancellation
    left_bytes: int = MAX_TEXTS_BYTES


class RoleCaller:
    """Asks as the catalogue says a role asks; the balancer chooses who answers."""

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
        asked: str | None = None,
    ) -> Reply:
        """One call in the name of a role; None is the synthesis, which has no role.

        `asked` is what the answer gate holds the answer to; a structured answer is checked by who reads it.
        """
        try:
            role = self._catalog.role(role_name) if role_name else None
        except UnknownName as gone:  # configured when the task was accepted
            return Reply(failure=gone)
        most = (role.max_output_tokens if role else None) or self._catalog.defaults.max_output_tokens
        wanted = claim.request.limits.max_output_tokens
        call = EngineCall(
            system=role.system_prompt if role else prompts.SYNTHESIS_SYSTEM,
            prompt=prompt,
            max_output_tokens=most if wanted is None or schema else wanted,
            temperature=role.temperature if role else 0.2,
            answer_schema=schema,
            cancellation=claim.cancellation,
        )
        terms = CallTerms(
            purpose=purpose,
            tier=tiers.tier_of(role, claim.request.complexity, self._catalog.defaults, wanted=tier),
            until_ms=claim.until_ms,
            engine=claim.request.engine,
            budget=claim.budget,
            escalates=self._escalates,
            fault=None if asked is None else self._gate(asked, prompt, limit_is_callers=wanted is not None),
        )
        return self._balancer.call(call, terms)

    @property
    def _escalates(self) -> bool:
        """Whether the gate is on, and any task may go to the strong tier."""
        return self._catalog.defaults.answer_gate and self._catalog.defaults.strong_share != 0

    def _gate(self, asked: str, prompt: str, *, limit_is_callers: bool) -> Callable[[Completion], str | None] | None:
        """What finds faults in an answer; None when the gate is off, or no task may go to the strong tier."""
        if not self._escalates:
            return None
        from llm_server.orchestration.answer_gate import gate  # it parses code: 15 ms that the API function never needs

        return partial(gate.fault, asked, prompt, limit_is_callers=limit_is_callers)
