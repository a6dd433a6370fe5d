"""A task with everything stored about it: the request and the outputs of the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.domain import triage as triages
from llm_server.orchestration.domain.conversation import History
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.engines.chat import Need, both, needs_of
from llm_server.orchestration.domain.engines.message import Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.output import TRIAGE, Output, OutputKey, OutputKind, Review, last_answered
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD, Attempt
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.triage import Triage, Undecided


class Limits(Struct, frozen=True, kw_only=True):
    """The limits that the caller set for a task; None means that the caller set no limit.

    In a stored request, `sources` has only those that the caller's key allows, too.
    """

    max_cost_usd: float | None = None
    deadline_s: float | None = None
    max_output_tokens: int | None = None
    sources: Sources | None = None

    @property
    def max_cost_microusd(self) -> int | None:
        """The limit of the cost in micro-USD, rounded down; None without a limit."""
        return None if self.max_cost_usd is None else int(self.max_cost_usd * MICROUSD_PER_USD)

    def deadline_ms(self, from_ms: int) -> int | None:
        """Return the deadline of a task that was accepted or retried at `from_ms`, in Unix milliseconds."""
        return None if self.deadline_s is None else from_ms + int(self.deadline_s * 1000)

    @property
    def overdue(self) -> str:
        """The error of a task whose deadline has passed."""
        deadline = "deadline" if self.deadline_s is None else f"deadline of {self.deadline_s:g} s"
        return f"The {deadline} has passed."


class Request(Struct, frozen=True, kw_only=True):
    """The caller's request and the results of its analysis. It is stored once and never changes.

    `undecided` is what an engine may decide in a triage; () if the task is not to be triaged.
    `stream`: the text is kept and shown as it comes.
    `earlier` are the Completed tasks that the task is told as turns, oldest first; `turns_before` counts them and those
    that were gone or too many when the task was accepted.
    `messages` is what the caller sends in place of the prompt alone, such as a prompt with images, or messages before
    and after it; () if it is the prompt alone. `prompt` is the text of the last user message among them, or "" without
    one. `instructions` is the caller's own text for the system prompt. `tools` are functions that the engine may ask
    the caller to call. `needs_before` is what an engine must take to be told the earlier turns. `output_schema` is the
    JSON schema that the result follows; None if it is any text.
    """

    prompt: str
    engine: str | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, str] = field(default_factory=dict)
    confidence: float = 1.0
    complexity: float = 0.0
    reasons: tuple[str, ...] = ()
    plan_approval: bool = False
    undecided: tuple[Undecided, ...] = ()
    stream: bool = False
    previous_task_id: str | None = None
    conversation_id: str | None = None
    earlier: tuple[str, ...] = ()
    turns_before: int = 0
    messages: tuple[Message, ...] = ()
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    output_schema: Mapping[str, Any] | None = None
    needs_before: tuple[Need, ...] = ()

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the engines of the task must take."""
        if not (self.messages or self.tools or self.needs_before):
            return ()
        return both(needs_of(self.messages, self.tools), self.needs_before)


