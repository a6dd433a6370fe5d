"""Reads and writes every record as JSON text, in one form for both stores.

A record changes only by adding fields (ADR 18). A field that this version does not know is skipped. A value that it
does not know, such as a status that a newer version added, makes the record unreadable; it is left unchanged.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TypeVar

import msgspec
from msgspec.structs import fields, replace

from llm_server.orchestration.domain.api_key import Key
from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.engines.allowed import without_unset_sources
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.engines.state import EngineState, EngineSwitch
from llm_server.orchestration.domain.errors import RecordUnreadable
from llm_server.orchestration.domain.output import Output, OutputKey, OutputKind, Review
from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import call_records as calls

MAX_NAME_BYTES = 1_000

_Record = TypeVar("_Record")
_TASK_DEFAULTS = {
    f.name: f.default if f.default_factory is msgspec.NODEFAULT else f.default_factory() for f in fields(Task)
}
_TASK_VALUES = attrgetter(*_TASK_DEFAULTS)
_OUTPUT_FIELDS = tuple(f.name for f in fields(Output))
_OUTPUT_VALUES = attrgetter(*_OUTPUT_FIELDS)
_REQUEST_FIELDS = tuple(f.name for f in fields(Request))
_REQUEST_VALUES = attrgetter(*_REQUEST_FIELDS)
_RARE_OF_REQUEST: dict[str, object] = {
    "undecided": (),
    "stream": False,
    "previous_task_id": None,
    "conversation_id": None,
    "earlier": (),
    "turns_before": 0,
    "messages": (),
    "instructions": "",
    "tools": (),
    "tool_choice": None,
    "output_schema": None,
    "needs_before": (),
}
"""Fields of a request that are not stored if they have these values."""
_KIND_WORDS = {
    OutputKind.TRIAGE: "TRIAGE",
    OutputKind.PLAN: "PLAN",
    OutputKind.DRAFT: "DRAFT",
    OutputKind.VERDICT: "VERDICT",
    OutputKind.STEP: "STEP",
    OutputKind.ANSWER: "RES",
    OutputKind.TRY: "TRY",
}
"""The word for an output's kind in a storage key."""
_KINDS = {word: kind for kind, word in _KIND_WORDS.items()}


class _StoredOutput(msgspec.Struct, kw_only=True):
    """An output in its stored form: the key is text."""

    key: str
    created_ms: int
    text: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    review: Review | None = None
    fence: int = 0
    rev: int = 0
    tool_calls: tuple[ToolCall, ...] = ()


_TASK = msgspec.json.Decoder(Task)
_REQUEST = msgspec.json.Decoder(Request)
_OUTPUT = msgspec.json.Decoder(_StoredOutput)
_ENGINE_STATE = msgspec.json.Decoder(EngineState)
_ENGINE_SWITCH = msgspec.json.Decoder(EngineSwitch)
_KEY = msgspec.json.Decoder(Key)
_CONVERSATION = msgspec.json.Decoder(Conversation)
_IDEMPOTENCY_BINDING = msgspec.json.Decoder(IdempotencyBinding)
_ORIGINAL = msgspec.json.Decoder(Original)


def encode(
    record: Task | Request | Output | EngineState | EngineSwitch | Key | IdempotencyBinding | Original | Conversation,
) -> str:
    """Return a record as JSON.

    Fields of a task that have their default value are left out: a state is written at least three times, and DynamoDB
    charges a write unit for each 1 KB. For the same reason, a request without a limit of sources stores none, and
    rare fields are left out.
    """
    if isinstance(record, Task):
        values = zip(_TASK_DEFAULTS.items(), _TASK_VALUES(record), strict=True)
        stored = {name: value for (name, default), value in values if value is not default and value != default}
        if stored.pop("pending", None):
            stored |= calls.stored_pending(record)
        return msgspec.json.encode(stored).decode()
    if isinstance(record, Output):
        stored = dict(zip(_OUTPUT_FIELDS, _OUTPUT_VALUES(record), strict=True))
        stored |= {"key": output_key_text(record.key), "attempts": [calls.stored_attempt(a) for a in record.attempts]}
        if not record.rev:
            del stored["rev"]
        if not record.tool_calls:
            del stored["tool_calls"]
        return msgspec.json.encode(stored).decode()
    if isinstance(record, Request):
        stored = calls.without_rare(_REQUEST_FIELDS, _REQUEST_VALUES(record), _RARE_OF_REQUEST)
        stored |= {"limits": without_unset_sources(record.limits)}
        return msgspec.json.encode(stored).decode()
    return msgspec.json.encode(record).decode()


