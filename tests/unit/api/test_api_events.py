"""`GET /tasks/{id}/events`: pages, long polls and streams, on both executors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_server import catalog_loading, wiring
from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.api.schemas.events import EventsPage
from llm_server.api.streams import answers
from llm_server.embedded.executor import OffLoopExecutor
from llm_server.embedded.streams.hub import Hub
from llm_server.embedded.watches import Watches
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import asgi
from support.event_streams import Frame, open_stream
from support.in_process_server import CalledServer
from support.scripted_engine import WAIT_S

STREAM = {"accept": "text/event-stream"}
Make = Callable[[str], CalledServer]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def make(tmp_path: Path, hub: Hub) -> Iterator[Make]:
    """Yield a function that makes a server with the executor `inline` or `off the loop`."""
    settings = Settings(db=tmp_path / "tasks.db", config=tmp_path / "engines.toml")
    (tmp_path / "engines.toml").write_text("")
    with (
        closing(Database(settings.db)) as database,
        closing(WakeUpQueue(wiring.now_ms, database.after_commit)) as queue,
    ):
        store, keys = SqliteStore(database, on_change=hub.changed), SqliteKeys(database)
        catalog = catalog_loading.load_catalog(settings).catalog
        service = wiring.service_of(
            settings, store=store, key_store=keys, queue=queue, catalog=catalog, after_commit=database.after_commit
        )
        with closing(OffLoopExecutor(database, Watches(), hub=hub)) as off_loop:

            def made(executor: str) -> CalledServer:
                run = InlineExecutor(service) if executor == "inline" else off_loop
                app = create_app(service, wiring.new_id, executor=run, open_without_keys=True)
                return CalledServer(app=app, service=service, store=store, keys=keys, queue=queue, settings=settings)

            yield made


@pytest.fixture(params=["inline", "off the loop"])
def server(request: pytest.FixtureRequest, make: Make) -> CalledServer:
    return make(request.param)


@pytest.fixture
def lasting(make: Make) -> CalledServer:
    """A server whose streams last until the task ends."""
    return make("off the loop")


def finished(server: CalledServer) -> str:
    """Create a task and carry it out; return its id."""
    task_id = server.created()
    server.work()
    return task_id


def on_a_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_a_page_has_the_events_and_says_where_the_next_one_begins(server: CalledServer) -> None:
    task_id = finished(server)
    page = server.get(f"tasks/{task_id}/events").json
    numbers = [event["number"] for event in page["events"]]

    assert numbers == sorted(set(numbers))
    assert (page["last"], page["ended"]) == (numbers[-1], True)
    assert [event["event"] for event in page["events"]][:2] == ["accepted", "routed"]
    EventsPage.model_validate(page)


def test_a_page_begins_after_the_number_that_the_call_names(server: CalledServer) -> None:
    task_id = finished(server)
    events = server.get(f"tasks/{task_id}/events").json["events"]
    rest = server.get(f"tasks/{task_id}/events?starting_after={events[1]['number']}").json
    past = server.get(f"tasks/{task_id}/events?starting_after={2**50}").json

    assert rest["events"] == events[2:]
    assert past == {"events": [], "last": 2**50, "ended": True}


def test_a_long_poll_returns_as_soon_as_there_is_an_event(server: CalledServer) -> None:
    """It does not wait for the whole 20 s, nor return before."""
    task_id = server.created()
    last = server.get(f"tasks/{task_id}/events").json["last"]
    timer = threading.Timer(0.4, server.service.cancel, [TaskRef("local", task_id)])
    began_s = time.monotonic()
    timer.start()
    page = server.get(f"tasks/{task_id}/events?starting_after={last}&wait=20").json

    assert 0.4 <= time.monotonic() - began_s < 10
    assert ([event["event"] for event in page["events"]], page["ended"]) == (["cancelled", "receipt"], True)


def test_a_long_poll_without_news_returns_after_its_wait(server: CalledServer) -> None:
    task_id = server.created()
    last = server.get(f"tasks/{task_id}/events").json["last"]
    began_s = time.monotonic()
    page = server.get(f"tasks/{task_id}/events?starting_after={last}&wait=1").json

    assert 1 <= time.monotonic() - began_s < 5
    assert page == {"events": [], "last": last, "ended": False}


def test_a_stream_of_a_final_task_replays_it_and_ends(server: CalledServer) -> None:
    task_id = finished(server)
    page = server.get(f"tasks/{task_id}/events").json

    async def main() -> list[Frame]:
        async with open_stream(server.app, f"tasks/{task_id}/events") as stream:
            await stream.to_the_end()
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-store", "no")
            return stream.read

    retry, *events, end = on_a_loop(main)
    assert retry.retry == 2000
    assert [event.data for event in events] == page["events"]
    assert [(event.id, event.event) for event in events] == [(e["number"], e["event"]) for e in page["events"]]
    assert end == Frame(event="end", data={"reason": "final"})


def test_a_stream_past_the_end_is_refused_with_204(server: CalledServer) -> None:
    """Any other answer would make a browser's EventSource connect again and again."""
    task_id = finished(server)
    last = server.get(f"tasks/{task_id}/events").json["last"]
    answer = server.get(f"tasks/{task_id}/events", accept="text/event-stream", last_event_id=str(last))

    assert (answer.status, answer.body) == (204, b"")