EXPIRED_REQUEST = Request(prompt="", confidence=0.0, reasons=("The request has expired.",))
"""Stands for a request that has expired before its task. It is unique: accepted tasks have a prompt or messages."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """A task with everything that the store holds about it, read at one time.

    `history` is empty as the store returns it; the worker that has claimed the task reads it.
    """

    task: Task
    request: Request
    outputs: Mapping[OutputKey, Output] = field(default_factory=dict)
    history: History = field(default_factory=History)

    @property
    def standing(self) -> dict[OutputKey, Output]:
        """The outputs that later work uses: all except the steps that failed before the last retry."""
        return {key: output for key, output in self.outputs.items() if not self._is_superseded(output)}

    def _is_superseded(self, output: Output) -> bool:
        is_failed_step = output.key.kind is OutputKind.STEP and output.error is not None
        was_retried = self.task.retried_fence > 0
        return is_failed_step and was_retried and output.fence <= self.task.retried_fence

    @property
    def deadline_ms(self) -> int | None:
        """When the task fails if it is not final, in Unix milliseconds. States of old versions do not store it."""
        return self.task.deadline_ms or self.request.limits.deadline_ms(self.task.created_ms)

    @property
    def max_cost_microusd(self) -> int | None:
        """The limit of the task's cost: the lower of that of its request and that of its approval; None without one."""
        limits = self.request.limits.max_cost_microusd, self.task.max_cost_microusd
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def spent_microusd(self) -> int:
        """What counts against the limit: what the calls cost, and what is withheld for calls of unknown cost."""
        return self.task.receipt.cost_microusd + sum(attempt.withheld_microusd for attempt in self.attempts)

    @property
    def allowed_engines(self) -> AllowedEngines:
        """The engines that may be called for the task, as its request and the keys of its later callers limit them."""
        accepted = AllowedEngines(engine=self.request.engine, sources=self.request.limits.sources)
        return accepted.within(self.task.sources).needing(self.request.needs)

    @property
    def may_be_triaged(self) -> bool:
        """Whether no call was made for a task that is to be triaged. A triage is a task's first call, or none."""
        if not self.request.undecided or TRIAGE in self.outputs:
            return False
        return not any(output.attempts for output in self.outputs.values())

    @property
    def triage(self) -> Triage | None:
        """How the triage ended; None before it, and for a task without one."""
        stored = self.outputs.get(TRIAGE)
        return None if stored is None or stored.text is None else triages.from_json(stored.text)

    @property
    def decided_request(self) -> Request:
        """The request with the complexity and the reasons that hold for the task: those of its triage, if it had one.

        The confidence stays that of the analysis. A triage whose worker died is told in the reasons.
        """
        if not self.request.undecided:
            return self.request
        if triage := self.triage:
            return replace(self.request, complexity=triage.complexity, reasons=triage.reasons)
        if any(attempt.purpose == triages.PURPOSE for attempt in self.attempts):
            return replace(self.request, reasons=(*self.request.reasons, triages.LOST))
        return self.request

    @property
    def turns_dropped(self) -> int:
        """The most earlier turns that a call of the task was not told."""
        return max((attempt.turns_dropped for attempt in self.attempts), default=0)

    @property
    def result(self) -> str | None:
        """The final answer of a Completed task."""
        return self._answer.text if self._answer else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The function calls that the final answer asks for."""
        return self._answer.tool_calls if self._answer else ()

    @property
    def fault(self) -> str | None:
        """The fault that the answer gate found in the result; None if it found none, or if there is no result."""
        return self._answer.fault if self._answer else None

    @property
    def is_truncated(self) -> bool:
        """Whether the engine cut the result at its limit."""
        last = last_answered(self._answer.attempts) if self._answer else None
        return last is not None and last.truncated

    def step_fault(self, step_id: str) -> str | None:
        """Return the fault that the answer gate found in the result of a Completed step, like `fault`."""
        end = self.standing.get(OutputKey.of_step(step_id))
        if end is None or end.text is None:
            return None
        drafts = [output for output in self.of_step(step_id) if output.key.kind is OutputKind.DRAFT]
        return drafts[-1].fault if drafts else end.fault  # the end of a reviewed step has the calls of its last review

    @property
    def _answer(self) -> Output | None:
        """The output with the final answer of a Completed task."""
        fence = self.task.answer_fence
        return None if fence is None else self.outputs.get(OutputKey.of_answer(fence))

    @property
    def is_whole(self) -> bool:
        """Whether the outputs contain every call that the state counts, and the answer of a Completed task."""
        counted = self.task.receipt.calls + self.task.receipt.failed_calls
        return len(self.attempts) >= counted and (self.task.answer_fence is None or self.result is not None)

    @property
    def orphan(self) -> Output | None:
        """An answer that was paid for, but whose worker died before it finished the task. The next claim uses it."""
        if self.task.status.is_final:
            return None
        answers = [o for o in self.outputs.values() if o.is_answer]
        return max(answers, key=lambda o: o.created_ms, default=None)

    def lost(self, now_ms: int) -> Output | None:
        """Return the calls that a dead worker had announced and that no output holds, or None.

        They are stored under the TRY key of its claim. An answer that it kept has all of its calls.
        """
        task = self.task
        if not task.pending or not task.has_dead_worker(now_ms) or OutputKey.of_answer(task.fence) in self.outputs:
            return None
        return Output(key=OutputKey.of_try(task.fence), created_ms=now_ms, attempts=task.pending, fence=task.fence)

    def left_over(self, now_ms: int) -> Output | None:
        """Return the calls of dead workers that are not on the receipt of an open task, or None."""
        orphan, lost = self.orphan, self.lost(now_ms)
        if orphan is None or orphan.as_a_try().key in self.outputs:  # its calls were booked as lost
            return lost
        return replace(lost, attempts=orphan.attempts + lost.attempts) if lost else orphan.as_a_try()

    def unsettled(self, now_ms: int) -> Output | None:
        """Return the calls that a dead worker left, and that are not on the receipt of a Cancelled task (ADR 11).

        They are those of its kept answer, else those that it had announced. Once they are settled, they are stored
        under the TRY key of the same claim.
        """
        task, fence = self.task, self.task.fence
        if task.status is not Status.CANCELLED or OutputKey.of_try(fence) in self.outputs:
            return None
        answer = self.outputs.get(OutputKey.of_answer(fence))
        return answer.as_a_try() if answer else self.lost(now_ms)

    @property
    def timed_out(self) -> list[Attempt]:
        """The engine calls that timed out since the task was last retried, oldest first."""
        retried_fence = self.task.retried_fence
        recent = [o for o in self.outputs.values() if not retried_fence or o.fence > retried_fence]
        timed_out = [a for output in recent for a in output.attempts if a.failure == "timeout"]
        return sorted(timed_out, key=lambda a: a.started_ms)

    def of_step(self, step_id: str) -> list[Output]:
        """Return everything stored about a step: each draft followed by its verdict, then the end of the step."""
        found = [o for o in self.outputs.values() if o.key.step == step_id]
        return sorted(found, key=lambda o: o.key.order)

    def review(self, step_id: str) -> Review | None:
        """Return the latest review of a step; None before its first verdict, and if no role judges the step."""
        reviews = [output.review for output in self.of_step(step_id) if output.review]
        return reviews[-1] if reviews else None

    @property
    def attempts(self) -> list[Attempt]:
        """Every engine call on the receipt, oldest first. An answer that was not used is not on the receipt."""
        counted = [o for o in self.outputs.values() if not o.is_answer or o.key.number == self.task.answer_fence]
        counted.sort(key=lambda o: (o.created_ms, o.key.order))
        attempts = [attempt for output in counted for attempt in output.attempts]
        attempts.sort(key=lambda a: a.started_ms)  # calls that began at the same time keep the order of their outputs
        return attempts
