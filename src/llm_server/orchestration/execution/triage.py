"""Triage: ask a fast engine how a task is to be done, if the analysis of its prompt was unsure (ADR 47)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.calls import MIN_CALL_S, CallResult, EmptyAnswer
from llm_server.orchestration.dispatch.reservation import worst_case
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE, AllowedEngines
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.engines.usage import Usage, estimate_tokens
from llm_server.orchestration.domain.errors import EngineUnavailable, LLMServerError, OutOfTime
from llm_server.orchestration.domain.output import TRIAGE, Output
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Limits, Request
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.triage import PURPOSE, WHOLE, Triage, TriageQuote, Undecided
from llm_server.orchestration.execution.role_call import Claim, RoleCall, RoleCaller
from llm_server.orchestration.execution.triage_memory import TriageMemory
from llm_server.orchestration.execution.triage_question import MAX_OUTPUT_TOKENS, Choice, Question
from llm_server.orchestration.routing import tiers

TRIAGE_SHARE = 0.3
"""The share of prompts that is asked about with `triage = "auto"`.

Of sources that the analysis had not seen it was 29 % of the natural and 33 % of the written prompts (docs/analysis.md).
"""
TYPICAL_PROMPT_CHARS = 316
"""The mean length of a prompt's head, measured on the 217 natural prompts of data/routing/role_mode_dev.jsonl."""
MAX_S = 10.0
"""How long a triage may take, the wait for its place at the engine included."""
SHARE_OF_TIME = 1 / 5
"""How much of the time that a claim or a deadline leaves a triage may take."""
SHARE_OF_MONEY = 1 / 10
"""How much of the money that is left of `max_cost_usd` the call may cost."""

_log = logging.getLogger(__name__)

FirstCall = Callable[[Claim], RoleCall]
"""Returns the call with which a task begins, as its mode and its role say."""


class Triaged(Struct, frozen=True, kw_only=True):
    """The claim as it goes on after its triage, and the output to store before that."""

    claim: Claim
    output: Output


class _Asked(Struct, frozen=True, kw_only=True):
    """A call that can be made now; `attempt` is the call as it is if it is lost."""

    engine: str
    question: Question
    call: EngineCall
    terms: CallTerms
    attempt: Attempt


