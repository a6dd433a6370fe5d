"""The OpenAPI document matches the server: it is exported, complete, and checked with generated calls."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

from export_openapi import document
from support.in_process_server import CalledServer
from support.recording_executor import RecordingExecutor

EXPORTED = Path(__file__).parents[3] / "docs" / "openapi.json"
ECMA_SPACE = r"\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
"""The characters of the class of white space in ECMA-262, 22.2.2.9."""
OF_THE_CONFIGURATION = re.compile(
    rb"""{"detail":"(Unknown (profile|role|engine) |Unknown page_token: |This Idempotency-Key was sent with """
    rb"""|A key's name must have |The field expires_at must be in the future|created_to must be later """
    rb"""|No configured engine has the source |Engine embedded has the source """
    rb"""|(previous_task_id|conversation_id) names no |tool_choice (needs tools|names no tool)|Two tools have the """
    rb"""|A task with function tools|The task has (function tools|images)|Engine embedded does not take the """
    rb"""|'.*' is not an open function call|The url of attachment |Image [0-9]+ |The (data|URL) of image )"""
)


def test_the_exported_document_is_the_one_that_is_served(server: CalledServer) -> None:
    """After a change, run `make openapi`."""
    exported = EXPORTED.read_text(encoding="utf-8")

    assert exported == document()
    assert json.loads(exported) == server.get("openapi.json").json


def test_every_error_is_described_by_the_problem_schema() -> None:
    """The framework's own schema of a 422 (`detail` is a list) must not be in the document."""
    described = json.loads(document())
    errors = [answer for _, status, answer in responses(described) if status >= "400"]

    assert "HTTPValidationError" not in described["components"]["schemas"]
    contents = [content for answer in errors for content in answer["content"].values()]
    assert len(contents) == len(errors)
    assert {content["schema"]["$ref"] for content in contents} == {"#/components/schemas/Problem"}
    assert {media_type for answer in errors for media_type in answer["content"]} == {"application/problem+json"}


def test_the_default_profile_is_the_documented_one(server: CalledServer) -> None:
    """It is the profile of the role that the analysis chooses, or General if the confidence is too low."""
    prompts = ["Write a Python function that merges two sorted lists.", "Hm."]
    decided = [server.post({"prompt": prompt}, "tasks?dry_run=true").json["profile"] for prompt in prompts]
    fields = json.loads(document())["components"]["schemas"]["NewTask"]["properties"]

    default = "Default: the profile of the chosen role, or General when the analysis is not sure of the role."
    assert decided == ["Developer", "General"]
    assert fields["profile"]["description"].endswith(default)


def test_every_response_is_described_with_its_headers() -> None:
    """The request id, the remaining requests of the key where a key is known, and Retry-After for 429 and 503."""
    rates = {"RateLimit", "RateLimit-Policy"}
    for path, status, answer in responses(json.loads(document())):
        named = set(answer["headers"])

        assert "X-Request-Id" in named, (path, status)
        has_rates = status not in ("401", "405") and not path.endswith("/health")
        assert named & rates == (rates if has_rates else set()), (path, status)
        assert status not in ("429", "503") or "Retry-After" in named, (path, status)
        assert ("WWW-Authenticate" in named, "Allow" in named) == (status == "401", status == "405"), (path, status)


def test_the_demonstration_header_is_described_wherever_it_is_sent() -> None:
    described = {
        (path.removeprefix("/api/v1/tasks"), status)
        for path, status, answer in responses(json.loads(document()))
        if "LLM-Server-Demonstration" in answer["headers"]
    }
    task = "/{task_id}"

    assert {(task, "304"), *((f"{task}/{word}", "200") for word in ("approve", "reject", "cancel"))} <= described


def test_every_operation_refers_to_one_response_for_a_wrong_method(shared_server: CalledServer) -> None:
    described = json.loads(document())
    wrong = {json.dumps(operation["responses"]["405"]) for operation in operations(described)}

    assert wrong == {'{"$ref": "#/components/responses/MethodNotAllowed"}'}
    assert shared_server.call("PUT", "tasks").status == 405


@pytest.mark.parametrize("base", ["http://localhost:8000", "https://x.execute-api.eu-central-1.amazonaws.com/prod"])
def test_the_first_server_of_the_document_is_the_server_itself(base: str) -> None:
    """Its URL is relative, so one document is right at the root and below a stage of API Gateway."""
    server = json.loads(document())["servers"][0]["url"]

    assert urljoin(f"{base}/api/v1/openapi.json", server) == f"{base}/"


@pytest.mark.parametrize("code", [*range(1, 0x21), 0x7F, 0x85, 0xA0, 0x2028, 0x3000])
def test_a_prompt_of_one_character_is_accepted_if_the_document_allows_it(server: CalledServer, code: int) -> None:
    """ASCII's separators are white space in Python, but not in ECMA-262, whose patterns the document uses."""
    pattern = json.loads(document())["components"]["schemas"]["NewTask"]["properties"]["prompt"]["pattern"]
    is_described = re.search(pattern.replace(r"\s", ECMA_SPACE), chr(code)) is not None

    assert (server.post({"prompt": chr(code)}, "tasks?dry_run=true").status == 200) is is_described


@pytest.mark.timeout(400)  # more than 1,000 calls, and other work may slow the machine down
def test_generated_calls_are_answered_as_described(server: CalledServer) -> None:
    """All checks of schemathesis, with data that fits the document, data that does not, and chains of calls."""
    token = server.with_key().headers["authorization"].removeprefix("Bearer ")
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "auth": {"openapi": {"bearer": {"bearer": token}}},
            "continue-on-failure": True,
            "suppress-health-check": ["too_slow"],  # a slow machine is not a fault of the server
            "generation": {"mode": "all", "max-examples": 100, "deterministic": True, "database": "none"},
        }
    )
    server.app.state.executor = RecordingExecutor()  # so that no call waits: there is no worker
    described = schemathesis.openapi.from_asgi("/api/v1/openapi.json", server.app, config=config)

    calls: Counter[str] = Counter()
    failures: list[str] = []
    for event in from_schema(described).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            calls[event.phase.name] += len(event.recorder.interactions)
            failures += _failures(event.recorder)

    assert failures == []
    assert set(calls) == {"EXAMPLES", "COVERAGE", "FUZZING", "STATEFUL_TESTING"}
    assert calls.total() > 800


def operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in described["paths"].values():
        yield from path.values()


def responses(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, status and response of every operation, references followed."""
    for path, methods in described["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                name = answer.get("$ref", "").rpartition("/")[2]
                yield path, status, described["components"]["responses"][name] if name else answer


def _failures(recorder: ScenarioRecorder) -> Iterator[str]:
    """Yield the failures of checks, except for answers about rules that no schema can express.

    These are names, sources and abilities that are not configured, images, function calls, page tokens of another
    server, Idempotency-Keys in use, expiry times in the past, and the characters of a key's name, whose categories
    differ between versions of Unicode.
    """
    for case_id, checks in recorder.checks.items():
        response = recorder.interactions[case_id].response
        answer = b"" if response is None else response.content
        for failure in (check.failure_info for check in checks if check.failure_info):
            if not OF_THE_CONFIGURATION.match(answer):
                yield f"{failure.failure.title}: {failure.failure.message}\n{failure.code_sample}\n{answer[:500]!r}"
