"""Fixtures: a table and a queue made from template.yaml, on moto (in the process) and on ministack (over HTTP)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from moto import mock_aws

from aws_local import ministack, resources, template
from aws_local.resources import Resources
from support import canaries

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

CONNECTIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Substrate:
    """A new table and queue on one emulator, its clients, and the environment that other clients need."""

    name: str
    dynamodb: DynamoDBClient
    sqs: SQSClient
    made: Resources
    endpoint_url: str | None

    @property
    def table(self) -> str:
        return self.made.table

    @property
    def queue_url(self) -> str:
        return self.made.queue_url

    @property
    def environment(self) -> dict[str, str]:
        """Return the worker's variables of the template; those for AWS are in the environment of the process."""
        variables = self.made.stack.environment("WorkerFunction")
        return variables | {"AWS_ENDPOINT_URL": self.endpoint_url or ""}


@pytest.fixture(scope="session")
def ministack_endpoint() -> Iterator[str]:
    """One ministack for the whole run, on loopback."""
    with ministack.running() as endpoint:
        yield endpoint


@pytest.fixture
def aws_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set dummy AWS credentials, so that no call of a test is signed with the developer's own keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", template.REGION)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ministack_substrate(
    ministack_endpoint: str, aws_account: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Substrate]:
    """A table and a queue on ministack. Clients made without arguments find it too.

    The table expires nothing: ministack looks every minute for items whose time is over, and so is that of all items
    in tests, whose clock stands in 2025.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", ministack_endpoint)
    for on in _substrate("ministack", ministack_endpoint):
        off: Any = {"AttributeName": "ttl", "Enabled": False}
        on.dynamodb.update_time_to_live(TableName=on.table, TimeToLiveSpecification=off)
        yield on


@pytest.fixture
def moto_substrate(aws_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Substrate]:
    """A table and a queue on moto, with one lock around every call of every client: moto is not thread-safe.

    A long poll would hold the lock, so call moto with `WaitTimeSeconds=0`.
    """
    lock = threading.RLock()
    call = BaseClient._make_api_call  # type: ignore[attr-defined] # private: no stub has it

    def locked(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        with lock:
            return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", locked)
    # moto keeps a list of every object of its models until the mock ends, for a dashboard that no test opens. Each
    # transaction copies the whole table first, so the list held thousands of old tables. Make objects without it.
    monkeypatch.setattr("moto.core.common_models.BaseModel.__new__", lambda cls, *_, **__: object.__new__(cls))
    with mock_aws():
        yield from _substrate("moto", None)


@pytest.fixture(params=["moto", "ministack"])
def aws_substrate(request: pytest.FixtureRequest) -> Substrate:
    """Run a test on each emulator in turn."""
    substrate: Substrate = request.getfixturevalue(f"{request.param}_substrate")
    return substrate


def _substrate(name: str, endpoint_url: str | None) -> Iterator[Substrate]:
    dynamodb, sqs = _client("dynamodb", endpoint_url), _client("sqs", endpoint_url)
    made = resources.make(translated(), dynamodb=dynamodb, sqs=sqs, prefix=f"test-{uuid.uuid4().hex[:12]}")
    yield Substrate(name=name, dynamodb=dynamodb, sqs=sqs, made=made, endpoint_url=endpoint_url)
    look_through(made, sqs)
    resources.remove(made, dynamodb=dynamodb, sqs=sqs)


def look_through(made: Resources, sqs: SQSClient) -> None:
    """Fail if a message or a dead letter contains a prompt, an answer or a secret."""
    for url in (made.queue_url, made.dead_letter_queue_url):
        wanted: Any = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
        while messages := sqs.receive_message(**wanted, WaitTimeSeconds=0).get("Messages"):
            canaries.check(str(messages))


@cache
def translated() -> template.Document:
    return template.translate(template.load())


@cache  # loading a service's model takes longer than most tests
def _client(service: Literal["dynamodb", "sqs"], endpoint_url: str | None) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=template.REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1}),
    )
