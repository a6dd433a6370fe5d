"""Carries a plan's steps through their review: a result, a verdict on it, a fix, at most two rounds of that.

Each engine call gives one output, stored before the next call: a worker that dies between coder and verdict leaves the
draft to the next delivery. What a step is to do next follows from its stored outputs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from llm_server.orchestration.answer_gate.json_objects import json_objects
from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.engine_call import AnswerSchema
from llm_server.orchestration.domain.errors import LLMServerError
from llm_server.orchestration.domain.output import PLAN, Output, OutputKey, OutputKind, Review
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.execution.prompts import StepResult

ROUNDS = 2
"""How often findings go to be repaired."""

MAX_FINDINGS = 20
MAX_FINDING_CHARS = 1_000

NOBODY = "(nobody)"
"""Who judges a draft whose profile lost its judge since: an unknown role, and so the step is said to be not judged."""


class VerdictInvalid(LLMServerError):
    """The answer holds no verdict that can be acted on."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a result meets its instruction, and what does not."""

    verdict: Literal["pass", "fail"]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One engine call of a step, in the name of a role."""

    role: str
    purpose: str
    prompt: str
    schema: AnswerSchema | None = None


def schema() -> dict[str, Any]:
    """The JSON schema of a verdict, for engines that can be held to one."""
    return {
        "type": "object",
        "properties": {
            "verdict": {"type": "string", "enum": ["pass", "fail"]},
            "findings": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["verdict", "findings"],
        "additionalProperties": False,
    }


def parse(text: str) -> Verdict:
    """Read a verdict out of an engine's answer; of several JSON objects the first with its shape is taken.

    Blank findings are dropped, many and long ones cut to 20 of 1,000 characters; a pass has none.

    Raises:
        VerdictInvalid: no such object, half a surrogate pair in a finding, or a failure without a finding.
    """
    for found in json_objects(text):
        try:
            verdict = msgspec.convert(found, Verdict)
            "".join(verdict.findings).encode()
        except (msgspec.ValidationError, UnicodeEncodeError):
            continue
        findings = tuple(f.strip()[:MAX_FINDING_CHARS] for f in verdict.findings if f.strip())[:MAX_FINDINGS]
        if verdict.verdict == "pass":
            return Verdict(verdict="pass")
        if findings:
            return Verdict(verdict="fail", findings=findings)
        raise VerdictInvalid("The verdict fails the result and names no finding.")
    raise VerdictInvalid("The answer holds no verdict.")


class ReviewedSteps:
    """The steps of one plan: what each asks next, and the output a reply gives. `prompt` is the caller's."""

    def __init__(
        self, *, plan: Plan, prompt: str, profile: str, catalog: Catalog, outputs: Mapping[OutputKey, Output]
    ) -> None:
        known = catalog.profiles.get(profile)
        self._judge = known.judged_by if known else None
        self._fixer = known.repaired_by if known else None
        self._plan = plan
        self._prompt = prompt
        self._catalog = catalog
        self._outputs = dict(outputs)

    @property
    def ended(self) -> dict[str, Output]:
        """The outputs of the steps that ended, by step."""
        found = {step.id: self._outputs.get(OutputKey.of_step(step.id)) for step in self._plan.steps}
        return {name: output for name, output in found.items() if output is not None}

    @property
    def size(self) -> int:
        """Bytes of the plan and all texts it has come to so far."""
        given = sum(output.size for key, output in self._outputs.items() if key != PLAN)
        return len(self._plan.to_json().encode()) + given

    @property
    def results(self) -> dict[str, StepResult]:
        ended = self.ended
        return {s.id: StepResult(s, ended[s.id].text or "") for s in self._plan.steps if s.id in ended}

    @property
    def reviews(self) -> dict[str, Review]:
        return {name: output.review for name, output in self.ended.items() if output.review}

    def succeeded(self, step: Step) -> bool | None:
        """How a step ended; None while it has not."""
        output = self._outputs.get(OutputKey.of_step(step.id))
        return None if output is None else output.error is None

    def add(self, output: Output) -> None:
        """Take note of what was stored."""
        self._outputs[output.key] = output

    def next_call(self, step: Step) -> Call:
        """What a step that has not ended asks next; may be called from several threads."""
        drafts, verdicts = self._of(OutputKind.DRAFT, step), self._of(OutputKind.VERDICT, step)
        context = (self._prompt, self._plan, step, self.results)
        if not drafts:
            return Call(role=step.role, purpose=f"step {step.id}", prompt=prompts.for_step(*context))
        draft = drafts[-1].text or ""
        if len(verdicts) < len(drafts):
            asked = AnswerSchema(name="verdict", schema=schema())
            prompt = prompts.for_verdict(*context, draft)
            return Call(role=self._judge or NOBODY, purpose=f"verdict {step.id}", prompt=prompt, schema=asked)
        prompt = prompts.for_fix(*context, draft, _findings(verdicts))
        return Call(role=self._fixer or NOBODY, purpose=f"fix {step.id}", prompt=prompt)

    def output(self, step: Step, reply: Reply, now_ms: int) -> Output:
        """What a reply to `next_call` gives: a draft, a verdict with findings, or the end of the step."""
        drafts, verdicts = self._of(OutputKind.DRAFT, step), self._of(OutputKind.VERDICT, step)
        if not drafts:
            key, text, review, error = self._worked(step, reply)
        elif len(verdicts) < len(drafts):
            key, text, review, error = *_judged(step, drafts, verdicts, reply), None
        else:
            key, text, review, error = *_repaired(step, drafts, verdicts, reply), None
        return Output(key=key, created_ms=now_ms, text=text, error=error, attempts=reply.attempts, review=review)

    def _worked(self, step: Step, reply: Reply) -> tuple[OutputKey, str | None, None, str | None]:
        if reply.completion is None:
            return OutputKey.of_step(step.id), None, None, str(reply.failure)
        role = self._catalog.roles.get(step.role)
        reviewed = self._judge and self._fixer and role and role.reviewed
        return (
            OutputKey.of_draft(step.id, 0) if reviewed else OutputKey.of_step(step.id),
            reply.completion.text,
            None,
            None,
        )

    def _of(self, kind: OutputKind, step: Step) -> list[Output]:
        """The drafts or verdicts of a step, in order."""
        names = (OutputKey(kind, step.id, n) for n in range(ROUNDS + 1))
        return [self._outputs[name] for name in names if name in self._outputs]


