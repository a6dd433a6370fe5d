"""Make attempts, the records of engine calls on a task's receipt: started before the call and finished after it."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from llm_server.orchestration.dispatch import plausibility
from llm_server.orchestration.dispatch.reservation import Price
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.usage import Usage, estimate_tokens
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled
from llm_server.orchestration.domain.receipt import Attempt, FailureKind

EMPTY_ANSWER = "The engine's answer is empty."

_WITHOUT_THE_MODEL = {
    "plan": "the analysis made the plan, the model was not asked",
    "synthesis": "the results of the steps were joined, the model was not asked",
}
"""Why the demonstration engine answered a call, by the call's purpose; the model is too small for these calls."""

EngineFailure = EngineUnavailable | PromptRefused | TaskCancelled
"""The exceptions that the `Engine` protocol allows an engine to raise."""

_log = logging.getLogger(__name__)


def start(
    engine: str, spec: EngineSpec, terms: CallTerms, after: Attempt | None, *, probe: bool, started_ms: int
) -> Attempt:
    """Return the attempt of a call that is about to be made; `after` is the previous attempt at the same call."""
    return Attempt(
        engine=engine,
        model=spec.model,
        source=spec.source,
        tier=spec.tier,
        why=_why(engine, spec, terms, after, probe=probe),
        failover_from=after.engine if after and not after.fault else None,
        probe=probe,
        demonstration=spec.demonstration,
        purpose=terms.purpose,
        started_ms=started_ms,
        duration_ms=0,
    )


def finish(
    attempt: Attempt,
    call: EngineCall,
    answer: Completion | EngineFailure,
    *,
    took_ms: int,
    price: Price,
    reserved_microusd: int,
) -> Attempt:
    """Return the attempt with the tokens, the cost and the withheld amount of its finished call.

    A call that used no tokens costs 0, even if the price is unknown. If the engine may charge more than it reported,
    the rest of the reserved amount is withheld. A call that was cut off costs 0, and its whole reservation is withheld;
    its tokens are what was reported until then, and estimates. If all its tokens were reported, it costs what they cost
    and nothing is withheld. The duration of an answered call is at least 1 ms, so that its tokens per
    second are defined.
    """
    completion = answer if isinstance(answer, Completion) else None
    usage = _usage(attempt, call, answer)
    error, failure = _failure(answer)
    is_cut_off = isinstance(answer, EngineUnavailable | TaskCancelled) and usage.estimated
    cost = price(usage) if not is_cut_off and (usage.tokens_in or usage.output_tokens) else 0
    may_be_billed = not isinstance(answer, Completion) and answer.may_be_billed
    may_cost_more = usage.estimated or usage.implausible or may_be_billed
    return replace(
        attempt,
        duration_ms=max(1, took_ms) if completion else took_ms,
        tokens_in=usage.tokens_in,
        tokens_out=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_estimated=usage.estimated,
        usage_implausible=usage.implausible,
        truncated=completion is not None and completion.truncated,
        error=error,
        failure=failure,
        cost_microusd=cost,
        withheld_microusd=max(0, reserved_microusd - (cost or 0)) if may_cost_more else 0,
    )


def _usage(attempt: Attempt, call: EngineCall, answer: Completion | EngineFailure) -> Usage:
    """Return the tokens of a call; log counts that cannot be true."""
    if isinstance(answer, EngineUnavailable | TaskCancelled) and answer.usage is None:
        if not answer.may_be_billed:
            return Usage()
        return Usage(input_tokens=estimate_tokens(call.texts) + call.image_tokens, estimated=True)
    reported = answer.usage or Usage()
    usage = plausibility.limited(reported, call)
    if usage.implausible:
        counts = {"tokens_in": reported.tokens_in, "tokens_out": reported.output_tokens}
        _log.warning("implausible token counts", extra={"engine": attempt.engine, **counts})
    return usage


def _failure(answer: Completion | EngineFailure) -> tuple[str | None, FailureKind | None]:
    """Return why the call failed and the kind of the failure; None for both if the engine answered."""
    if not isinstance(answer, Completion):
        return str(answer), _kind(answer)
    return (None, None) if answer.text.strip() or answer.tool_calls else (EMPTY_ANSWER, "empty")


def _kind(failure: EngineFailure) -> FailureKind:
    """Return the kind of a failure as a word, for the task's history."""
    match failure:
        case EngineUnavailable():
            return failure.kind
        case PromptRefused():
            return "refused"
        case TaskCancelled():
            return "cancelled"


def _why(engine: str, spec: EngineSpec, terms: CallTerms, after: Attempt | None, *, probe: bool) -> str:
    """Return the reason, for the receipt, why this engine was the first of the remaining candidates."""
    if spec.kind == "demonstration" and terms.purpose in _WITHOUT_THE_MODEL:
        reason = _WITHOUT_THE_MODEL[terms.purpose]
    elif after and after.fault and after.engine == engine:
        reason = "repair of the answer"
    elif after and after.fault:
        reason = f"escalated from {after.engine}"
    elif after:
        reason = f"failover from {after.engine}"
    elif terms.allowed.engine is not None:
        reason = "asked for by name"
    elif spec.tier in (None, terms.tier):
        reason = f"{terms.tier} tier, cheapest"
    else:
        reason = f"no engine of the {terms.tier} tier, cheapest"
    return f"{reason}, probe" if probe else reason
