"""Access: calls without a key, with a wrong key, without the scope, and above the limits of the key."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.orchestration.domain.api_key import SCOPES
from support import asgi
from support.in_process_server import CalledServer, called_server

OPEN = {"/api/v1/health"}
TENANTS = "A tenant's name must have 1 to 40 characters of a to z, 0 to 9 and -."
NAMES = "A key's name must have at most 100 characters, all of them printable."
BODY = {"headers": asgi.JSON, "parts": [b'{"prompt": "x"}']}


@pytest.fixture
def locked(server: CalledServer) -> CalledServer:
    """Return a server that has a key, called without one."""
    server.with_key()
    return server


@pytest.fixture(scope="module")
def locked_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalledServer]:
    with called_server(tmp_path_factory.mktemp("locked")) as server:
        server.with_key()
        yield server


def routes(server: CalledServer) -> list[tuple[str, str]]:
    """List every method and path of the API, with `t1` in place of ids."""
    paths = server.app.openapi()["paths"]
    found = [(method.upper(), re.sub(r"{\w+}", "t1", path)) for path, methods in paths.items() for method in methods]
    assert len(found) > 10
    return found


def test_every_route_except_health_requires_a_key(locked: CalledServer) -> None:
    """The key is checked before the body is read, so callers without a key cannot probe the parser."""
    refused = {path: locked.call(method, path, **BODY) for method, path in routes(locked) if path not in OPEN}

    assert {answer.status for answer in refused.values()} == {401}
    assert {answer.headers["www-authenticate"] for answer in refused.values()} == {"Bearer"}
    assert {answer.taken for answer in refused.values()} == {0}
    assert locked.get("health").status == 200


def test_unknown_wrong_and_revoked_keys_get_the_same_answer(locked: CalledServer) -> None:
    made = locked.with_key()
    good = made.headers["authorization"].removeprefix("Bearer ")
    key_id = good.split("_")[1]
    revoked = locked.with_key()
    locked.service.keys.revoke(revoked.headers["authorization"].split("_")[1])
    sent: list[Mapping[str, str]] = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer llms_ffffffffffff_" + "0" * 64},
        {"authorization": f"Bearer llms_{key_id}_" + "0" * 64},
        {"authorization": f"Basic {good}"},
        {"x-api-key": "nonsense", "authorization": f"Bearer {good}"},
        revoked.headers,
    ]

    answers = [locked.call("GET", "tasks", headers=headers) for headers in sent]

    def shown(answer: asgi.Answer) -> Any:
        headers = dict(answer.headers)
        return answer.status, answer.body.replace(headers.pop("x-request-id").encode(), b""), headers

    assert made.get("tasks").status == 200
    assert answers[0].status == 401
    assert all(shown(answer) == shown(answers[0]) for answer in answers)


@pytest.mark.parametrize("sent", ["Bearer {}", "bearer {}", "BEARER  {} "])
def test_a_key_is_accepted_in_either_header(locked: CalledServer, sent: str) -> None:
    token = locked.with_key().headers["authorization"].removeprefix("Bearer ")

    assert locked.get("tasks", authorization=sent.format(token)).status == 200
    assert locked.get("tasks", x_api_key=token, authorization="Bearer eyJhbGciOi.J9.sig").status == 200


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_is_accepted_only_for_its_scopes(locked: CalledServer, scope: str) -> None:
    caller = locked.with_key("acme", scope)
    needed = {"metrics": "metrics", "keys": "admin", "engines": "admin"}
    for method, path in routes(locked):
        if path in OPEN:
            continue
        want = needed.get(path.removeprefix("/api/v1/").partition("/")[0], "tasks")
        answer = caller.call(method, path, **BODY)

        assert (answer.status == 403) == (want != scope), path
        if want != scope:
            assert (answer.code, answer.detail) == (
                "scope_missing",
                f"The key lacks the scope {want}, which this call needs.",
            )


def test_a_route_without_a_declared_scope_requires_the_scope_tasks(locked: CalledServer) -> None:
    """New paths are protected by default."""
    metrics_only = locked.with_key("acme", "metrics")

    assert metrics_only.get("usage").status == 403


def test_keys_are_created_listed_and_revoked_over_http(server: CalledServer) -> None:
    """The first key is created over loopback, later ones by a key with the scope admin. The token is shown once."""
    made = server.post({"tenant": "acme", "scopes": ["tasks", "admin"], "name": "CI"}, "keys")
    admin = dataclasses.replace(server, headers={"authorization": f"Bearer {made.json['token']}"})
    limits = {"requests_per_minute": 5, "tasks_in_flight": 2, "usd_per_day": 1.5, "sources": ["local"]}
    second = admin.post({"tenant": "globex", "scopes": ["tasks"], "limits": limits}, "keys").json
    other = dataclasses.replace(server, headers={"x-api-key": second["token"]})
    listed = admin.get("keys").json["keys"]
    before = other.get("usage")
    gone = [admin.call("DELETE", f"keys/{second['key_id']}") for _ in range(2)]

    assert (made.status, server.get("keys").status) == (201, 401)
    assert [key["key_id"] for key in listed] == [made.json["key_id"], second["key_id"]]
    assert listed[1] == {name: value for name, value in second.items() if name != "token"}
    assert listed[1]["limits"] == limits
    assert not any(key["token"].rpartition("_")[2] in admin.get("keys").body.decode() for key in (made.json, second))
    assert (before.json["tenant"], before.json["limits"]) == ("globex", limits)
    assert [(answer.status, answer.body) for answer in gone] == [(204, b"")] * 2
    assert other.get("usage").status == 401
    assert admin.get("keys").json["keys"][1]["revoked_at"] is not None


@pytest.mark.parametrize("key_id", ["ffffffffffff", "x", "%20", "%ed%a0%80", "x" * 3_000])
def test_an_unknown_key_id_is_not_found(server: CalledServer, key_id: str) -> None:
    admin = server.with_key()
    answers = [admin.call("DELETE", f"keys/{key_id}"), patched(admin, key_id, {"name": "CI"})]

    assert [(answer.status, answer.detail) for answer in answers] == [(404, "No key has this id.")] * 2


def patched(server: CalledServer, key_id: str, body: object) -> asgi.Answer:
    return server.call("PATCH", f"keys/{key_id}", headers=asgi.JSON, parts=[json.dumps(body).encode()])


def test_a_change_of_a_key_changes_only_the_named_fields(server: CalledServer) -> None:
    """Null removes a limit or the expiry. The changed key uses its new limits at once."""
    admin = server.with_key()
    limits = {"requests_per_minute": 50, "tasks_in_flight": 2, "usd_per_day": 1.5, "sources": ["local"]}
    new = {"tenant": "globex", "scopes": ["tasks"], "limits": limits, "expires_at": "2999-01-01T01:00:00+01:00"}
    made = admin.post(new, "keys").json
    key_id = made["key_id"]
    other = dataclasses.replace(server, headers={"x-api-key": made["token"]})
    shown = {name: value for name, value in made.items() if name != "token"}
    answers = [
        patched(admin, key_id, {"name": "CI"}),
        patched(admin, key_id, {"limits": {"usd_per_day": None, "requests_per_minute": 7.0}}),
        patched(admin, key_id, {"expires_at": None}),
    ]
    after = shown | {"name": "CI", "expires_at": None, "limits": limits | {"usd_per_day": None}}
    after["limits"]["requests_per_minute"] = 7

    assert made["expires_at"] == "2999-01-01T00:00:00.000Z"
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].json == shown | {"name": "CI"}
    assert answers[2].json == after == admin.get("keys").json["keys"][1]
    assert other.get("usage").json["limits"] == after["limits"]
    assert other.get("usage").headers["ratelimit-policy"] == '"requests";q=7;w=60'


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "Nothing to change"),
        ({"limits": {}}, "Nothing to change"),
        ({"limits": {}, "name": "CI"}, "Nothing to change"),
        ({"limits": None}, "'limits'"),
        ({"name": None}, "'name'"),
        ({"tenant": "acme"}, "Unknown field 'tenant'; known are name, limits, expires_at"),
        ({"limits": {"rpm": 1}}, "known are requests_per_minute, tasks_in_flight, usd_per_day"),
        ({"limits": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({"limits": {"usd_per_day": 1e40}}, "usd_per_day"),
        ({"name": "x" * 101}, NAMES),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "must be in the future"),
        ({"expires_at": "soon"}, "such as 2030-12-31T23:59:59Z"),
    ],
)
def test_an_invalid_change_of_a_key_is_refused_by_name(locked_for_all: CalledServer, body: object, named: str) -> None:
    admin = locked_for_all.with_key()
    before = admin.get("keys").json["keys"][-1]

    answer = patched(admin, before["key_id"], body)

    assert (answer.status, named in answer.detail) == (422, True), answer.detail
    assert admin.get("keys").json["keys"][-1] == before


def test_a_revoked_key_cannot_be_changed(server: CalledServer) -> None:
    admin = server.with_key()
    made = admin.post({"tenant": "acme", "scopes": ["tasks"]}, "keys").json
    admin.call("DELETE", f"keys/{made['key_id']}")
    answer = patched(admin, made["key_id"], {"name": "CI"})

    assert (answer.status, answer.detail) == (409, "The key is revoked; a revoked key cannot be changed.")
    assert admin.get("keys").json["keys"][1]["name"] == ""


def test_a_call_whose_answer_was_lost_can_be_repeated_for_a_new_token(server: CalledServer) -> None:
    """It answers the same key with a new token; the lost token stops working."""
    admin, new = server.with_key(), {"tenant": "globex", "scopes": ["tasks"], "name": "CI"}
    lost = admin.post(new, "keys", idempotency_key="k")
    again = admin.post(new, "keys", idempotency_key='"k"')
    other_body = admin.post(new | {"name": "CD"}, "keys", idempotency_key="k")
    used = [
        dataclasses.replace(server, headers={"x-api-key": one.json["token"]}).get("usage").status
        for one in (lost, again)
    ]
    admin.call("DELETE", f"keys/{lost.json['key_id']}")
    gone = admin.post(new, "keys", idempotency_key="k")

    assert (lost.status, again.status, other_body.status, gone.status) == (201, 200, 422, 409)
    assert "idempotent-replayed" not in lost.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert {**lost.json, "token": ""} == {**again.json, "token": ""}
    assert used == [401, 200]
    assert other_body.json["errors"][0]["pointer"] == "/Idempotency-Key"
    made = "The key that this Idempotency-Key made is revoked; send another Idempotency-Key to make a new one."
    assert (gone.code, gone.detail) == ("key_revoked", made)
    assert len(admin.get("keys").json["keys"]) == 2


def test_an_invalid_idempotency_key_creates_no_key(server: CalledServer) -> None:
    admin = server.with_key()
    answer = admin.post({"tenant": "globex", "scopes": ["tasks"]}, "keys", idempotency_key="two words")

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/Idempotency-Key")
    assert len(admin.get("keys").json["keys"]) == 1


def test_the_lost_token_of_the_first_key_cannot_be_replaced_without_a_key(server: CalledServer) -> None:
    """Otherwise any caller that can reach the server could take the key over."""
    new = {"tenant": "acme", "scopes": ["admin"]}
    first = server.post(new, "keys", idempotency_key="k")

    assert (first.status, server.post(new, "keys", idempotency_key="k").status) == (201, 401)


def test_an_expired_key_is_refused_like_a_revoked_one(server: CalledServer) -> None:
    key, token = server.service.keys.create("acme", ["tasks"])
    expired = replace(key, key_id="0123456789ab", expires_ms=1)
    server.keys.add_key(expired)
    server.service.keys.revoke(key.key_id)
    tokens = [token.replace(key.key_id, one.key_id) for one in (key, expired)]
    used = [server.get("tasks", x_api_key=sent, x_request_id="r1") for sent in tokens]

    assert [answer.status for answer in used] == [401, 401]
    assert used[0].body == used[1].body


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "'tenant' is missing"),
        ({"tenant": "acme"}, "'scopes' is missing"),
        ({"tenant": "acme", "scopes": []}, "'scopes'"),
        ({"tenant": "acme", "scopes": ["root"]}, "'scopes.0'"),
        ({"tenant": "acme", "scopes": "tasks"}, "'scopes'"),
        ({"tenant": "ACME", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "a/b", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "a#b", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "a\nb", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "a\x00b", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "acme\n", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "", "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "x" * 41, "scopes": ["tasks"]}, TENANTS),
        ({"tenant": "acme", "scopes": ["tasks"], "key_id": "x"}, "known are tenant, scopes, name, limits, expires_at"),
        (
            {"tenant": "acme", "scopes": ["tasks"], "limits": {"rpm": 1}},
            "known are requests_per_minute, tasks_in_flight, usd_per_day",
        ),
        ({"tenant": "acme", "scopes": ["tasks"], "limits": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({"tenant": "acme", "scopes": ["tasks"], "limits": {"usd_per_day": 0}}, "usd_per_day"),
        ({"tenant": "acme", "scopes": ["tasks"], "limits": {"tasks_in_flight": 1.5}}, "tasks_in_flight"),
        ({"tenant": "acme", "scopes": ["tasks"], "limits": {"requests_per_minute": 1_000_001}}, "1,000,000"),
        ({"tenant": "acme", "scopes": ["tasks"], "limits": {"usd_per_day": 1e40}}, "1,000,000"),
        ({"tenant": "acme", "scopes": ["tasks"], "expires_at": "tomorrow"}, "such as 2030-12-31T23:59:59Z"),
        ({"tenant": "acme", "scopes": ["tasks"], "expires_at": 1893455999}, "'expires_at'"),
        ({"tenant": "acme", "scopes": ["tasks"], "expires_at": "2020-01-01T00:00:00Z"}, "must be in the future"),
        ({"tenant": "acme", "scopes": ["tasks"], "name": "a\nb"}, NAMES),
        ({"tenant": "acme", "scopes": ["tasks"], "name": "a\x00b"}, NAMES),
        ({"tenant": "acme", "scopes": ["tasks"], "name": "gnp.\u202eexe"}, NAMES),
        ({"tenant": "acme", "scopes": ["tasks"], "name": "x" * 101}, NAMES),
    ],
)
def test_an_invalid_new_key_is_refused_by_name(locked_for_all: CalledServer, body: object, named: str) -> None:
    answer = locked_for_all.with_key().post(body, "keys")

    assert (answer.status, named in answer.detail) == (422, True), answer.detail


def test_an_invalid_tenant_is_refused_with_a_pointer(locked_for_all: CalledServer) -> None:
    answer = locked_for_all.with_key().post({"tenant": "ACME", "scopes": ["tasks"]}, "keys")

    assert answer.json["errors"] == [{"pointer": "/tenant", "detail": TENANTS}]


def test_the_openapi_document_describes_valid_tenants_and_names(locked_for_all: CalledServer) -> None:
    """The server's own check explains more, but a generated client has only the document."""
    fields = locked_for_all.get("openapi.json").json["components"]["schemas"]["NewKey"]["properties"]

    assert fields["tenant"]["pattern"] == "^[a-z0-9-]{1,40}$"
    assert fields["name"]["maxLength"] == 100
    pattern = re.compile(fields["name"]["pattern"].removesuffix("$") + r"\Z")
    characters = [chr(code) for code in range(0x10000)]
    assert [c for c in characters if c.isprintable() and not pattern.search(c)] == []
    too_many = [c for c in characters if pattern.search(c) and not c.isprintable()]
    assert {unicodedata.category(c) for c in too_many} == {"Cf", "Cn", "Cs"}  # unassigned, or halves of surrogate pairs


