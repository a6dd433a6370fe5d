"""A refused value is described in our own words: the name of its place, and what is allowed there."""

from __future__ import annotations

from typing import Any

import pytest

from support.in_process_server import CalledServer

KEY = {"tenant": "acme", "scopes": ["tasks"]}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("page_size=x", "The query parameter 'page_size' must be a whole number from 1 to 100."),
        ("page_size=0", "The query parameter 'page_size' must be a whole number from 1 to 100."),
        ("page_size=101", "The query parameter 'page_size' must be a whole number from 1 to 100."),
        ("page_size=1.5", "The query parameter 'page_size' must be a whole number from 1 to 100."),
        ("engine=", "The query parameter 'engine' must have 1 or more characters."),
        (f"role={'x' * 101}", "The query parameter 'role' must have at most 100 characters."),
        ("awaiting_approval=", "The query parameter 'awaiting_approval' must be true or false."),
        (
            "mode=Fast",
            "The query parameter 'mode' is not valid: 'Fast' is unknown; known are Chat, Agent, Plan.",
        ),
    ],
)
def test_a_query_parameter_is_called_one(server: CalledServer, query: str, sentence: str) -> None:
    answer = server.get(f"tasks?{query}")

    assert (answer.status, answer.code, answer.detail) == (422, "invalid_input", sentence)


def test_a_dry_run_is_true_or_false(server: CalledServer) -> None:
    answer = server.post({"prompt": "Hello."}, "tasks?dry_run=")

    assert (answer.status, answer.detail) == (422, "The query parameter 'dry_run' must be true or false.")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": 7}, "The field 'prompt' must be a string."),
        ({"prompt": "a\0"}, "The field 'prompt' contains a NUL character."),
        ({"limits": None}, "The field 'limits' must be a JSON object."),
        ({"metadata": []}, "The field 'metadata' must be a JSON object."),
        ({"metadata": {str(n): "" for n in range(17)}}, "The field 'metadata' must have at most 16 entries."),
        ({"metadata": {"k": "x" * 513}}, "The field 'metadata.k' must have at most 512 characters."),
        ({"metadata": {"": "x"}}, "The key '' of the field 'metadata' must have 1 or more characters."),
        ({"plan_approval": "yes"}, "The field 'plan_approval' must be true or false."),
        ({"priority": "urgent"}, "The field 'priority' must be 'interactive' or 'batch'."),
        ({"mode": "Fast"}, "The field 'mode' must be 'Chat', 'Agent' or 'Plan'."),
        (
            {"limits": {"max_cost_usd": 0}},
            "The field 'limits.max_cost_usd' must be a number greater than 0 and at most 10,000.",
        ),
        ({"limits": {"deadline_s": "1"}}, "The field 'limits.deadline_s' must be a number from 1 to 604,800."),
        ({"limits": {"deadline_s": 604_801}}, "The field 'limits.deadline_s' must be a number from 1 to 604,800."),
        (
            {"limits": {"max_output_tokens": 1.5}},
            "The field 'limits.max_output_tokens' must be a whole number from 1 to 1,000,000.",
        ),
    ],
)
def test_a_field_of_a_task_names_what_is_allowed(server: CalledServer, fields: dict[str, Any], sentence: str) -> None:
    answer = server.post({"prompt": "Hello."} | fields)

    assert (answer.status, answer.code, answer.detail) == (422, "invalid_input", sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scopes": []}, "The field 'scopes' must have 1 or more entries."),
        ({"scopes": "tasks"}, "The field 'scopes' must be a list."),
        ({"scopes": ["root"]}, "The field 'scopes.0' must be 'tasks', 'metrics' or 'admin'."),
        (
            {"limits": {"requests_per_minute": "9"}},
            "The field 'limits.requests_per_minute' must be a whole number from 1 to 1,000,000.",
        ),
        ({"limits": {"usd_per_day": 0}}, "The field 'limits.usd_per_day' must be a number from 0.000001 to 1,000,000."),
    ],
)
def test_a_field_of_a_key_names_what_is_allowed(server: CalledServer, fields: dict[str, Any], sentence: str) -> None:
    answer = server.post(KEY | fields, "keys")

    assert (answer.status, answer.code, answer.detail) == (422, "invalid_input", sentence)
