"""Calls DynamoDB: retries conflicts, and translates botocore's errors into ours."""

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
"""Error codes that a retry cannot clear, and what the operator can do."""


class ConditionFailed(Exception):
    """The condition of a write does not hold for the stored item."""


class _Conflict(StorageUnavailable):
    """A transaction is writing the same item. Nothing was written; try again."""


@contextmanager
def calling() -> Iterator[None]:
    """Translate botocore's errors into StorageUnavailable, StorageMisconfigured or ConditionFailed."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error) from error
    except (NoCredentialsError, PartialCredentialsError, SSOError) as error:
        raise StorageMisconfigured(f"No usable AWS credentials were found: {str(error).rstrip('.')}.") from error
    except BotoCoreError as error:
        raise StorageUnavailable("The database cannot be reached; try again.") from error


def writing(write: Callable[[], _Answer]) -> _Answer:
    """Carry out a write, and repeat it while it conflicts with a transaction. Plain puts can conflict too."""
    for _ in tries():
        try:
            with calling():
                return write()
        except _Conflict:
            continue
    raise AssertionError("unreachable: tries() raises StorageUnavailable")


def tries() -> Iterator[None]:
    """Yield 12 times, with random pauses of 5 ms to 0.6 s between them, then raise StorageUnavailable."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(random.uniform(0.005, min(0.005 * 2**attempt, 0.6)))  # noqa: S311 -- not a secret
        yield
    raise StorageUnavailable("The database is too busy; try again.")


def pages(read: Callable[..., Any], **query: Any) -> Iterator[dict[str, Any]]:
    """Yield the items of all pages of a query or a scan; `read` is the client's method."""
    while True:
        with calling():
            answer = read(**query)
        yield from answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return
        query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def batch(
    client: DynamoDBClient, table: str, keys: Sequence[Mapping[str, Any]], *, consistent: bool = False
) -> Iterator[dict[str, Any]]:
    """Read items by their keys, in any order. Keys that DynamoDB leaves unprocessed are requested again."""
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
