"""What a failed DynamoDB call means: a condition that did not hold, a conflict to retry, or no store to reach."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, SSOError

from llm_server.orchestration.domain.errors import StorageMisconfigured, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TRIES = 12
_Answer = TypeVar("_Answer")
_PASSING = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
_CREDENTIALS = "AWS does not accept the credentials: they are wrong or have expired."
_CAUSES = {
    "AccessDeniedException": (
        "AWS does not allow these credentials to use the table; check their policy and LLM_SERVER_TABLE."
    ),
    "ExpiredTokenException": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "ResourceNotFoundException": (
        "The table does not exist in this account and region of AWS; check LLM_SERVER_TABLE and the region."
    ),
    "UnrecognizedClientException": _CREDENTIALS,
}
"""Where trying again never helps: what the operator can do."""


class ConditionFailed(Exception):
    """The stored item is not what the write expected."""


class _Conflict(StorageUnavailable):
    """A transaction is busy with the same item; nothing was written."""


@contextmanager
def calling() -> Iterator[None]:
    """Translate what botocore raises."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error) from error
    except (NoCredentialsError, PartialCredentialsError, SSOError) as error:
        raise StorageMisconfigured(f"There are no AWS credentials to use: {str(error).rstrip('.')}.") from error
    except BotoCoreError as error:
        raise StorageUnavailable("The database cannot be reached; try again.") from error


def writing(write: Callable[[], _Answer]) -> _Answer:
    """Carry out a write, again while it collides with transactions; a plain put or update collides with them too."""
    for _ in tries():
        try:
            with calling():
                return write()
        except _Conflict:
            continue
    raise AssertionError("the tries end with StorageUnavailable")


def tries() -> Iterator[None]:
    """Twelve tries, with pauses of 5 ms to 0.6 s between them, 2 s in all. Raises StorageUnavailable after the last."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(random.uniform(0.005, min(0.005 * 2**attempt, 0.6)))  # noqa: S311 -- no secret
        yield
    raise StorageUnavailable("The database is too busy; try again.")


def batch(
    client: DynamoDBClient, table: str, keys: Sequence[Mapping[str, Any]], *, consistent: bool = False
) -> Iterator[dict[str, Any]]:
    """Read items by key, in any order; what one answer leaves out is asked for again."""
    if not keys:
        return
    wanted: Any = {table: {"Keys": keys} | ({"ConsistentRead": True} if consistent else {})}
    for _ in tries():
        with calling():
            answer = client.batch_get_item(RequestItems=wanted)
        yield from answer["Responses"].get(table, [])
        wanted = answer.get("UnprocessedKeys", {})
        if not wanted:
            return


def _meaning(error: ClientError) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ConditionalCheckFailedException":
        return ConditionFailed()
    if code in ("TransactionConflictException", "TransactionInProgressException"):
        return _Conflict("The database is busy; try again.")
    if code == "TransactionCanceledException":
        reasons = {reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])} - {"None"}
        if "ConditionalCheckFailed" in reasons:
            return ConditionFailed()
        if reasons and reasons <= _PASSING:
            return _Conflict("The database is busy; try again.")
    if code in _CAUSES:
        return StorageMisconfigured(_CAUSES[code])
    return StorageUnavailable("The database does not answer; try again.")
