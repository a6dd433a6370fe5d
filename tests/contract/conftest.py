"""Each port over each of its adapters; a suite that takes `store` or `mailbox` runs on all of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import DAY_MS
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.sqs_queue import SqsQueue
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.aws_emulators import Substrate
from support.dynamodb_wire import Wire, recording
from support.mailbox import Mailbox
from support.scripted_engine import Clock

pytest.register_assert_rewrite("support.audit")


def dynamo_store(on: Substrate, retention: Retention | None = None) -> DynamoStore:
    return DynamoStore(on.dynamodb, on.table, draw=random.Random(7).randrange, retention=retention)


@dataclass(frozen=True, slots=True)
class Keeping:
    """A store that keeps what has ended for 30 days, and its clock."""

    store: Store
    clock: Clock


@pytest.fixture(params=["sqlite", "moto", "ministack"])
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeping]:
    """Each store in turn, empty."""
    clock = Clock()
    retention = Retention(clock=clock, keep_ms=30 * DAY_MS)
    if request.param == "sqlite":
        store = SqliteStore(Database(tmp_path / "tasks.db"), retention)
        yield Keeping(store, clock)
        store.close()
    else:
        yield Keeping(dynamo_store(request.getfixturevalue(f"{request.param}_substrate"), retention), clock)


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(Database(tmp_path / "tasks.db"))
    yield store
    store.close()


@pytest.fixture
def moto_store(moto_substrate: Substrate) -> DynamoStore:
    return dynamo_store(moto_substrate)


@pytest.fixture
def ministack_store(ministack_substrate: Substrate) -> DynamoStore:
    return dynamo_store(ministack_substrate)


@pytest.fixture(params=["sqlite", "moto", "ministack"])
def adapter(request: pytest.FixtureRequest) -> str:
    """Each adapter in turn: a test's `store` and `key_store` are over the same one."""
    return str(request.param)


@pytest.fixture
def store(adapter: str, request: pytest.FixtureRequest) -> Store:
    """Each store in turn, empty."""
    found: Store = request.getfixturevalue(f"{adapter}_store")
    return found


@pytest.fixture
def sqlite_keys(tmp_path: Path) -> Iterator[SqliteKeys]:
    keys = SqliteKeys(Database(tmp_path / "tasks.db"))
    yield keys
    keys.close()


@pytest.fixture
def moto_keys(moto_substrate: Substrate) -> DynamoKeys:
    return DynamoKeys(moto_substrate.dynamodb, moto_substrate.table)


@pytest.fixture
def ministack_keys(ministack_substrate: Substrate) -> DynamoKeys:
    return DynamoKeys(ministack_substrate.dynamodb, ministack_substrate.table)


@pytest.fixture
def key_store(adapter: str, request: pytest.FixtureRequest) -> KeyStore:
    """Each store of keys in turn, empty."""
    found: KeyStore = request.getfixturevalue(f"{adapter}_keys")
    return found


@pytest.fixture
def embedded_mailbox() -> Iterator[Mailbox]:
    queue = WakeUpQueue(lambda: time.time_ns() // 1_000_000)

    def receive() -> str | None:
        message = queue.receive(0)
        return str(message.ref) if message else None

    yield Mailbox(queue=queue, receive=receive)
    queue.close()


@pytest.fixture
def moto_mailbox(moto_substrate: Substrate) -> Mailbox:
    return _sqs_mailbox(moto_substrate)


@pytest.fixture
def ministack_mailbox(ministack_substrate: Substrate) -> Mailbox:
    return _sqs_mailbox(ministack_substrate)


@pytest.fixture(params=["embedded", "moto", "ministack"])
def mailbox(request: pytest.FixtureRequest) -> Mailbox:
    """Each queue in turn, empty."""
    found: Mailbox = request.getfixturevalue(f"{request.param}_mailbox")
    return found


def _sqs_mailbox(on: Substrate) -> Mailbox:
    def receive() -> str | None:
        answer = on.sqs.receive_message(QueueUrl=on.queue_url, MaxNumberOfMessages=1, WaitTimeSeconds=0)
        return next((str(json.loads(message["Body"])["task"]) for message in answer.get("Messages", [])), None)

    return Mailbox(queue=SqsQueue(on.sqs, on.queue_url), receive=receive)


@pytest.fixture
def wire(moto_substrate: Substrate) -> Iterator[Wire]:
    """Records the calls to DynamoDB, with their sizes."""
    with recording(moto_substrate.dynamodb) as wire:
        yield wire
