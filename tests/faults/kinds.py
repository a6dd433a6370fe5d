"""The kinds of faults of one call to the outside, and how each kind looks to the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from botocore.exceptions import ClientError, ReadTimeoutError

from llm_server.orchestration.domain.errors import EngineUnavailable, StorageUnavailable


class Kind(StrEnum):
    """A fault; `TWICE` stands for an SDK that lost a reply and sends the same call again."""

    ERROR = "error before"
    LOST = "reply lost"
    THROTTLED = "throttled"
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    DELAYED = "delayed beyond the lease"
    LATE = "reply beyond the lease"
    TWICE = "sent twice"


PROMISED = (Kind.ERROR, Kind.LOST, Kind.THROTTLED, Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.DELAYED)
"""The kinds of faults that are tried at each call of every process."""


class Killed(BaseException):
    """The process was killed. Not an Exception, so that no code of the server catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The exceptions by which a service refuses a call of this name. `repeats`: its client sends again."""

    error: Callable[[str], Exception]
    lost: Callable[[str], Exception]
    throttled: Callable[[str], Exception]
    repeats: frozenset[str] = frozenset()


def _of_aws(name: str) -> Exception:
    body = {"Error": {"Code": "InternalServerError", "Message": "injected"}}
    return ClientError(body, name)  # type: ignore[arg-type] # the stub wants fields that no error needs


def _throttled_by_aws(name: str) -> Exception:
    body: dict[str, object] = {"Error": {"Code": "ThrottlingException", "Message": "injected"}}
    if name.endswith("transact_write_items"):
        body = {"Error": {"Code": "TransactionCanceledException", "Message": "injected"}}
        body["CancellationReasons"] = [{"Code": "ThrottlingError"}]
    return ClientError(body, name)  # type: ignore[arg-type]


AWS = Failures(
    error=_of_aws,
    lost=lambda _: ReadTimeoutError(endpoint_url="https://aws.invalid"),
    throttled=_throttled_by_aws,
    repeats=frozenset(
        f"{service}.{name}"
        for service, names in {
            "dynamodb": ("put_item", "update_item", "transact_write_items"),
            "keys": ("put_item", "update_item"),
            "sqs": ("send_message",),
        }.items()
        for name in names
    ),
)
EMBEDDED = Failures(
    error=lambda _: StorageUnavailable("The database does not answer; try again."),
    lost=lambda _: StorageUnavailable("The database does not answer; try again."),
    throttled=lambda _: StorageUnavailable("The database is too busy; try again."),
)
ENGINE = Failures(
    error=lambda _: EngineUnavailable("The engine cannot be reached.", kind="unreachable"),
    lost=lambda _: EngineUnavailable("The engine did not answer in time.", kind="timeout"),
    throttled=lambda _: EngineUnavailable("The engine is busy.", retry_after_s=1, outage=True),
)
