"""All errors of the server, each with what its receiver can do about it.

LLMServerError
├── InvalidInput          change the input; `field` names the part that is wrong
│   └── UnknownName       use one of the known names
├── Unauthenticated       send a key that this server knows
├── ScopeMissing          use a key that has the scope
├── KeyNotFound           check the key's id
├── KeyConflict           read the key again: it is revoked or expired, or other calls are changing it
├── QuotaExceeded         wait `retry_after_s` seconds: a limit of the caller's key is used up
│   ├── TooManyRequests   wait for the next minute
│   ├── TooManyInFlight   wait for one of the tasks to end
│   ├── DailyBudgetSpent  wait for the next UTC day
│   └── DailyBudgetReserved  wait for the key's running calls to end
├── TaskNotFound          check the id
├── ConversationNotFound  check the id
├── EngineNotFound        use one of the known names
├── StateConflict         read the task again: its state does not allow the call
│   ├── ConversationBusy  wait for the last task of the conversation to end
│   └── ApprovalConflict  read the plan again: it cannot be decided on as asked
├── IllegalTransition     a bug: a task was asked to leave a final state
├── NotClaimable          a worker: acknowledge the message, there is no work to do
│   ├── TaskUnapproved    the task's plan waits for approval
│   ├── TaskBusy          another worker's lease has not ended
│   ├── TaskWaiting       the task waits for an engine, and none is back
│   └── TaskFinished      the task is final
├── TaskLost              a worker: stop, another writer has changed the task
├── TaskCancelled         a worker: stop, the task was cancelled
├── EngineUnavailable     another engine may answer, or this one later
├── PromptRefused         no engine will answer this prompt
├── LimitReached          a limit of the task, or of its key, forbids the next call
│   └── MoneySetAside     the same call may fit when other calls of the key have ended
├── OutOfTime             the worker's time is over; the next delivery does the rest
├── TooSlow               give engine calls more time: each engine that may be asked has timed out
├── DownloadFailed        a model file was not fetched; the message says whether to try again
├── RecordUnreadable      leave the record alone: a newer version wrote it, or it is damaged
├── StorageUnavailable    the store or the queue cannot be reached; try again
│   ├── StorageMisconfigured  the operator has to fix what `cause` says
│   └── StorageBroken     the operator has to repair the database file, as `cause` says
│       ├── StorageDamaged  its content is wrong
│       └── StorageMissing  it was removed, replaced or emptied while the server runs
└── ConfigurationError    fix the setting or the configuration file that the message names

A class whose errors are sent to HTTP callers has a `code`: a word that never changes, so that programs can compare it.
If a class has several causes, each cause has its own code. docs/api.md describes them all.
"""

from collections.abc import Collection
from typing import ClassVar, Literal

from llm_server.orchestration.domain.engines.usage import Usage

InputCode = Literal[
    "invalid_input",
    "unknown_name",
    "unknown_parameter",
    "repeated_parameter",
    "engine_not_usable",
    "sources_not_usable",
    "content_not_usable",
    "tool_results_invalid",
    "idempotency_key_reused",
]
ConflictCode = Literal[
    "task_final",
    "task_not_failed",
    "task_in_progress",
    "task_changing",
    "sources_conflict",
    "idempotency_key_task_deleted",
    "previous_task_open",
    "previous_task_not_completed",
    "conversation_busy",
    "conversation_full",
]
ApprovalCode = Literal["no_plan_awaiting_approval", "plan_changed", "plan_already_decided", "deadline_passed"]
KeyConflictCode = Literal["key_revoked", "key_expired", "key_changing"]
EngineFailureKind = Literal["busy", "timeout", "unreachable", "credentials", "garbage"]


class LLMServerError(Exception):
    """The base of every error here. The message is one sentence that may be shown to a caller."""


class InvalidInput(LLMServerError):
    """A field of the input is wrong. `field` names it, and the caller can correct it.

    `within` is the field whose object contains it; "" for a field of the input itself.
    """

    def __init__(self, field: str, message: str, *, within: str = "", code: InputCode = "invalid_input") -> None:
        super().__init__(message)
        self.field = field
        self.within = within
        self.code = code


class UnknownName(InvalidInput):
    """The caller named a profile, role or engine that is not configured."""

    def __init__(self, field: str, name: str, known: Collection[str]) -> None:
        super().__init__(field, _unknown(field, name, known), code="unknown_name")


class Unauthenticated(LLMServerError):
    """The call has no key, or one that is unknown, wrong, revoked or expired; the message is the same for all."""

    code: ClassVar = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("A valid API key is needed: send it as Authorization: Bearer llms_..., or as X-Api-Key.")


