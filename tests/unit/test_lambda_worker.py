"""The worker function: the kinds of events it handles, and the messages that are delivered again."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from llm_server.orchestration.domain.errors import StorageMisconfigured, StorageUnavailable
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from support.deployment import an_event
from support.scripted_engine import WAIT_S
from support.scripted_service import Served

MODULE = "llm_server.lambda_worker"
AWAY = StorageUnavailable("The database does not answer; try again.")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the module as Lambda does: with settings, and without connections."""
    monkeypatch.setenv("LLM_SERVER_TABLE", "tasks")
    monkeypatch.setenv("LLM_SERVER_QUEUE_URL", "http://127.0.0.1:1/queue")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


class FakeService:
    """Records its calls. Tasks named `broken` fail, and `meeting` tasks wait for each other.

    A sweep wakes two tasks, or fails if the storage is `away`.
    """

    def __init__(self, meeting: int = 1, *, away: bool = False) -> None:
        self.done: list[tuple[str, int | None]] = []
        self.sweeps = 0
        self._away = away
        self._meeting = threading.Barrier(meeting, timeout=WAIT_S)

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None = None) -> None:
        self._meeting.wait()
        if ref.task_id == "broken":
            raise ZeroDivisionError
        if ref.task_id == "away":
            raise AWAY
        if ref.task_id == "misconfigured":
            raise StorageMisconfigured("The table does not exist.")
        self.done.append((str(ref), until_ms))

    def sweep(self, goes_on: Callable[[], bool]) -> int:
        if self._away:
            raise AWAY
        self.sweeps += 1
        self.went_on = goes_on()
        return 2


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def a_batch(*bodies: object) -> dict[str, Any]:
    """Return SQS records m0, m1, ... with these bodies."""
    return {"Records": [{"messageId": f"m{n}", "body": body} for n, body in enumerate(bodies)]}


def a_message(task_id: str) -> str:
    return json.dumps({"task": f"local/{task_id}"})


def failures(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "null", "[]", '"local/t1"', "{}", '{"task": null}', '{"task": "t1"}', '{"task": ["local/t1"]}',
        '{"sweep": true}', "[" * 100_000, None, 7,
    ],
)  # fmt: skip
def test_a_malformed_message_is_not_delivered_again(worker: ModuleType, body: object) -> None:
    """It would be malformed the next time, too; the other messages of its batch are processed.

    An earlier version sent `{"sweep": true}`: such messages are discarded in the same way.
    """
    service = FakeService()

    answer = worker.handle(service, a_batch(body, a_message("t1")), until_ms=9)

    assert failures(answer) == []
    assert (service.done, service.sweeps) == ([("local/t1", 9)], 0)


def test_a_record_without_a_body_is_not_delivered_again(worker: ModuleType) -> None:
    """It must not fail the other records of its batch."""
    event = a_batch(a_message("t1"))
    event["Records"].append({"messageId": "m1"})

    assert failures(worker.handle(FakeService(), event, until_ms=9)) == []


@pytest.mark.parametrize("task_id", ["broken", "away"])
def test_only_a_failed_message_is_delivered_again(worker: ModuleType, task_id: str) -> None:
    """One record of ten fails."""
    service = FakeService()
    bodies = [a_message(f"t{n}") for n in range(10)]
    bodies[3] = a_message(task_id)

    assert failures(worker.handle(service, a_batch(*bodies), until_ms=9)) == ["m3"]
    assert len(service.done) == 9


def test_an_unusable_table_is_logged_with_the_cause(worker: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Its message is delivered again until an operator has fixed the cause."""
    answer = worker.handle(FakeService(), a_batch(a_message("misconfigured")), until_ms=9)

    (record,) = caplog.records
    assert failures(answer) == ["m0"]
    assert (record.message, record.exc_info) == ("the database cannot be used", None)
    assert (vars(record)["cause"], vars(record)["message_id"]) == ("The table does not exist.", "m0")


def test_the_messages_of_a_batch_are_processed_in_parallel(worker: ModuleType) -> None:
    """Ten messages wait for each other, so a batch takes as long as its slowest task."""
    service = FakeService(meeting=10)

    assert failures(worker.handle(service, a_batch(*(a_message(f"t{n}") for n in range(10))), until_ms=9)) == []
    assert len(service.done) == 10


def test_the_event_of_the_schedule_runs_one_sweep(worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is for operators that invoke the function by hand; the schedule ignores it."""
    service = FakeService()
    monkeypatch.setattr(worker, "_service", service)

    assert worker.handler(an_event("sweep"), Context()) == {"woken": 2}
    assert (service.sweeps, service.done) == (1, [])


@pytest.mark.parametrize("left_ms", [-1, 60_000])
def test_a_sweep_goes_on_while_the_function_has_time(worker: ModuleType, left_ms: int) -> None:
    """The next sweep checks the remaining tasks. A sweep stopped by a time-out would be reported as an error."""
    service = FakeService()
    worker.handle(service, an_event("sweep"), until_ms=worker.wiring.now_ms() + left_ms)

    assert service.went_on is (left_ms > 0)


def test_a_failed_sweep_raises_an_error(worker: ModuleType) -> None:
    """The schedule ignores the answer, so only an error raises the alarm."""
    service = FakeService(away=True)

    with pytest.raises(StorageUnavailable):
        worker.handle(service, an_event("sweep"), until_ms=9)


@pytest.mark.parametrize(
    "event",
    [
        {}, [], None, "sweep", {"sweep": False}, {"sweep": "true"}, {"sweep": True, "x": 1}, {"Records": None},
        {"Records": {"messageId": "m0"}},
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "secret"}}]},
        {"version": "2.0", "rawPath": "/api/v1/tasks", "body": "secret"},
    ],
)  # fmt: skip
def test_an_event_of_another_kind_is_refused_with_a_message(worker: ModuleType, event: object) -> None:
    """The function was connected to a wrong source; the message does not repeat the contents of the event."""
    service = FakeService()

    with pytest.raises(ValueError, match="neither a batch of SQS messages nor") as refusal:
        worker.handle(service, event, until_ms=9)
    assert "secret" not in str(refusal.value)
    assert (service.sweeps, service.done) == (0, [])


def test_the_handler_reserves_time_for_the_final_writes(worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processing ends 5 s before the function's time-out."""
    service = FakeService()
    monkeypatch.setattr(worker, "_service", service)
    before_ms = worker.wiring.now_ms()

    assert failures(worker.handler(a_batch(a_message("t1")), Context())) == []

    until_ms = service.done[0][1]
    assert until_ms is not None
    assert before_ms + 55_000 <= until_ms <= worker.wiring.now_ms() + 55_000
    assert worker.RESERVE_MS == 5_000


def test_one_of_two_copies_of_a_message_in_the_same_millisecond_is_processed(
    worker: ModuleType, served: Served
) -> None:
    """SQS delivers at least once.

    Both copies read the task before either claims it, so only the owner tells them apart.
    """
    ref, read = served.submit(), served.store.get
    both = threading.Barrier(2, timeout=WAIT_S)

    def together(ref: TaskRef) -> Snapshot:
        snapshot = read(ref)
        both.wait()
        return snapshot

    served.store.get = together  # type: ignore[method-assign]
    served.store.atomically = lambda take, line: take()  # type: ignore  # as on DynamoDB
    records = a_batch(a_message(ref.task_id))["Records"] * 2

    assert failures(worker.handle(served.service, {"Records": records}, until_ms=served.clock() + 60_000)) == []
    del served.store.get
    assert (len(served.engine.calls), served.get(ref).task.receipt.calls) == (1, 1)
