"""The substrates under attack: SQLite in one process, or DynamoDB and SQS; each world gets a new one."""

from __future__ import annotations

import json
import random
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aws_local import resources
from aws_local.pump import failures
from faults.kinds import AWS, EMBEDDED
from faults.points import Caller, Commits, Unseen, Watched
from llm_server.embedded.workers import RETRY_S
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.queue import Queue
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import DAY_MS, TaskRef
from llm_server.orchestration.service import Service
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.sqs_queue import SqsQueue
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import canaries
from support.aws_emulators import Substrate as Emulator
from support.aws_emulators import look_through, translated

UNSEEN = Unseen("the test itself")
BATCH = 10


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way to a worker; `handle` is its id in the queue, "" if it has none."""

    message_id: str
    ref: TaskRef
    handle: str = ""


class Substrate(Protocol):
    """A substrate. `lease_s`, `sweep_s` and `visibility_s` are those of its deployment."""

    name: str
    lease_s: int
    sweep_s: int
    visibility_s: int
    shows_unstored: bool
    """Whether the readers of a task's events see text that its worker has not stored yet."""

    def store(self, caller: Caller) -> Store: ...

    def keys(self, caller: Caller) -> KeyStore: ...

    def queue(self, caller: Caller) -> Queue: ...

    def receive(self, caller: Caller, most: int = BATCH) -> list[Message]:
        """Receive the messages that a worker sees now."""
        ...

    def work(self, service: Service, messages: Sequence[Message], *, until_ms: int) -> None:
        """Let a worker process messages; delete those it has finished from the queue."""
        ...

    def purge(self) -> None:
        """Delete every message."""
        ...

    def texts(self, ref: TaskRef) -> int:
        """Return the number of records with a text of a task: its request, its outputs and its streamed text."""
        ...

    def copy(self) -> Any:
        """Return a copy of the store."""
        ...

    def restore(self, copy: Any) -> None:
        """Restore the store from a copy. The queue is not changed."""
        ...

    def left(self) -> int:
        """Return the number of messages in the queue: waiting, delayed, or being processed."""
        ...

    def dead(self) -> int:
        """Return the number of dead letters."""
        ...

    def close(self) -> None: ...


class Embedded:
    """One SQLite file, whose commits are points too.

    A message leaves the queue when it is received, and that is a call of the worker's own.
    """

    name = "SQLite"
    lease_s = 210
    sweep_s = 120
    visibility_s = 0
    shows_unstored = True

    def __init__(self, folder: Path, clock: Clock) -> None:
        path = folder / f"{uuid.uuid4().hex}.db"
        self._path = path
        database = Database(path)
        self._store = SqliteStore(database, _kept(clock))
        self._keys = SqliteKeys(database)
        self._queue = WakeUpQueue(clock)

    def store(self, caller: Caller) -> Store:
        return _used_by(caller, self._store, "store")  # type: ignore[no-any-return]

    def keys(self, caller: Caller) -> KeyStore:
        return _used_by(caller, self._keys, "keys")  # type: ignore[no-any-return]

    def queue(self, caller: Caller) -> Queue:
        return Watched(self._queue, "queue", caller, EMBEDDED)

    def receive(self, caller: Caller, most: int = BATCH) -> list[Message]:
        queue: Any = self.queue(caller)
        received = queue.receive(0) if self._queue.depth() else None
        return [Message(uuid.uuid4().hex, received.ref)] if received else []

    def work(self, service: Service, messages: Sequence[Message], *, until_ms: int) -> None:
        for message in messages:
            try:
                service.process(message.ref, owner=message.message_id)
            except StorageUnavailable:
                self._queue.send(message.ref, delay_s=RETRY_S)  # as the worker threads do

    def purge(self) -> None:
        while self._queue.receive(0):
            pass

    def texts(self, ref: TaskRef) -> int:
        with closing(sqlite3.connect(self._path)) as db:
            counts = [
                db.execute(f"SELECT count(*) FROM {table} WHERE (tenant, task_id) = (?, ?)", (ref.tenant, ref.task_id))
                for table in ("requests", "outputs", "deltas")
            ]
            return sum(count.fetchone()[0] for count in counts)

    def copy(self) -> dict[str, list[tuple[Any, ...]]]:
        with closing(sqlite3.connect(self._path)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            db.execute("BEGIN")
            return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in names if name != "messages"}

    def restore(self, copy: dict[str, list[tuple[Any, ...]]]) -> None:
        with closing(sqlite3.connect(self._path, timeout=10)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            for name, rows in copy.items():
                db.execute(f"DELETE FROM {name}")
                for row in rows:
                    db.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)

    def left(self) -> int:
        return self._queue.depth()

    def dead(self) -> int:
        return 0

    def close(self) -> None:
        self._queue.close()
        self._keys.close()
        self._store.close()


def _used_by(caller: Caller, adapter: Any, name: str) -> Any:
    """Wrap an adapter over SQLite for one caller: its methods are points, and so are the commits in them."""
    used = copy(adapter)
    used._database = Commits(adapter._database, name, caller, EMBEDDED)
    return Watched(used, name, caller, EMBEDDED)