class Triages:
    """Asks one engine once for each task that is to be triaged. No failure of it fails a task."""

    def __init__(self, *, catalog: Catalog, balancer: Balancer, clock: Clock) -> None:
        self._catalog = catalog
        self._balancer = balancer
        self._clock = clock
        self._role_caller = RoleCaller(catalog, balancer)
        self._memory = TriageMemory(clock)
        self._questions = dict[tuple[str, tuple[Undecided, ...], bool], Question | None]()
        self._is_possible = catalog.defaults.triage != "off" and any(s.triages for s in catalog.engines.values())

    def foresee(self, claim: Claim, first_call: FirstCall) -> tuple[Attempt, ...] | None:
        """Return the call that `run` would make now, as it is if it is lost; () if the decision is remembered.

        Returns None if `run` would do nothing now.
        """
        if not self._is_possible:
            return None
        if self._memory.decision(_key(claim)):
            return ()
        asked = self._prepared(claim, first_call)
        return (asked.attempt,) if asked else None

    def run(self, claim: Claim, first_call: FirstCall) -> Triaged | None:
        """Triage a task. Returns None, with nothing done, if no engine can be asked now: the analysis decides.

        A call that was announced when the task was claimed, and that cannot be made any more, is a triage, too: it
        ends without a decision. If the worker has no time left for any call, the next claim triages the task.
        """
        if not self._is_possible:
            return None
        if remembered := self._memory.decision(_key(claim)):
            engine, known = remembered
            return self._decided(claim, known, f"{engine} decided for the same prompt before", ())
        asked = self._prepared(claim, first_call)
        if asked is None:
            is_announced = any(attempt.purpose == PURPOSE for attempt in claim.task.pending)
            has_time = self._left_s(claim) >= MIN_CALL_S
            return self._kept(claim, "no engine could be asked", ()) if is_announced and has_time else None
        result = self._balancer.calls.ask(asked.engine, asked.call, asked.terms)
        completion = result.completion
        choice = asked.question.read(completion.text) if completion and not completion.truncated else None
        if result.attempt and _is_of_the_engine(result):
            self._count(asked.engine, usable=choice is not None)
        if choice is None:
            return self._kept(claim, f"{asked.engine} {_why(result)}", result.attempts)
        self._memory.remember(_key(claim), asked.engine, choice)
        return self._decided(claim, choice, f"{asked.engine} decided", result.attempts)

    def quote(
        self, allowed: AllowedEngines, limits: Limits, prompt: str, profile: str, undecided: tuple[Undecided, ...]
    ) -> TriageQuote | None:
        """Return what the triage of a new task would cost; None if it would not be triaged now."""
        sees = "vision" in allowed.needs
        question, engine = self._question(profile, undecided, sees=sees), self._engine(allowed)
        if not undecided or question is None or engine is None or not _has_room(limits, limits.deadline_s):
            return None
        call, price = question.about(prompt, sees=sees), partial(self._balancer.price, self._catalog.engines[engine])
        ceiling = worst_case(call, price)
        left = limits.max_cost_microusd
        if left is not None and (ceiling is None or ceiling > SHARE_OF_MONEY * left):
            return None
        usage = Usage(input_tokens=tokens_in(call), output_tokens=MAX_OUTPUT_TOKENS)
        return TriageQuote(engine=engine, expected_microusd=price(usage), ceiling_microusd=ceiling)

    @property
    def share(self) -> float:
        """The share of the prompts without a role and a mode of the caller's that is triaged."""
        return {"off": 0.0, "auto": TRIAGE_SHARE, "always": 1.0}[self._catalog.defaults.triage]

    def typical(self) -> TriageQuote | None:
        """Return what the triage of a typical prompt would cost; None if no task can be triaged now."""
        prompt = "x" * TYPICAL_PROMPT_CHARS
        return self.quote(ANY_ENGINE, Limits(), prompt, self._catalog.defaults.profile, WHOLE)

    def _engine(self, allowed: AllowedEngines) -> str | None:
        """Return the engine to ask: the first candidate of the fast tier that may triage."""
        if not self._is_possible:
            return None
        names = self._balancer.candidates("fast", allowed.needing(()))
        specs = self._catalog.engines
        return next((n for n in names if specs[n].triages and not self._memory.is_paused(n)), None)

    def _question(self, profile: str, undecided: tuple[Undecided, ...], *, sees: bool) -> Question | None:
        """Return the question for a profile; it is made once."""
        key = ("" if "profile" in undecided else profile, undecided, sees)
        if key not in self._questions:
            self._questions[key] = Question.of(self._catalog, profile, undecided, sees=sees)
        return self._questions[key]

    def _prepared(self, claim: Claim, first_call: FirstCall) -> _Asked | None:
        """Return the call to make now; None if no engine, too little time or too little money is there for it.

        It is not made if the task's first call could not be made after it.
        """
        engine, request, left_s = self._engine(claim.allowed), claim.request, self._left_s(claim)
        sees = "vision" in request.needs
        question = self._question(claim.task.profile, request.undecided, sees=sees)
        if engine is None or question is None or not _has_room(request.limits, left_s):
            return None
        terms = CallTerms(
            purpose=PURPOSE,
            tier="fast",
            until_ms=self._clock() + int(min(MAX_S, SHARE_OF_TIME * left_s) * 1000),
            allowed=claim.allowed.needing(()),  # the question has neither images nor tools
            budget=claim.budget,
            announce=claim.announce,
            line=claim.task.line,
        )
        call = question.about(request.prompt, claim.cancellation, sees=sees)
        attempt = self._balancer.calls.foresee(engine, call, terms, beside_microusd=0)
        if attempt is None or not self._has_money(claim, attempt.withheld_microusd, first_call):
            return None
        return _Asked(engine=engine, question=question, call=call, terms=terms, attempt=attempt)

    def _left_s(self, claim: Claim) -> float:
        return (claim.until_ms - self._clock()) / 1000

    def _has_money(self, claim: Claim, microusd: int, first_call: FirstCall) -> bool:
        """Return whether an engine can take the task's first call now, also after a triage of this highest cost."""
        left = claim.budget.left_microusd
        if left is not None and microusd > SHARE_OF_MONEY * left:
            return False
        return bool(
            self._role_caller.foresee(replace(claim, budget=claim.budget.without(microusd)), [first_call(claim)])
        )

    def _count(self, engine: str, *, usable: bool) -> None:
        if self._memory.count(engine, usable=usable):
            _log.warning("triage paused", extra={"engine": engine})

    def _decided(self, claim: Claim, choice: Choice, how: str, attempts: tuple[Attempt, ...]) -> Triaged:
        """Return the triage of a task that an engine decided.

        With `strong_share`, the complexity stays that of the analysis, because the share refers to its scale.
        """
        task, request, defaults = claim.task, claim.request, self._catalog.defaults
        complexity = choice.complexity if defaults.strong_share is None else request.complexity
        profile = self._catalog.profile_of(choice.role) if "profile" in request.undecided else task.profile
        detail = f"{how}: {choice.mode} mode, {choice.role}, complexity {complexity:.2f}"
        unsure = f"the analysis had confidence {request.confidence:.2f} in {task.mode} mode, {task.role}"
        return self._ended(
            claim,
            Triage(
                mode=choice.mode,
                role=choice.role,
                profile=profile,
                complexity=complexity,
                decided=True,
                reasons=(f"triage: {detail}", unsure, *tiers.reasons(complexity, defaults)),
                detail=detail,
                was_mode=task.mode,
                was_role=task.role,
            ),
            attempts,
        )

    def _kept(self, claim: Claim, why: str, attempts: tuple[Attempt, ...]) -> Triaged:
        """Return the triage of a task for which an engine said nothing usable, so that the analysis decides."""
        task, request = claim.task, claim.request
        detail = f"{why}, so the analysis decides"
        return self._ended(
            claim,
            Triage(
                mode=task.mode,
                role=task.role,
                profile=task.profile,
                complexity=request.complexity,
                decided=False,
                reasons=(*request.reasons, f"triage: {detail}"),
                detail=detail,
                was_mode=task.mode,
                was_role=task.role,
            ),
            attempts,
        )

    def _ended(self, claim: Claim, triage: Triage, attempts: tuple[Attempt, ...]) -> Triaged:
        output = Output(
            key=TRIAGE,
            created_ms=self._clock(),
            text=triage.to_json(),
            attempts=attempts,
            fence=claim.task.fence,
        )
        task: Task = claim.task.triaged(output, mode=triage.mode, role=triage.role, profile=triage.profile)
        request: Request = replace(claim.request, complexity=triage.complexity, reasons=triage.reasons)
        return Triaged(claim=replace(claim, task=task, request=request), output=output)


