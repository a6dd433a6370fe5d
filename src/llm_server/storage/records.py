"""How records are written as JSON text: one form for every store.

Records change by adding (ADR 18). A field that this version does not know is skipped. A word that it does not know,
such as a status that a newer version added, makes the record unreadable here; it is left alone for the newer version.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

import msgspec

from llm_server.orchestration.domain.api_key import Key
from llm_server.orchestration.domain.engine_state import EngineState, EngineSwitch
from llm_server.orchestration.domain.errors import InvalidInput, RecordUnreadable
from llm_server.orchestration.domain.output import Output, OutputKey, OutputKind, Review
from llm_server.orchestration.domain.ports import IdempotencyBinding
from llm_server.orchestration.domain.receipt import Attempt, Receipt
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task, TaskRef

MAX_NAME_BYTES = 1_000

_Record = TypeVar("_Record")
_TASK_DEFAULTS = {f.name: f.default for f in fields(Task)} | {"receipt": Receipt()}
_OUTPUT_FIELDS = tuple(f.name for f in fields(Output))
_ATTEMPT_FIELDS = tuple(f.name for f in fields(Attempt))
_RARE = {"failover_from": None, "probe": False, "failure": None, "demonstration": False}
"""Fields of an attempt that most have at these values: they are left out then, because a unit holds 1 KB."""
_KIND_WORDS = {
    OutputKind.PLAN: "PLAN",
    OutputKind.DRAFT: "DRAFT",
    OutputKind.VERDICT: "VERDICT",
    OutputKind.STEP: "STEP",
    OutputKind.ANSWER: "RES",
    OutputKind.TRY: "TRY",
}
"""What an output's kind is called in a storage key."""
_KINDS = {word: kind for kind, word in _KIND_WORDS.items()}


class _StoredOutput(msgspec.Struct, kw_only=True):
    """An output as it is stored: its key is text."""

    key: str
    created_ms: int
    text: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    review: Review | None = None
    fence: int = 0


_TASK = msgspec.json.Decoder(Task)
_REQUEST = msgspec.json.Decoder(Request)
_OUTPUT = msgspec.json.Decoder(_StoredOutput)
_ENGINE_STATE = msgspec.json.Decoder(EngineState)
_ENGINE_SWITCH = msgspec.json.Decoder(EngineSwitch)
_KEY = msgspec.json.Decoder(Key)
_IDEMPOTENCY_BINDING = msgspec.json.Decoder(IdempotencyBinding)


def encode(record: Task | Request | Output | EngineState | EngineSwitch | Key | IdempotencyBinding) -> str:
    """A record as JSON. A task's fields at their defaults are left out: its state is written thrice, a unit is 1 KB."""
    if isinstance(record, Task):
        said = {name: value for name in _TASK_DEFAULTS if (value := getattr(record, name)) != _TASK_DEFAULTS[name]}
        return msgspec.json.encode(said).decode()
    if isinstance(record, Output):
        stored = {name: getattr(record, name) for name in _OUTPUT_FIELDS}
        stored |= {"key": output_key_text(record.key), "attempts": [_stored_attempt(a) for a in record.attempts]}
        return msgspec.json.encode(stored).decode()
    return msgspec.json.encode(record).decode()


def task(body: str) -> Task:
    """Read a task's state. Raises RecordUnreadable, as all functions here that read a record."""
    return _decoded(_TASK, body)


def readable_task(body: str) -> Task | None:
    """Read a task's state; None where this version cannot, for callers that go on with the other tasks."""
    try:
        return task(body)
    except RecordUnreadable:
        return None


def request(body: str) -> Request:
    return _decoded(_REQUEST, body)


def output(body: str) -> Output:
    stored = _decoded(_OUTPUT, body)
    values = {name: getattr(stored, name) for name in _OUTPUT_FIELDS}
    attempts = tuple(_with_facts(attempt) for attempt in stored.attempts)
    return Output(**values | {"key": parse_output_key(stored.key), "attempts": attempts})


def engine_state(body: str) -> EngineState:
    return _decoded(_ENGINE_STATE, body)


def engine_switch(body: str) -> EngineSwitch:
    return _decoded(_ENGINE_SWITCH, body)


def api_key(body: str) -> Key:
    return _decoded(_KEY, body)


def idempotency_binding(body: str) -> IdempotencyBinding:
    return _decoded(_IDEMPOTENCY_BINDING, body)


def output_key_text(key: OutputKey) -> str:
    """An output's key as both stores write it: `PLAN`, `DRAFT#<step>#<n>`, `STEP#<step>`, `RES#<fence>`, ..."""
    match key.kind:
        case OutputKind.PLAN:
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
    """Read an output's key; one of a kind that only a newer version knows is kept as it is (`OutputKind.OTHER`)."""
    match text.split("#"):
        case ["PLAN"]:
            return OutputKey(OutputKind.PLAN)
        case ["STEP", step]:
            return OutputKey.of_step(step)
        case ["DRAFT" | "VERDICT" as word, step, number] if number.isdecimal():
            return OutputKey(_KINDS[word], step, int(number))
        case ["RES" | "TRY" as word, fence] if fence.isdecimal():
            return OutputKey(_KINDS[word], number=int(fence))
        case _:
            return OutputKey(OutputKind.OTHER, text)


def is_name(ref: TaskRef) -> bool:
    """Whether a task can have this name at all; strangers ask for any, and no key holds every text."""
    try:
        return len(str(ref).encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def listing_key(task: Task) -> str:
    """Sorts a tenant's tasks by time of creation; also what a page token stands for."""
    return f"{task.created_ms:015d}#{task.task_id}"


def token_of(key: str) -> str:
    """A listing key as an opaque, URL-safe page token."""
    return key.encode().hex()


def key_of(token: str) -> str:
    """Read a page token back. Raises InvalidInput when this server did not give it out."""
    try:
        key = bytes.fromhex(token).decode()
    except ValueError:
        key = ""
    time, separator, task_id = key.partition("#")
    if not (time.isascii() and time.isdigit() and len(time) == 15 and separator and task_id):
        raise InvalidInput("page_token", "The page_token is none that this server gave out.")
    return key


def _decoded(decoder: msgspec.json.Decoder[_Record], body: str) -> _Record:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise RecordUnreadable from error


def _stored_attempt(attempt: Attempt) -> dict[str, object]:
    said = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
    return {name: value for name, value in said.items() if name not in _RARE or value != _RARE[name]}


def _with_facts(attempt: Attempt) -> Attempt:
    """Read `failover_from` and `probe` out of the sentence `why` where they are missing: 0.1.0 stored nothing else.

    The sentence was "failover from gpt", or "failover from gpt, probe". The history of a task is told from the two
    fields; without them it would lose events when the server is updated.
    """
    reason = attempt.why.removesuffix(", probe")
    failed = reason.removeprefix("failover from ")
    if attempt.failover_from is not None or attempt.probe or failed == attempt.why:
        return attempt
    return replace(attempt, failover_from=failed if failed != reason else None, probe=reason != attempt.why)