class ScopeMissing(LLMServerError):
    """The key is valid, but does not have the scope that the call needs."""

    code: ClassVar = "scope_missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"The key lacks the scope {scope}, which this call needs.")


class KeyNotFound(LLMServerError):
    """No key has this id."""

    code: ClassVar = "key_not_found"

    def __init__(self) -> None:
        super().__init__("No key has this id.")


class KeyConflict(LLMServerError):
    """The key's state does not allow the change: it is revoked or expired, or other calls are changing it."""

    def __init__(self, message: str, *, code: KeyConflictCode) -> None:
        super().__init__(message)
        self.code = code


class QuotaExceeded(LLMServerError):
    """A limit of the caller's key is used up. The same call may succeed in `retry_after_s` seconds."""

    code: ClassVar[str]

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(QuotaExceeded):
    """The key's requests of this minute are used up; `max_requests` is how many it allows in a minute."""

    code: ClassVar = "requests_per_minute_exceeded"

    def __init__(self, max_requests: int, *, retry_after_s: int) -> None:
        detail = f"The key allows {max_requests} requests a minute, and they are used up."
        super().__init__(detail, retry_after_s=retry_after_s)
        self.max_requests = max_requests


class TooManyInFlight(QuotaExceeded):
    """The key has as many open tasks as it allows. The next one fits when one of them has ended."""

    RETRY_AFTER_S = 5
    code: ClassVar = "tasks_in_flight_exceeded"

    def __init__(self, max_in_flight: int) -> None:
        detail = f"The key allows {max_in_flight} tasks in flight, and it has that many; wait for one to end."
        super().__init__(detail, retry_after_s=self.RETRY_AFTER_S)


class DailyBudgetSpent(QuotaExceeded):
    """The key's `usd_per_day` is spent until the next UTC day; `limit` is that amount in USD."""

    code: ClassVar = "usd_per_day_spent"

    def __init__(self, limit: str, *, retry_after_s: int) -> None:
        detail = f"The key's usd_per_day of {limit} is used up for this UTC day."
        super().__init__(detail, retry_after_s=retry_after_s)


class DailyBudgetReserved(QuotaExceeded):
    """The rest of the key's `usd_per_day` is reserved for calls that have not ended."""

    code: ClassVar = "usd_per_day_reserved"

    def __init__(self, limit: str, *, retry_after_s: int) -> None:
        detail = f"The rest of the key's usd_per_day limit of {limit} is reserved for calls in progress."
        super().__init__(detail, retry_after_s=retry_after_s)


class TaskNotFound(LLMServerError):
    """The caller's tenant has no task with this id. The id of another tenant's task gets the same answer."""

    code: ClassVar = "task_not_found"

    def __init__(self) -> None:
        super().__init__("No task has this id.")


class ConversationNotFound(LLMServerError):
    """The tenant has no conversation with this id."""

    code: ClassVar = "conversation_not_found"

    def __init__(self) -> None:
        super().__init__("No conversation has this id.")


class EngineNotFound(LLMServerError):
    """No engine with this name is configured."""

    code: ClassVar = "engine_not_found"

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(_unknown("engine", name, known))


class StateConflict(LLMServerError):
    """The task's state does not allow the call."""

    def __init__(self, message: str, *, code: ConflictCode | ApprovalCode) -> None:
        super().__init__(message)
        self.code = code


class ConversationBusy(StateConflict):
    """A task of the conversation is open, or another caller has just added one."""

    def __init__(self) -> None:
        super().__init__("A task of the conversation is not final; the next one follows it.", code="conversation_busy")


class ApprovalConflict(StateConflict):
    """The task does not wait for this decision, or its plan is not the one that the caller has seen."""

    def __init__(self, message: str, *, code: ApprovalCode) -> None:
        super().__init__(message, code=code)


class IllegalTransition(LLMServerError):
    """A task in a final state was asked to change its state."""

    def __init__(self, task_id: str, status: str, wanted: str) -> None:
        super().__init__(f"Task {task_id} is {status} and cannot become {wanted}.")


class NotClaimable(LLMServerError):
    """There is no work to do for this message."""


class TaskBusy(NotClaimable):
    """Another worker owns the task until its lease ends."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} is being processed.")


class TaskUnapproved(NotClaimable):
    """The task's plan waits to be approved."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} waits for its plan to be approved.")


class TaskWaiting(NotClaimable):
    """The task waits for an engine, and no engine is back; a later message is on its way."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} waits for an engine.")


class TaskFinished(NotClaimable):
    """The task is final."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} is finished.")


