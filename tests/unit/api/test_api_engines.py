"""Engines over HTTP: their status, and switching one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import asgi
from support.in_process_server import DOWN, CalledServer, FailingStore, called_server

ENGINES = """
[engines.main]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
api_key = "env:PATH"

[engines."openai/spare"]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
toggle = false
"""
MAIN = {
    "kind": "openai",
    "model": "m",
    "source": "local",
    "tier": None,
    "toggle": True,
    "locked": False,
    "max_concurrency": 64,
    "tools": False,
    "vision": False,
    "structured_output": "json_schema",
    "demonstration": False,
    "note": None,
    "status": "online",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CalledServer]:
    with called_server(tmp_path, ENGINES, environ={"PATH": "k"}) as server:
        yield server


def patch(server: CalledServer, name: str, body: object) -> asgi.Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.call("PATCH", f"engines/{name}", headers=asgi.JSON, parts=[data])


def test_engines_are_shown_with_their_status_and_without_secrets(server: CalledServer) -> None:
    answer = server.get("engines")

    assert (answer.status, list(answer.json)) == (200, ["engines"])
    assert answer.json["engines"]["main"] == MAIN
    assert {name: engine["status"] for name, engine in answer.json["engines"].items()} == {
        "main": "online",
        "openai/spare": "disabled",
    }
    for secret in (b"PATH", b"127.0.0.1", b"api_key"):
        assert secret not in answer.body


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"toggle": False}, {"toggle": False, "status": "disabled"}),
        ({"locked": True}, {"locked": True, "status": "locked"}),
        ({"toggle": False, "locked": True}, {"toggle": False, "locked": True, "status": "locked"}),
        ({"toggle": None}, {}),
    ],
)
def test_switching_an_engine_answers_its_new_state_everywhere(
    server: CalledServer, body: dict[str, bool], changed: dict[str, object]
) -> None:
    """The answer, the engines, the catalogue and the metrics agree; a repeated call changes nothing."""
    answer, again = patch(server, "main", body), patch(server, "main", body)
    shown = dict(answer.json)

    assert (answer.status, shown, again.json) == (200, MAIN | changed, shown)
    assert server.get("engines").json["engines"]["main"] == shown
    status = shown.pop("status")
    assert server.get("catalog").json["engines"]["main"] == shown
    assert server.get("metrics").json["llm_status"]["main"] == status


def test_the_embedded_engine_is_listed_only_if_it_is_the_only_engine(server: CalledServer, tmp_path: Path) -> None:
    """The metrics do the same. A task may still name it, so it can be switched while it is not listed."""
    switched = patch(server, "embedded", {"locked": True})
    (tmp_path / "alone").mkdir()
    with called_server(tmp_path / "alone") as alone:
        listed = alone.get("engines").json["engines"]

    assert (switched.status, switched.json["status"]) == (200, "locked")
    assert "embedded" not in server.get("engines").json["engines"]
    assert server.get("catalog").json["engines"]["embedded"]["locked"] is True
    assert server.post({"prompt": "x", "engine": "embedded"}).status == 422
    assert {name: engine["status"] for name, engine in listed.items()} == {"embedded": "online"}


def test_a_field_left_out_is_kept_and_null_restores_the_configuration(server: CalledServer) -> None:
    patch(server, "openai/spare", {"toggle": True, "locked": True})

    unlocked = patch(server, "openai%2Fspare", {"locked": False}).json
    reset = patch(server, "openai/spare", {"toggle": None}).json

    assert (unlocked["toggle"], unlocked["locked"], unlocked["status"]) == (True, False, "online")
    assert (reset["toggle"], reset["status"]) == (False, "disabled")


@pytest.mark.parametrize(("body", "state"), [({"toggle": False}, "switched off"), ({"locked": True}, "locked")])
def test_a_task_for_an_engine_that_was_switched_off_is_refused_by_name(
    server: CalledServer, body: dict[str, bool], state: str
) -> None:
    """As for an engine that is configured so. After it is switched on again, tasks are accepted."""
    patch(server, "main", body)
    refused = server.post({"prompt": "x", "engine": "main"})
    patch(server, "main", {"toggle": None, "locked": None})

    assert (refused.status, refused.detail) == (
        422,
        f"Engine main is {state}; choose another or leave the field out.",
    )
    assert server.post({"prompt": "x", "engine": "main"}).status == 202


@pytest.mark.parametrize(
    ("reference", "status"), [("env:NOT_SET", 422), ("env:PATH", 202), ("ssm:/k", 202), ("secretsmanager:k", 202)]
)
def test_a_task_for_an_engine_without_credentials_is_refused_by_name(
    tmp_path: Path, reference: str, status: int
) -> None:
    """Otherwise the task would never be answered. Whether a remote secret exists is unknown here, so it is accepted."""
    with called_server(tmp_path, ENGINES.replace("env:PATH", reference), environ={"PATH": "k"}) as server:
        answer = server.post({"prompt": "x", "engine": "main"})
        dry = server.post({"prompt": "x", "engine": "main"}, "tasks?dry_run=true")

    assert (answer.status, dry.status) == (status, 422 if status == 422 else 200)
    if status == 422:
        sentence = "Engine main has no credentials; choose another or leave the field out."
        assert {answer.detail, dry.detail} == {sentence}
        assert answer.json["errors"] == [{"pointer": "/engine", "detail": sentence}]


@pytest.mark.parametrize("name", ["gpt", "MAIN", "main/", "x" * 5_000])
def test_an_unknown_engine_is_404_and_the_known_ones_are_listed(server: CalledServer, name: str) -> None:
    answer = patch(server, name, {"toggle": True})

    assert (answer.status, answer.code) == (404, "engine_not_found")
    assert answer.detail.startswith("Unknown engine '")
    assert answer.detail.endswith("known are embedded, main, openai/spare.")
    assert len(answer.detail) < 200


@pytest.mark.parametrize("name", ["main%0A", "main%0a", "%00", "main%0D%0A", "%0Amain", "main%7F", "main%C2%85"])
def test_a_name_with_a_control_character_does_not_switch_an_engine(server: CalledServer, name: str) -> None:
    """The framework's path patterns ignore a line feed at the end, so `main%0A` would switch `main`."""
    answer = patch(server, name, {"toggle": False})

    assert (answer.status, answer.detail) == (404, "The API does not have this path.")
    assert server.store.engines().switches == {}


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "toggle, locked"),
        ({"togle": True}, 422, "Unknown field 'togle'; known are toggle, locked."),
        ({"toggle": True, "tier": "fast"}, 422, "'tier'; known are toggle, locked."),
        ({"toggle": "off"}, 422, "'toggle'"),
        ({"locked": 1}, 422, "'locked'"),
        ([], 422, "not a JSON object"),
        (b"", 400, "empty"),
        (b'{"toggle": true, "toggle": false}', 400, "'toggle' twice"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(
    server: CalledServer, body: object, status: int, named: str
) -> None:
    answer = patch(server, "main", body)

    assert (answer.status, named in answer.detail) == (status, True), answer.body
    assert server.store.engines().switches == {}


def test_engines_cannot_be_switched_while_the_store_is_down(server: CalledServer) -> None:
    without = server.on(FailingStore(server.store, DOWN))

    answers = patch(without, "main", {"toggle": False}), without.get("engines")

    assert [(a.status, a.detail) for a in answers] == [(503, "The database does not answer; try again.")] * 2
    assert without.get("catalog").json["engines"]["main"]["toggle"] is True
