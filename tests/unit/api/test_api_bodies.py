"""Invalid bodies: each is refused with the right status and one sentence, and none causes a server error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_server.api.app import IMAGES_BYTES
from support import asgi
from support.in_process_server import CalledServer, called_server

MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "empty"),
        (b" \r\n\t", 400, "empty"),
        (b"null", 422, "JSON object"),
        (b"[]", 422, "JSON object"),
        (b'["prompt"]', 422, "JSON object"),
        (b'"prompt"', 422, "JSON object"),
        (b"7", 422, "JSON object"),
        (b"prompt=hello", 400, "line 1, column 1"),
        (b"{", 400, "JSON"),
        (b'{"prompt": "x"} {}', 400, "JSON"),
        (b'{"prompt": "x",}', 400, "JSON"),
        (b"{'prompt': 'x'}", 400, "JSON"),
        (b'{"prompt": "a\nb"}', 400, "JSON"),
        (b'{"prompt": "\\x41"}', 400, "JSON"),
        (b"{}", 422, "'prompt' is missing"),
        (b'{"promt": "x"}', 422, "'prompt' is missing"),
        (b'{"prompt": ""}', 422, "prompt"),
        (b'{"prompt": " \\t\\n\\u3000"}', 422, "prompt is blank"),
        (b'{"prompt": null}', 422, "'prompt'"),
        (b'{"prompt": 7}', 422, "'prompt'"),
        (b'{"prompt": true}', 422, "'prompt'"),
        (b'{"prompt": ["x"]}', 422, "'prompt'"),
        (b'{"prompt": {"x": 1}}', 422, "'prompt'"),
        (b'{"prompt": "a\\u0000b"}', 422, "'prompt' contains a NUL"),
        (b'{"prompt": "a\x00b"}', 400, "JSON"),
        (b'{"prompt": "\\ud800"}', 400, "surrogate"),
        (b'{"prompt": "\\udc00\\ud800"}', 400, "surrogate"),
        (b'{"prompt": "x", "metadata": {"\\ud800": "v"}}', 400, "surrogate"),
        (b'{"prompt": "x", "\\ud800": 1}', 400, "surrogate"),
        (b'{"prompt": "\xed\xa0\x80"}', 400, "UTF-8"),
        (b'{"prompt": "\xff"}', 400, "UTF-8"),
        (b'{"prompt": "\xc0\xaf"}', 400, "UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), 400, "UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16-le"), 400, "JSON"),
        (b'\xef\xbb\xbf{"prompt": "x"}', 400, "byte order mark"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": NaN}}', 400, "NaN"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": Infinity}}', 400, "Infinity"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": -Infinity}}', 400, "-Infinity"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": 1e999}}', 400, "too large"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": -1e999}}', 400, "too large"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": 1' + b"0" * 400 + b"}}", 422, "limits.max_cost_usd"),
        (b'{"prompt": "x", "limits": {"max_cost_usd": 1' + b"0" * 5_000 + b"}}", 400, "number"),
        (b'{"prompt": "x", "limits": {"deadline_s": 1e-999}}', 422, "limits.deadline_s"),
        (b"[" * 100_000, 400, "deep"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "deep"),
        (b'{"prompt":' * 100_000 + b"1" + b"}" * 100_000, 400, "deep"),
        (b'{"prompt": "x", "metadata": {"k": ' + b"[" * 500 + b"]" * 500 + b"}}", 422, "metadata.k"),
        (b'{"prompt": "x", "prompt": "y"}', 400, "'prompt' twice"),
        (b'{"prompt": "x", "\\u0070rompt": "y"}', 400, "'prompt' twice"),
        (b'{"prompt": "x", "metadata": {"k": "a", "k": "a"}}', 400, "'k' twice"),
        (b'{"prompt": "x", "metadata": {"\\ud800": "a", "\\ud800": "a"}}', 400, "twice"),
        (b'{"prompt": "x", "temperature": 1}', 422, "'temperature'; known are prompt, profile, role"),
        (b'{"prompt": "x", "Prompt": "y"}', 422, "'Prompt'"),
        (b'{"prompt": "x", "limits": {"max_cost": 1}}', 422, "'limits.max_cost'; known are max_cost_usd"),
        (b'{"prompt": "x", "limits": null}', 422, "'limits'"),
        (b'{"prompt": "x", "role": 7}', 422, "'role'"),
        (b'{"prompt": "x", "role": ["Chat-Agent"]}', 422, "'role'"),
        (b'{"prompt": "x", "mode": "chatty"}', 422, "'Chat', 'Agent' or 'Plan'"),
        (b'{"prompt": "x", "mode": 1}', 422, "'Chat', 'Agent' or 'Plan'"),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
def test_a_bad_body_is_refused_in_one_sentence(
    shared_server: CalledServer, body: bytes, status: int, named: str
) -> None:
    """400 if the body is not strict JSON, 422 if it is not a valid task; the sentence names the place.

    Nothing is stored.
    """
    answer = shared_server.post(body)

    assert (answer.status, named in answer.detail) == (status, True), answer.body
    assert answer.detail.endswith(".")
    assert len(answer.detail) < 400
    assert shared_server.get("metrics").json["total_requests"] == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": "x", "a/b~c": 1}, "/a~1b~0c"),
        ({"prompt": "x", "limits": {"deadline_s": 0}}, "/limits/deadline_s"),
        ({"prompt": "x", "metadata": {"k": 1}}, "/metadata/k"),
        ({"prompt": "x", "metadata": {"k" * 65: "v"}}, "/metadata/" + "k" * 60),
    ],
)
def test_every_fault_has_a_pointer(shared_server: CalledServer, body: object, pointer: str) -> None:
    """RFC 6901 pointers, so that a form can mark the field."""
    assert shared_server.post(body).json["errors"][0]["pointer"] == pointer


def test_all_faults_of_a_body_are_reported_together(shared_server: CalledServer) -> None:
    """`detail` is the sentence of the first fault, and `errors` lists all."""
    answer = shared_server.post({"prompt": 1, "mode": "x", "extra": 1})

    pointers = [fault["pointer"] for fault in answer.json["errors"]]
    assert pointers == ["/prompt", "/mode", "/extra"]
    assert answer.detail == answer.json["errors"][0]["detail"]


def test_a_body_full_of_faults_gets_a_short_answer(shared_server: CalledServer) -> None:
    """The answer must not grow with the number of faults, or large bad bodies would be amplified."""
    answer = shared_server.post({f"field{n}": 1 for n in range(50_000)})

    assert (answer.status, len(answer.body) < 10_000) == (422, True)


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"),
        *("application/jsonp", "application/json, text/plain", "text/json", "application/xml", ";", "\xff"),
        *("application/problem+json", "application/merge-patch+json"),
    ],
)
def test_another_content_type_is_refused(shared_server: CalledServer, content_type: str) -> None:
    """415, so that an HTML form of another site cannot create a task."""
    answer = shared_server.post({"prompt": "x"}, content_type=content_type)

    assert (answer.status, "application/json" in answer.detail) == (415, True)


def test_a_body_without_a_content_type_is_refused(shared_server: CalledServer) -> None:
    """The type is not guessed from the content."""
    assert shared_server.call("POST", "tasks", parts=[b'{"prompt": "x"}']).status == 415


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON ;charset=UTF-8"]
)
def test_the_content_type_json_is_accepted_in_any_case_and_with_a_charset(
    server: CalledServer, content_type: str
) -> None:
    """Media types are case-insensitive (RFC 9110, 8.3.1)."""
    assert server.post({"prompt": "x"}, content_type=content_type).status == 202


def test_a_body_announced_as_too_large_is_not_read(shared_server: CalledServer) -> None:
    """A Content-Length of 25 MB is refused before the first byte is read."""
    headers = asgi.JSON | {"content-length": str(25 * MEGABYTE)}

    answer = shared_server.call("POST", "tasks", headers=headers, parts=[b"x" * MEGABYTE] * 25)

    assert (answer.status, answer.taken) == (413, 0)
    assert answer.detail.startswith("The body is too large; at most ")
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("headers", [{}, {"content-length": "7"}, {"content-length": "many"}])
def test_reading_stops_when_a_body_becomes_too_large(shared_server: CalledServer, headers: dict[str, str]) -> None:
    """Chunked, or with a false Content-Length: refused as soon as the limit is passed."""
    answer = shared_server.call("POST", "tasks", headers=asgi.JSON | headers, parts=[b" " * MEGABYTE] * 25)

    needed = shared_server.app.state.max_body_bytes // MEGABYTE + 1
    assert (answer.status, answer.taken, answer.detail.startswith("The body is too large")) == (413, needed, True)
    assert needed < 25


def test_a_body_may_arrive_in_many_parts(server: CalledServer) -> None:
    """A part may end inside a character."""
    data = json.dumps({"prompt": "🌍é"}, ensure_ascii=False).encode()

    answer = server.call("POST", "tasks", headers=asgi.JSON, parts=[data[i : i + 1] for i in range(len(data))])

    assert answer.status == 202


def test_the_limit_of_a_body_follows_the_limit_of_a_prompt(tmp_path: Path) -> None:
    """A server that accepts short prompts only also refuses long bodies."""
    with called_server(tmp_path, prompt_max_chars=10) as server:
        assert server.post(b" " * (IMAGES_BYTES + 70_000)).status == 413


def test_a_caller_who_disconnects_creates_no_task_and_no_error(
    server: CalledServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An incomplete body is discarded, and the log stays empty because the server did not fail."""
    answer = server.call("POST", "tasks", headers=asgi.JSON, parts=[])

    assert answer.status == 0
    assert server.get("metrics").json["total_requests"] == 0
    assert caplog.records == []
