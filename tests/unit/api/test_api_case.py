"""Modes, roles and profiles are accepted in any case; answers use the spelling of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_server.orchestration.domain.status import Mode, known_spelling
from llm_server.orchestration.tasks.new_task import NewTask, normalised
from support.in_process_server import CalledServer, called_server
from support.scripted_engine import a_catalog

TWINS = """
[roles.chat-agent]
profiles = ["General"]
purpose = "Answers in lower case."
system_prompt = "Answer."
"""


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"mode": "chat"}, {"mode": "Chat"}),
        ({"mode": "PLAN"}, {"mode": "Plan"}),
        ({"role": "writing-agent"}, {"role": "Writing-Agent"}),
        ({"profile": "DEVELOPER"}, {"profile": "Developer"}),
        ({"mode": "agent", "role": "CHAT-AGENT", "profile": "general"}, {"mode": "Agent", "role": "Chat-Agent"}),
    ],
)
def test_input_in_any_case_is_shown_as_it_is_configured(
    server: CalledServer, sent: dict[str, str], shown: dict[str, str]
) -> None:
    decided = server.post({"prompt": "Say hello."} | sent, "tasks?dry_run=true").json
    task = server.get(f"tasks/{server.created(**sent)}").json

    assert decided.items() >= shown.items()
    assert task.items() >= shown.items()


def test_the_listing_accepts_a_role_in_any_case(server: CalledServer) -> None:
    task_id = server.created(role="Writing-Agent")

    assert [task["task_id"] for task in server.get("tasks?role=WRITING-agent").json["tasks"]] == [task_id]
    assert server.get("tasks?role=chat-agent").json["tasks"] == []


def test_an_engines_name_is_case_sensitive(server: CalledServer) -> None:
    """Users choose these names, so `Main` and `main` may be two engines."""
    assert server.post({"prompt": "x", "engine": "Embedded"}).code == "unknown_name"


def test_bodies_that_differ_only_in_case_are_the_same_body_for_an_idempotency_key(server: CalledServer) -> None:
    sent = {"prompt": "x", "mode": "Chat", "role": "Chat-Agent", "profile": "General"}
    first = server.post(sent, idempotency_key="k")
    again = server.post(
        {"prompt": " x ", "mode": "CHAT", "role": "chat-agent", "profile": "GENERAL"}, idempotency_key="k"
    )

    assert (first.status, again.status, again.json["task_id"]) == (202, 200, first.json["task_id"])
    assert server.post(sent | {"mode": "Agent"}, idempotency_key="k").code == "idempotency_key_reused"


def test_the_hash_of_a_body_in_configured_spelling_is_unchanged() -> None:
    """Idempotency-Keys that an earlier version stored stay valid for 24 hours, so their hashes must still match."""
    new = NewTask(prompt="x", profile="General", role="Chat-Agent", mode=Mode.CHAT)

    assert normalised(new, a_catalog({})).digest() == new.digest()
    assert new.digest() == "39e8d23588489b1b90820d91f54f57ff84e9080fd49fade3c47ed9efd3128f5a"


def test_roles_that_differ_only_in_case_must_be_spelled_exactly(tmp_path: Path) -> None:
    """An exact name is used; an ambiguous one is refused, and the error names both roles."""
    with called_server(tmp_path, TWINS) as server:
        answers = [server.post({"prompt": "x", "role": role}) for role in ("Chat-Agent", "chat-agent", "CHAT-AGENT")]
        roles = [server.get(f"tasks/{answer.json['task_id']}").json["role"] for answer in answers[:2]]

    assert roles == ["Chat-Agent", "chat-agent"]
    assert (answers[2].status, answers[2].code) == (422, "unknown_name")
    assert "Chat-Agent, " in answers[2].detail
    assert ", chat-agent." in answers[2].detail


@pytest.mark.parametrize(
    ("name", "known", "spelled"),
    [
        ("b", ["A", "B"], "B"),
        ("B", ["b", "B"], "B"),
        ("c", ["A", "B"], "c"),
        ("", ["A"], ""),
        ("STRASSE", ["Straße"], "Straße"),
        ("Ab", ["ab", "AB"], "Ab"),
    ],
)
def test_a_name_gets_its_known_spelling(name: str, known: list[str], spelled: str) -> None:
    assert known_spelling(name, known) == spelled
