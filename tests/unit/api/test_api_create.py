"""`POST /tasks`: which bodies are accepted, what is answered, and what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from support.in_process_server import CalledServer, called_server


def test_an_accepted_task_answers_exactly_four_fields(server: CalledServer) -> None:
    """This shape must never change."""
    answer = server.post({"prompt": "Say hello."})

    assert (answer.status, list(answer.json)) == (202, ["task_id", "status", "result", "error"])
    assert (answer.json["status"], answer.json["result"], answer.json["error"]) == ("Queued", None, None)
    assert isinstance(answer.json["task_id"], str)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [({}, "interactive"), ({"priority": "interactive"}, "interactive"), ({"priority": "BATCH"}, "batch")],
)
def test_a_task_shows_its_priority(server: CalledServer, fields: dict[str, str], shown: str) -> None:
    """It goes with the message, which waits behind those of the caller's interactive tasks."""
    task_id = server.created(**fields)

    assert server.get(f"tasks/{task_id}").json["priority"] == shown
    assert server.queue.receive(0) == Message(TaskRef("local", task_id), Priority(shown))


def test_an_accepted_task_says_where_and_when_to_poll(server: CalledServer) -> None:
    """A client then polls the right address after a pause."""
    answer = server.post({"prompt": "Say hello."})

    assert answer.headers["location"] == f"/api/v1/tasks/{answer.json['task_id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert server.get(answer.headers["location"]).status == 200


def test_a_task_is_stored_and_queued_before_the_answer(server: CalledServer) -> None:
    """A task that was answered with 202 must not get lost."""
    task_id = server.created()

    assert server.store.peek(TaskRef("local", task_id)).status == "Queued"
    assert server.queue.receive(0) == Message(TaskRef("local", task_id))


@pytest.mark.parametrize(
    ("query", "named", "pointer"),
    [
        ("dryrun=true", "'dryrun'", "/dryrun"),
        ("dry_run=true&Dry_Run=true", "'Dry_Run'", "/Dry_Run"),
        ("dry_run=true&x", "'x'", "/x"),
        ("a/b~=1", "'a/b~'", "/a~1b~0"),
        ("%0A=", "'\\n'", "/\n"),
        ("x" * 5_000, f"'{'x' * 60}'", "/" + "x" * 60),
    ],
)
def test_an_unknown_query_parameter_creates_no_task(server: CalledServer, query: str, named: str, pointer: str) -> None:
    """A misspelt `dry_run` would cost money, so the call is refused before the body is read."""
    answer = server.post({"prompt": "Say hello."}, f"tasks?{query}")

    sentence = f"Unknown query parameter {named}; known are dry_run."
    assert (answer.status, answer.json["detail"]) == (422, sentence)
    assert answer.json["errors"] == [{"pointer": pointer, "detail": sentence}]
    assert (answer.taken, server.get("tasks").json["tasks"]) == (0, [])


@pytest.mark.parametrize("query", ["dry_run=true&dry_run=false", "dry_run=true&dry_run=true", "dry_run&dry_run=1"])
def test_a_repeated_query_parameter_creates_no_task(server: CalledServer, query: str) -> None:
    """Otherwise one of the two values would be ignored."""
    answer = server.post({"prompt": "Say hello."}, f"tasks?{query}")

    assert (answer.status, answer.code) == (422, "repeated_parameter")
    assert answer.detail == "The query parameter 'dry_run' is given more than once."
    assert answer.json["errors"][0]["pointer"] == "/dry_run"
    assert (answer.taken, server.get("tasks").json["tasks"]) == (0, [])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tasks/t1"),
        ("GET", "metrics"),
        ("GET", "usage"),
        ("GET", "catalog"),
        ("GET", "engines"),
        ("GET", "keys"),
        ("GET", "health"),
        ("POST", "tasks/t1/approve"),
        ("POST", "tasks/t1/reject"),
        ("POST", "tasks/t1/cancel"),
        ("POST", "tasks/t1/retry"),
        ("DELETE", "tasks/t1"),
        ("PATCH", "engines/embedded"),
        ("POST", "keys"),
        ("DELETE", "keys/k1"),
    ],
)
def test_a_call_without_query_parameters_refuses_all_of_them(server: CalledServer, method: str, path: str) -> None:
    """An ignored parameter would mislead the caller, in reads as well as in writes."""
    answer = server.call(method, f"{path}?dry_run=true", headers={"content-type": "application/json"})

    assert (answer.status, answer.code) == (422, "unknown_parameter")
    assert answer.detail == "Unknown query parameter 'dry_run'; this call takes no query parameters."