def test_the_header_wins_over_the_parameter(server: CalledServer) -> None:
    """An EventSource that was opened with `starting_after` repeats it when it connects again."""
    task_id = finished(server)
    events = server.get(f"tasks/{task_id}/events").json["events"]
    path = f"tasks/{task_id}/events?starting_after={events[0]['number']}"
    answer = server.get(path, last_event_id=str(events[-2]["number"]))

    assert answer.json["events"] == events[-1:]


@pytest.mark.parametrize(
    ("path", "headers", "named"),
    [
        ("?starting_after=-1", {}, "starting_after"),
        ("?starting_after=x", {}, "starting_after"),
        ("?wait=21", {}, "wait"),
        ("?wait=1.5", {}, "wait"),
        ("", {"last_event_id": "x"}, "Last-Event-ID"),
        ("", {"last_event_id": "99999999999999999999"}, "Last-Event-ID"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    server: CalledServer, path: str, headers: dict[str, str], named: str
) -> None:
    answer = server.get(f"tasks/{finished(server)}/events{path}", **headers)

    assert (answer.status, answer.code) == (422, "invalid_input")
    assert (named in answer.detail, "a whole number from 0 to" in answer.detail) == (True, True)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream, */*", True),
        ("text/*", True),
        ("application/json;q=0.5, text/event-stream;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("application/json, text/event-stream", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.5, */*", False),
        ("text/html", False),
    ],
)
def test_accept_chooses_the_form(server: CalledServer, accept: str, streams: bool) -> None:
    answer = server.get(f"tasks/{finished(server)}/events", accept=accept)

    assert answer.headers["content-type"].startswith("text/event-stream") is streams
    assert answer.headers["vary"] == "Accept"


def test_a_head_request_of_a_running_task_is_answered_at_once(server: CalledServer) -> None:
    """Without a body, although the stream of a GET request would last."""
    task_id = server.created()

    async def main() -> tuple[int, list[Frame]]:
        async with open_stream(server.app, f"tasks/{task_id}/events", method="HEAD") as stream:
            read = await stream.to_the_end()
            return stream.status, read

    assert on_a_loop(main) == (200, [])


def test_a_task_of_another_tenant_has_no_events(server: CalledServer) -> None:
    ours, theirs = server.with_key("acme"), server.with_key("other")
    task_id = finished(ours)

    for headers in ({}, STREAM):
        answer = theirs.get(f"tasks/{task_id}/events", **headers)
        assert (answer.status, answer.code) == (404, "task_not_found")
    assert ours.get(f"tasks/{task_id}/events").status == 200


def test_a_key_without_the_scope_reads_no_events(server: CalledServer) -> None:
    ours, metrics = server.with_key("acme"), server.with_key("acme", "metrics")
    answer = metrics.get(f"tasks/{finished(ours)}/events", **STREAM)

    assert (answer.status, answer.code) == (403, "scope_missing")


def test_where_responses_are_buffered_a_stream_comes_in_segments(make: Make) -> None:
    """A segment has its length, tells when to connect again, and ends with the first news."""
    server = make("inline")
    task_id = server.created()
    first = server.get(f"tasks/{task_id}/events", **STREAM)
    last = server.get(f"tasks/{task_id}/events").json["last"]
    timer = threading.Timer(0.3, server.service.cancel, [TaskRef("local", task_id)])
    timer.start()
    second = server.get(f"tasks/{task_id}/events", last_event_id=str(last), **STREAM)

    assert int(first.headers["content-length"]) == len(first.body)
    assert first.body.startswith(b"retry: 2000\n\nid: 10000000\nevent: accepted\n")
    assert b"event: end" not in first.body
    assert b"event: cancelled\n" in second.body
    assert second.body.endswith(b'event: end\ndata: {"reason":"final"}\n\n')


def test_a_segment_ends_before_the_function_times_out(make: Make) -> None:
    server = make("inline")
    task_id = server.created()
    last = server.get(f"tasks/{task_id}/events").json["last"]

    class Invocation:
        def get_remaining_time_in_millis(self) -> int:
            return 3_500

    began_s = time.monotonic()
    headers = STREAM | {"last-event-id": str(last)}
    answer = server.call("GET", f"tasks/{task_id}/events", headers=headers, server={"aws.context": Invocation()})

    assert answer.body == b"retry: 2000\n\n: keep-alive\n\n"
    assert time.monotonic() - began_s < 3


