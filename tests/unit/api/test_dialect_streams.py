"""The streams of the OpenAI dialect: live, read again, interrupted, and in segments as on AWS."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_server import catalog_loading, wiring
from llm_server.api.app import create_app
from llm_server.api.openai.answers.chat import Chunks
from llm_server.api.openai.answers.narration import Narration
from llm_server.api.openai.telling import ChatTelling, ResponseTelling
from llm_server.api.streams import answers
from llm_server.embedded.executor import OffLoopExecutor
from llm_server.embedded.streams.hub import Hub
from llm_server.embedded.watches import Watches
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event, EventPage
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import asgi, dialect
from support.builders import NOW_MS, a_failure, a_snapshot, a_task, an_output, claimed
from support.dialect import answered, get, post
from support.event_streams import Frame, OpenStream, open_stream
from support.in_process_server import DOWN, CalledServer

BODY = {"model": "auto", "input": "Say hello.", "background": True, "stream": True}


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def lasting(tmp_path: Path, hub: Hub) -> Iterator[CalledServer]:
    """A server whose streams last until the task ends."""
    settings = Settings(db=tmp_path / "tasks.db", config=tmp_path / "engines.toml")
    (tmp_path / "engines.toml").write_text("")
    with (
        closing(Database(settings.db)) as database,
        closing(WakeUpQueue(wiring.now_ms, database.after_commit)) as queue,
        closing(OffLoopExecutor(database, Watches(), hub=hub)) as run,
    ):
        store, keys = SqliteStore(database, on_change=hub.changed), SqliteKeys(database)
        catalog = catalog_loading.load_catalog(settings).catalog
        service = wiring.service_of(
            settings, store=store, key_store=keys, queue=queue, catalog=catalog, after_commit=database.after_commit
        )
        app = create_app(service, wiring.new_id, executor=run, open_without_keys=True)
        yield CalledServer(app=app, service=service, store=store, keys=keys, queue=queue, settings=settings)


def asked(server: CalledServer) -> str:
    """Create a task whose text is streamed; return its id."""
    return server.created("Say hello.", stream=True)


def read(path: str, then: Callable[[OpenStream], Coroutine[Any, Any, Any]], server: CalledServer) -> list[Frame]:
    """Open a stream, do something while it is read, and return all its frames."""

    async def reading() -> list[Frame]:
        async with open_stream(server.app, path) as stream:
            await then(stream)
            return await stream.to_the_end()

    return asyncio.run(reading())


async def nothing(_: OpenStream) -> None:
    """Do nothing."""


def working(server: CalledServer) -> Callable[[OpenStream], Coroutine[Any, Any, None]]:
    async def work(stream: OpenStream) -> None:
        await stream.until("response.queued")
        worker = threading.Thread(target=server.work)
        worker.start()
        await asyncio.to_thread(worker.join)

    return work


def told(frames: list[Frame]) -> list[tuple[int | None, Any]]:
    return [(frame.id, frame.data) for frame in frames if not frame.comment]


def test_a_stream_that_is_read_again_is_the_same(lasting: CalledServer) -> None:
    """Live, from the beginning, and from each of its numbers on: the same events with the same numbers."""
    path = f"/v1/responses/{asked(lasting)}?stream=true"
    live = told(read(path, working(lasting), lasting))
    again = told(read(path, nothing, lasting))

    assert len(live) > 20
    assert live[-1][1]["type"] == "response.completed"
    assert again == live
    assert [number for number, _ in live] == [*range(len(live))]
    for after in (0, 7, len(live) - 2):
        assert told(read(f"{path}&starting_after={after}", nothing, lasting)) == live[after + 1 :]


def test_the_last_event_is_sent_again_after_the_end(lasting: CalledServer) -> None:
    """So that a stream always ends with the end of the task."""
    path = f"/v1/responses/{asked(lasting)}?stream=true"
    live = told(read(path, working(lasting), lasting))

    assert told(read(f"{path}&starting_after={len(live) - 1}", nothing, lasting)) == live[-1:]


def test_a_task_that_was_not_streamed_has_the_same_kinds_of_events(lasting: CalledServer) -> None:
    task_id = lasting.created("Say hello.")
    frames = read(f"/v1/responses/{task_id}?stream=true", working(lasting), lasting)

    assert [frame.event.removeprefix("response.") for frame in frames] == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_a_created_stream_lasts_until_the_task_ends(lasting: CalledServer) -> None:
    sent = json.dumps(BODY).encode()

    async def create() -> list[Frame]:
        async with open_stream(lasting.app, "/v1/responses", asgi.JSON, method="POST", body=sent) as stream:
            return await stream.to_the_end()

    with lasting.working():
        events = [frame.data for frame in asyncio.run(create())]
    response = events[-1]["response"]

    assert dialect.text_of(events) == response["output"][0]["content"][0]["text"]
    assert answered(get(lasting, f"responses/{response['id']}")) == response


def test_a_stopping_server_ends_the_stream_with_where_it_goes_on(lasting: CalledServer, hub: Hub) -> None:
    task_id = asked(lasting)
    path = f"/v1/responses/{task_id}?stream=true"

    async def stop(stream: OpenStream) -> None:
        await stream.until("response.queued")
        hub.stop()

    cut = read(path, stop, lasting)[-1]

    assert (cut.event, cut.id) == ("response.incomplete", 1)
    assert cut.data["response"]["incomplete_details"] == {"reason": "stream_interrupted"}
    assert cut.data["response"]["llm_server"]["go_on"] == {"response_id": f"resp_{task_id}", "starting_after": 1}


def test_a_deleted_task_ends_its_stream(lasting: CalledServer) -> None:
    task_id = asked(lasting)

    async def delete(stream: OpenStream) -> None:
        await stream.until("response.queued")
        await asyncio.to_thread(lasting.service.delete, TaskRef("local", task_id))

    last = read(f"/v1/responses/{task_id}?stream=true", delete, lasting)[-1]

    assert last.event == "response.failed"
    assert last.data["response"]["status"] in ("failed", "cancelled")


def test_a_cancelled_task_ends_its_stream(lasting: CalledServer) -> None:
    task_id = asked(lasting)

    async def cancel(stream: OpenStream) -> None:
        await stream.until("response.queued")
        await asyncio.to_thread(lasting.service.cancel, TaskRef("local", task_id))

    last = read(f"/v1/responses/{task_id}?stream=true", cancel, lasting)[-1]

    assert (last.event, last.data["response"]["status"]) == ("response.failed", "cancelled")


def context(left_s: float) -> dict[str, object]:
    """The part of a scope that Mangum adds in a Lambda function with so much time left."""
    return {"aws.context": SimpleNamespace(get_remaining_time_in_millis=lambda: left_s * 1000)}


def test_on_aws_a_stream_has_what_there_is_and_the_id_to_go_on_with(server: CalledServer) -> None:
    task_id = asked(server)
    path = f"/v1/responses/{task_id}?stream=true"
    started = dialect.events(server.call("GET", path, server=context(3)).body)
    server.work()
    rest = dialect.events(server.call("GET", f"{path}&starting_after=1", server=context(3)).body)

    goes_on = {"response_id": f"resp_{task_id}", "starting_after": 1}
    assert started[-1]["response"]["llm_server"]["go_on"] == goes_on
    assert started[-1]["response"]["incomplete_details"] == {"reason": "stream_time_limit"}
    assert [event["type"] for event in started[:2]] == ["response.created", "response.queued"]
    assert (rest[0]["sequence_number"], rest[-1]["type"]) == (2, "response.completed")


def test_on_aws_a_stream_is_whole_if_the_task_ends_in_time(server: CalledServer) -> None:
    with server.working():
        answer = post(server, "responses", BODY)
    events = dialect.events(answer.body)

    assert "content-length" in answer.headers
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")


def test_on_aws_a_chat_stream_ends_with_an_error_that_names_the_response(server: CalledServer) -> None:
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Say hello."}]}
    answer = server.call(
        "POST",
        "/v1/chat/completions",
        headers=asgi.JSON,
        parts=[json.dumps(body).encode()],
        server=context(3),
    )
    *_, last = dialect.chunks(answer.body)

    assert last["error"]["code"] == "not_finished"
    assert f"GET /v1/responses/resp_{answer.headers['x-llm-server-task-id']}." in last["detail"]


# ---- what the tellings write


def reading(snapshot: Snapshot) -> Callable[[], Coroutine[Any, Any, Snapshot]]:
    async def get_task() -> Snapshot:
        return snapshot

    return get_task


def page(*events: Event, ended: bool = False) -> EventPage:
    return EventPage(events=events, ended=ended)


def delta(text: str, item: int = 5) -> Event:
    return Event(name="text.delta", at_ms=NOW_MS, actor="worker", number=item, item=item, text=text)


def end(name: str) -> Event:
    return Event(name=name, at_ms=NOW_MS, actor="worker", number=9)


def completed(text: str) -> Snapshot:
    answer = an_output(text=text)
    return a_snapshot(claimed(a_task("t1")).completed(answer), None, answer)


def chat_of(end_state: Snapshot, *pages: EventPage) -> list[dict[str, Any]]:
    telling = ChatTelling("t1", Chunks("t1", NOW_MS, "auto", with_usage=False), reading(end_state))
    body = telling.begin() + b"".join(asyncio.run(telling.events(each)) for each in pages) + telling.end("final")
    return dialect.chunks(body)


def texts(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if "choices" in chunk)


def test_chat_chunks_go_on_where_a_new_call_repeats_the_text() -> None:
    chunks = chat_of(completed("Hello."), page(delta("Hel", 5)), page(delta("Hello.", 7), end("completed")))

    assert texts(chunks) == "Hello."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_chat_chunks_that_cannot_be_taken_back_end_in_an_error() -> None:
    chunks = chat_of(completed("Hello."), page(delta("Good", 5)), page(delta("Hello.", 7), end("completed")))

    assert texts(chunks) == "Good"
    assert chunks[-1]["error"]["code"] == "answer_restarted"
    assert "GET /v1/responses/resp_t1." in chunks[-1]["detail"]


def test_a_failed_task_ends_a_chat_stream_with_its_error() -> None:
    output = a_failure(error="No engine answered.")
    failed = a_snapshot(claimed(a_task("t1")).failed(output), None, output)
    chunks = chat_of(failed, page(delta("Hel"), end("failed")))

    assert chunks[-1]["error"]["code"] == "task_failed"
    assert chunks[-1]["detail"].startswith("No engine answered.")


def test_the_end_of_an_earlier_try_ends_nothing() -> None:
    """A task that was retried has a failure among its events, and goes on after it."""
    again = a_snapshot(claimed(a_task("t1")))
    telling = ResponseTelling(Narration(again), reading(completed("Hello.")))
    retried = Event(name="retried", at_ms=NOW_MS, actor="caller", number=10)
    first = asyncio.run(telling.events(page(end("failed"), retried)))

    assert not telling.is_over
    assert b"response.failed" not in first
    assert b"response.completed" in asyncio.run(telling.events(page(delta("Hello."), end("completed"))))
    assert telling.end("final") == b""


def test_a_task_that_is_open_again_when_it_is_read_ends_nothing() -> None:
    telling = ResponseTelling(Narration(a_snapshot(a_task("t1"))), reading(a_snapshot(claimed(a_task("t1")))))
    asyncio.run(telling.events(page(end("failed"))))

    assert not telling.is_over


def test_what_could_not_be_sent_is_told_to_the_next_reader() -> None:
    """The database fails when the end is read: the event that breaks the stream off comes before what was not sent."""

    async def fail() -> Snapshot:
        raise DOWN

    telling = ResponseTelling(Narration(a_snapshot(a_task("t1"))), fail)
    begun = asyncio.run(telling.events(page(delta("Hel"))))
    with pytest.raises(StorageUnavailable):
        asyncio.run(telling.events(page(delta("lo."), end("completed"))))
    found = dialect.events(begun + telling.end("unanswered"))

    assert dialect.text_of(found) == "Hel"
    assert found[-1]["response"]["llm_server"]["go_on"]["starting_after"] == found[-2]["sequence_number"]


def test_every_reason_ends_a_stream_with_a_terminal_event() -> None:
    reasons: tuple[answers.Reason, ...] = ("deleted", "refused", "stopping", "unanswered", "time")
    for reason in reasons:
        telling = ResponseTelling(Narration(a_snapshot(a_task("t1"))), reading(completed("x")))
        last = dialect.events(telling.begin() + telling.end(reason))[-1]
        assert last["type"] == ("response.failed" if reason == "deleted" else "response.incomplete")
        assert telling.is_over


def test_a_delta_of_a_streamed_task_is_shown_at_once(lasting: CalledServer, hub: Hub) -> None:
    """Text that is not stored yet comes from memory, as in the native stream."""
    task_id = asked(lasting)
    ref = TaskRef("local", task_id)

    async def publish(stream: OpenStream) -> None:
        await stream.until("response.queued")
        hub.publish(ref, Delta(number=20_001_000, item=20_000_501, text="One ", at_ms=NOW_MS))
        await stream.until("response.output_text.delta")
        hub.stop()

    frames = read(f"/v1/responses/{task_id}?stream=true", publish, lasting)

    assert frames[-2].data["delta"] == "One "
    assert frames[-1].data["response"]["llm_server"]["go_on"]["starting_after"] == frames[-2].id