def test_the_openapi_document_explains_unsettled_money(locked_for_all: CalledServer) -> None:
    fields = locked_for_all.get("openapi.json").json["components"]["schemas"]["UsageView"]["properties"]
    said = fields["unsettled_microusd"]["description"]

    assert [
        words for words in ("have not ended", "timed out", "broke off", "cancelled", "died") if words not in said
    ] == []


def test_requests_above_the_limit_are_told_when_to_try_again(locked: CalledServer) -> None:
    """Every answer shows the remaining requests, also if the call is refused for another reason."""
    caller = locked.with_key("acme", "tasks", requests_per_minute=3)
    answers = [caller.get("tasks"), caller.get("tasks/t1"), caller.post(b"{"), caller.get("tasks"), caller.get("tasks")]

    left = [re.fullmatch(r'"requests";r=(\d);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
    assert [answer.status for answer in answers] == [200, 404, 400, 429, 429]
    assert [found and found[1] for found in left] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=60'}
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert answers[3].detail == "The key allows 3 requests a minute, and they are used up."
    assert "ratelimit" not in locked.with_key().get("tasks").headers
    assert locked.with_key("acme", "tasks", requests_per_minute=1).get("tasks").status == 200  # each key has its own


def test_a_call_without_the_scope_counts_as_a_request(locked: CalledServer) -> None:
    """Otherwise a key could make such calls without limit. The answer shows the remaining requests, too."""
    caller = locked.with_key("acme", "tasks", requests_per_minute=2)
    answers = [caller.get("metrics"), caller.get("keys"), caller.get("metrics")]

    assert [answer.status for answer in answers] == [403, 403, 429]
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers] == [
        '"requests";r=1',
        '"requests";r=0',
        '"requests";r=0',
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=2;w=60'}


def test_tasks_above_the_limit_are_refused_until_one_ends(locked: CalledServer) -> None:
    caller = locked.with_key("acme", "tasks", tasks_in_flight=2)
    for _ in range(2):
        caller.created()
    refused, used = caller.post({"prompt": "x"}), caller.get("usage").json
    locked.work()

    assert (refused.status, int(refused.headers["retry-after"])) == (429, 5)
    assert refused.detail == "The key allows 2 tasks in flight, and it has that many; wait for one to end."
    assert used["tasks_in_flight"] == 2
    assert caller.post({"prompt": "x"}).status == 202
    assert caller.get("usage").json["tasks_in_flight"] == 1


def test_a_dry_run_does_not_count_as_a_task_in_flight(locked: CalledServer) -> None:
    caller = locked.with_key("acme", "tasks", tasks_in_flight=1)
    caller.created()

    assert caller.post({"prompt": "x"}, "tasks?dry_run=true").status == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.9", "[::1]:8000", "[::1]"])
def test_without_keys_calls_to_loopback_names_are_answered(server: CalledServer, host: str) -> None:
    assert server.get("tasks", host=host).status == 200
    assert server.post({"prompt": "x"}, host=host, origin=f"http://{host}").status == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "192.168.0.7"},
        {"host": "0.0.0.0"},
        {"host": "[::]"},
        {"host": "[oops"},
        {"host": ""},
        {"host": "evil.example@localhost.evil.example"},
        {"host": "localhost", "origin": "https://evil.example"},
        {"host": "localhost", "origin": "null"},
        {"host": "localhost", "origin": "http://localhost.evil.example"},
        {"host": "localhost", "sec-fetch-site": "cross-site"},
    ],
)
def test_without_keys_a_page_of_another_site_is_refused(server: CalledServer, headers: dict[str, str]) -> None:
    """Neither DNS rebinding nor a form or script of another site gets an answer."""
    for method, path in (("GET", "tasks"), ("POST", "tasks"), ("POST", "tasks/t1/approve"), ("DELETE", "keys/x")):
        assert server.call(method, path, headers={**asgi.JSON, **headers}, parts=[b'{"prompt": "x"}']).status == 403
    assert server.get("tasks").json["tasks"] == []


