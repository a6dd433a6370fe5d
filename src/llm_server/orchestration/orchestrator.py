"""Carries a claimed task out: yields each state it reaches, and holds neither store nor queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial

from llm_server.orchestration import plan as plans
from llm_server.orchestration import prompts, tiers
from llm_server.orchestration.balancer import Balancer, Reply
from llm_server.orchestration.budget import Budget, DailyCap
from llm_server.orchestration.calls import LEAST_CALL_S, Want
from llm_server.orchestration.cancellation import Cancellation
from llm_server.orchestration.catalog import Catalog, Tier
from llm_server.orchestration.errors import EngineUnavailable, OutOfTime, PromptRefused, TaskCancelled, UnknownName
from llm_server.orchestration.outputs import TEXTS_MOST_BYTES, Output
from llm_server.orchestration.plan import Plan, PlanInvalid, Step
from llm_server.orchestration.ports import AnswerSchema, Clock, Completion, EngineCall
from llm_server.orchestration.receipts import Attempt
from llm_server.orchestration.review import ReviewedSteps
from llm_server.orchestration.snapshot import Request, Snapshot
from llm_server.orchestration.steps import run_steps
from llm_server.orchestration.task import NEVER_MS, Mode, Task

RETRY_FIRST_S = 5
RETRY_MOST_S = 300
NO_ENGINE_S = 60
"""How soon a task looks again while no engine is switched on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The next state of a task, the output to store with it, and how long a released task is to wait."""

    task: Task
    output: Output | None = None
    delay_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every call of one claim shares."""

    task: Task
    request: Request
    until_ms: int
    deadline_ms: int | None
    budget: Budget
    cancellation: Cancellation
    left_bytes: int = TEXTS_MOST_BYTES