def test_a_stream_lasts_until_the_task_ends(lasting: CalledServer) -> None:
    task_id = lasting.created()

    async def main() -> list[Frame]:
        async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
            await stream.until("routed")
            await asyncio.to_thread(lasting.work)
            return await stream.to_the_end()

    read = on_a_loop(main)
    page = lasting.get(f"tasks/{task_id}/events").json
    told = [(event["number"], event["event"]) for event in page["events"]]
    assert [(frame.id, frame.event) for frame in read if frame.id] == told
    assert read[-1] == Frame(event="end", data={"reason": "final"})


def test_a_stream_of_a_deleted_task_says_so_and_ends(lasting: CalledServer) -> None:
    task_id = lasting.created()

    async def main() -> Frame:
        async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
            await stream.until("routed")
            await asyncio.to_thread(lasting.store.delete, lasting.store.peek(TaskRef("local", task_id)))
            return (await stream.to_the_end())[-1]

    assert on_a_loop(main) == Frame(event="end", data={"reason": "deleted"})


def test_a_stopping_server_ends_streams_so_that_readers_connect_again(lasting: CalledServer, hub: Hub) -> None:
    """Without `end`, which would tell the reader that nothing more comes."""
    task_id = lasting.created()

    async def main() -> list[Frame]:
        async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
            await stream.until("routed")
            await asyncio.to_thread(hub.stop)
            return await stream.to_the_end()

    read = on_a_loop(main)
    assert read[-1].comment.startswith("the server is stopping")
    assert "end" not in {frame.event for frame in read}


def test_a_reader_that_leaves_is_forgotten_and_the_task_goes_on(lasting: CalledServer, hub: Hub) -> None:
    task_id = lasting.created()

    async def main() -> None:
        for _ in range(20):
            async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
                await stream.until("routed")
                assert hub.count == 1
            assert hub.count == 0

    on_a_loop(main)
    lasting.work()
    assert lasting.get(f"tasks/{task_id}").json["status"] == "Completed"


@pytest.mark.parametrize("task_is_busy", [False, True])
def test_a_revoked_key_loses_its_stream(
    lasting: CalledServer, hub: Hub, monkeypatch: pytest.MonkeyPatch, task_is_busy: bool
) -> None:
    """The key is checked every 15 s, here more often, also while events come all the time."""
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.1)
    keyed = lasting.with_key("acme")
    task_id = keyed.created()
    (key,) = lasting.service.keys.all()

    async def main() -> list[Frame]:
        async with open_stream(keyed.app, f"tasks/{task_id}/events", keyed.headers) as stream:
            await stream.until("routed")
            await asyncio.to_thread(lasting.service.keys.revoke, key.key_id)
            number = 2**40
            while not stream.has_ended:
                if task_is_busy:
                    number += 1
                    hub.publish(TaskRef("acme", task_id), Delta(number=number, item=1, text="x", at_ms=0))
                await asyncio.sleep(0 if task_is_busy else 0.01)  # with 0, there is an event whenever the stream looks
            return stream.read

    assert on_a_loop(main)[-1] == Frame(event="end", data={"reason": "refused"})


def test_a_silent_stream_sends_comments(lasting: CalledServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that proxies keep the connection, and clients notice when it is lost."""
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.05)
    task_id = lasting.created()

    async def main() -> None:
        async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
            await stream.until("routed")
            while [frame.comment for frame in stream.read].count("keep-alive") < 3:
                await asyncio.sleep(0.01)

    on_a_loop(main)


def test_a_stream_without_its_database_ends_so_that_readers_connect_again(lasting: CalledServer, hub: Hub) -> None:
    task_id = lasting.created()
    service = lasting.service
    events, is_down = service.events, False

    def failing(ref: TaskRef, *, after: int = 0) -> Any:
        if is_down:
            raise StorageUnavailable("The database does not answer; try again.")
        return events(ref, after=after)

    service.events = failing  # type: ignore[method-assign]

    async def main() -> list[Frame]:
        nonlocal is_down
        async with open_stream(lasting.app, f"tasks/{task_id}/events") as stream:
            await stream.until("routed")
            is_down = True
            hub.changed(TaskRef("local", task_id))
            return await stream.to_the_end()

    read = on_a_loop(main)
    assert read[-1].comment.startswith("the database does not answer")
    assert lasting.get(f"tasks/{task_id}/events", **STREAM).status == 503


def test_the_path_answers_options_like_all_others(server: CalledServer) -> None:
    task_id = server.created()

    assert server.call("OPTIONS", f"tasks/{task_id}/events").headers["allow"] == "GET, HEAD, OPTIONS"
    assert server.call("POST", f"tasks/{task_id}/events", headers=asgi.JSON).status == 405


def test_stream_is_a_field_of_a_task(server: CalledServer) -> None:
    streamed, usual = server.created(stream=True), server.created()

    assert server.get(f"tasks/{streamed}").json["stream"] is True
    assert server.get(f"tasks/{usual}").json["stream"] is False
    assert server.post({"prompt": "Say hello.", "stream": "yes"}).status == 422
    assert replace(server, headers={}).get(f"tasks/{streamed}/events").status == 200
