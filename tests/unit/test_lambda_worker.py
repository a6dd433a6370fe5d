"""The worker function: what a message asks for, and which messages must come again."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from llm_server.orchestration.errors import StorageMisconfigured, StorageUnavailable
from llm_server.orchestration.task import TaskRef
from scripted import WAIT_S

MODULE = "llm_server.lambda_worker"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module as Lambda imports it: with settings, without a connection to anywhere."""
    monkeypatch.setenv("LLM_SERVER_TABLE", "tasks")
    monkeypatch.setenv("LLM_SERVER_QUEUE_URL", "http://127.0.0.1:1/queue")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


class FakeService:
    """Records what it is asked for; tasks called `broken` fail, and `meeting` of them meet before any ends."""

    def __init__(self, meeting: int = 1) -> None:
        self.done: list[tuple[str, str, int | None]] = []
        self.sweeps = 0
        self._meeting = threading.Barrier(meeting, timeout=WAIT_S)

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None = None) -> None:
        self._meeting.wait()
        if ref.task_id == "broken":
            raise ZeroDivisionError
        if ref.task_id == "away":
            raise StorageUnavailable("The database does not answer; try again.")
        if ref.task_id == "misconfigured":
            raise StorageMisconfigured("The table does not exist.")
        self.done.append((str(ref), owner, until_ms))

    def sweep(self) -> int:
        self.sweeps += 1
        return 0


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def a_batch(*bodies: object) -> dict[str, Any]:
    """SQS records m0, m1, ... with these bodies."""
    return {"Records": [{"messageId": f"m{n}", "body": body} for n, body in enumerate(bodies)]}


def a_message(task_id: str) -> str:
    return json.dumps({"task": f"local/{task_id}"})


def failures(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]


def test_a_message_names_a_task_or_asks_for_the_sweep(worker: ModuleType) -> None:
    """Nothing else."""
    assert worker._wanted('{"task": "local/t1"}') == TaskRef("local", "t1")
    assert worker._wanted('{"sweep": true}') is None


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "null", "[]", '"local/t1"', "{}", '{"task": null}', '{"task": "t1"}', '{"task": ["local/t1"]}',
        '{"sweep": false}', '{"sweep": true, "x": 1}', "[" * 100_000, None, 7,
    ],
)  # fmt: skip
def test_a_malformed_message_is_done_with(worker: ModuleType, body: object) -> None:
    """It would be malformed the next time too; the other messages of its batch are processed."""
    service = FakeService()

    answer = worker.handle(service, a_batch(body, a_message("t1")), until_ms=9)

    assert failures(answer) == []
    assert service.done == [("local/t1", "m1", 9)]


def test_a_record_without_a_body_is_malformed_too(worker: ModuleType) -> None:
    """It must not take the other nine along."""
    event = a_batch(a_message("t1"))
    event["Records"].append({"messageId": "m1"})

    assert failures(worker.handle(FakeService(), event, until_ms=9)) == []


@pytest.mark.parametrize("task_id", ["broken", "away"])
def test_only_what_failed_comes_again(worker: ModuleType, task_id: str) -> None:
    """One bad record in ten."""
    service = FakeService()
    bodies = [a_message(f"t{n}") for n in range(10)]
    bodies[3] = a_message(task_id)

    assert failures(worker.handle(service, a_batch(*bodies), until_ms=9)) == ["m3"]
    assert len(service.done) == 9


def test_a_table_that_cannot_be_used_is_logged_with_the_cause(
    worker: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """Its message comes again, until somebody has read that and mended it."""
    answer = worker.handle(FakeService(), a_batch(a_message("misconfigured")), until_ms=9)

    (record,) = caplog.records
    assert failures(answer) == ["m0"]
    assert (record.message, record.exc_info) == ("the database cannot be used", None)
    assert (vars(record)["cause"], vars(record)["message_id"]) == ("The table does not exist.", "m0")


def test_a_batch_is_processed_at_the_same_time(worker: ModuleType) -> None:
    """Ten messages meet at a barrier: a batch takes as long as its slowest task."""
    service = FakeService(meeting=10)

    assert failures(worker.handle(service, a_batch(*(a_message(f"t{n}") for n in range(10))), until_ms=9)) == []
    assert len(service.done) == 10


def test_the_sweep_runs_beside_tasks(worker: ModuleType) -> None:
    """Its message comes through the same queue."""
    service = FakeService()
    worker.handle(service, a_batch('{"sweep": true}', a_message("t1")), until_ms=9)

    assert (service.sweeps, len(service.done)) == (1, 1)


def test_the_handler_keeps_time_for_the_last_writes(worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work ends 5 s before the function does."""
    service = FakeService()
    monkeypatch.setattr(worker, "_service", service)
    before_ms = worker.wiring.now_ms()

    assert failures(worker.handler(a_batch(a_message("t1")), Context())) == []

    until_ms = service.done[0][2]
    assert until_ms is not None
    assert before_ms + 55_000 <= until_ms <= worker.wiring.now_ms() + 55_000
    assert worker.RESERVE_MS == 5_000
