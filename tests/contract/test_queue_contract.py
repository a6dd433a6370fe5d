"""What every queue promises: a wake-up reaches one receiver, not before its time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb.sqs_queue import SqsQueue
from llm_server.storage.sqlite.queue import SqliteQueue
from support.aws_emulators import Substrate
from support.mailbox import Mailbox

REF = TaskRef("local", "01979f5e-7a3c-7b21-9c4d-5e6f708192a3")


def until(found: Callable[[], str | None], *, within_s: float) -> str | None:
    """The first message that comes within a time."""
    end = time.monotonic() + within_s
    while (body := found()) is None and time.monotonic() < end:
        time.sleep(0.02)
    return body


def test_what_was_sent_is_received_once(mailbox: Mailbox) -> None:
    mailbox.queue.send(REF)

    assert mailbox.receive() == str(REF)
    assert mailbox.receive() is None


def test_all_that_was_sent_is_received_in_whatever_order(mailbox: Mailbox) -> None:
    refs = [TaskRef(f"tenant-{n % 3}", f"t{n}") for n in range(30)]
    for ref in refs:
        mailbox.queue.send(ref)

    got = [mailbox.receive() for _ in refs]

    assert sorted(filter(None, got)) == sorted(map(str, refs))


def test_a_task_can_be_woken_twice(mailbox: Mailbox) -> None:
    mailbox.queue.send(REF)
    mailbox.queue.send(REF)

    assert [mailbox.receive() for _ in range(3)] == [str(REF), str(REF), None]


def test_a_delayed_message_comes_after_its_delay(mailbox: Mailbox) -> None:
    sent = time.monotonic()
    mailbox.queue.send(REF, delay_s=2)

    assert mailbox.receive() is None
    assert until(mailbox.receive, within_s=10) == str(REF)
    assert time.monotonic() - sent > 1.9


def test_a_delayed_message_holds_up_no_other(mailbox: Mailbox) -> None:
    mailbox.queue.send(REF, delay_s=900)
    mailbox.queue.send(TaskRef("local", "other"))

    assert mailbox.receive() == "local/other"
    assert mailbox.receive() is None


def test_the_depth_counts_what_waits_and_what_is_delayed(mailbox: Mailbox) -> None:
    assert mailbox.queue.depth() == 0
    for n in range(3):
        mailbox.queue.send(TaskRef("local", f"t{n}"))
    mailbox.queue.send(REF, delay_s=900)

    assert mailbox.queue.depth() == 4


def test_the_depth_leaves_out_what_a_worker_has_taken(mailbox: Mailbox) -> None:
    """The sweep comes as a message itself: counted, it would hide one lost wake-up for ever."""
    mailbox.queue.send(REF)
    mailbox.receive()

    assert mailbox.queue.depth() == 0


def test_two_receivers_never_get_the_same_message(mailbox: Mailbox) -> None:
    refs = [TaskRef("local", f"t{n}") for n in range(40)]
    for ref in refs:
        mailbox.queue.send(ref)
    together = threading.Barrier(8)

    def receiver(_: int) -> list[str]:
        together.wait()
        return [body for _ in range(15) if (body := mailbox.receive())]

    with ThreadPoolExecutor(8) as pool:
        got = [body for bodies in pool.map(receiver, range(8)) for body in bodies]

    assert sorted(got) == sorted(map(str, refs))


def test_a_message_on_sqs_names_the_task_and_nothing_else(aws_substrate: Substrate) -> None:
    on = aws_substrate
    SqsQueue(on.sqs, on.queue_url).send(TaskRef("äcme", "t1"))

    (message,) = on.sqs.receive_message(QueueUrl=on.queue_url)["Messages"]
    assert json.loads(message["Body"]) == {"task": "äcme/t1"}


def test_a_delay_longer_than_sqs_allows_is_cut(moto_substrate: Substrate) -> None:
    """The sweep looks at the task when it is due, however early the wake-up was."""
    asked: list[Any] = []
    on = moto_substrate

    def sending(params: Any, **_: Any) -> None:
        asked.append(params["DelaySeconds"])

    on.sqs.meta.events.register("before-parameter-build.sqs.SendMessage", sending)
    SqsQueue(on.sqs, on.queue_url).send(REF, delay_s=5_000)
    on.sqs.meta.events.unregister("before-parameter-build.sqs.SendMessage", sending)

    assert asked == [900]


def test_a_queue_that_does_not_answer_is_unavailable() -> None:
    """No server listens at this address."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    nobody = boto3.client(
        "sqs",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=config,
    )
    queue = SqsQueue(nobody, "http://127.0.0.1:9/000000000000/queue")

    with pytest.raises(StorageUnavailable):
        queue.send(REF)
    with pytest.raises(StorageUnavailable):
        queue.depth()


def test_a_queue_that_is_not_there_is_unavailable(aws_substrate: Substrate) -> None:
    queue = SqsQueue(aws_substrate.sqs, aws_substrate.queue_url + "-gone")

    with pytest.raises(StorageUnavailable):
        queue.send(REF)
    with pytest.raises(StorageUnavailable):
        queue.depth()


def test_a_closed_file_is_an_unavailable_queue(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "tasks.db", lambda: 0)
    queue.close()

    with pytest.raises(StorageUnavailable):
        queue.send(REF)


class Watch:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


def test_the_embedded_queue_gives_the_message_that_has_waited_longest(tmp_path: Path) -> None:
    watch = Watch()
    queue = SqliteQueue(tmp_path / "tasks.db", watch)
    for task_id, delay_s in (("late", 10), ("soon", 5), ("now", 0)):
        queue.send(TaskRef("local", task_id), delay_s=delay_s)

    assert [queue.receive(0), queue.receive(0)] == [TaskRef("local", "now"), None]
    watch.now_ms += 10_000
    assert [queue.receive(0), queue.receive(0)] == [TaskRef("local", "soon"), TaskRef("local", "late")]
    queue.close()


def test_a_waiting_receiver_is_woken_by_a_message(tmp_path: Path) -> None:
    """It looks by itself twice a second; the best of three is far quicker."""
    queue, took_s = SqliteQueue(tmp_path / "tasks.db", Watch()), list[float]()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            waiting = pool.submit(queue.receive, 30)
            time.sleep(0.05)
            sent = time.monotonic()
            queue.send(REF)
            assert waiting.result(30) == REF
            took_s.append(time.monotonic() - sent)

    assert min(took_s) < 0.3
    queue.close()


def test_a_receiver_waits_no_longer_than_it_was_told(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "tasks.db", Watch())
    began = time.monotonic()

    assert queue.receive(0.1) is None
    assert 0.1 <= time.monotonic() - began < 5
    queue.close()


def test_messages_of_the_embedded_queue_outlive_the_process(tmp_path: Path) -> None:
    first = SqliteQueue(tmp_path / "tasks.db", Watch())
    first.send(REF)
    first.close()

    second = SqliteQueue(tmp_path / "tasks.db", Watch())
    assert second.receive(0) == REF
    second.close()