def _key(claim: Claim) -> bytes:
    """Return the key of a task's decision: tenant, prompt, and which roles and modes are offered."""
    open_, task = claim.request.undecided, claim.task
    profile, sees = None if "profile" in open_ else task.profile, "vision" in claim.request.needs
    return TriageMemory.key(task.tenant, claim.request.prompt, open_, profile, sees)


def tokens_in(call: EngineCall) -> int:
    """Return about how many tokens the call has, with the schema of its answer."""
    schema = call.answer_schema.schema if call.answer_schema else {}
    return estimate_tokens(call.texts + msgspec.json.encode(schema).decode())


def _has_room(limits: Limits, left_s: float | None) -> bool:
    """Return whether the limits of a task and the time that is left allow a triage."""
    may_answer = limits.max_output_tokens is None or limits.max_output_tokens >= MAX_OUTPUT_TOKENS
    return may_answer and (left_s is None or SHARE_OF_TIME * left_s >= MIN_CALL_S)


def _is_of_the_engine(result: CallResult) -> bool:
    """Return whether the outcome says whether the engine is fit for triages. It rests by itself after an error."""
    return result.completion is not None or isinstance(result.failure, EmptyAnswer | OutOfTime)


def _why(result: CallResult) -> str:
    """Say why the engine did not decide, as the predicate of a sentence about the engine."""
    failure: LLMServerError | None = result.failure
    if failure is None:
        return "named no mode and role of the catalogue"
    if isinstance(failure, OutOfTime) or (isinstance(failure, EngineUnavailable) and failure.kind == "timeout"):
        return "did not answer in time"
    return "was not asked" if result.attempt is None else "gave no answer"
