"""POSTs that OpenAI's clients repeat without an Idempotency-Key, on the real service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from llm_server.api.openai import repeating
from llm_server.orchestration.access.repeats import Repeatable
from llm_server.orchestration.domain.api_key import Caller
from support.dialect import answered, post
from support.in_process_server import CalledServer

BACKGROUND = {"model": "auto", "input": "Say hello.", "background": True}


def created(server: CalledServer, number: object, body: dict[str, Any] = BACKGROUND, **headers: str) -> str:
    """Create a response with a client's headers; return its id."""
    sent = {
        "x-stainless-retry-count": str(number),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    found: str = answered(post(server, "responses", body, **sent))["id"]
    return found


def test_a_repeat_is_the_response_of_the_first_post(server: CalledServer) -> None:
    assert created(server, 0) == created(server, 1) == created(server, 2)


def test_equal_first_posts_are_two_responses(server: CalledServer) -> None:
    assert created(server, 0) != created(server, 0)


@pytest.mark.parametrize("number", ["", "-1", "one", "1.0", "1" * 4])
def test_a_header_that_is_no_number_makes_no_repeat(server: CalledServer, number: str) -> None:
    assert created(server, number) != created(server, number)


def test_another_body_or_path_is_another_post(server: CalledServer) -> None:
    first = created(server, 0)
    completion = {"model": "auto", "messages": [{"role": "user", "content": "Say hello."}], "stream": True}

    assert created(server, 1, {**BACKGROUND, "input": "Say hello!"}) != first
    assert post(server, "chat/completions", completion, **{"x-stainless-retry-count": "1"}).status == 200
    assert created(server, 1) == first


def test_an_idempotency_key_goes_before_the_number(server: CalledServer) -> None:
    first = created(server, 0, idempotency_key="a")

    assert created(server, 1, idempotency_key="b") != first
    assert created(server, 1) != first
    assert created(server, 1, idempotency_key="a") == first


@pytest.mark.parametrize(
    ("name", "told", "seconds"),
    [
        ("x-stainless-read-timeout", "20.5", 20.5),
        ("x-stainless-timeout", "20", 20),
        ("x-stainless-timeout", "99999", 3600),
        ("x-stainless-read-timeout", "nan", 600),
        ("x-stainless-read-timeout", "-1", 600),
        ("x-stainless-read-timeout", "None", 600),
        ("x-other", "20", 600),
    ],
)
def test_a_post_may_be_repeated_as_long_as_its_client_waits(name: str, told: str, seconds: float) -> None:
    headers = [(b"x-stainless-retry-count", b"1"), (name.encode(), told.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/responses", "query_string": b"", "headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    found = asyncio.run(repeating.once(Request(scope, receive), Caller(), None))

    assert isinstance(found, Repeatable)
    assert (found.number, found.read_timeout_s) == (1, seconds)
