"""Carry out a claimed task. Each state it reaches is yielded to the worker, which stores it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llm_server.orchestration.dispatch.balancer import Balancer, Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.calls import MIN_CALL_S
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.dispatch.terms import Announce, OpenItem
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.engines.usage import CHARACTERS_PER_TOKEN
from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES, PLAN, OutputKey
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Snapshot
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import NEVER_MS, Task
from llm_server.orchestration.execution import plan_proposal, prompts
from llm_server.orchestration.execution.outcome import Outcomes, Progress
from llm_server.orchestration.execution.review import ReviewedSteps
from llm_server.orchestration.execution.role_call import Claim, RoleCall, RoleCaller, answer_call, callers_schema
from llm_server.orchestration.execution.step_runner import run_steps

if TYPE_CHECKING:
    from llm_server.orchestration.execution.triage import Triages

NO_PROMPT = "The prompt has expired: the task was open for longer than its texts are kept."
NO_CALLS = "The answer that asked for the function calls was deleted or has expired, so their results have no place."
NO_PLAN = "The engines proposed no usable plan, and this task needs an approved plan."


class Orchestrator:
    """Carries out tasks in the modes Chat, Agent and Plan."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        balancer: Balancer,
        clock: Clock,
        max_deliveries: int,
        sweep_s: int,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`waiting()` is entered while a task waits for its parallel steps."""
        self._catalog = catalog
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._waiting = waiting
        self._balancer = balancer
        self._role_caller = RoleCaller(catalog, balancer)
        self._outcomes = Outcomes(
            fleet=balancer.fleet, clock=clock, max_deliveries=max_deliveries, sweep_ms=sweep_s * 1000
        )

    @cached_property
    def _triages(self) -> Triages:
        """Imported here, because most tasks are not triaged, and a cold start pays for every import."""
        from llm_server.orchestration.execution.triage import Triages

        return Triages(catalog=self._catalog, balancer=self._balancer, clock=self._clock)

    def prepare(self) -> None:
        """Do what takes long the first time, so that `foresee` is fast. Calling this again has no further effect."""
        self._balancer.look_up_prices()

    @cached_property
    def max_history_chars(self) -> int:
        """How many characters of earlier turns could fit into a call of some engine, at most."""
        contexts = [self._catalog.context(engine) for engine in self._catalog.engines]
        return CHARACTERS_PER_TOKEN * max(contexts, default=0)

    def foresee(self, snapshot: Snapshot, *, key_budget: KeyBudget | None = None) -> tuple[Attempt, ...]:
        """Return the calls with which `run` would begin to carry out a claimed task now, as they are if they are lost.

        `key_budget` is that of `run`; nothing is reserved.
        """
        if snapshot.orphan or self._reason_to_fail(snapshot):
            return ()
        claim = self._claim(snapshot, NEVER_MS, key_budget, Cancellation(), lambda _: None, None)
        if snapshot.may_be_triaged:
            triage = self._triages.foresee(claim, self._first_call)
            if triage is not None:
                return triage
        stored = snapshot.outputs.get(PLAN)
        if claim.task.mode is not Mode.PLAN or stored is None or stored.text is None:
            return self._role_caller.foresee(claim, [self._first_call(claim)])
        plan = plans.from_json(stored.text)
        return self._foresee_steps(claim, plan, self._steps(claim, plan, snapshot), at_work=())

    def run(
        self,
        snapshot: Snapshot,
        *,
        until_ms: int,
        announce: Announce = lambda _: None,
        open_item: OpenItem | None = None,
        key_budget: KeyBudget | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generator[Progress]:
        """Carry out a claimed task until it is final or released; every engine call ends by `until_ms`.

        A task that is to be triaged is triaged first; how it is done is stored before the next call is made.

        What earlier claims stored is reused: the plan, finished steps, and an answer whose worker died before it could
        finish the task. When the task is cancelled through `cancellation`, running calls are ended and no further call
        is made; the attempts made so far are still yielded. `announce` is called before each engine call, also from
        several threads at the same time. `open_item` begins the stream of the text of an answer, a step or a synthesis;
        None if the task does not stream. `key_budget` is the rest of the daily limit of the API key that the calls are
        charged to.
        """
        if snapshot.orphan:
            yield Progress(task=snapshot.task.completed(snapshot.orphan))
        elif reason := self._reason_to_fail(snapshot):
            yield self._outcomes.fail(snapshot.task, (), reason)
        else:
            claim = self._claim(snapshot, until_ms, key_budget, cancellation or Cancellation(), announce, open_item)
            if snapshot.may_be_triaged and (triaged := self._triages.run(claim, self._first_call)):
                claim = triaged.claim
                foreseen = self._role_caller.foresee(claim, [self._first_call(claim)])
                yield Progress(task=claim.task, output=triaged.output, foreseen=foreseen)
            if claim.task.mode is Mode.PLAN:
                yield from self._run_plan_mode(claim, snapshot)
            else:
                yield self._run_single_role(claim)

    def _reason_to_fail(self, snapshot: Snapshot) -> str | None:
        """Return why a claimed task must fail before any call; None if it can be carried out."""
        if snapshot.task.deliveries > self._max_deliveries:
            return f"The task was given up: workers took it {self._max_deliveries} times without progress."
        if snapshot.request == EXPIRED_REQUEST:
            return NO_PROMPT
        sent = snapshot.request.messages
        if sent and sent[0].role == "tool" and not snapshot.history.has_calls_for(sent):
            return NO_CALLS
        deadline_ms = snapshot.deadline_ms
        is_overdue = deadline_ms is not None and self._clock() + MIN_CALL_S * 1000 > deadline_ms
        return snapshot.request.limits.overdue if is_overdue else None

    def _claim(
        self,
        snapshot: Snapshot,
        until_ms: int,
        key_budget: KeyBudget | None,
        cancellation: Cancellation,
        announce: Announce,
        open_item: OpenItem | None,
    ) -> Claim:
        """Return what all calls of a claim share; its budget is what earlier calls, lost ones too, have left."""
        attempts, deadline_ms = snapshot.attempts, snapshot.deadline_ms
        lost = sum(attempt.withheld_microusd for attempt in attempts if attempt.is_lost)
        return Claim(
            task=snapshot.task,
            request=snapshot.decided_request,
            until_ms=until_ms if deadline_ms is None else min(until_ms, deadline_ms),
            deadline_ms=deadline_ms,
            budget=Budget.of(snapshot.max_cost_microusd, snapshot.spent_microusd, key_budget, lost_microusd=lost),
            cancellation=cancellation,
            allowed=snapshot.allowed_engines,
            announce=announce,
            open_item=open_item,
            timed_out=tuple(snapshot.timed_out),
            history=snapshot.history,
        )

    def _run_single_role(self, claim: Claim, earlier: tuple[Attempt, ...] = ()) -> Progress:
        """Carry out Chat or Agent mode: one role answers. `earlier` are the calls already made in this claim."""
        reply = self._role_caller.ask(claim, self._answer_call(claim), earlier=earlier)
        return self._outcomes.conclude(claim, earlier + reply.attempts, reply)

    def _first_call(self, claim: Claim) -> RoleCall:
        """Return the call with which a task begins that has no plan yet."""
        return self._plan_call(claim) if claim.task.mode is Mode.PLAN else self._answer_call(claim)

    def _answer_call(self, claim: Claim) -> RoleCall:
        return answer_call(claim.task, claim.request)

    def _run_plan_mode(self, claim: Claim, snapshot: Snapshot) -> Iterator[Progress]:
        """Carry out Plan mode: propose a plan, run its steps, write the final answer."""
        stored = snapshot.outputs.get(PLAN)
        if stored is None or stored.text is None:
            plan, reply = self._propose(claim)
            if reply.failure:
                yield self._outcomes.conclude(claim, reply.attempts, reply)
                return
            if plan is None and claim.request.plan_approval:
                yield self._outcomes.fail(claim.task, reply.attempts, NO_PLAN)
                return
            if plan is None:
                claim = replace(claim, task=self._as_agent_task(claim.task))
                yield self._run_single_role(claim, reply.attempts)
                return
            stored = self._outcomes.output(claim.task, PLAN, text=plan.to_json(), attempts=reply.attempts)
            if claim.request.plan_approval:
                due_ms = claim.deadline_ms or NEVER_MS
                yield Progress(task=claim.task.awaiting_approval(stored, due_ms=due_ms), output=stored)
                return
            claim = replace(claim, task=claim.task.progressed(stored))
            steps = self._steps(claim, plan, snapshot)
            foreseen = self._foresee_steps(claim, plan, steps, at_work=())
            yield Progress(task=claim.task, output=stored, foreseen=foreseen)
        else:
            plan = plans.from_json(stored.text)
            steps = self._steps(claim, plan, snapshot)
        yield from self._carry_out(claim, plan, steps)

    def _steps(self, claim: Claim, plan: Plan, snapshot: Snapshot) -> ReviewedSteps:
        return ReviewedSteps(
            plan=plan,
            prompt=claim.request.prompt,
            profile=claim.task.profile,
            catalog=self._catalog,
            outputs=snapshot.standing,
        )

    def _foresee_steps(
        self, claim: Claim, plan: Plan, steps: ReviewedSteps, at_work: Collection[str]
    ) -> tuple[Attempt, ...]:
        """Return the calls that begin next, beside those of the steps `at_work`, as they are if they are lost."""
        free, finished = self._catalog.defaults.parallel_steps - len(at_work), steps.finished
        calls = [_step_call(steps, step) for step in plans.ready(plan, finished, at_work)[:free]]
        if len(finished) == len(plan.steps) and all(finished.values()):
            calls = [self._synthesis_call(claim, plan, steps)]
        return self._role_caller.foresee(claim, calls)

    def _carry_out(self, claim: Claim, plan: Plan, steps: ReviewedSteps) -> Iterator[Progress]:
        """Run the remaining steps, then the synthesis. `unfinished` collects the failures to retry."""
        unfinished, at_work = Reply(), set[str]()

        def ask(step: Step) -> Reply:
            return self._role_caller.ask(claim, _step_call(steps, step))

        replies = run_steps(
            plan,
            steps.finished,
            ask,
            at_once=self._catalog.defaults.parallel_steps,
            succeeded=steps.succeeded,
            at_work=at_work,
            waiting=self._waiting,
        )
        for step, reply in replies:
            if reply.can_be_retried:
                is_first = unfinished.failure is None
                unfinished = Reply(
                    failure=reply.failure,
                    attempts=unfinished.attempts + reply.attempts,
                    outage=reply.outage and (unfinished.outage or is_first),
                    given_up=reply.given_up if is_first else reply.given_up & unfinished.given_up,
                )
                continue
            output = replace(steps.output(step, reply, self._clock()), fence=claim.task.fence)
            output = output.within(MAX_TEXTS_BYTES - steps.size, key=OutputKey.of_step(step.id))
            steps.add(output)
            claim = replace(claim, task=claim.task.progressed(output))
            foreseen = () if unfinished.failure else self._foresee_steps(claim, plan, steps, at_work)
            yield Progress(task=claim.task, output=output, foreseen=foreseen)
        if unfinished.failure:
            yield self._outcomes.conclude(claim, unfinished.attempts, unfinished)
            return
        if failures := steps.failures:
            yield self._outcomes.fail(claim.task, (), " ".join(failures))
            return
        yield self._synthesise(replace(claim, left_bytes=MAX_TEXTS_BYTES - steps.size), plan, steps)

    def _synthesise(self, claim: Claim, plan: Plan, steps: ReviewedSteps) -> Progress:
        """Ask for the final answer; append the open findings of the reviews, so that no engine can leave them out.

        A result that follows the caller's schema stays as it is; the reviews are in the task's plan.
        """
        reply = self._role_caller.ask(claim, self._synthesis_call(claim, plan, steps))
        note = "" if claim.request.output_schema is not None else prompts.open_findings(plan, steps.reviews)
        if reply.completion and note:
            reply = replace(reply, completion=replace(reply.completion, text=f"{reply.completion.text}\n\n{note}"))
        return self._outcomes.conclude(claim, reply.attempts, reply)

    def _synthesis_call(self, claim: Claim, plan: Plan, steps: ReviewedSteps) -> RoleCall:
        text = prompts.for_synthesis(claim.request.prompt, plan, steps.results)
        schema = callers_schema(claim.request)
        gate_request = None if schema else claim.request.prompt
        return RoleCall(role=None, prompt=text, purpose="synthesis", schema=schema, gate_request=gate_request)

    def _as_agent_task(self, task: Task) -> Task:
        """Return the task in Agent mode with its profile's default role; later deliveries keep this mode."""
        profile = self._catalog.profiles.get(task.profile) or self._catalog.profile(self._catalog.defaults.profile)
        return replace(task, mode=Mode.AGENT, role=profile.default_role)

    def _propose(self, claim: Claim) -> tuple[Plan | None, Reply]:
        """Ask for a plan; if it is not usable, ask once more and name its faults.

        Returns no plan if both plans are unusable or the engine refuses the second prompt. The reply has all attempts,
        and the failure if an engine call failed.
        """
        call = first = self._plan_call(claim)
        attempts = tuple[Attempt, ...]()
        for _ in range(2):
            reply = self._role_caller.ask(claim, call, earlier=attempts)
            attempts += reply.attempts
            if reply.completion is None and call != first and isinstance(reply.failure, PromptRefused):
                break  # the prompt with the faulty plan in it was refused (perhaps too long), not the task itself
            if reply.completion is None:
                return None, replace(reply, attempts=attempts)
            try:
                return plan_proposal.parse(reply.completion.text, self._catalog.step_roles()), Reply(attempts=attempts)
            except plan_proposal.PlanInvalid as error:
                call = replace(first, prompt=prompts.for_repair(first.prompt, reply.completion.text, str(error)))
        return None, Reply(attempts=attempts)

    def _plan_call(self, claim: Claim) -> RoleCall:
        text = prompts.for_plan(claim.request.prompt, claim.task.profile, self._catalog)
        schema = AnswerSchema(name="plan", schema=plan_proposal.schema(self._catalog.step_roles()))
        return RoleCall(role=self._catalog.defaults.planner, prompt=text, purpose="plan", schema=schema)


def _step_call(steps: ReviewedSteps, step: Step) -> RoleCall:
    """Return the next call of a step that has not ended."""
    call = steps.next_call(step)
    gate_request = None if call.schema else step.instruction
    return RoleCall(
        role=call.role,
        prompt=call.prompt,
        purpose=call.purpose,
        schema=call.schema,
        gate_request=gate_request,
        knows_history=call.schema is None,  # a verdict compares a result with its instruction, and nothing else
    )
