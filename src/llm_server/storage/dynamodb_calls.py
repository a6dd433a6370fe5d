"""What a failed DynamoDB call means: a condition that did not hold, a conflict to retry, or no store to reach."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from llm_server.orchestration.errors import StorageUnavailable

CONFLICT_TRIES = 12
_PASSING = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "None"}


class ConditionFailed(Exception):
    """The stored item is not what the write expected."""


class _Conflict(Exception):
    """Another transaction touched the same item; nothing was written."""


@contextmanager
def calling() -> Iterator[None]:
    """Translate what botocore raises."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error) from error
    except BotoCoreError as error:
        raise StorageUnavailable("The database cannot be reached; try again.") from error


def transacting(transact: Callable[[], object]) -> None:
    """Carry out a transaction, again while it collides with others (up to 12 times, waiting 5 ms to 0.6 s)."""
    for attempt in range(CONFLICT_TRIES):
        try:
            with calling():
                transact()
            return
        except _Conflict:
            time.sleep(random.uniform(0.005, min(0.005 * 2**attempt, 0.6)))
    raise StorageUnavailable("The database is too busy; try again.")


def _meaning(error: ClientError) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ConditionalCheckFailedException":
        return ConditionFailed()
    if code in ("TransactionConflictException", "TransactionInProgressException"):
        return _Conflict()
    if code == "TransactionCanceledException":
        reasons = {reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])}
        if "ConditionalCheckFailed" in reasons:
            return ConditionFailed()
        if reasons <= _PASSING and reasons != {"None"}:
            return _Conflict()
    return StorageUnavailable("The database does not answer; try again.")