def _judged(
    step: Step, drafts: list[Output], verdicts: list[Output], reply: Reply
) -> tuple[OutputKey, str | None, Review]:
    """A verdict that cannot be had or used ends the review: the result stays, and is said to be not judged."""
    try:
        if reply.completion is None:
            raise VerdictInvalid(str(reply.failure))
        verdict = parse(reply.completion.text)
    except VerdictInvalid as error:
        unknown = Review(verdict="not judged", findings=_findings(verdicts), reason=str(error))
        return OutputKey.of_step(step.id), drafts[-1].text, unknown
    review = Review(verdict=verdict.verdict, findings=verdict.findings)
    if review.verdict == "fail" and len(verdicts) < ROUNDS:
        return OutputKey.of_verdict(step.id, len(verdicts)), None, review
    return OutputKey.of_step(step.id), drafts[-1].text, review


def _repaired(
    step: Step, drafts: list[Output], verdicts: list[Output], reply: Reply
) -> tuple[OutputKey, str | None, Review | None]:
    """A fix that cannot be had leaves the findings open."""
    if reply.completion:
        return OutputKey.of_draft(step.id, len(drafts)), reply.completion.text, None
    left_open = Review(verdict="fail", findings=_findings(verdicts), reason=str(reply.failure))
    return OutputKey.of_step(step.id), drafts[-1].text, left_open


def _findings(verdicts: list[Output]) -> tuple[str, ...]:
    """What the last verdict found."""
    return verdicts[-1].review.findings if verdicts and verdicts[-1].review else ()
