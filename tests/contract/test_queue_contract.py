"""What every queue promises: a wake-up reaches one receiver, not before its time."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from uuid import UUID

import boto3
import pytest
from botocore.config import Config

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb.sqs_queue import SqsQueue
from llm_server.storage.memory_queue import WakeUpQueue
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


@pytest.mark.parametrize("tenant", ["local", "äcme ✓", "x" * 200])
def test_messages_of_any_tenant_and_priority_are_received(mailbox: Mailbox, tenant: str) -> None:
    refs = {priority: TaskRef(tenant, priority) for priority in Priority}
    for priority, ref in refs.items():
        mailbox.queue.send(ref, priority=priority)
        mailbox.queue.send(ref, priority=priority, delay_s=900)

    assert mailbox.queue.depth() == 4
    assert {mailbox.receive(), mailbox.receive()} == set(map(str, refs.values()))
    assert mailbox.receive() is None


def test_on_sqs_each_tenant_and_priority_has_a_group_of_its_own(aws_substrate: Substrate) -> None:
    """SQS delivers first what belongs to a group of which few messages are in flight. The names are not told."""
    on, queue = aws_substrate, SqsQueue(aws_substrate.sqs, aws_substrate.queue_url)
    sent = [(TaskRef(tenant, "t1"), priority) for tenant in ("acme", "äcme") for priority in Priority]
    for ref, priority in sent * 2:
        queue.send(ref, priority=priority)

    groups = list[str]()
    while answer := on.sqs.receive_message(QueueUrl=on.queue_url, MessageSystemAttributeNames=["All"]).get("Messages"):
        groups += [message["Attributes"]["MessageGroupId"] for message in answer]
    assert len(groups) == 8
    assert {groups.count(group) for group in groups} == {2}
    assert all(group.isascii() and group.isalnum() and len(group) <= 128 for group in groups)


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


def test_a_closed_queue_is_unavailable() -> None:
    queue = WakeUpQueue(lambda: 0)
    queue.close()

    with pytest.raises(StorageUnavailable):
        queue.send(REF)


def received(queue: WakeUpQueue) -> str | None:
    """Receive a message; return the id of its task."""
    message = queue.receive(0)
    return message.ref.task_id if message else None


class Watch:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


def test_the_embedded_queue_gives_the_message_that_has_waited_longest() -> None:
    watch = Watch()
    queue = WakeUpQueue(watch)
    for task_id, delay_s in (("late", 10), ("soon", 5), ("now", 0)):
        queue.send(TaskRef("local", task_id), delay_s=delay_s)

    assert [received(queue), received(queue)] == ["now", None]
    watch.now_ms += 10_000
    assert [received(queue), received(queue)] == ["soon", "late"]
    queue.close()


def test_the_embedded_queue_takes_turns_between_tenants() -> None:
    """A tenant that comes behind ten thousand messages of another one is next."""
    queue = WakeUpQueue(Watch())
    for n in range(10_000):
        queue.send(TaskRef("a", f"a{n}"))
    in_work = [received(queue) for _ in range(3)]
    queue.send(TaskRef("b", "b0"))
    queue.send(TaskRef("b", "b1"))

    assert in_work == ["a0", "a1", "a2"]
    assert [received(queue) for _ in range(3)] == ["b0", "b1", "a3"]


def test_the_embedded_queue_gives_interactive_tasks_before_batch_tasks_of_a_tenant() -> None:
    queue = WakeUpQueue(Watch())
    for n in range(3):
        queue.send(TaskRef("a", f"batch{n}"), priority=Priority.BATCH)
    for n in range(5):
        queue.send(TaskRef("a", f"now{n}"))

    got = list(iter(lambda: received(queue), None))
    assert got == ["now0", "now1", "now2", "now3", "batch0", "now4", "batch1", "batch2"]


def test_a_message_keeps_its_priority_while_it_is_delayed_and_at_a_restart() -> None:
    watch = Watch()
    queue = WakeUpQueue(watch)
    queue.send(TaskRef("a", "delayed"), delay_s=1, priority=Priority.BATCH)
    queue.refill([("a/refilled", 0, "batch"), ("a/now", 0, "interactive")])
    watch.now_ms += 1_000

    got = list(iter(lambda: queue.receive(0), None))
    assert got == [
        Message(TaskRef("a", "now")),
        Message(TaskRef("a", "refilled"), Priority.BATCH),
        Message(TaskRef("a", "delayed"), Priority.BATCH),
    ]


def test_as_many_messages_are_given_out_as_the_receivers_allow() -> None:
    queue = WakeUpQueue(Watch())
    for n in range(4):
        queue.send(TaskRef("a", f"a{n}"))
    given = [queue.receive(0, limit=2) for _ in range(3)]
    assert given == [Message(TaskRef("a", "a0")), Message(TaskRef("a", "a1")), None]

    assert given[0]
    queue.done(given[0])
    assert queue.receive(0, limit=2) == Message(TaskRef("a", "a2"))
    assert queue.receive(0, limit=2) is None


def test_a_tenant_below_its_equal_share_need_not_wait_until_others_are_done() -> None:
    """One tenant has all eight. Of two tenants, each has a right to four; of three, to two; sixteen at most."""
    queue = WakeUpQueue(Watch())
    for tenant in "abc":
        for n in range(20 if tenant == "a" else 0):
            queue.send(TaskRef(tenant, f"{tenant}{n}"))
    assert [queue.receive(0, limit=8) for _ in range(9)][-2:] == [Message(TaskRef("a", "a7")), None]

    def given(tenant: str) -> int:
        for n in range(20):
            queue.send(TaskRef(tenant, f"{tenant}{n}"))
        return sum(1 for _ in iter(lambda: queue.receive(0, limit=8), None))

    assert [given(tenant) for tenant in "bcdefgh"] == [4, 2, 2, 0, 0, 0, 0]


def test_batch_tasks_in_work_do_not_hold_up_an_interactive_task_of_their_tenant() -> None:
    queue = WakeUpQueue(Watch())
    for n in range(20):
        queue.send(TaskRef("a", f"batch{n}"), priority=Priority.BATCH)
    assert sum(1 for _ in iter(lambda: queue.receive(0, limit=8), None)) == 8

    queue.send(TaskRef("a", "now"))
    assert queue.receive(0, limit=8) == Message(TaskRef("a", "now"))


def test_a_message_that_may_not_be_given_wakes_no_receiver() -> None:
    """It would look in vain, for each message of a backlog. A message that may be given still wakes it."""
    queue, looks = WakeUpQueue(Watch()), list[bool]()

    def stopping() -> bool:
        looks.append(True)
        return False

    queue.send(TaskRef("a", "a0"))
    assert queue.receive(0, limit=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: queue.receive(30, stopping, limit=1))
        time.sleep(0.05)
        for n in range(50):
            queue.send(TaskRef("a", f"a{n}"))
        time.sleep(0.05)
        assert len(looks) == 1
        queue.send(TaskRef("b", "b0"))

        assert waiting.result(5) == Message(TaskRef("b", "b0"))


def test_a_waiting_receiver_is_woken_by_a_message() -> None:
    """The best of three, because other processes may delay one of them."""
    queue, took_s = WakeUpQueue(Watch()), list[float]()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            waiting = pool.submit(queue.receive, 30)
            time.sleep(0.05)
            sent = time.monotonic()
            queue.send(REF)
            assert waiting.result(30) == Message(REF)
            took_s.append(time.monotonic() - sent)

    assert min(took_s) < 0.3
    queue.close()


def test_a_receiver_waits_no_longer_than_it_was_told() -> None:
    queue = WakeUpQueue(Watch())
    began = time.monotonic()

    assert queue.receive(0.1) is None
    assert 0.1 <= time.monotonic() - began < 5
    queue.close()


def test_messages_that_are_visible_keep_their_order() -> None:
    """A delayed message takes its turn when it becomes visible, not when a receiver next looks."""
    watch = Watch()
    queue = WakeUpQueue(watch)
    queue.send(TaskRef("local", "first"))
    queue.send(TaskRef("local", "third"), delay_s=1)
    queue.send(TaskRef("local", "second"))
    queue.send(TaskRef("local", "fourth"), delay_s=1)
    watch.now_ms += 2_000
    queue.send(TaskRef("local", "fifth"))

    got = list(iter(lambda: received(queue), None))
    assert got == ["first", "second", "third", "fourth", "fifth"]


def test_a_waiting_receiver_gets_a_delayed_message_when_it_becomes_visible() -> None:
    """Even if the wait began before the message came, with a later one already delayed."""
    queue = WakeUpQueue(lambda: time.time_ns() // 1_000_000)
    with ThreadPoolExecutor(2) as pool:
        queue.send(TaskRef("local", "later"), delay_s=900)
        waits = [pool.submit(queue.receive, 30) for _ in range(2)]
        time.sleep(0.05)
        sent = time.monotonic()
        queue.send(REF, delay_s=1)
        next(as_completed(waits, 30))
        took_s = time.monotonic() - sent
        queue.close()

        assert {wait.result(30) for wait in waits} == {Message(REF), None}
    assert 0.99 <= took_s < 1.9


def test_a_receiver_that_leaves_hands_the_watch_over_delayed_messages_on() -> None:
    """One receiver takes the first message; another that began to wait earlier still gets the second on time."""
    queue = WakeUpQueue(lambda: time.time_ns() // 1_000_000)
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(queue.receive, 30) for _ in range(2)]
        time.sleep(0.05)
        sent = time.monotonic()
        queue.send(REF, delay_s=1)
        time.sleep(0.05)  # the one that began last waits for the delayed message
        queue.send(TaskRef("local", "now"))

        assert {wait.result(30) for wait in waits} == {Message(TaskRef("local", "now")), Message(REF)}
    assert time.monotonic() - sent < 1.9


def test_the_receiver_that_began_to_wait_last_is_woken_first() -> None:
    """So the others wait long enough to notice that they are not needed."""
    queue, order = WakeUpQueue(Watch()), list[str]()

    def receive(name: str) -> None:
        queue.receive(30)
        order.append(name)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(receive, "first")
        time.sleep(0.05)
        last = pool.submit(receive, "last")
        time.sleep(0.05)
        queue.send(REF)
        last.result(30)
        queue.send(REF)
        first.result(30)

    assert order == ["last", "first"]


def test_no_message_is_lost_between_senders_and_receivers_that_come_and_go() -> None:
    """Receivers give up after a moment and come back, so that sends and time-outs meet."""
    queue, sent_all = WakeUpQueue(lambda: time.time_ns() // 1_000_000), threading.Event()

    def send(sender: int) -> None:
        for n in range(400):
            queue.send(TaskRef(f"tenant-{sender}", f"t{n}"))
            if n % 40 == 0:
                time.sleep(0.002)

    def receive(_: int) -> list[TaskRef]:
        got = list[TaskRef]()
        while True:
            was_over = sent_all.is_set()
            message = queue.receive(0.001)
            if message:
                got.append(message.ref)
            elif was_over:
                return got

    with ThreadPoolExecutor(4) as senders, ThreadPoolExecutor(8) as receivers:
        received = [receivers.submit(receive, n) for n in range(8)]
        list(senders.map(send, range(4)))
        sent_all.set()
        refs = [ref for future in received for ref in future.result(30)]

    assert sorted(map(str, refs)) == sorted(f"tenant-{sender}/t{n}" for sender in range(4) for n in range(400))


def test_a_message_wakes_a_receiver_though_another_one_gives_up_at_that_moment() -> None:
    """Each message is received while both receivers still wait for 30 s, whichever of the three was chosen to wake."""
    queue = WakeUpQueue(Watch())
    with ThreadPoolExecutor(3) as pool:
        for _ in range(50):
            waits = [pool.submit(queue.receive, wait_s) for wait_s in (30, 30, 0.002)]
            time.sleep(0.002)
            queue.send(REF)
            queue.send(REF)
            got = next(wait for wait in as_completed(waits, 30) if wait.result())
            assert got.result() == Message(REF)
            queue.send(REF)
            assert sum(wait.result(30) == Message(REF) for wait in waits) >= 2
            while queue.receive(0):
                pass


def test_a_message_wakes_no_receiver_that_has_given_up() -> None:
    """It wakes the one that still waits."""
    queue = WakeUpQueue(Watch())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.receive, 30)
        time.sleep(0.05)
        assert queue.receive(0.01) is None
        queue.send(REF)

        assert waiting.result(5) == Message(REF)


def test_a_wait_ends_when_its_receiver_is_to_stop() -> None:
    queue, stopping = WakeUpQueue(Watch()), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(queue.receive, 30, stopping.is_set), pool.submit(queue.receive, 30)]
        time.sleep(0.05)
        stopping.set()
        queue.wake_all()

        assert waits[0].result(5) is None
        assert not waits[1].done()
        queue.send(REF)
        assert waits[1].result(5) == Message(REF)
    assert queue.receive(30, stopping.is_set) is None


def test_a_receiver_that_stops_leaves_the_messages_to_others() -> None:
    queue = WakeUpQueue(Watch())
    queue.send(REF)

    assert queue.receive(0, lambda: True) is None
    assert queue.receive(0) == Message(REF)


def test_a_message_can_be_sent_while_a_receiver_looks() -> None:
    """The sender is the HTTP loop."""
    looking, go_on = threading.Event(), threading.Event()

    def clock() -> int:
        if threading.current_thread().name.startswith("receiver"):
            looking.set()
            go_on.wait(10)
        return 1_000

    queue = WakeUpQueue(clock)
    with ThreadPoolExecutor(1, thread_name_prefix="receiver") as receivers:
        received = receivers.submit(queue.receive, 0)
        assert looking.wait(10)
        try:
            with ThreadPoolExecutor(1) as senders:
                senders.submit(queue.send, REF).result(5)
        finally:
            go_on.set()

        assert received.result(10) == Message(REF)


def test_a_message_is_sent_after_the_commit() -> None:
    """A worker that looked for the task before would not find it."""
    uncommitted = list[Callable[[], None]]()
    queue = WakeUpQueue(Watch(), uncommitted.append)
    queue.send(REF)

    assert (queue.depth(), queue.receive(0)) == (0, None)
    uncommitted[0]()
    assert queue.receive(0) == Message(REF)


def test_a_queue_is_refilled_with_messages_and_their_times() -> None:
    watch = Watch()
    queue = WakeUpQueue(watch)

    queue.refill(
        [
            ("local/t1", 0, "interactive"),
            ("local/t2", watch.now_ms + 1, "interactive"),
            ("local/t3", watch.now_ms, "interactive"),
        ]
    )

    assert [received(queue) for _ in range(3)] == ["t1", "t3", None]
    watch.now_ms += 1
    assert received(queue) == "t2"


def test_a_waiting_message_takes_little_memory() -> None:
    """100,000 tasks may wait."""
    queue, ids = WakeUpQueue(Watch()), [str(UUID(int=n)) for n in range(20_000)]
    tracemalloc.start()
    for n, task_id in enumerate(ids):
        queue.send(TaskRef("local", task_id), delay_s=n % 2)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size / len(ids) < 250
