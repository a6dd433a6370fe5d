"""Every failure the server knows, by what the caller can do about it.

LLMServerError
├── InvalidInput          change the input; `field` names where
│   └── UnknownName       use one of the known names
├── Unauthenticated       send a key that this server knows
├── ScopeMissing          use a key that has the scope
├── KeyNotFound           check the key's id
├── KeyConflict           read the key again: it is revoked or expired, or others are changing it
├── QuotaExceeded         come again: a limit of the caller's key is used up; `retry_after_s`
│   └── TooManyInFlight   wait for one of the tasks to end
├── TaskNotFound          check the id
├── EngineNotFound        use one of the known names
├── StateConflict         read the task again: its state does not allow what was asked
│   └── ApprovalConflict  there is nothing to approve, or another plan
├── IllegalTransition     a bug: a task was asked to leave a final state
├── NotClaimable          a worker: acknowledge the message, nothing to do
│   ├── TaskUnapproved    its plan waits for its caller's word
│   ├── TaskBusy          another worker's lease has not ended
│   └── TaskFinished      the task is final
├── TaskLost              a worker: stop, somebody else has changed the task since
├── TaskCancelled         a worker: stop, the task's caller wants it no more
├── EngineUnavailable     another engine may answer, or this one later
├── PromptRefused         no engine will answer this prompt
├── LimitReached          a limit of the task, or of its key, forbids the next call
│   └── MoneySetAside     the same call may fit when others of the key have ended
├── OutOfTime             the worker's time is over; the rest is for the next delivery
├── DownloadFailed        a model file was not fetched; the message says whether to try again
├── RecordUnreadable      leave the record alone: a newer version wrote it, or it is damaged
├── StorageUnavailable    the store or the queue cannot be reached; try again
│   └── StorageMisconfigured  its operator: mend what `cause` says; trying again never helps
└── ConfigurationError    fix the setting or the configuration file it names
"""

from collections.abc import Collection
from typing import Literal


class LLMServerError(Exception):
    """Base of every error here; the message is one sentence fit to be shown to a caller."""


class InvalidInput(LLMServerError):
    """The caller can fix the field that is named."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownName(InvalidInput):
    """The caller named a profile, role or engine that is not configured."""

    def __init__(self, field: str, name: str, known: Collection[str]) -> None:
        super().__init__(field, _unknown(field, name, known))


class Unauthenticated(LLMServerError):
    """The call has no key, or one that is unknown, wrong, revoked or expired; the message is the same for all."""

    def __init__(self) -> None:
        super().__init__("A valid API key is needed: send it as Authorization: Bearer llms_..., or as X-Api-Key.")


class ScopeMissing(LLMServerError):
    """The key is good, but not for this."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"The key lacks the scope {scope}, which this call needs.")


class KeyNotFound(LLMServerError):
    """No key has this id."""

    def __init__(self) -> None:
        super().__init__("No key has this id.")


class KeyConflict(LLMServerError):
    """The key's state does not allow the change: it is revoked or expired, or others are changing it."""


class QuotaExceeded(LLMServerError):
    """A limit of the caller's key is used up; the same call may succeed in `retry_after_s` seconds.

    `requests`: how many of them the key allows in a minute, where that is the limit.
    """

    def __init__(self, message: str, *, retry_after_s: int, requests: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.requests = requests


class TooManyInFlight(QuotaExceeded):
    """The key has as many open tasks as it allows; the next fits when one of them has ended."""

    RETRY_AFTER_S = 5

    def __init__(self, most: int) -> None:
        detail = f"The key allows {most} tasks in flight, and so many are; wait for one to end."
        super().__init__(detail, retry_after_s=self.RETRY_AFTER_S)


class TaskNotFound(LLMServerError):
    """No such task in the caller's tenant; a foreign id answers the same."""

    def __init__(self) -> None:
        super().__init__("No task has this id.")


class EngineNotFound(LLMServerError):
    """The engine that was to be switched is not configured."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(_unknown("engine", name, known))


class StateConflict(LLMServerError):
    """The task is not in a state that allows what its caller asks."""


class ApprovalConflict(StateConflict):
    """The task does not wait for this decision, or its plan is not the one the caller has seen."""


class IllegalTransition(LLMServerError):
    """A final task never changes."""

    def __init__(self, task_id: str, status: str, wanted: str) -> None:
        super().__init__(f"Task {task_id} is {status} and cannot become {wanted}.")


class NotClaimable(LLMServerError):
    """A worker has nothing to do for this message."""


class TaskBusy(NotClaimable):
    """Another worker owns the task until its lease ends."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} is being processed.")


