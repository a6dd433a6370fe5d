"""What a task used and how it was decided, as extra fields of the dialect's objects and as headers."""

from __future__ import annotations

from typing import Any

from llm_server.api import views
from llm_server.api.waiting import retry_after_s
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.quotes.quote import Quote

Document = dict[str, Any]


def response_usage(snapshot: Snapshot) -> Document:
    """Return the tokens of all engine calls of a task, as Responses has them."""
    paid, answered = snapshot.task.receipt, [a for a in snapshot.attempts if a.answered]
    return {
        "input_tokens": paid.tokens_in,
        "input_tokens_details": {
            "cached_tokens": sum(a.cache_read_tokens for a in answered),
            "cache_write_tokens": sum(a.cache_write_tokens + a.cache_write_1h_tokens for a in answered),
        },
        "output_tokens": paid.tokens_out,
        "output_tokens_details": {"reasoning_tokens": sum(a.reasoning_tokens for a in answered)},
        "total_tokens": paid.tokens_in + paid.tokens_out,
    }


def chat_usage(snapshot: Snapshot) -> Document:
    """Return the tokens of all engine calls of a task, as Chat Completions has them."""
    usage = response_usage(snapshot)
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["input_tokens_details"]["cached_tokens"]},
        "completion_tokens_details": usage["output_tokens_details"],
    }


def receipt(snapshot: Snapshot) -> Document:
    """Return the receipt, in the form of `GET /api/v1/tasks/{id}`."""
    return views.receipt(snapshot.task).model_dump()


def decision(snapshot: Snapshot, quote: Quote | None = None) -> Document:
    """Return how the task was decided. `quote` is that of the rest of a plan that waits for approval."""
    task, request = snapshot.task, snapshot.decided_request
    waits = "approval" if task.awaits_approval else task.waiting_for if task.status is Status.QUEUED else ""
    return {
        "task_id": task.task_id,
        "mode": task.mode.value,
        "role": task.role,
        "profile": task.profile,
        "engine": task.engine,
        "confidence": request.confidence,
        "complexity": request.complexity,
        "reasons": list(request.reasons),
        "waiting_for": waits or None,
        "demonstration": task.demonstration,
        "quote": None if quote is None else views.quote_view(quote).model_dump(),
    }


def headers(snapshot: Snapshot, now_ms: int) -> dict[str, str]:
    """Return the headers of an answer about a task. One that is not final says when to read it again."""
    task = snapshot.task
    found = {"x-llm-server-task-id": task.task_id, "x-llm-server-mode": task.mode.value}
    if task.engine is not None:
        found["x-llm-server-engine"] = task.engine
    if task.status.is_final:
        found["x-llm-server-cost-microusd"] = str(task.receipt.cost_microusd)
    else:
        wait_s = retry_after_s(task, now_ms)
        found |= {"Retry-After": str(wait_s), "openai-poll-after-ms": str(wait_s * 1000)}
    if task.demonstration:
        found["LLM-Server-Demonstration"] = "true"
    return found
