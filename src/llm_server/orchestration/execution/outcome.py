"""How a claim ends: with an answer, a failure, or another try later."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.errors import EngineUnavailable, MoneySetAside, OutOfTime, TaskCancelled
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports import Clock
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.execution.role_call import Claim

RETRY_FIRST_S = 5
MAX_RETRY_S = 300
NO_ENGINE_S = 60
"""How soon a task looks again while no engine is switched on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The next state of a task, the output to store with it, and how long a released task is to wait."""

    task: Task
    output: Output | None = None
    delay_s: int = 0


class Outcomes:
    """What a task becomes at the end of a claim."""

    def __init__(self, *, fleet: Fleet, clock: Clock, max_deliveries: int, sweep_ms: int) -> None:
        self._fleet = fleet
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._sweep_ms = sweep_ms

    def answered(self, claim: Claim, attempts: tuple[Attempt, ...], reply: Reply) -> Progress:
        """The end of a claim: an answer, a failure no other engine would cure, or another try later.

        Out of time, the next try comes at once. A claim that waited for an engine's place and got none is not counted
        as a delivery, or a long queue would fail tasks; that next try is not at once, or it could go round for ever.
        """
        task, error = claim.task, reply.failure
        if reply.completion:
            answer = self.output(task, OutputKey.of_answer(task.fence), text=reply.completion.text, attempts=attempts)
            answer = answer.within(claim.left_bytes, key=OutputKey.of_try(task.fence))
            return Progress(task=task.failed(answer) if answer.error else task.completed(answer), output=answer)
        if isinstance(error, OutOfTime | TaskCancelled):
            return self._released(claim, attempts, delay_s=0 if attempts else RETRY_FIRST_S, counted=bool(attempts))
        if isinstance(error, EngineUnavailable) and reply.outage and not any(a.answered for a in attempts):
            return self._waiting(claim, attempts)
        if isinstance(error, EngineUnavailable | MoneySetAside) and task.deliveries < self._max_deliveries:
            doubled = min(RETRY_FIRST_S * 2 ** max(task.deliveries - 1, 0), MAX_RETRY_S)
            return self._released(claim, attempts, delay_s=doubled)
        return self.failed(task, attempts, str(error))

    def _waiting(self, claim: Claim, attempts: tuple[Attempt, ...]) -> Progress:
        """Wait for the first engine to be back: an outage is a delay, it is no delivery and ends at the deadline."""
        awaited = self._fleet.awaited(claim.request.engine)
        back_s = math.ceil((min(awaited.values()) - self._clock()) / 1000) if awaited else NO_ENGINE_S
        reason = ", ".join(awaited) or claim.request.engine or "an engine that is switched on and has credentials"
        return self._released(claim, attempts, delay_s=max(back_s, RETRY_FIRST_S), counted=False, waiting_for=reason)

    def _released(
        self,
        claim: Claim,
        attempts: tuple[Attempt, ...],
        *,
        delay_s: int,
        counted: bool = True,
        waiting_for: str = "",
    ) -> Progress:
        """Hand the task back, not beyond its deadline: it is to fail on time. A wait without a call stores nothing."""
        output = self.output(claim.task, OutputKey.of_try(claim.task.fence), attempts=attempts)
        if claim.deadline_ms is not None:
            delay_s = min(delay_s, max(0, math.ceil((claim.deadline_ms - output.created_ms) / 1000)))
        due_ms = output.created_ms + delay_s * 1000 + self._sweep_ms
        task = claim.task.released(output, due_ms=due_ms, counted=counted, waiting_for=waiting_for)
        return Progress(task=task, output=None if waiting_for and not attempts else output, delay_s=delay_s)

    def failed(self, task: Task, attempts: tuple[Attempt, ...], error: str) -> Progress:
        output = self.output(task, OutputKey.of_try(task.fence), error=error, attempts=attempts)
        return Progress(task=task.failed(output), output=output)

    def output(
        self,
        task: Task,
        key: OutputKey,
        *,
        text: str | None = None,
        error: str | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> Output:
        now_ms = self._clock()
        return Output(key=key, created_ms=now_ms, text=text, error=error, attempts=attempts, fence=task.fence)