class TaskUnapproved(NotClaimable):
    """The task's plan waits to be approved."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} waits for its plan to be approved.")


class TaskFinished(NotClaimable):
    """The task has its final state."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} is finished.")


class TaskLost(LLMServerError):
    """The stored task is not the one this write started from; nothing was written."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} was changed by somebody else.")


class TaskCancelled(LLMServerError):
    """The task was cancelled before an engine call, or during it; then the engine may bill what it was asked."""

    may_be_billed = True

    def __init__(self) -> None:
        super().__init__("The task was cancelled.")


class EngineUnavailable(LLMServerError):
    """This engine did not answer; another one may.

    `kind` is one of:
    - `busy`: it answered 408, 409, 429 or 5xx, broke off its answer, or may not be asked now;
    - `timeout`: our own time limit ended the call; a status such as 504 that says so of the engine is `busy`;
    - `unreachable`: there is no connection, also when connecting took too long;
    - `credentials`: it answered 401, 402 or 403, or there is no key;
    - `garbage`: it answered, but not with a completion.

    `outage`: the engine would have refused any prompt. A time-out, a crash or a 500 may be caused by this prompt, so
    it is not an outage. `may_be_billed`: the engine had the prompt, and it is not known what it charges for it.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["busy", "timeout", "unreachable", "credentials", "garbage"] = "busy",
        retry_after_s: float | None = None,
        outage: bool = False,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.outage = outage or kind in ("unreachable", "credentials")
        self.may_be_billed = may_be_billed
        self.kind = kind
        self.retry_after_s = retry_after_s


class PromptRefused(LLMServerError):
    """No engine will answer this prompt: too long, refused content, bad request.

    The tokens are those the engine billed, as far as it told; `may_be_billed`: it did not tell.
    """

    def __init__(self, message: str, *, tokens_in: int = 0, tokens_out: int = 0, may_be_billed: bool = False) -> None:
        super().__init__(message)
        self.may_be_billed = may_be_billed
        self.tokens_in = tokens_in
        self.tokens_out = tokens_out


class LimitReached(LLMServerError):
    """A limit of the task, or of the key it is charged to, leaves no room for the next engine call."""


class MoneySetAside(LimitReached):
    """What is left of the key's day is set aside for other calls, and may come back; or nobody can tell just now."""

    def __init__(self) -> None:
        super().__init__("What is left of usd_per_day is set aside for other calls of the key.")


class OutOfTime(LLMServerError):
    """Too little of the worker's time is left for another engine call."""


class DownloadFailed(LLMServerError):
    """A model file could not be fetched, or is not the file its checksum names."""


class RecordUnreadable(LLMServerError):
    """A stored record does not fit what this version knows.

    While two versions run on one table, the newer one can read it; so the same call may succeed later.
    """

    def __init__(self) -> None:
        super().__init__("The record was written by a newer version of the server, or it is damaged.")


class StorageUnavailable(LLMServerError):
    """The store or the queue did not answer; nothing is known to have been written."""


class StorageMisconfigured(StorageUnavailable):
    """The store will not answer before its operator has mended something; `cause` says what, and is not for callers."""

    def __init__(self, cause: str) -> None:
        super().__init__("The server cannot use its database; its log says why.")
        self.cause = cause


class ConfigurationError(LLMServerError):
    """A setting or the configuration file is wrong; the message names it and what is allowed."""


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    shown = name if len(name) <= 60 else name[:60] + "…"
    return f"Unknown {kind} {shown!r}; known are {', '.join(sorted(known))}."
