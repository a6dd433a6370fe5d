"""Review the steps of a plan: a draft, a verdict on it, a fix, and a new verdict, with at most two fixes.

The output of each call is stored before the next call, so if a worker dies after the draft, the next delivery
continues with it. The next call of a step depends only on the step's stored outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from llm_server.orchestration.answer_gate.json_objects import json_objects
from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import LLMServerError
from llm_server.orchestration.domain.output import PLAN, Output, OutputKey, OutputKind, Review
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.execution.prompts import StepResult

MAX_FIXES = 2
"""How many times a draft is repaired and judged again."""

MAX_FINDINGS = 20
MAX_FINDING_CHARS = 1_000

NO_ROLE = "(not configured)"
"""Used as the role that judges or repairs a draft if the profile no longer names one.

The call then fails like any call of an unknown role.
"""


class VerdictInvalid(LLMServerError):
    """The answer has no usable verdict."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a draft meets the step's instruction; if not, the findings say why."""

    verdict: Literal["pass", "fail"]
    findings: tuple[str, ...] = ()


class Call(Struct, frozen=True, kw_only=True):
    """One engine call of a step, made with the settings of a role."""

    role: str
    purpose: str
    prompt: str
    schema: AnswerSchema | None = None


def schema() -> dict[str, Any]:
    """Return the JSON schema of a verdict, for engines that accept a schema for their answer."""
    return {
        "type": "object",
        "properties": {
            "verdict": {"type": "string", "enum": ["pass", "fail"]},
            "findings": {
                "type": "array",
                "items": {"type": "string", "maxLength": MAX_FINDING_CHARS},
                "maxItems": MAX_FINDINGS,
            },
        },
        "required": ["verdict", "findings"],
        "additionalProperties": False,
    }


def parse(text: str) -> Verdict:
    """Read a verdict from an engine's answer; the first JSON object with the shape of a verdict is used.

    Blank findings are dropped. At most 20 findings are kept, each cut to 1,000 characters; a pass has none.

    Raises:
        VerdictInvalid: the answer has no verdict in valid Unicode, or the verdict is "fail" without a finding.
    """
    for found in json_objects(text):
        try:
            verdict = msgspec.convert(found, Verdict)
            "".join(verdict.findings).encode()  # raises if the text is not valid Unicode
        except (msgspec.ValidationError, UnicodeEncodeError):
            continue
        findings = tuple(f.strip()[:MAX_FINDING_CHARS] for f in verdict.findings if f.strip())[:MAX_FINDINGS]
        if verdict.verdict == "pass":
            return Verdict(verdict="pass")
        if findings:
            return Verdict(verdict="fail", findings=findings)
        raise VerdictInvalid('The verdict is "fail" but names no finding.')
    raise VerdictInvalid("The answer contains no verdict.")