@pytest.mark.parametrize("body", [{"profile": "General", "role": "Chat-Agent"}, {"profile": None, "role": None}])
def test_profile_and_role_may_be_given_or_null(server: CalledServer, body: dict[str, object]) -> None:
    """Null means the same as leaving the field out."""
    assert server.post({"prompt": "Say hello."} | body).status == 202


def test_a_dry_run_decides_without_storing_anything(server: CalledServer) -> None:
    """It answers the decision with its reasons; no task or message is created."""
    answer = server.post({"prompt": "Fix this Python stack trace."}, "tasks?dry_run=true", prefer="wait=5")

    assert answer.status == 200
    assert set(answer.json) == {
        *(
            "mode",
            "role",
            "profile",
            "engine",
            "sources",
            "complexity",
            "multi_step",
            "confidence",
            "reasons",
            "alternatives",
            "triage",
            "quote",
        )
    }
    assert (answer.json["engine"], answer.json["reasons"] != []) == ("embedded", True)
    assert server.get("tasks").json["tasks"] == []
    assert (server.get("metrics").json["total_requests"], server.queue.depth()) == (0, 0)


def test_a_given_role_is_always_used(server: CalledServer) -> None:
    """Neither the prompt nor the given profile changes it."""
    task = server.get(f"tasks/{server.created('Write a Python function.', role='Email-Agent', profile='General')}").json

    assert (task["role"], task["profile"]) == ("Email-Agent", "General")


def test_a_given_profile_limits_the_roles(server: CalledServer) -> None:
    """Even a prompt about code gets one of the profile's own roles."""
    task = server.get(f"tasks/{server.created('Write a Python function.', profile='Productivity')}").json

    roles = server.get("catalog").json["profiles"]["Productivity"]["roles"]
    assert (task["profile"], task["role"] in roles) == ("Productivity", True)


@pytest.mark.parametrize("mode", ["Chat", "Agent", "Plan"])
def test_a_given_mode_is_always_used(server: CalledServer, mode: str) -> None:
    """Even if the analysis would choose another mode with confidence."""
    assert server.get(f"tasks/{server.created(mode=mode)}").json["mode"] == mode


def test_only_the_named_engine_is_called(tmp_path: Path) -> None:
    """The embedded engine answers although another engine is configured."""
    overlay = '[engines.far]\nkind = "openai"\nsource = "local"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    with called_server(tmp_path, overlay) as server:
        task_id = server.created(engine="embedded")
        server.work()

        task = server.get(f"tasks/{task_id}").json
        assert (task["status"], task["engine"]) == ("Completed", "embedded")
        assert {attempt["engine"] for attempt in task["attempts"]} == {"embedded"}


@pytest.mark.parametrize(
    ("field", "known"),
    [("role", "Chat-Agent"), ("profile", "Developer, General, Productivity"), ("engine", "embedded")],
)
@pytest.mark.parametrize("name", ["Chаt-Agent", "chat agent", " Chat-Agent", "", "x" * 10_000, "a\0b", "a\nb"])
def test_an_unknown_name_is_refused_with_the_known_ones(
    shared_server: CalledServer, field: str, known: str, name: str
) -> None:
    """Also if it only looks like a known name (the first contains a Cyrillic а)."""
    answer = shared_server.post({"prompt": "Say hello.", field: name})

    assert (answer.status, answer.code, known in answer.detail) == (422, "unknown_name", True)
    assert answer.detail.startswith(f"Unknown {field} ")
    assert answer.json["errors"] == [{"pointer": f"/{field}", "detail": answer.detail}]
    assert len(answer.detail) < 600


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_cost_usd": 0.01, "deadline_s": 1, "max_output_tokens": 1},
        {"max_cost_usd": 10_000, "deadline_s": 604_800, "max_output_tokens": 1_000_000},
        {"max_cost_usd": None},
    ],
)
def test_limits_at_their_bounds_are_accepted(server: CalledServer, limits: dict[str, object]) -> None:
    """They are shown with the task."""
    task = server.get(f"tasks/{server.created(limits=limits)}").json

    unlimited = dict.fromkeys(("max_cost_usd", "deadline_s", "max_output_tokens", "sources"))
    assert task["limits"] == unlimited | limits


