"""How records are written as JSON text: one form for every store."""

from __future__ import annotations

from dataclasses import fields, replace

import msgspec

from llm_server.orchestration.domain.api_key import Key
from llm_server.orchestration.domain.engine_state import EngineState, EngineSwitch
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports import KeyBinding
from llm_server.orchestration.domain.receipt import Attempt, Receipt
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.task import Task, TaskRef

TASK = msgspec.json.Decoder(Task)
REQUEST = msgspec.json.Decoder(Request)
ENGINE_STATE = msgspec.json.Decoder(EngineState)
ENGINE_SWITCH = msgspec.json.Decoder(EngineSwitch)
KEY = msgspec.json.Decoder(Key)
KEY_BINDING = msgspec.json.Decoder(KeyBinding)

NAME_MOST_BYTES = 1_000


class _OutputDecoder:
    """Reads an output, also one that 0.1.0 stored."""

    _decoder = msgspec.json.Decoder(Output)

    def decode(self, body: str) -> Output:
        output = self._decoder.decode(body)
        return replace(output, attempts=tuple(_with_facts(attempt) for attempt in output.attempts))


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


OUTPUT = _OutputDecoder()

_DEFAULTS = {f.name: f.default for f in fields(Task)} | {"receipt": Receipt()}
_OUTPUT_FIELDS = tuple(f.name for f in fields(Output))
_ATTEMPT_FIELDS = tuple(f.name for f in fields(Attempt))
_RARE = {"failover_from": None, "probe": False}
"""Fields of an attempt that most have at these values: they are left out then, because a unit holds 1 KB."""


def encode(record: Task | Request | Output | EngineState | EngineSwitch | Key | KeyBinding) -> str:
    """A task's state without what is at its default: it is written thrice a task, and a unit holds 1 KB."""
    if isinstance(record, Task):
        said = {name: value for name in _DEFAULTS if (value := getattr(record, name)) != _DEFAULTS[name]}
        return msgspec.json.encode(said).decode()
    if isinstance(record, Output):
        attempts = [_attempt(attempt) for attempt in record.attempts]
        said = {name: getattr(record, name) for name in _OUTPUT_FIELDS} | {"attempts": attempts}
        return msgspec.json.encode(said).decode()
    return msgspec.json.encode(record).decode()


def _attempt(attempt: Attempt) -> dict[str, object]:
    said = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
    return {name: value for name, value in said.items() if name not in _RARE or value != _RARE[name]}


def readable(body: str) -> Task | None:
    """A task's state, None for one of a newer version or a damaged one."""
    try:
        return TASK.decode(body)
    except msgspec.MsgspecError:
        return None


def is_name(ref: TaskRef) -> bool:
    """Whether a task can have this name at all; strangers ask for any, and no key holds every text."""
    try:
        return len(str(ref).encode()) <= NAME_MOST_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def listing_key(task: Task) -> str:
    """Sorts a tenant's tasks by time of creation; also what a page token stands for."""
    return f"{task.created_ms:015d}#{task.task_id}"


def token_of(key: str) -> str:
    """A listing key as an opaque, URL-safe page token."""
    return key.encode().hex()


def key_of(token: str) -> str:
    """Read a page token back. Raises InvalidInput when it is none of ours."""
    try:
        key = bytes.fromhex(token).decode()
    except ValueError:
        key = ""
    time, separator, task_id = key.partition("#")
    if not (time.isascii() and time.isdigit() and len(time) == 15 and separator and task_id):
        raise InvalidInput("page_token", "The page_token is none that this server gave out.")
    return key