class ReviewedSteps:
    """The steps of one plan: gives the next call of each step, and turns its reply into an output.

    `prompt` is the caller's; `outputs` are those that earlier claims stored.
    """

    def __init__(
        self, *, plan: Plan, prompt: str, profile: str, catalog: Catalog, outputs: Mapping[OutputKey, Output]
    ) -> None:
        configured = catalog.profiles.get(profile)
        self._judge = configured.judged_by if configured else None
        self._fixer = configured.repaired_by if configured else None
        self._plan = plan
        self._prompt = prompt
        self._catalog = catalog
        self._outputs = dict(outputs)

    @property
    def ended(self) -> dict[str, Output]:
        """The final outputs of the steps that have ended, by step id."""
        outputs = {step.id: self._outputs.get(OutputKey.of_step(step.id)) for step in self._plan.steps}
        return {name: output for name, output in outputs.items() if output is not None}

    @property
    def finished(self) -> dict[str, bool]:
        """Whether each step that has ended succeeded, by step id."""
        return {name: output.error is None for name, output in self.ended.items()}

    @property
    def failures(self) -> list[str]:
        """A sentence for each step that failed, in the order of the plan."""
        return [f"Step {name} failed: {output.error}" for name, output in self.ended.items() if output.error]

    @property
    def size(self) -> int:
        """The size in bytes of the plan and of all outputs so far."""
        outputs_size = sum(output.size for key, output in self._outputs.items() if key != PLAN)
        return len(self._plan.to_json().encode()) + outputs_size

    @property
    def results(self) -> dict[str, StepResult]:
        ended = self.ended
        return {s.id: StepResult(s, ended[s.id].text or "") for s in self._plan.steps if s.id in ended}

    @property
    def reviews(self) -> dict[str, Review]:
        return {name: output.review for name, output in self.ended.items() if output.review}

    def succeeded(self, step: Step) -> bool | None:
        """Return whether a step succeeded; None if it has not ended."""
        output = self._outputs.get(OutputKey.of_step(step.id))
        return None if output is None else output.error is None

    def add(self, output: Output) -> None:
        """Add an output that was stored."""
        self._outputs[output.key] = output

    def next_call(self, step: Step) -> Call:
        """Return the next call of a step that has not ended; may be called from several threads."""
        drafts, verdicts = self._of(OutputKind.DRAFT, step), self._of(OutputKind.VERDICT, step)
        context = (self._prompt, self._plan, step, self.results)
        if not drafts:
            return Call(role=step.role, purpose=f"step {step.id}", prompt=prompts.for_step(*context))
        draft = drafts[-1].text or ""
        if len(verdicts) < len(drafts):
            verdict = AnswerSchema(name="verdict", schema=schema())
            prompt = prompts.for_verdict(*context, draft)
            return Call(role=self._judge or NO_ROLE, purpose=f"verdict {step.id}", prompt=prompt, schema=verdict)
        prompt = prompts.for_fix(*context, draft, _findings(verdicts))
        return Call(role=self._fixer or NO_ROLE, purpose=f"fix {step.id}", prompt=prompt)

    def output(self, step: Step, reply: Reply, now_ms: int) -> Output:
        """Return the output of a reply to `next_call`: a draft, a verdict with findings, or the end of the step."""
        drafts, verdicts = self._of(OutputKind.DRAFT, step), self._of(OutputKind.VERDICT, step)
        text: str | None
        review: Review | None = None
        error = None
        if not drafts:
            key, text, error = self._first_result(step, reply)
        elif len(verdicts) < len(drafts):
            key, text, review = _verdict_result(step, drafts, verdicts, reply)
        else:
            key, text, review = _fix_result(step, drafts, verdicts, reply)
        return Output(key=key, created_ms=now_ms, text=text, error=error, attempts=reply.attempts, review=review)

    def _first_result(self, step: Step, reply: Reply) -> tuple[OutputKey, str | None, str | None]:
        """Make a step's first answer a draft if the step is reviewed, else its end; returns key, text and error."""
        if reply.completion is None:
            return OutputKey.of_step(step.id), None, str(reply.failure)
        key = OutputKey.of_draft(step.id, 0) if self._is_reviewed(step) else OutputKey.of_step(step.id)
        return key, reply.completion.text, None

    def _is_reviewed(self, step: Step) -> bool:
        if self._judge is None or self._fixer is None:
            return False
        role = self._catalog.roles.get(step.role)
        return role is not None and role.reviewed

    def _of(self, kind: OutputKind, step: Step) -> list[Output]:
        """Return the drafts or the verdicts of a step, in order."""
        names = (OutputKey(kind, step.id, n) for n in range(MAX_FIXES + 1))
        return [self._outputs[name] for name in names if name in self._outputs]


def _verdict_result(
    step: Step, drafts: list[Output], verdicts: list[Output], reply: Reply
) -> tuple[OutputKey, str | None, Review]:
    """Return key, text and review after a call for a verdict.

    Without a usable verdict the review ends: the last draft is the step's result, marked as not judged.
    """
    try:
        if reply.completion is None:
            raise VerdictInvalid(str(reply.failure))
        verdict = parse(reply.completion.text)
    except VerdictInvalid as error:
        not_judged = Review(verdict="not judged", findings=_findings(verdicts), reason=str(error))
        return OutputKey.of_step(step.id), drafts[-1].text, not_judged
    review = Review(verdict=verdict.verdict, findings=verdict.findings)
    if review.verdict == "fail" and len(verdicts) < MAX_FIXES:
        return OutputKey.of_verdict(step.id, len(verdicts)), None, review
    return OutputKey.of_step(step.id), drafts[-1].text, review


def _fix_result(
    step: Step, drafts: list[Output], verdicts: list[Output], reply: Reply
) -> tuple[OutputKey, str | None, Review | None]:
    """Return key, text and review after a call for a fix; if it failed, the step ends with open findings."""
    if reply.completion:
        return OutputKey.of_draft(step.id, len(drafts)), reply.completion.text, None
    still_open = Review(verdict="fail", findings=_findings(verdicts), reason=str(reply.failure))
    return OutputKey.of_step(step.id), drafts[-1].text, still_open


def _findings(verdicts: list[Output]) -> tuple[str, ...]:
    """Return the findings of the last verdict."""
    return verdicts[-1].review.findings if verdicts and verdicts[-1].review else ()
