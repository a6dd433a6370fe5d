"""What a task becomes in the OpenAI dialect: pure functions from a snapshot and its events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from llm_server.api.openai.answers import chat, items, receipt
from llm_server.api.openai.answers.failure import failure
from llm_server.api.openai.answers.narration import Narration
from llm_server.api.openai.answers.response import response
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.snapshot import Limits, Request, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.events.history import Event
from support import dialect
from support.builders import (
    NOW_MS,
    a_failed_attempt,
    a_failure,
    a_request,
    a_snapshot,
    a_task,
    an_attempt,
    an_output,
    claimed,
)

CALL = ToolCall(call_id="c1", name="weather", arguments='{"at":1}')


def as_json(document: object) -> Any:
    return json.loads(msgspec.json.encode(document))


def completed(text: str = "Hello.", request: Request | None = None, **attempt: Any) -> Snapshot:
    answer = an_output(text=text, attempts=(an_attempt(**attempt),))
    return a_snapshot(claimed(a_task("t1")).completed(answer), request, answer)


def failed(kind: Any = None, error: str = "No engine answered.") -> Snapshot:
    output = a_failure(error=error, attempts=(a_failed_attempt(failure=kind),))
    return a_snapshot(claimed(a_task("t1")).failed(output), None, output)


def cancelled() -> Snapshot:
    return a_snapshot(a_task("t1").cancelled(now_ms=NOW_MS))


def checked(snapshot: Snapshot) -> dict[str, Any]:
    document: dict[str, Any] = as_json(response(snapshot))
    dialect.check(document, "response")
    return document


@pytest.mark.parametrize(
    ("snapshot", "status"),
    [
        (a_snapshot(a_task("t1")), "queued"),
        (a_snapshot(claimed(a_task("t1"))), "in_progress"),
        (a_snapshot(replace(claimed(a_task("t1"), has_plan=True), status=Status.PLANNED)), "in_progress"),
        (completed(), "completed"),
        (completed(truncated=True), "incomplete"),
        (failed(), "failed"),
        (cancelled(), "cancelled"),
    ],
)
def test_a_response_has_every_field_in_every_state(snapshot: Snapshot, status: str) -> None:
    document = checked(snapshot)

    assert (document["id"], document["status"]) == ("resp_t1", status)
    assert (document["usage"] is not None) == snapshot.task.status.is_final
    assert (document["completed_at"] is not None) == (status == "completed")
    assert (document["error"] is not None) == (status == "failed")
    assert document["llm_server"]["task_id"] == "t1"


def test_a_completed_response_has_its_text_its_tokens_and_its_receipt() -> None:
    document = checked(completed("Hi.", cache_read_tokens=4, cache_write_tokens=1, reasoning_tokens=5))

    assert document["output"] == [
        {
            "id": "msg_t1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
        }
    ]
    assert document["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 30,
    }
    assert document["receipt"]["cost_microusd"] == 300
    assert (document["model"], document["created_at"]) == ("gpt", NOW_MS // 1000)


def test_a_cut_answer_is_incomplete_and_says_why() -> None:
    document = checked(completed(truncated=True))

    assert document["incomplete_details"] == {"reason": "max_output_tokens"}
    assert document["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(("kind", "code"), [("refused", "invalid_prompt"), ("busy", "server_error")])
def test_a_failed_response_says_why_in_a_code_that_clients_know(kind: str, code: str) -> None:
    assert checked(failed(kind))["error"] == {"code": code, "message": "No engine answered."}


def test_a_response_repeats_what_was_sent() -> None:
    request = a_request(
        instructions="Be brief.",
        limits=Limits(max_output_tokens=40),
        metadata={"ticket": "4711"},
        tools=(Tool(name="weather", parameters={"type": "object"}, strict=True), Tool(name="b")),
        tool_choice=ToolChoice(mode="required", name="weather"),
        previous_task_id="t0",
    )
    document = checked(completed(request=request))

    assert (document["instructions"], document["max_output_tokens"]) == ("Be brief.", 40)
    assert (document["metadata"], document["previous_response_id"]) == ({"ticket": "4711"}, "resp_t0")
    assert document["tool_choice"] == {"type": "function", "name": "weather"}
    assert [tool["name"] for tool in document["tools"]] == ["weather", "b"]


def test_in_a_conversation_the_conversation_is_named_and_not_the_response_before() -> None:
    document = checked(completed(request=a_request(previous_task_id="t0", conversation_id="c1")))

    assert (document["previous_response_id"], document["conversation"]) == (None, {"id": "conv_c1"})


def test_function_calls_are_items_of_their_own() -> None:
    with_text = items.output("t1", "I look.", [CALL], "completed")
    alone = items.output("t1", "", [CALL], "completed")

    assert [item["type"] for item in with_text] == ["message", "function_call"]
    (call,) = alone
    dialect.check(as_json(call), "functionCall")
    assert (call["call_id"], call["name"], call["arguments"]) == ("c1", "weather", '{"at":1}')
    assert [item["type"] for item in items.output("t1", "", [], "completed")] == ["message"]


def test_the_input_is_told_as_it_was_sent() -> None:
    image = Image(media_type="image/png", data="aGk=")
    request = a_request(
        messages=(
            Message(role="user", text="Weather?", images=(image, Image(url="https://example.com/a.png"))),
            Message(role="assistant", text="I look.", tool_calls=(CALL,)),
            Message(role="tool", text="Rain.", tool_call_id="c1"),
        )
    )
    found = items.input_of("t1", request)
    page = as_json(items.page(found, after=None, limit=20, newest_first=False))

    dialect.check(page, "itemList")
    assert [item["type"] for item in page["data"]] == ["message", "message", "function_call", "function_call_output"]
    urls = [part.get("image_url") for part in page["data"][0]["content"]]
    assert urls == [None, "data:image/png;base64,aGk=", "https://example.com/a.png"]
    assert len({item["id"] for item in page["data"]}) == 4


def test_a_prompt_alone_is_one_input_item() -> None:
    (item,) = items.input_of("t1", a_request("Say hello."))

    assert item["content"] == [{"type": "input_text", "text": "Say hello."}]


def test_pages_of_items() -> None:
    found = [{"id": f"i{n}"} for n in range(5)]

    newest = items.page(found, after=None, limit=2, newest_first=True)
    after = items.page(found, after=newest["last_id"], limit=2, newest_first=True)
    last = items.page(found, after="i1", limit=2, newest_first=True)
    unknown = items.page(found, after="nowhere", limit=2, newest_first=True)

    assert [entry["id"] for entry in newest["data"]] == ["i4", "i3"]
    assert [entry["id"] for entry in after["data"]] == ["i2", "i1"]
    assert (newest["has_more"], last["has_more"], [e["id"] for e in last["data"]]) == (True, False, ["i0"])
    assert (unknown["data"], unknown["first_id"]) == ([], "")


def test_a_chat_completion() -> None:
    document = as_json(chat.completion(completed("Hi."), "auto"))

    dialect.check(document, "chatCompletion")
    (choice,) = document["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hi.", "stop")
    assert document["usage"]["total_tokens"] == 30
    assert (document["id"], document["model"]) == ("chatcmpl-t1", "gpt")
    assert document["receipt"]["calls"] == 1


def test_a_cut_chat_completion_ends_by_its_length() -> None:
    assert chat.completion(completed(truncated=True), "auto")["choices"][0]["finish_reason"] == "length"


def test_the_chunks_of_a_stream() -> None:
    chunks = chat.Chunks("t1", NOW_MS, "auto", with_usage=True)
    found = [as_json(each) for each in [chunks.begin(), chunks.text("Hi."), *chunks.end(completed("Hi."))]]

    for chunk in found:
        dialect.check(chunk, "chatChunk")
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[:-1]] == [None, None, "stop"]
    assert (found[-1]["choices"], found[-1]["usage"]["total_tokens"]) == ([], 30)
    assert len(chat.Chunks("t1", NOW_MS, "auto", with_usage=False).end(completed())) == 1


@pytest.mark.parametrize(
    ("snapshot", "status", "code"),
    [
        (failed(), 502, "task_failed"),
        (cancelled(), 409, "task_cancelled"),
        (a_snapshot(a_task("t1")), 504, "not_finished"),
    ],
)
def test_a_task_without_an_answer_is_an_error_of_chat_completions(snapshot: Snapshot, status: int, code: str) -> None:
    error = failure(snapshot)

    assert (error.status_code, error.code, error.task_id) == (status, code, "t1")


def test_headers_tell_task_mode_engine_and_cost() -> None:
    assert receipt.headers(completed(), NOW_MS) == {
        "x-llm-server-task-id": "t1",
        "x-llm-server-mode": "Chat",
        "x-llm-server-engine": "gpt",
        "x-llm-server-cost-microusd": "300",
    }


def test_headers_of_an_open_task_say_when_to_read_it_again() -> None:
    assert receipt.headers(a_snapshot(a_task("t1")), NOW_MS + 7_000) == {
        "x-llm-server-task-id": "t1",
        "x-llm-server-mode": "Chat",
        "Retry-After": "7",
        "openai-poll-after-ms": "7000",
    }


def test_the_decision_says_what_a_task_waits_for() -> None:
    waiting = replace(a_task("t1"), waiting_for="gpt", waiting_since_ms=NOW_MS)
    planned = replace(a_task("t1"), status=Status.PLANNED, approval="awaited")

    assert receipt.decision(a_snapshot(waiting))["waiting_for"] == "gpt"
    assert receipt.decision(a_snapshot(planned))["waiting_for"] == "approval"
    assert receipt.decision(a_snapshot(a_task("t1")))["waiting_for"] is None


# ---- the events of a stream


def event(name: str, number: int = 1, **more: Any) -> Event:
    return Event(name=name, at_ms=NOW_MS, actor="worker", number=number, **more)


def delta(text: str, item: int = 5, **more: Any) -> Event:
    return event("text.delta", item=item, text=text, **more)


def told(begin: Snapshot, pages: Iterable[Sequence[Event]], end: Snapshot) -> list[dict[str, Any]]:
    narration = Narration(begin)
    found = [each for page in pages for each in narration.tell(page)]
    found += narration.end(end)
    documents = [as_json(each) for each in found]
    for document in documents:
        dialect.check(document, "event")
    assert [document["sequence_number"] for document in documents] == [*range(len(documents))]
    assert {d["response"]["id"] for d in documents if "response" in d} == {"resp_t1"}
    return documents


def kinds(documents: Iterable[dict[str, Any]]) -> list[str]:
    return [document["type"].removeprefix("response.") for document in documents]


BEGIN = ["created", "queued", "in_progress"]
OPEN = ["output_item.added", "content_part.added"]
CLOSE = ["output_text.done", "content_part.done", "output_item.done"]
DELTA = "output_text.delta"


def test_a_streamed_answer() -> None:
    pages = [[event("accepted"), event("claimed")], [delta("Hel")], [delta("lo."), event("completed")]]
    found = told(a_snapshot(a_task("t1")), pages, completed("Hello."))

    assert kinds(found) == [*BEGIN, *OPEN, DELTA, DELTA, *CLOSE, "completed"]
    assert [each["delta"] for each in found if each["type"].endswith("text.delta")] == ["Hel", "lo."]
    assert found[-1]["response"] == as_json(response(completed("Hello.")))


def test_how_events_are_read_changes_nothing() -> None:
    """One by one while they happen, or all at once later: the events and their numbers are the same."""
    events = [event("accepted"), event("claimed"), delta("Hel"), delta("lo."), event("completed"), event("receipt")]
    live = told(a_snapshot(a_task("t1")), [[each] for each in events], completed("Hello."))

    assert told(completed("Hello."), [events], completed("Hello.")) == live


def test_an_answer_that_was_not_streamed_comes_as_one_piece() -> None:
    found = told(a_snapshot(a_task("t1")), [[event("claimed"), event("completed")]], completed("Hello."))

    assert kinds(found) == [*BEGIN, *OPEN, DELTA, *CLOSE, "completed"]
    assert dialect.text_of(found) == "Hello."


def test_a_claim_that_is_no_longer_known_moves_no_number() -> None:
    """A task keeps its last notes only, so a later reader may not be told of the claim."""
    with_claim = told(completed(), [[event("claimed"), delta("Hello.")]], completed())

    assert told(completed(), [[delta("Hello.")]], completed()) == with_claim
    assert kinds(with_claim).count("in_progress") == 1


def test_a_call_that_broke_off_leaves_an_incomplete_message() -> None:
    found = told(a_snapshot(a_task("t1")), [[delta("Hal", 5), delta("Hello.", 7)]], completed("Hello."))

    assert kinds(found) == [*BEGIN, *OPEN, DELTA, *CLOSE, *OPEN, DELTA, *CLOSE, "completed"]
    done = [each["item"] for each in found if each["type"] == "response.output_item.done"]
    assert [(item["id"], item["status"]) for item in done] == [("msg_t1", "incomplete"), ("msg_t1_2", "completed")]
    assert [item["id"] for item in found[-1]["response"]["output"]] == ["msg_t1_2"]


def test_what_is_missing_of_an_answer_is_told_at_its_end() -> None:
    found = told(completed("Hello."), [[delta("Hel")]], completed("Hello."))

    assert dialect.text_of(found) == "Hello."
    assert kinds(found).count("output_item.added") == 1


def test_the_text_of_plan_steps_is_not_the_answer() -> None:
    found = told(completed("Hello."), [[delta("Step one.", step="s1"), delta("Hello.")]], completed("Hello."))

    assert dialect.text_of(found) == "Hello."
    assert kinds(found).count(DELTA) == 1


@pytest.mark.parametrize(
    ("end", "status"), [(failed(), "failed"), (cancelled(), "cancelled")], ids=["failed", "cancelled"]
)
def test_a_task_without_an_answer_ends_in_failed(end: Snapshot, status: str) -> None:
    found = told(a_snapshot(a_task("t1")), [[delta("Hel")]], end)

    assert kinds(found) == [*BEGIN, *OPEN, DELTA, *CLOSE, "failed"]
    assert found[-1]["response"]["status"] == status
    assert found[-2]["item"]["status"] == "incomplete"


def test_a_cut_answer_ends_in_incomplete() -> None:
    found = told(completed(), [[delta("Hello.")]], completed("Hello.", truncated=True))

    assert kinds(found)[-1] == "incomplete"
    assert found[-2]["item"]["status"] == "incomplete"


def test_a_stream_that_is_broken_off_says_where_it_goes_on() -> None:
    narration = Narration(a_snapshot(a_task("t1")))
    *_, last = narration.tell([delta("Hel")])
    cut = as_json(narration.broken_off("stream_interrupted"))

    dialect.check(cut, "event")
    assert (cut["type"], cut["sequence_number"]) == ("response.incomplete", last["sequence_number"])
    assert cut["response"]["incomplete_details"] == {"reason": "stream_interrupted"}
    goes_on = {"response_id": "resp_t1", "starting_after": last["sequence_number"]}
    assert cut["response"]["llm_server"]["go_on"] == goes_on
