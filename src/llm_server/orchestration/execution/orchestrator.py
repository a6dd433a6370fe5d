"""Carries a claimed task out: yields each state it reaches, and holds neither store nor queue."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from llm_server.orchestration.dispatch.balancer import Balancer, Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.calls import MIN_CALL_S
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.engine_call import AnswerSchema
from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES, PLAN, OutputKey
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.domain.ports import Clock
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Snapshot
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import NEVER_MS, Task
from llm_server.orchestration.execution import plan_proposal, prompts
from llm_server.orchestration.execution.outcome import Outcomes, Progress
from llm_server.orchestration.execution.review import ReviewedSteps
from llm_server.orchestration.execution.role_call import Claim, RoleCaller
from llm_server.orchestration.execution.step_runner import run_steps
from llm_server.orchestration.routing import tiers

NO_PROMPT = "The prompt has expired: the task was open for longer than its texts are kept."
NO_PLAN = "No usable plan was proposed, and none is carried out unapproved."


class Orchestrator:
    """The three modes, over a balancer."""

    def __init__(
        self, *, catalog: Catalog, balancer: Balancer, clock: Clock, max_deliveries: int, sweep_s: int
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._role_caller = RoleCaller(catalog, balancer)
        self._outcomes = Outcomes(
            fleet=balancer.fleet, clock=clock, max_deliveries=max_deliveries, sweep_ms=sweep_s * 1000
        )

    def run(
        self,
        snapshot: Snapshot,
        *,
        until_ms: int,
        key_budget: KeyBudget | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generator[Progress]:
        """Carry a claimed task out until it is final or released; no engine call goes on after `until_ms`.

        What an earlier claim finished is not done again: its plan, its steps, an answer whose worker died. Once
        `cancellation` is told, calls under way end and none begins; what was paid until then is still handed over.
        `key_budget` is what the key that the calls are charged to has left.
        """
        task, request = snapshot.task, snapshot.request
        if snapshot.orphan:
            yield Progress(task=task.completed(snapshot.orphan))
            return
        deadline_ms = snapshot.deadline_ms
        if task.deliveries > self._max_deliveries:
            yield self._outcomes.failed(task, (), f"Given up after {self._max_deliveries} attempts without an answer.")
        elif request == EXPIRED_REQUEST:
            yield self._outcomes.failed(task, (), NO_PROMPT)
        elif deadline_ms is not None and self._clock() + MIN_CALL_S * 1000 > deadline_ms:
            yield self._outcomes.failed(task, (), request.limits.overdue)
        else:
            withheld = sum(attempt.withheld_microusd for attempt in snapshot.attempts)
            claim = Claim(
                task=task,
                request=request,
                until_ms=until_ms if deadline_ms is None else min(until_ms, deadline_ms),
                deadline_ms=deadline_ms,
                budget=Budget.of(request.limits.max_cost_usd, task.receipt.cost_microusd + withheld, key_budget),
                cancellation=cancellation or Cancellation(),
            )
            yield from self._planned(claim, snapshot) if task.mode is Mode.PLAN else self._single(claim)

    def _single(self, claim: Claim, before: tuple[Attempt, ...] = ()) -> Iterator[Progress]:
        """Chat and Agent: one role answers. `before`: calls already made in this claim."""
        prompt = claim.request.prompt
        wanted = tiers.wanted_for(claim.request.complexity)
        reply = self._role_caller.ask(claim, claim.task.role, prompt, purpose="answer", tier=wanted, asked=prompt)
        yield self._outcomes.answered(claim, before + reply.attempts, reply)

    def _planned(self, claim: Claim, snapshot: Snapshot) -> Iterator[Progress]:
        """Plan: a plan, its steps, their synthesis."""
        stored = snapshot.outputs.get(PLAN)
        if stored is None or stored.text is None:
            plan, reply = self._propose(claim)
            if reply.failure:
                yield self._outcomes.answered(claim, reply.attempts, reply)
                return
            if plan is None and claim.request.plan_approval:
                yield self._outcomes.failed(claim.task, reply.attempts, NO_PLAN)
                return
            if plan is None:
                yield from self._single(replace(claim, task=self._without_plan(claim.task)), reply.attempts)
                return
            stored = self._outcomes.output(claim.task, PLAN, text=plan.to_json(), attempts=reply.attempts)
            if claim.request.plan_approval:
                due_ms = claim.deadline_ms or NEVER_MS
                yield Progress(task=claim.task.awaiting_approval(stored, due_ms=due_ms), output=stored)
                return
            claim = replace(claim, task=claim.task.progressed(stored))
            yield Progress(task=claim.task, output=stored)
        else:
            plan = plans.stored(stored.text)
        yield from self._carried_out(claim, plan, snapshot)

    def _carried_out(self, claim: Claim, plan: Plan, snapshot: Snapshot) -> Iterator[Progress]:
        steps = ReviewedSteps(
            plan=plan,
            prompt=claim.request.prompt,
            profile=claim.task.profile,
            catalog=self._catalog,
            outputs=snapshot.standing,
        )
        held = Reply()

        def carry_out(step: Step) -> Reply:
            call = steps.next_call(step)
            asked = None if call.schema else step.instruction
            return self._role_caller.ask(
                claim, call.role, call.prompt, purpose=call.purpose, schema=call.schema, asked=asked
            )

        finished = {name: output.error is None for name, output in steps.ended.items()}
        at_once = self._catalog.defaults.parallel_steps
        for step, reply in run_steps(plan, finished, carry_out, at_once=at_once, succeeded=steps.succeeded):
            if reply.can_be_retried:
                outage = reply.outage and (held.outage or held.failure is None)
                held = Reply(failure=reply.failure, attempts=held.attempts + reply.attempts, outage=outage)
                continue
            output = replace(steps.output(step, reply, self._clock()), fence=claim.task.fence)
            output = output.within(MAX_TEXTS_BYTES - steps.size, key=OutputKey.of_step(step.id))
            steps.add(output)
            claim = replace(claim, task=claim.task.progressed(output))
            yield Progress(task=claim.task, output=output)
        if held.failure:
            yield self._outcomes.answered(claim, held.attempts, held)
            return
        ended = steps.ended
        broken = [f"Step {s.id} failed: {ended[s.id].error}" for s in plan.steps if s.id in ended and ended[s.id].error]
        if broken:
            yield self._outcomes.failed(claim.task, (), " ".join(broken))
            return
        yield self._synthesised(replace(claim, left_bytes=MAX_TEXTS_BYTES - steps.size), plan, steps)

    def _synthesised(self, claim: Claim, plan: Plan, steps: ReviewedSteps) -> Progress:
        """The final answer, and below it what the reviews left open: no engine decides whether that is said."""
        text = prompts.for_synthesis(claim.request.prompt, plan, steps.results)
        reply = self._role_caller.ask(claim, None, text, purpose="synthesis", asked=claim.request.prompt)
        note = prompts.left_open(plan, steps.reviews)
        if reply.completion and note:
            reply = replace(reply, completion=replace(reply.completion, text=f"{reply.completion.text}\n\n{note}"))
        return self._outcomes.answered(claim, reply.attempts, reply)

    def _without_plan(self, task: Task) -> Task:
        """A task no plan was found for: its profile's default role does it alone, in later deliveries too."""
        profile = self._catalog.profiles.get(task.profile) or self._catalog.profile(self._catalog.defaults.profile)
        return replace(task, mode=Mode.AGENT, role=profile.default_role)

    def _propose(self, claim: Claim) -> tuple[Plan | None, Reply]:
        """Ask for a plan, once more when it is broken; None when both are, or when the repair is refused."""
        asked = prompts.for_plan(claim.request.prompt, claim.task.profile, self._catalog)
        schema = AnswerSchema(name="plan", schema=plan_proposal.schema(self._catalog.step_roles()))
        text, attempts = asked, tuple[Attempt, ...]()
        for _ in range(2):
            reply = self._role_caller.ask(claim, self._catalog.defaults.planner, text, purpose="plan", schema=schema)
            attempts += reply.attempts
            if reply.completion is None and text != asked and isinstance(reply.failure, PromptRefused):
                break  # with the broken plan in it the prompt is too long: it was not the task that was refused
            if reply.completion is None:
                return None, replace(reply, attempts=attempts)
            try:
                return plan_proposal.parse(reply.completion.text, self._catalog.step_roles()), Reply(attempts=attempts)
            except plan_proposal.PlanInvalid as error:
                text = prompts.for_repair(asked, reply.completion.text, str(error))
        return None, Reply(attempts=attempts)
