"""End a claim: with an answer, with a failure, or by releasing the task for a later try."""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.errors import EngineUnavailable, MoneySetAside, OutOfTime, TaskCancelled
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.execution.role_call import Claim

RETRY_FIRST_S = 5
MAX_RETRY_S = 300
NO_ENGINE_S = 60
"""Seconds until the next try while no engine is switched on."""


class Progress(Struct, frozen=True, kw_only=True):
    """The next state of a task, the output to store with it, and for a released task the delay of its next message.

    `rev` and `pending` of the state are the worker's. `foreseen` are the calls that begin when the state is stored,
    each as it is if it is lost.
    """

    task: Task
    output: Output | None = None
    delay_s: int = 0
    foreseen: tuple[Attempt, ...] = ()


class Outcomes:
    """Makes the state that a task has after a claim."""

    def __init__(self, *, fleet: Fleet, clock: Clock, max_deliveries: int, sweep_ms: int) -> None:
        self._fleet = fleet
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._sweep_ms = sweep_ms

    def conclude(self, claim: Claim, attempts: tuple[Attempt, ...], reply: Reply) -> Progress:
        """Complete the task, fail it if no other try could help, or release it for a later try.

        When the worker ran out of time during its calls, the next try follows at once. When it ran out of time before
        its first call (every place of the engine was taken), the claim does not count as a delivery, so that a long
        queue cannot fail tasks; the next try follows after 5 s, so that the task is not delivered again without a
        pause.
        """
        task, error = claim.task, reply.failure
        if reply.completion:
            answer = self.output(task, OutputKey.of_answer(task.fence), text=reply.completion.text, attempts=attempts)
            answer = replace(answer, tool_calls=reply.completion.tool_calls)
            answer = answer.within(claim.left_bytes, key=OutputKey.of_try(task.fence))
            return Progress(task=task.failed(answer) if answer.error else task.completed(answer), output=answer)
        if isinstance(error, OutOfTime | TaskCancelled):
            return self._released(claim, attempts, delay_s=0 if attempts else RETRY_FIRST_S, counted=bool(attempts))
        if isinstance(error, EngineUnavailable) and reply.outage and not any(a.answered for a in attempts):
            return self._waiting(claim, attempts, reply)
        if isinstance(error, EngineUnavailable | MoneySetAside) and task.deliveries < self._max_deliveries:
            doubled = min(RETRY_FIRST_S * 2 ** max(task.deliveries - 1, 0), MAX_RETRY_S)
            return self._released(claim, attempts, delay_s=doubled)
        return self.fail(task, attempts, str(error))

    def _waiting(self, claim: Claim, attempts: tuple[Attempt, ...], reply: Reply) -> Progress:
        """Release the task until the first engine may be asked again; the claim does not count as a delivery."""
        times = self._fleet.return_times(claim.allowed)
        return_times = {engine: time_ms for engine, time_ms in times.items() if engine not in reply.given_up}
        if return_times:
            delay_s = math.ceil((min(return_times.values()) - self._clock()) / 1000)
            waiting_for = ", ".join(return_times)
        else:
            delay_s = NO_ENGINE_S
            waiting_for = claim.allowed.engine or f"an {claim.allowed.kind} that is switched on and has credentials"
        delay_s = max(delay_s, RETRY_FIRST_S)
        return self._released(claim, attempts, delay_s=delay_s, counted=False, waiting_for=waiting_for)

    def _released(
        self,
        claim: Claim,
        attempts: tuple[Attempt, ...],
        *,
        delay_s: int,
        counted: bool = True,
        waiting_for: str = "",
    ) -> Progress:
        """Release the task for a later try, at its deadline at the latest, so that it fails on time.

        A task that waits for an engine and has made no call stores no output.
        """
        output = self.output(claim.task, OutputKey.of_try(claim.task.fence), attempts=attempts)
        if claim.deadline_ms is not None:
            delay_s = min(delay_s, max(0, math.ceil((claim.deadline_ms - output.created_ms) / 1000)))
        due_ms = output.created_ms + delay_s * 1000 + self._sweep_ms
        task = claim.task.released(output, due_ms=due_ms, counted=counted, waiting_for=waiting_for)
        return Progress(task=task, output=None if waiting_for and not attempts else output, delay_s=delay_s)

    def fail(self, task: Task, attempts: tuple[Attempt, ...], error: str) -> Progress:
        """Fail the task for good; `error` is shown to the caller."""
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
        """Make an output of this claim, created now."""
        now_ms = self._clock()
        return Output(key=key, created_ms=now_ms, text=text, error=error, attempts=attempts, fence=task.fence)
