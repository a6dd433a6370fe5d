"""The parts of the OpenAPI document beyond the routes: servers, tags, shared headers, and the 405 response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_server.api.contract import header_docs, problems
from llm_server.api.errors import MEDIA_TYPE
from llm_server.api.schemas.problem import Problem

DESCRIPTION = (
    "Send a prompt as a task: the server analyses it, chooses a mode, a role and an engine, carries the task out and "
    "keeps the answer with a receipt of every engine call. A response may gain fields in a later version, so clients "
    "must ignore fields they do not know. A request with an unknown field is refused."
)
SERVERS = [
    {
        "url": "../..",
        "description": "The server that this document was read from; its URL may have a path before /api.",
    },
    {"url": "http://localhost:8000", "description": "An embedded server on its default port."},
]
TAGS = [
    {"name": "Tasks", "description": "Create, read, list, approve, cancel, retry and delete tasks."},
    {"name": "Conversations", "description": "Create, read and delete conversations, whose tasks follow one another."},
    {"name": "Server", "description": "Metrics, usage, the catalogue of profiles, roles and engines, and health."},
    {"name": "Engines", "description": "List the engines, and switch them on or off while the server runs."},
    {"name": "Keys", "description": "Create, list, change and revoke API keys."},
]
_REQUEST_ID = header_docs(
    X_Request_Id=(
        "The id of this request in the server's log: the `X-Request-Id` of the request if it is valid, else a new id.",
        "01a205c3-cdb6-7178-90a4-9b068c5161a4",
    ),
)
_RATES = header_docs(
    RateLimit_Policy=(
        "The key may send `q` requests in each window of `w` seconds. Absent when the key has no such limit.",
        '"requests";q=60;w=60',
    ),
    RateLimit=(
        "The key has `r` requests left in this window, which ends in `t` seconds. "
        "Absent when the key has no such limit.",
        '"requests";r=59;t=42',
    ),
)
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_AUTHENTICATE = header_docs(WWW_Authenticate=("How to authenticate (RFC 9110, 11.6.1).", "Bearer"))
_ALLOW = header_docs(Allow=("The methods that the path supports.", "GET, DELETE"))


def complete(document: dict[str, Any]) -> None:
    """Add the shared headers, the 405 responses and the schema of errors to a document in place.

    Calling this again has no further effect.
    """
    components = document["components"]
    if "headers" in components:
        return
    components["headers"] = _REQUEST_ID | _RATES | _AUTHENTICATE | _ALLOW
    not_allowed = {"$ref": "#/components/responses/MethodNotAllowed"}
    for operation in _operations(document):
        operation["responses"]["405"] = not_allowed
        for status, response in operation["responses"].items():
            if response is not not_allowed:
                if status >= "400":
                    response["content"] = _PROBLEM
                response["headers"] = response.get("headers", {}) | _shared_headers(operation, status)
    components["schemas"] = dict(sorted((components["schemas"] | _problem_schemas()).items()))
    components["responses"] = {"MethodNotAllowed": _method_not_allowed()}


def _problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    definitions: dict[str, Any] = schema.pop("$defs")
    return definitions | {Problem.__name__: schema}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _shared_headers(operation: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the headers that all responses share; a 401 has no rate headers, because its caller has no valid key."""
    names = [*_REQUEST_ID]
    if "security" in operation:
        names += _AUTHENTICATE if status == "401" else _RATES
    return _references(names)


def _method_not_allowed() -> dict[str, Any]:
    [response] = problems(405).values()
    return {
        "description": response["description"],
        "content": _PROBLEM,
        "headers": _references([*_REQUEST_ID, *_ALLOW]),
    }


def _references(names: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