class Orchestrator:
    """The three modes, over a balancer."""

    def __init__(
        self, *, catalog: Catalog, balancer: Balancer, clock: Clock, max_deliveries: int, sweep_s: int
    ) -> None:
        self._catalog = catalog
        self._balancer = balancer
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._sweep_ms = sweep_s * 1000

    def run(
        self,
        snapshot: Snapshot,
        *,
        until_ms: int,
        daily: DailyCap | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generator[Progress]:
        """Carry a claimed task out until it is final or released; no engine call goes on after `until_ms`.

        What an earlier claim finished is not done again: its plan, its steps, an answer whose worker died. Once
        `cancellation` is told, calls under way end and none begins; what was paid until then is still handed over.
        `daily` is what the key that the calls are charged to has left.
        """
        task, request = snapshot.task, snapshot.request
        if snapshot.orphan:
            yield Progress(task=task.completed(snapshot.orphan))
            return
        deadline_ms = snapshot.deadline_ms
        if task.deliveries > self._max_deliveries:
            yield self._failed(task, (), f"Given up after {self._max_deliveries} attempts without an answer.")
        elif deadline_ms is not None and self._clock() + LEAST_CALL_S * 1000 > deadline_ms:
            yield self._failed(task, (), request.limits.overdue)
        else:
            work = _Work(
                task=task,
                request=request,
                until_ms=until_ms if deadline_ms is None else min(until_ms, deadline_ms),
                deadline_ms=deadline_ms,
                budget=Budget.of(request.limits.max_cost_usd, task.receipt.cost_microusd, daily),
                cancellation=cancellation or Cancellation(),
            )
            yield from self._planned(work, snapshot) if task.mode is Mode.PLAN else self._single(work)

    def tier(self, role: str, complexity: float) -> Tier:
        """The tier a task's answer is wanted from: the role's, or strong when a strong engine would add much."""
        wanted: Tier | None = "strong" if complexity >= tiers.STRONG_FROM else None
        return tiers.tier_of(self._catalog.role(role), complexity, self._catalog.defaults, wanted=wanted)

    def _single(self, work: _Work, before: tuple[Attempt, ...] = ()) -> Iterator[Progress]:
        """Chat and Agent: one role answers. `before`: calls already made in this claim."""
        prompt = work.request.prompt
        wanted: Tier | None = "strong" if work.request.complexity >= tiers.STRONG_FROM else None
        reply = self._ask(work, work.task.role, prompt, purpose="answer", tier=wanted, asked=prompt)
        yield self._answered(work, before + reply.attempts, reply)

    def _planned(self, work: _Work, snapshot: Snapshot) -> Iterator[Progress]:
        """Plan: a plan, its steps, their synthesis."""
        stored = snapshot.outputs.get("PLAN")
        if stored is None or stored.text is None:
            plan, reply = self._propose(work)
            if reply.failure:
                yield self._answered(work, reply.attempts, reply)
                return
            if plan is None:
                yield from self._single(replace(work, task=self._without_plan(work.task)), reply.attempts)
                return
            stored = self._output(work.task, "PLAN", text=plan.to_json(), attempts=reply.attempts)
            if work.request.plan_approval:
                due_ms = work.deadline_ms or NEVER_MS
                yield Progress(task=work.task.awaiting_approval(stored, due_ms=due_ms), output=stored)
                return
            work = replace(work, task=work.task.progressed(stored))
            yield Progress(task=work.task, output=stored)
        else:
            plan = plans.stored(stored.text)
        yield from self._carried_out(work, plan, snapshot)

    def _carried_out(self, work: _Work, plan: Plan, snapshot: Snapshot) -> Iterator[Progress]:
        steps = ReviewedSteps(
            plan=plan,
            prompt=work.request.prompt,
            profile=work.task.profile,
            catalog=self._catalog,
            outputs=snapshot.standing,
        )
        held = Reply()

        def carry_out(step: Step) -> Reply:
            call = steps.next_call(step)
            asked = None if call.schema else step.instruction
            return self._ask(work, call.role, call.prompt, purpose=call.purpose, schema=call.schema, asked=asked)

        finished = {name: output.error is None for name, output in steps.ended.items()}
        at_once = self._catalog.defaults.parallel_steps
        for step, reply in run_steps(plan, finished, carry_out, at_once=at_once, succeeded=steps.succeeded):
            if reply.can_be_retried:
                outage = reply.outage and (held.outage or held.failure is None)
                held = Reply(failure=reply.failure, attempts=held.attempts + reply.attempts, outage=outage)
                continue
            output = replace(steps.output(step, reply, self._clock()), fence=work.task.fence)
            output = output.within(TEXTS_MOST_BYTES - steps.size, key=f"STEP#{step.id}")
            steps.add(output)
            work = replace(work, task=work.task.progressed(output))
            yield Progress(task=work.task, output=output.after(snapshot.outputs.get(output.key)))
        if held.failure:
            yield self._answered(work, held.attempts, held)
            return
        ended = steps.ended
        broken = [f"Step {s.id} failed: {ended[s.id].error}" for s in plan.steps if s.id in ended and ended[s.id].error]
        if broken:
            yield self._failed(work.task, (), " ".join(broken))
            return
        yield self._synthesised(replace(work, left_bytes=TEXTS_MOST_BYTES - steps.size), plan, steps)

    def _synthesised(self, work: _Work, plan: Plan, steps: ReviewedSteps) -> Progress:
        """The final answer, and below it what the reviews left open: no engine decides whether that is said."""
        text = prompts.for_synthesis(work.request.prompt, plan, steps.results)
        reply = self._ask(work, None, text, purpose="synthesis", asked=work.request.prompt)
        note = prompts.left_open(plan, steps.reviews)
        if reply.completion and note:
            reply = replace(reply, completion=replace(reply.completion, text=f"{reply.completion.text}\n\n{note}"))
        return self._answered(work, reply.attempts, reply)

    def _without_plan(self, task: Task) -> Task:
        """A task no plan was found for: its profile's default role does it alone, in later deliveries too."""
        profile = self._catalog.profiles.get(task.profile) or self._catalog.profile(self._catalog.defaults.profile)
        return replace(task, mode=Mode.AGENT, role=profile.default_role)

    def _propose(self, work: _Work) -> tuple[Plan | None, Reply]:
        """Ask for a plan, once more when it is broken; None when both are, or when the repair is refused."""
        asked = prompts.for_plan(work.request.prompt, work.task.profile, self._catalog)
        schema = AnswerSchema(name="plan", schema=plans.schema(self._catalog.step_roles()))
        text, attempts = asked, tuple[Attempt, ...]()
        for _ in range(2):
            reply = self._ask(work, self._catalog.defaults.planner, text, purpose="plan", schema=schema)
            attempts += reply.attempts
            if reply.completion is None and text != asked and isinstance(reply.failure, PromptRefused):
                break  # with the broken plan in it the prompt is too long: it was not the task that was refused
            if reply.completion is None:
                return None, replace(reply, attempts=attempts)
            try:
                return plans.parse(reply.completion.text, self._catalog.step_roles()), Reply(attempts=attempts)
            except PlanInvalid as error:
                text = prompts.for_repair(asked, reply.completion.text, str(error))
        return None, Reply(attempts=attempts)

    def _ask(
        self,
        work: _Work,
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
        wanted = work.request.limits.max_output_tokens
        call = EngineCall(
            system=role.system_prompt if role else prompts.SYNTHESIS_SYSTEM,
            prompt=prompt,
            max_output_tokens=most if wanted is None or schema else wanted,
            temperature=role.temperature if role else 0.2,
            answer_schema=schema,
            cancellation=work.cancellation,
        )
        want = Want(
            purpose=purpose,
            tier=tiers.tier_of(role, work.request.complexity, self._catalog.defaults, wanted=tier),
            until_ms=work.until_ms,
            engine=work.request.engine,
            budget=work.budget,
            fault=None if asked is None else self._gate(asked, prompt, limit_is_callers=wanted is not None),
        )
        return self._balancer.call(call, want)

    def _gate(self, asked: str, prompt: str, *, limit_is_callers: bool) -> Callable[[Completion], str | None] | None:
        """What finds faults in an answer; None when the gate is off, or no task may go to the strong tier."""
        defaults = self._catalog.defaults
        if not defaults.answer_gate or defaults.strong_share == 0:
            return None
        from llm_server.orchestration import gate  # it parses code: 15 ms that the API function never needs

        return partial(gate.fault, asked, prompt, limit_is_callers=limit_is_callers)

    def _answered(self, work: _Work, attempts: tuple[Attempt, ...], reply: Reply) -> Progress:
        """The end of a claim: an answer, a failure no other engine would cure, or another try later.

        Out of time, the next try comes at once. A claim that waited for an engine's place and got none is not counted
        as a delivery, or a long queue would fail tasks; that next try is not at once, or it could go round for ever.
        """
        task, error = work.task, reply.failure
        if reply.completion:
            answer = self._output(task, f"RES#{task.fence}", text=reply.completion.text, attempts=attempts)
            answer = answer.within(work.left_bytes, key=f"TRY#{task.fence}")
            return Progress(task=task.failed(answer) if answer.error else task.completed(answer), output=answer)
        if isinstance(error, OutOfTime | TaskCancelled):
            return self._released(work, attempts, delay_s=0 if attempts else RETRY_FIRST_S, counted=bool(attempts))
        if isinstance(error, EngineUnavailable) and reply.outage and not any(a.answered for a in attempts):
            return self._waiting(work, attempts)
        if isinstance(error, EngineUnavailable) and task.deliveries < self._max_deliveries:
            doubled = min(RETRY_FIRST_S * 2 ** max(task.deliveries - 1, 0), RETRY_MOST_S)
            return self._released(work, attempts, delay_s=doubled)
        return self._failed(task, attempts, str(error))

    def _waiting(self, work: _Work, attempts: tuple[Attempt, ...]) -> Progress:
        """Wait for the first engine to be back: an outage is a delay, it is no delivery and ends at the deadline."""
        awaited = self._balancer.fleet.awaited(work.request.engine)
        back_s = math.ceil((min(awaited.values()) - self._clock()) / 1000) if awaited else NO_ENGINE_S
        reason = ", ".join(awaited) or work.request.engine or "an engine that is switched on and has credentials"
        return self._released(work, attempts, delay_s=max(back_s, RETRY_FIRST_S), counted=False, waiting_for=reason)

    def _released(
        self, work: _Work, attempts: tuple[Attempt, ...], *, delay_s: int, counted: bool = True, waiting_for: str = ""
    ) -> Progress:
        """Hand the task back, not beyond its deadline: it is to fail on time. A wait without a call stores nothing."""
        output = self._output(work.task, f"TRY#{work.task.fence}", attempts=attempts)
        if work.deadline_ms is not None:
            delay_s = min(delay_s, max(0, math.ceil((work.deadline_ms - output.created_ms) / 1000)))
        due_ms = output.created_ms + delay_s * 1000 + self._sweep_ms
        task = work.task.released(output, due_ms=due_ms, counted=counted, waiting_for=waiting_for)
        return Progress(task=task, output=None if waiting_for and not attempts else output, delay_s=delay_s)

    def _failed(self, task: Task, attempts: tuple[Attempt, ...], error: str) -> Progress:
        output = self._output(task, f"TRY#{task.fence}", error=error, attempts=attempts)
        return Progress(task=task.failed(output), output=output)

    def _output(
        self,
        task: Task,
        key: str,
        *,
        text: str | None = None,
        error: str | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> Output:
        now_ms = self._clock()
        return Output(key=key, created_ms=now_ms, text=text, error=error, attempts=attempts, fence=task.fence)