def test_a_whole_number_may_be_written_with_a_decimal_point(server: CalledServer) -> None:
    """JSON has only one kind of number."""
    limits = server.get(f"tasks/{server.created(limits={'max_output_tokens': 7.0})}").json["limits"]

    assert repr(limits["max_output_tokens"]) == "7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_cost_usd", value) for value in (0, -1, 10_000.01, "1", True, int("9" * 400))),
        *(("deadline_s", value) for value in (0, 0.5, 604_801, "1", True)),
        *(("max_output_tokens", value) for value in (0, -1, 1_000_001, 1.5, "7", True, int("9" * 400))),
        ("deadline_s", []),
    ],
)
def test_a_limit_outside_its_bounds_is_refused_by_name(shared_server: CalledServer, name: str, value: object) -> None:
    """Limits are never rounded, converted or ignored."""
    answer = shared_server.post({"prompt": "Say hello.", "limits": {name: value}})

    assert (answer.status, f"limits.{name}" in answer.detail) == (422, True)
    assert answer.json["errors"][0]["pointer"] == f"/limits/{name}"


@pytest.mark.parametrize(
    "metadata", [{}, {"k" * 64: "v" * 512}, {f"k{n}": "" for n in range(16)}], ids=["none", "long", "sixteen"]
)
def test_metadata_at_its_bounds_is_returned_unchanged(server: CalledServer, metadata: dict[str, str]) -> None:
    """Up to 16 pairs, keys of 64 and values of 512 characters."""
    assert server.get(f"tasks/{server.created(metadata=metadata)}").json["metadata"] == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {f"k{n}": "" for n in range(17)},
        {"k" * 65: "v"},
        {"": "v"},
        {"k": "v" * 513},
        {"k": 1},
        {"k": None},
        {"k": {"deep": {"er": []}}},
        {"k": "a\0b"},
        {"a\0b": "v"},
        [],
        "k",
        None,
    ],
    ids=repr,
)
def test_metadata_beyond_its_bounds_is_refused(shared_server: CalledServer, metadata: object) -> None:
    """Metadata is never cut, converted or dropped."""
    answer = shared_server.post({"prompt": "Say hello.", "metadata": metadata})

    assert (answer.status, "metadata" in answer.detail) == (422, True)


def test_a_prompt_may_have_up_to_the_configured_number_of_characters(tmp_path: Path) -> None:
    """Counted after trimming, in code points; the number of bytes in the body does not matter."""
    with called_server(tmp_path, prompt_max_chars=1_000) as server:
        assert server.post({"prompt": "🌍" * 1_000}).status == 202
        assert server.post({"prompt": " \n" * 1_000 + "x" * 1_000 + "\t" * 1_000}).status == 202

        answer = server.post({"prompt": "x" * 1_001})
        assert answer.status == 422
        assert answer.detail == "The prompt has 1001 characters; at most 1000 are accepted."


def test_the_longest_prompt_fits_into_the_largest_body(server: CalledServer) -> None:
    """200,000 characters that JSON escapes with twelve bytes each, and 16 pairs of metadata of maximum length."""
    metadata = {"\u0001" * 62 + f"{n:02}": "\u0001" * 512 for n in range(16)}
    body = json.dumps({"prompt": "🌍" * 200_000, "metadata": metadata}).encode()

    assert len(body) > 2_400_000
    assert server.post(body).status == 202
    assert server.post({"prompt": "x" * 200_001}).status == 422


def test_white_space_around_a_prompt_is_removed(server: CalledServer) -> None:
    """White space inside the prompt stays."""
    task_id = server.created(" \u2003\r\n two  words\t\n ")

    assert server.store.get(TaskRef("local", task_id)).request.prompt == "two  words"


@pytest.mark.parametrize(
    "text",
    [
        "é e\u0301",
        "👩\u200d👩\u200d👧 🏴\U000e0067\U000e007f",
        "\u202eright to left\u202c שלום",
        "line\u2028paragraph\u2029",
        "\ufffe\uffff\U0010ffff\ufffd\ufeff",
        "\x01\x1b[31m\x7f\x85",
        '"\\/\b\f\n\r\t',
        "漢字 ひらがな ﷽",
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_valid_unicode_is_kept_unchanged(server: CalledServer, text: str, escaped: bool) -> None:
    """It is neither normalised nor replaced, in the prompt or in what is returned."""
    prompt = f"a{text}z"
    answer = server.post(json.dumps({"prompt": prompt, "metadata": {"k": text}}, ensure_ascii=escaped).encode())

    task_id = answer.json["task_id"]
    assert server.store.get(TaskRef("local", task_id)).request.prompt == prompt
    assert server.get(f"tasks/{task_id}").json["metadata"] == {"k": text}