def task(body: str) -> Task:
    """Read a task's state. Like every function here that reads a record, it raises RecordUnreadable."""
    task = _decoded(_TASK, body)
    if '"announced":' not in body:
        return task
    return replace(task, pending=calls.pending(_decoded(calls.PENDING, body), task.created_ms))


def readable_task(body: str) -> Task | None:
    """Read a task's state, or return None if this version cannot; for callers that go on with the other tasks."""
    try:
        return task(body)
    except RecordUnreadable:
        return None


def request(body: str) -> Request:
    return _decoded(_REQUEST, body)


def output(body: str) -> Output:
    stored = _decoded(_OUTPUT, body)
    values = {name: getattr(stored, name) for name in _OUTPUT_FIELDS}
    attempts = tuple(calls.with_facts(attempt) for attempt in stored.attempts)
    return Output(**values | {"key": parse_output_key(stored.key), "attempts": attempts})


def engine_state(body: str) -> EngineState:
    return _decoded(_ENGINE_STATE, body)


def engine_switch(body: str) -> EngineSwitch:
    return _decoded(_ENGINE_SWITCH, body)


def api_key(body: str) -> Key:
    return _decoded(_KEY, body)


def original(body: str) -> Original:
    return _decoded(_ORIGINAL, body)


def idempotency_binding(body: str) -> IdempotencyBinding:
    return _decoded(_IDEMPOTENCY_BINDING, body)


def conversation(body: str) -> Conversation:
    return _decoded(_CONVERSATION, body)


def output_key_text(key: OutputKey) -> str:
    """Return an output's key as both stores write it: `TRIAGE`, `PLAN`, `DRAFT#<step>#<n>`, `STEP#<step>`, ..."""
    match key.kind:
        case OutputKind.PLAN | OutputKind.TRIAGE:
            return _KIND_WORDS[key.kind]
        case OutputKind.STEP:
            return f"{_KIND_WORDS[key.kind]}#{key.step}"
        case OutputKind.DRAFT | OutputKind.VERDICT:
            return f"{_KIND_WORDS[key.kind]}#{key.step}#{key.number}"
        case OutputKind.ANSWER | OutputKind.TRY:
            return f"{_KIND_WORDS[key.kind]}#{key.number}"
        case OutputKind.OTHER:
            return key.step


def parse_output_key(text: str) -> OutputKey:
    """Read an output's key. A key of a kind that only a newer version knows is kept unchanged (`OutputKind.OTHER`)."""
    match text.split("#"):
        case ["PLAN" | "TRIAGE" as word]:
            return OutputKey(_KINDS[word])
        case ["STEP", step]:
            return OutputKey.of_step(step)
        case ["DRAFT" | "VERDICT" as word, step, number] if number.isdecimal():
            return OutputKey(_KINDS[word], step, int(number))
        case ["RES" | "TRY" as word, fence] if fence.isdecimal():
            return OutputKey(_KINDS[word], number=int(fence))
        case _:
            return OutputKey(OutputKind.OTHER, text)


def is_name(ref: TaskRef) -> bool:
    """Return whether a task can have this name. Callers may ask for any text; a database key cannot hold all."""
    try:
        return len(str(ref).encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _decoded(decoder: msgspec.json.Decoder[_Record], body: str) -> _Record:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise RecordUnreadable from error
