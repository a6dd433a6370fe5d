"""`limits.sources` of a task and of a key over HTTP: what is accepted, refused and shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.task import TaskRef
from support import asgi
from support.builders import a_failure, claimed
from support.in_process_server import CalledServer, called_server

ENGINES = """
[engines.laptop]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
tier = "fast"

[engines.claude]
kind = "anthropic"
source = "api"
model = "claude-haiku-5-5"
base_url = "https://127.0.0.1:9"
tier = "strong"
"""
HOSTED_ONLY = ENGINES[ENGINES.index("[engines.claude]") :]
PROMPT = "Prove that the square root of 2 is irrational."


@pytest.fixture
def both(tmp_path: Path) -> Iterator[CalledServer]:
    """A server with a local and a hosted engine; neither can be reached."""
    with called_server(tmp_path, ENGINES) as server:
        yield server


@pytest.fixture
def hosted_only(tmp_path: Path) -> Iterator[CalledServer]:
    with called_server(tmp_path, HOSTED_ONLY) as server:
        yield server


def body(*sources: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "limits": {"sources": list(sources)}, **fields}


def refusals(server: CalledServer, sent: object) -> tuple[int, str, str, str]:
    """Return status, code, pointer and sentence of the refusal: the same for a task, a dry run and a quote."""
    answers = [server.post(sent, path) for path in ("tasks", "tasks?dry_run=true", "tasks/quote")]
    found = {(a.status, a.code, a.json["errors"][0]["pointer"], a.detail) for a in answers}
    assert len(found) == 1
    assert server.get("tasks").json["tasks"] == []
    return found.pop()


@pytest.mark.parametrize(
    ("sources", "pointer", "detail"),
    [
        ([], "/limits/sources", "The field 'limits.sources' must have 1 or more entries."),
        (["Local"], "/limits/sources/0", "The field 'limits.sources.0' must be 'local' or 'api'."),
        (["api", 1], "/limits/sources/1", "The field 'limits.sources.1' must be 'local' or 'api'."),
        ("local", "/limits/sources", "The field 'limits.sources' must be a list."),
        (
            ["local", "local"],
            "/limits/sources",
            "The list limits.sources has a source twice; known are local, api, each at most once.",
        ),
    ],
)
def test_a_wrong_list_is_refused_and_the_allowed_words_are_named(
    both: CalledServer, sources: object, pointer: str, detail: str
) -> None:
    sent = {"prompt": PROMPT, "limits": {"sources": sources}}

    assert refusals(both, sent) == (422, "invalid_input", pointer, detail)


def test_a_source_that_no_engine_has_is_refused(hosted_only: CalledServer) -> None:
    assert refusals(hosted_only, body("local")) == (
        422,
        "sources_not_usable",
        "/limits/sources",
        "No configured engine has the source local; the configured sources are: api.",
    )


def test_a_named_engine_with_another_source_is_refused(both: CalledServer) -> None:
    assert refusals(both, body("local", engine="claude")) == (
        422,
        "engine_not_usable",
        "/engine",
        "Engine claude has the source api; the task may use local.",
    )


def test_a_task_cannot_widen_the_limit_of_its_key(both: CalledServer) -> None:
    limited = both.with_key(sources=("local",))

    assert refusals(limited, body("api")) == (
        422,
        "sources_not_usable",
        "/limits/sources",
        "The list limits.sources has api, and the key allows only local.",
    )
    assert refusals(limited, {"prompt": PROMPT, "engine": "claude"})[:2] == (422, "engine_not_usable")
    task_id = limited.created(PROMPT, limits={"sources": ["api", "local"]})
    assert limited.get(f"tasks/{task_id}").json["limits"]["sources"] == ["local"]


def test_a_quote_shows_the_sources_and_an_engine_of_them(both: CalledServer) -> None:
    limited = both.with_key(sources=("local",))
    quotes = [
        server.post(sent, "tasks/quote").json
        for server, sent in ((limited, {"prompt": PROMPT}), (limited, body("local", "api")))
    ]
    free = both.with_key().post({"prompt": PROMPT, "role": "Deep-Coder-Agent"}, "tasks/quote").json

    assert [(quote["engine"], quote["sources"]) for quote in quotes] == [("laptop", ["local"])] * 2
    assert (free["engine"], free["sources"]) == ("claude", None)


def test_a_task_shows_its_limit(both: CalledServer) -> None:
    limited, free = both.created(PROMPT, limits={"sources": ["local"]}), both.created(PROMPT)

    assert both.get(f"tasks/{limited}").json["limits"]["sources"] == ["local"]
    assert both.get(f"tasks/{free}").json["limits"]["sources"] is None


def test_an_embedded_engine_answers_a_task_that_is_limited_to_local_ones(server: CalledServer) -> None:
    """It runs in this process."""
    task_id = server.created(PROMPT, limits={"sources": ["local"]})
    server.work()

    task = server.get(f"tasks/{task_id}").json
    assert (task["status"], task["demonstration"], task["engine"]) == ("Completed", True, "embedded")
    assert [attempt["source"] for attempt in task["attempts"]] == ["local"]
    assert server.get("engines").json["engines"]["embedded"]["source"] == "local"


def test_a_limited_task_waits_for_a_local_engine_alone(both: CalledServer) -> None:
    """Neither engine can be reached; every attempt is local."""
    task_id = both.created(PROMPT, limits={"sources": ["local"]}, role="Deep-Coder-Agent")
    both.work()

    task = both.get(f"tasks/{task_id}").json
    assert (task["status"], task["waiting_for"]) == ("Queued", "laptop")
    assert [attempt["source"] for attempt in task["attempts"]] == ["local"]


# Keys


def test_a_key_is_created_listed_and_changed_with_its_sources(both: CalledServer) -> None:
    admin = both.with_key()
    new = {"tenant": "acme", "scopes": ["tasks"], "limits": {"sources": ["api", "local"]}}
    made = admin.post(new, "keys").json
    path = f"keys/{made['key_id']}"

    def changed(change: bytes) -> Any:
        return admin.call("PATCH", path, headers=asgi.JSON, parts=[change]).json["limits"]["sources"]

    assert made["limits"]["sources"] == ["local", "api"]
    assert changed(b'{"limits": {"sources": ["local"]}}') == ["local"]
    assert changed(b'{"name": "CI", "limits": {"usd_per_day": 1}}') == ["local"]
    assert [key["limits"]["sources"] for key in admin.get("keys").json["keys"]] == [None, ["local"]]
    assert changed(b'{"limits": {"sources": null}}') is None


@pytest.mark.parametrize("sources", [[], ["moon"], ["local", "local"]])
def test_a_wrong_list_of_a_key_is_refused(both: CalledServer, sources: list[str]) -> None:
    admin = both.with_key()
    answer = admin.post({"tenant": "acme", "scopes": ["tasks"], "limits": {"sources": sources}}, "keys")

    assert (answer.status, answer.code) == (422, "invalid_input")
    assert answer.json["errors"][0]["pointer"].startswith("/limits/sources")
    assert len(admin.get("keys").json["keys"]) == 1


def test_the_usage_shows_the_sources_of_the_key(both: CalledServer) -> None:
    assert both.with_key(sources=("local",)).get("usage").json["limits"]["sources"] == ["local"]


def test_the_key_that_approves_a_plan_limits_its_steps(server: CalledServer) -> None:
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    plan_hash = server.get(f"tasks/{task_id}").json["plan"]["hash"]
    limited = server.with_key("local", sources=("local",))

    assert limited.post({"plan_hash": plan_hash}, f"tasks/{task_id}/approve").status == 200
    assert limited.get(f"tasks/{task_id}").json["limits"]["sources"] == ["local"]


def test_the_key_that_retries_a_task_limits_it(server: CalledServer) -> None:
    task_id = server.created(PROMPT)
    task = server.store.peek(TaskRef("local", task_id))
    processing = claimed(task)
    server.store.save(task, processing)
    server.store.save(processing, processing.failed(a_failure()))
    limited = server.with_key("local", sources=("local",))

    assert limited.post({}, f"tasks/{task_id}/retry").status == 202
    assert limited.get(f"tasks/{task_id}").json["limits"]["sources"] == ["local"]


def test_a_retry_with_a_key_that_leaves_no_engine_is_refused(hosted_only: CalledServer) -> None:
    """409, because the task is as it was accepted."""
    free, limited = hosted_only.with_key("acme"), hosted_only.with_key("acme", sources=("local",))
    task_id = free.created(PROMPT, engine="claude")
    task = hosted_only.store.peek(TaskRef("acme", task_id))
    processing = claimed(task)
    hosted_only.store.save(task, processing)
    hosted_only.store.save(processing, processing.failed(a_failure()))

    answer = limited.post({}, f"tasks/{task_id}/retry")

    assert (answer.status, answer.code) == (409, "sources_conflict")
    assert answer.detail == "Engine claude has the source api; the task may use local."