class AtOnce:
    """SQS with a clock that the test does not move: delayed messages arrive at once, as any message may."""

    def __init__(self, sqs: Any) -> None:
        self._sqs = sqs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sqs, name)

    def send_message(self, **arguments: Any) -> Any:
        return self._sqs.send_message(**{name: value for name, value in arguments.items() if name != "DelaySeconds"})


class Aws:
    """A new table and new queues from template.yaml on an emulator; the test plays Lambda's event source."""

    shows_unstored = False

    def __init__(self, on: Emulator, handle: Any, clock: Clock) -> None:
        self.name = on.name
        self._on = on
        self._kept = _kept(clock)
        self._handle = handle
        self._made = resources.make(
            translated(), dynamodb=on.dynamodb, sqs=on.sqs, prefix=f"fault-{uuid.uuid4().hex[:12]}"
        )
        stack = self._made.stack
        variables = stack.environment("WorkerFunction")
        self.lease_s, self.sweep_s = int(variables["LLM_SERVER_LEASE_S"]), int(variables["LLM_SERVER_SWEEP_S"])
        self.visibility_s = int(stack.properties("Queue")["VisibilityTimeout"])

    def store(self, caller: Caller) -> Store:
        client: Any = Watched(self._on.dynamodb, "dynamodb", caller, AWS)
        return DynamoStore(client, self._made.table, draw=random.Random(7).randrange, retention=self._kept)

    def keys(self, caller: Caller) -> KeyStore:
        client: Any = Watched(self._on.dynamodb, "keys", caller, AWS)
        return DynamoKeys(client, self._made.table)

    def queue(self, caller: Caller) -> Queue:
        sqs: Any = AtOnce(self._on.sqs) if self.name == "ministack" else self._on.sqs
        client: Any = Watched(sqs, "sqs", caller, AWS)
        return SqsQueue(client, self._made.queue_url)

    def receive(self, caller: Caller, most: int = BATCH) -> list[Message]:
        answer = self._on.sqs.receive_message(
            QueueUrl=self._made.queue_url, MaxNumberOfMessages=most, WaitTimeSeconds=0
        )
        canaries.check(str(answer))
        return [
            Message(m["MessageId"], TaskRef.parse(json.loads(m["Body"])["task"]), m["ReceiptHandle"])
            for m in answer.get("Messages", [])
        ]

    def work(self, service: Service, messages: Sequence[Message], *, until_ms: int) -> None:
        records = [{"messageId": m.message_id, "body": json.dumps({"task": str(m.ref)})} for m in messages]
        answer = self._handle(service, {"Records": records}, until_ms=until_ms)
        kept = failures(answer, {message.message_id for message in messages})
        for message in messages:
            if message.message_id not in kept and message.handle:
                self._on.sqs.delete_message(QueueUrl=self._made.queue_url, ReceiptHandle=message.handle)

    def purge(self) -> None:
        self._on.sqs.purge_queue(QueueUrl=self._made.queue_url)

    def texts(self, ref: TaskRef) -> int:
        answer = self._on.dynamodb.query(
            TableName=self._made.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"T#{ref.tenant}#{ref.task_id}"}},
            ConsistentRead=True,
        )
        return sum(row["sk"]["S"] != "STATE" for row in answer["Items"])

    def copy(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for page in self._on.dynamodb.get_paginator("scan").paginate(TableName=self._made.table, ConsistentRead=True):
            found += page["Items"]
        return found

    def restore(self, copy: list[dict[str, Any]]) -> None:
        for row in self.copy():
            self._on.dynamodb.delete_item(TableName=self._made.table, Key={name: row[name] for name in ("pk", "sk")})
        for row in copy:
            self._on.dynamodb.put_item(TableName=self._made.table, Item=row)

    def left(self) -> int:
        return self._count(self._made.queue_url)

    def dead(self) -> int:
        return self._count(self._made.dead_letter_queue_url)

    def redrive(self) -> None:
        """Put the dead letters back into the queue, as `aws sqs start-message-move-task` does."""
        url = self._made.dead_letter_queue_url
        while messages := self._on.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=BATCH).get("Messages", []):
            for message in messages:
                self._on.sqs.send_message(QueueUrl=self._made.queue_url, MessageBody=message["Body"])
                self._on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def close(self) -> None:
        look_through(self._made, self._on.sqs)
        resources.remove(self._made, dynamodb=self._on.dynamodb, sqs=self._on.sqs)

    def _count(self, url: str) -> int:
        answer = self._on.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return sum(int(n) for name, n in answer["Attributes"].items() if name.startswith("ApproximateNumberOf"))


def again(ref: TaskRef) -> Message:
    """Return a message for a task, as if the queue had delivered it once more."""
    return Message(uuid.uuid4().hex, ref)


def every_task(store: Store, tenants: Sequence[str] = ("local",)) -> list[TaskRef]:
    """Return every task, acknowledged or not."""
    return [ref for tenant in tenants for ref in _tasks_of(store, tenant)]


def _tasks_of(store: Store, tenant: str) -> Iterator[TaskRef]:
    token = ""
    while True:
        page = store.page(tenant, size=100, token=token)
        yield from (task.ref for task in page.tasks)
        token = page.next_token
        if not token:
            return


def _kept(clock: Clock) -> Retention:
    return Retention(clock=clock, keep_ms=30 * DAY_MS)
