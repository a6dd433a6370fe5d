"""A task as a Response: every field that OpenAI's clients and Open Responses require is always there."""

from __future__ import annotations

from typing import Any, Literal

from llm_server.api.openai import ids
from llm_server.api.openai.answers import items, receipt
from llm_server.api.openai.requests.target import AUTO
from llm_server.orchestration.domain.engines.message import Tool, ToolChoice
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.quotes.quote import Quote

Document = dict[str, Any]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

_STATUSES: dict[Status, ResponseStatus] = {
    Status.QUEUED: "queued",
    Status.PROCESSING: "in_progress",
    Status.PLANNED: "in_progress",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}
_CONSTANT: Document = {
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "temperature": 1.0,
    "reasoning": None,
    "max_tool_calls": None,
    "store": True,
    "background": True,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
}
"""Fields that clients require and that no task has: what is sent in them is ignored (docs/openai.md)."""


def status_of(snapshot: Snapshot) -> ResponseStatus:
    """Return the status of a task as a response has it."""
    status = _STATUSES[snapshot.task.status]
    return "incomplete" if status == "completed" and snapshot.is_truncated else status


def response(snapshot: Snapshot, *, quote: Quote | None = None, message_id: str = "") -> Document:
    """Return a task as it is now. `message_id` is the id that a stream gave the message of the answer."""
    task = snapshot.task
    status = status_of(snapshot)
    is_cut = status == "incomplete"
    return begun(snapshot, status) | {
        "model": task.engine or _model(snapshot),
        "completed_at": task.finished_ms // 1000 if task.finished_ms and status == "completed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "error": _error(snapshot) if task.status is Status.FAILED else None,
        "output": items.output(
            task.task_id,
            snapshot.result,
            snapshot.tool_calls,
            "incomplete" if is_cut else "completed",
            message_id=message_id,
        ),
        "usage": receipt.response_usage(snapshot) if task.status.is_final else None,
        "receipt": receipt.receipt(snapshot),
        "llm_server": receipt.decision(snapshot, quote),
    }


def begun(snapshot: Snapshot, status: ResponseStatus) -> Document:
    """Return the response as it was before it had an output. It is the same whenever the task is read."""
    task, request = snapshot.task, snapshot.request
    schema = request.output_schema
    named = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True, "description": None}
    return {
        "id": ids.response(task.task_id),
        "object": "response",
        "created_at": task.created_ms // 1000,
        "completed_at": None,
        "status": status,
        "incomplete_details": None,
        "model": _model(snapshot),
        "previous_response_id": _previous(request),
        "conversation": _conversation(request),
        "instructions": request.instructions or None,
        "output": [],
        "error": None,
        "tools": [_tool(tool) for tool in request.tools],
        "tool_choice": _choice(request.tool_choice),
        "text": {"format": {"type": "text"} if schema is None else named},
        "usage": None,
        "max_output_tokens": request.limits.max_output_tokens,
        "metadata": dict(task.metadata or request.metadata),
        **_CONSTANT,
        "llm_server": {"task_id": task.task_id},
    }


def _model(snapshot: Snapshot) -> str:
    return snapshot.request.engine or AUTO


def _previous(request: Request) -> str | None:
    """Return the id of the response before. In a conversation, OpenAI's clients are told that one instead."""
    is_told = request.previous_task_id is not None and request.conversation_id is None
    return ids.response(request.previous_task_id or "") if is_told else None


def _conversation(request: Request) -> Document | None:
    return {"id": ids.conversation(request.conversation_id)} if request.conversation_id else None


def _tool(tool: Tool) -> Document:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _choice(choice: ToolChoice | None) -> Document | str:
    if choice is None:
        return "auto"
    return {"type": "function", "name": choice.name} if choice.name else choice.mode


def _error(snapshot: Snapshot) -> Document:
    """Return why a task Failed. OpenAI's clients know only some codes."""
    failed = [attempt.failure for attempt in snapshot.attempts if not attempt.answered]
    code = "invalid_prompt" if failed[-1:] == ["refused"] else "server_error"
    return {"code": code, "message": snapshot.task.error or "The task failed."}