class TaskLost(LLMServerError):
    """The stored task changed after it was read for this write; nothing was written."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} was changed by another writer.")


class TaskCancelled(LLMServerError):
    """The task was cancelled before an engine call, or during one. The engine may still bill a call that had begun.

    `usage` is that of a streamed answer as far as it is known; if it is not an estimate, it is all that is billed.
    """

    def __init__(self, usage: Usage | None = None) -> None:
        super().__init__("The task was cancelled.")
        self.usage = usage
        self.may_be_billed = usage is None or usage.estimated


class EngineUnavailable(LLMServerError):
    """This engine did not answer; another one may.

    `kind` is one of:
    - `busy`: the engine answered 408, 409, 429 or 5xx, broke off its answer, or may not be asked now;
    - `timeout`: the server's own time limit ended the call (an engine that answers 504 is `busy`);
    - `unreachable`: the server could not connect, or connecting took too long;
    - `credentials`: the engine answered 401, 402 or 403, or no key is configured;
    - `garbage`: the engine answered with something that is not a completion.

    `outage`: the engine would have refused any prompt. A time-out, a crash or a 500 may be caused by this prompt, so
    it is not an outage. `may_be_billed`: the engine received the prompt, and it is unknown what it charges for it.
    `usage` is what is known of the tokens of an answer that broke off; if it is not an estimate, it is what is charged.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: EngineFailureKind = "busy",
        retry_after_s: float | None = None,
        outage: bool = False,
        may_be_billed: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.usage = usage
        self.outage = outage or kind in ("unreachable", "credentials")
        self.may_be_billed = may_be_billed
        self.kind = kind
        self.retry_after_s = retry_after_s


class PromptRefused(LLMServerError):
    """No engine will answer this prompt: it is too long, its content was refused, or the request is not valid.

    `usage` is what the engine billed, as far as it reported that. `may_be_billed`: it may bill more.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, may_be_billed: bool = False) -> None:
        super().__init__(message)
        self.may_be_billed = may_be_billed
        self.usage = usage or Usage()


class LimitReached(LLMServerError):
    """A limit of the task, or of the key it is charged to, leaves no room for the next engine call."""


class MoneySetAside(LimitReached):
    """What is left of the key's day is reserved for other calls and may come back, or the ledger cannot be reached."""

    def __init__(self) -> None:
        super().__init__("What is left of usd_per_day is set aside for other calls of the key.")


class OutOfTime(LLMServerError):
    """Too little of the worker's time is left for another engine call."""


class InvalidResult(LLMServerError):
    """No engine that may be asked gave a result that follows the caller's schema."""


class TooSlow(LLMServerError):
    """Every engine that the task may use has timed out on a call. To repeat the call would only cost more."""


class DownloadFailed(LLMServerError):
    """A model file could not be fetched, or its checksum is not the configured one."""


class RecordUnreadable(LLMServerError):
    """This version cannot read a stored record.

    While two versions run on one table, the newer one can read it, so the same call may succeed later.
    """

    code: ClassVar = "record_unreadable"

    def __init__(self) -> None:
        super().__init__("The record was written by a newer version of the server, or it is damaged.")


class StorageUnavailable(LLMServerError):
    """The store or the queue did not answer. It is unknown whether anything was written."""

    code: ClassVar = "storage_unavailable"


class StorageMisconfigured(StorageUnavailable):
    """The store cannot be used until the operator fixes what `cause` says. `cause` is not shown to callers."""

    code: ClassVar = "storage_misconfigured"

    def __init__(self, cause: str) -> None:
        super().__init__("The server cannot use its database; its log says why.")
        self.cause = cause


class StorageBroken(StorageUnavailable):
    """The operator has to repair the database file. `cause` has its path and what to do; it is not shown to callers."""

    code: ClassVar[str]

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class StorageDamaged(StorageBroken):
    """A page of the database file is damaged. Calls that do not need that page still succeed."""

    code: ClassVar = "storage_damaged"

    def __init__(self, file: str, cause: str) -> None:
        advice = "its operator has to restore a backup or recover the file, as the server's log says"
        super().__init__(f"The server's database file {file} is damaged; {advice}.", cause)


class StorageMissing(StorageBroken):
    """The database file was removed, replaced or emptied, so a write would not last. `loss` says which."""

    code: ClassVar = "storage_missing"

    def __init__(self, file: str, loss: str, cause: str) -> None:
        advice = "its operator has to put the file back and restart the server, as the server's log says"
        super().__init__(f"The server's database file {file} {loss}, so nothing can be stored; {advice}.", cause)


class ConfigurationError(LLMServerError):
    """A setting or the configuration file is wrong. The message names it and says what is allowed."""


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    shown = name if len(name) <= 60 else name[:60] + "…"
    return f"Unknown {kind} {shown!r}; known are {', '.join(sorted(known))}."