def test_with_keys_calls_to_any_host_name_are_answered(server: CalledServer) -> None:
    """Behind a proxy the server has another name, and a page of another site does not have the key."""
    assert server.with_key().get("tasks", host="llm.example").status == 200


def test_a_server_reachable_from_other_machines_always_requires_a_key(server: CalledServer) -> None:
    """On AWS, and embedded on an address other than loopback.

    Calls without a key are refused even before a key exists.
    """
    shut = dataclasses.replace(
        server, app=create_app(server.service, lambda: "r", executor=InlineExecutor(server.service))
    )

    assert {shut.call(method, path, **BODY).status for method, path in routes(shut) if path not in OPEN} == {401}


def test_the_openapi_document_says_where_the_key_is_sent(server: CalledServer) -> None:
    described = server.get("openapi.json").json
    schemes = described["components"]["securitySchemes"]

    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for path, operations in described["paths"].items():
        wanted = {name for one in next(iter(operations.values())).get("security", []) for name in one}
        assert wanted == (set() if path in OPEN else set(schemes)), path


def test_every_answer_has_its_type_private_caching_and_no_framing(server: CalledServer, tmp_path: Path) -> None:
    task_id = server.created()
    paths = ("health", "tasks", f"tasks/{task_id}", "tasks/t1", "openapi.json", "/nowhere")
    answers = [server.get(path) for path in paths]

    assert [answer.headers["x-content-type-options"] for answer in answers] == ["nosniff"] * 6
    assert [answer.headers["content-security-policy"] for answer in answers] == ["frame-ancestors 'none'"] * 6
    assert [answer.headers["referrer-policy"] for answer in answers] == ["no-referrer"] * 6
    assert answers[2].headers["cache-control"] == "private, no-cache"
    assert {answer.headers["cache-control"] for answer in answers if answer is not answers[2]} == {"no-store"}


def test_the_expiry_of_a_far_year_keeps_its_millisecond(server: CalledServer) -> None:
    new = {"tenant": "acme", "scopes": ["tasks"], "expires_at": "9999-12-31T23:59:59.999Z"}

    assert server.with_key().post(new, "keys").json["expires_at"] == "9999-12-31T23:59:59.999Z"
