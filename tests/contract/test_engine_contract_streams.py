"""What every adapter promises of a streamed answer: its pieces are its text, and no fault in the middle goes unseen."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Timer
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.bedrock import BedrockEngine
from llm_server.engines.connections import EnginePool
from llm_server.engines.embedded import EmbeddedEngine
from llm_server.engines.local.demonstration import DemonstrationEngine
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import END_MARKS
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, LLMServerError, PromptRefused, TaskCancelled
from llm_server.orchestration.domain.plan import SYNTHESIS_DEMAND
from llm_server.orchestration.routing.analysis import analyse
from support.engine_wires import CALL, WIRES, Wired, pool, server, wire, wired
from support.fake_engine import (
    FakeEngine,
    Fault,
    body,
    broken_after,
    changed,
    cut,
    dripped,
    ended,
    error_event,
    flood,
    garbage,
    stall,
    status,
)
from support.scripted_engine import a_usage

__all__ = ["pool", "server", "wired"]  # fixtures

ODD = ("The ", "sk", "", "y 🧪", "\r\n\r\ndata: [DONE]", "\n\n", "é 日本", " \u2028 end", " ")


def streamed(wired: Wired, call: EngineCall = CALL, *, timeout_s: float = 5.0) -> tuple[Completion, list[str]]:
    """Make a call whose text is streamed; return the completion and the pieces."""
    pieces = list[str]()
    return wired.engine.complete(replace(call, on_text=pieces.append), timeout_s=timeout_s), pieces


def breaks(
    wired: Wired, fault: Fault, *, after: int = 2, timeout_s: float = 5.0
) -> tuple[EngineUnavailable | PromptRefused, list[str]]:
    """Make a call whose stream breaks after this many pieces; return the failure and the pieces."""
    pieces = list[str]()
    return wired.fails(broken_after(after, fault), timeout_s=timeout_s, on_text=pieces.append), pieces


def test_the_pieces_are_the_text_whatever_is_in_it(wired: Wired) -> None:
    wired.server.pieces = ODD

    completion, pieces = streamed(wired)

    assert pieces == [piece for piece in ODD if piece]
    assert completion.text == "".join(ODD)
    assert completion.usage == a_usage(11, 7)
    assert not completion.truncated


def test_a_stream_is_the_answer_that_comes_without_one(wired: Wired) -> None:
    whole = wired.engine.complete(CALL, timeout_s=5)

    completion, pieces = streamed(wired)

    assert completion == whole
    assert len(pieces) == 5
    assert len(wired.server.seen) == 2


def test_the_first_piece_comes_before_the_rest_is_written(wired: Wired) -> None:
    streamed(wired)
    wired.server.pieces, wired.server.piece_delay_s = ("one", " two", " three"), 0.2
    times, started_s = list[float](), time.monotonic()

    wired.engine.complete(replace(CALL, on_text=lambda _: times.append(time.monotonic() - started_s)), timeout_s=5)

    assert times[0] < 0.2
    assert times[1] - times[0] > 0.1
    assert times[2] - times[1] > 0.1


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("fault", [cut, ended, garbage, error_event], ids=lambda fault: fault.__name__)
def test_a_stream_that_breaks_off_is_no_answer(wired: Wired, fault: Fault, after: int) -> None:
    failure, pieces = breaks(wired, fault, after=after)

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == ("garbage" if fault is garbage else "busy")
    assert failure.may_be_billed
    assert len(pieces) == after
    assert streamed(wired)[0].text == wired.server.text


def test_tokens_of_a_broken_stream_are_those_reported_and_estimates(wired: Wired) -> None:
    """Messages reports the input at the start; the other APIs report nothing before the end."""
    failure, pieces = breaks(wired, cut, after=3)

    assert isinstance(failure, EngineUnavailable)
    assert failure.usage is not None
    assert failure.usage.tokens_in == (
        11 if isinstance(wired.engine, AnthropicEngine) else -(-len(CALL.system + CALL.prompt) // 4)
    )
    assert failure.usage.output_tokens == -(-len("".join(pieces)) // 4)
    assert failure.usage.estimated


def test_a_connection_lost_after_the_last_count_is_billed_as_told(wired: Wired) -> None:
    """The engine has told its bill, so nothing is in doubt. Converse tells it in its last event, which is missing."""
    failure, _ = breaks(wired, cut, after=99)

    assert isinstance(failure, EngineUnavailable)
    if isinstance(wired.engine, BedrockEngine):
        assert failure.may_be_billed
    else:
        assert (failure.usage, failure.may_be_billed) == (a_usage(11, 7), False)


def test_an_answer_whose_end_was_told_is_whole_without_the_last_event(wired: Wired) -> None:
    """Not every server sends it."""
    wired.server.script(broken_after(99, ended))

    completion, pieces = streamed(wired)

    assert completion.text == "".join(pieces) == wired.server.text
    assert completion.usage.estimated == isinstance(wired.engine, BedrockEngine)


@pytest.mark.parametrize("fault", [stall, dripped], ids=lambda fault: fault.__name__)
def test_a_stream_does_not_take_longer_than_its_time(wired: Wired, fault: Fault) -> None:
    streamed(wired)  # the client is made here, not within the time that is measured
    started_s = time.monotonic()

    failure, _ = breaks(wired, fault, timeout_s=0.4)

    assert isinstance(failure, EngineUnavailable)
    assert (failure.kind, failure.may_be_billed) == ("timeout", True)
    assert 0.3 < time.monotonic() - started_s < 1.2


@pytest.mark.parametrize("name", WIRES)
def test_silence_in_the_middle_ends_a_stream_before_its_time(name: str, server: FakeEngine, pool: EnginePool) -> None:
    wired = wire(name, server, pool, idle_timeout_s=1)
    streamed(wired)
    started_s = time.monotonic()

    failure, _ = breaks(wired, stall, timeout_s=30)

    assert isinstance(failure, EngineUnavailable)
    assert (failure.kind, failure.may_be_billed) == ("timeout", True)
    assert 0.9 < time.monotonic() - started_s < 1.9


@pytest.mark.parametrize("name", WIRES)
def test_the_wait_for_the_first_piece_is_not_limited_by_the_idle_time(
    name: str, server: FakeEngine, pool: EnginePool
) -> None:
    """A long prompt takes its time, and so does a model that thinks."""
    wired = wire(name, server, pool, idle_timeout_s=1)

    def late(handler: Any) -> None:
        """Send the head and the first event at once, and the text later."""
        handler.stream(handler.usual(), first_delay_s=1.3)

    server.script(late)

    assert streamed(wired)[0].text == server.text


def test_a_stream_ends_when_its_task_is_cancelled(wired: Wired) -> None:
    streamed(wired)
    wired.server.script(broken_after(2, stall))
    cancellation, pieces = Cancellation(), list[str]()
    Timer(0.3, cancellation.cancel).start()
    started_s = time.monotonic()

    with pytest.raises(TaskCancelled) as caught:
        wired.engine.complete(replace(CALL, cancellation=cancellation, on_text=pieces.append), timeout_s=30)
    assert time.monotonic() - started_s < 1.2
    assert len(pieces) == 2
    assert caught.value.may_be_billed
    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens == -(-len("".join(pieces)) // 4)
    assert streamed(wired)[0].text == wired.server.text


def test_no_piece_follows_the_cancellation(wired: Wired) -> None:
    cancellation, pieces = Cancellation(), list[str]()

    def on_text(piece: str) -> None:
        pieces.append(piece)
        cancellation.cancel()

    with pytest.raises(TaskCancelled):
        wired.engine.complete(replace(CALL, cancellation=cancellation, on_text=on_text), timeout_s=5)
    assert len(pieces) == 1


class Full(LLMServerError):
    """What takes the text cannot take more."""


def test_what_the_taker_of_the_text_raises_ends_the_call(wired: Wired) -> None:
    wired.server.piece_delay_s = 0.05
    pieces = list[str]()

    def on_text(piece: str) -> None:
        pieces.append(piece)
        raise Full

    with pytest.raises(Full):
        wired.engine.complete(replace(CALL, on_text=on_text), timeout_s=5)
    assert len(pieces) == 1
    wired.server.piece_delay_s = 0
    assert streamed(wired)[0].text == wired.server.text


def test_the_call_returns_after_its_text_was_passed_on(wired: Wired) -> None:
    """Another thread may pass it on, but each piece after the one before it, and none after the call."""
    wired.server.piece_delay_s = 0.01
    passed, inside = list[str](), list[str]()

    def on_text(piece: str) -> None:
        inside.append(piece)
        assert len(inside) == 1
        time.sleep(0.02)
        passed.append(inside.pop())

    completion = wired.engine.complete(replace(CALL, on_text=on_text), timeout_s=5)

    assert "".join(passed) == completion.text


@pytest.mark.parametrize("code", [400, 429, 500])
def test_an_error_before_the_stream_is_read_as_without_one(wired: Wired, code: int) -> None:
    streamed(wired)
    whole = wired.fails(status(code))

    failure = wired.fails(status(code), on_text=lambda _: None)

    assert (type(failure), str(failure), failure.may_be_billed) == (type(whole), str(whole), whole.may_be_billed)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_server_that_does_not_stream_is_understood(name: str, server: FakeEngine, pool: EnginePool) -> None:
    server.streams = False
    wired = wire(name, server, pool)

    completion, pieces = streamed(wired)

    assert completion.text == server.text
    assert pieces == [server.text]


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_page_instead_of_a_stream_is_garbage(name: str, server: FakeEngine, pool: EnginePool) -> None:
    failure = wire(name, server, pool).fails(body(b"<html>", "text/html"), on_text=lambda _: None)

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == "garbage"


def test_a_stream_of_twenty_megabytes_is_not_kept(wired: Wired) -> None:
    failure, pieces = breaks(wired, flood, timeout_s=30)

    assert isinstance(failure, EngineUnavailable)
    assert (failure.kind, failure.may_be_billed) == ("garbage", True)
    assert "16 MiB" in str(failure)
    assert len("".join(pieces)) <= 16 * 1024 * 1024


def test_a_streamed_answer_can_be_cut_or_declined(wired: Wired) -> None:
    wired.server.script(changed(wired.cut))
    assert streamed(wired)[0].truncated

    failure = wired.fails(changed(wired.refused), on_text=lambda _: None)
    assert isinstance(failure, PromptRefused)
    assert failure.usage == a_usage(11, 7)


def test_tokens_that_a_stream_does_not_report_are_estimated_and_marked(wired: Wired) -> None:
    wired.server.script(changed(lambda answer: answer.pop("usage")))

    usage = streamed(wired)[0].usage

    assert usage.estimated
    assert usage.tokens_in == -(-len(CALL.system + CALL.prompt) // 4)
    assert usage.output_tokens == -(-len(wired.server.text) // 4)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("mark", [*END_MARKS, "</s>"])
def test_an_end_mark_is_never_shown(name: str, mark: str, server: FakeEngine, pool: EnginePool) -> None:
    """It may come cut in pieces, so a tail that may be the beginning of one is held back."""
    server.pieces = ("Four <", "b>.", *mark, "\nuser: And", " 3 + 3?")

    completion, pieces = streamed(wire(name, server, pool, small=True))

    assert completion.text == "Four <b>."
    assert pieces == ["Four ", "<b>."]


@pytest.mark.parametrize("name", WIRES)
def test_a_tail_that_was_no_end_mark_is_shown_at_the_end(name: str, server: FakeEngine, pool: EnginePool) -> None:
    server.pieces = ("Less: ", "<|im_", "end|", "?", " <|im_e")

    completion, pieces = streamed(wire(name, server, pool, small=True))

    assert "".join(pieces) == completion.text == "Less: <|im_end|? <|im_e"


def test_a_connection_is_used_again_after_a_whole_stream(wired: Wired) -> None:
    for _ in range(4):
        streamed(wired)

    assert wired.server.connections == 1


def test_one_thread_reads_the_streams_of_all_engines_over_http(server: FakeEngine, pool: EnginePool) -> None:
    """A piece that came with the head of its answer is passed on by the thread of the call."""
    server.piece_delay_s = 0.05
    threads = set[threading.Thread]()
    call = replace(CALL, on_text=lambda _: threads.add(threading.current_thread()))
    engines = [wire(name, server, pool).engine for name in ("openai", "anthropic")] * 5
    with ThreadPoolExecutor(len(engines)) as callers:
        answers = [callers.submit(engine.complete, call, timeout_s=5) for engine in engines]

    assert {answer.result().text for answer in answers} == {server.text}
    assert [thread.name for thread in threads if not thread.name.startswith("ThreadPool")] == ["engine-streams"]


def test_an_engine_that_breaks_off_ends_no_other_stream(wired: Wired) -> None:
    wired.server.piece_delay_s = 0.05
    with ThreadPoolExecutor(2) as callers:
        whole = callers.submit(streamed, wired)
        wait_for = time.monotonic() + 5
        while not wired.server.seen and time.monotonic() < wait_for:
            time.sleep(0.01)
        breaks(wired, cut)

    assert whole.result()[0].text == wired.server.text


def test_a_server_that_refuses_the_option_for_usage_is_asked_once_without_it(
    server: FakeEngine, pool: EnginePool
) -> None:
    wired = wire("openai", server, pool)
    server.script(status(400))

    first, second = streamed(wired)[0], streamed(wired)[0]

    assert first.text == second.text == server.text
    assert [("stream_options" in seen.body, seen.body["stream"]) for seen in server.seen] == [
        (True, True),
        (False, True),
        (False, True),
    ]
    assert first.usage.estimated


def test_a_server_that_took_the_option_once_is_not_asked_twice(server: FakeEngine, pool: EnginePool) -> None:
    wired = wire("openai", server, pool)
    streamed(wired)

    wired.fails(status(400), on_text=lambda _: None)

    assert len(server.seen) == 2


@pytest.mark.parametrize("streams", [True, False])
def test_a_call_without_a_taker_asks_for_no_stream(wired: Wired, streams: bool) -> None:
    wired.server.streams = streams

    wired.engine.complete(CALL, timeout_s=5)

    assert not {"stream", "stream_options"} & wired.server.last.body.keys()
    assert not wired.server.last.path.endswith("-stream")


def test_engines_without_a_wire_stream_in_pieces_of_a_few_words() -> None:
    embedded = EmbeddedEngine(analyse)
    synthesis = f"<result_of_s1>\nOne two three four five.\n</result_of_s1>\n\n{SYNTHESIS_DEMAND}"
    calls: list[tuple[Callable[..., Completion], EngineCall]] = [
        (embedded.complete, replace(CALL, max_output_tokens=500)),
        (DemonstrationEngine(embedded, embedded).complete, replace(CALL, messages=user(synthesis))),
    ]
    for complete, call in calls:
        pieces = list[str]()
        completion = complete(replace(call, on_text=pieces.append), timeout_s=5)

        assert "".join(pieces) == completion.text
        assert len(pieces) >= 2
        assert all(len(piece.split()) <= 3 for piece in pieces)
