"""`Idempotency-Key`: calls with the same key and body create one task."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.access.idempotency import KEPT_MS
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.intake import Accepted
from llm_server.orchestration.tasks.new_task import NewTask
from support import asgi
from support.in_process_server import DOWN, CalledServer, FailingStore, called_server
from support.scripted_service import Served

BODY = {"prompt": "Say hello."}


class OvertakenStore:
    """A store that calls a function just before each `add`."""

    def __init__(self, inner: Store, before_add: Callable[[], object]) -> None:
        self._inner = inner
        self._before_add = before_add

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def add(self, *args: Any, **options: Any) -> bool:
        self._before_add()
        return self._inner.add(*args, **options)


def posted(server: CalledServer, key: str, body: object = BODY, **headers: str) -> asgi.Answer:
    return server.post(body, idempotency_key=key, **headers)


def test_the_same_key_and_body_answer_the_same_task(server: CalledServer) -> None:
    """The first call gets 202. Later calls get 200 with `Idempotent-Replayed`, and the current state of the task."""
    first = posted(server, '"k-1"')
    again = posted(server, '"k-1"')
    server.work()
    done = posted(server, "k-1")

    assert (first.status, again.status, done.status) == (202, 200, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == done.headers["idempotent-replayed"] == "true"
    assert first.headers["location"] == again.headers["location"] == done.headers["location"]
    assert (again.json, again.headers["retry-after"]) == (first.json, "1")
    assert done.json["result"] == server.get(f"tasks/{first.json['task_id']}").json["result"]
    assert (done.json["status"], "retry-after" in done.headers) == ("Completed", False)
    assert server.get("metrics").json["total_requests"] == 1


def test_a_body_written_differently_is_the_same_body(server: CalledServer) -> None:
    """Order, white space, escapes, explicit defaults and 1 for 1.0 do not matter.

    The Prefer header does not matter, either.
    """
    limits = {"max_cost_usd": 1, "deadline_s": 60}
    written = [
        {"prompt": "Say hello.", "limits": limits, "metadata": {"a": "1", "b": "2"}},
        {"metadata": {"b": "2", "a": "1"}, "limits": {**limits, "max_cost_usd": 1.0}, "prompt": " Say hello.\n"},
        {"prompt": "Say hello.", "limits": limits, "metadata": {"a": "1", "b": "2"}, "role": None},
    ]
    bodies = [json.dumps(body, indent=n or None).encode() for n, body in enumerate(written)]
    bodies.append(bodies[0].replace(b"hello", b"h\\u0065llo"))

    tasks = {posted(server, "k", body, prefer="respond-async").json["task_id"] for body in bodies}

    assert len(tasks) == 1


@pytest.mark.parametrize("changed", [{"prompt": "Say bye."}, {"role": "Chat-Agent"}, {"metadata": {"a": "1"}}])
def test_the_same_key_with_another_body_is_refused(server: CalledServer, changed: dict[str, Any]) -> None:
    posted(server, "k")

    answer = posted(server, "k", BODY | changed)

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/Idempotency-Key")
    assert server.get("metrics").json["total_requests"] == 1


@pytest.mark.parametrize(
    "key",
    ["", '""', "x" * 256, f'"{"x" * 256}"', "two words", "a,b", '"half', "caf\u00e9", '"tab\t"', "a\\b", '"a\\b"'],
)
def test_an_invalid_idempotency_key_is_refused_by_name(shared_server: CalledServer, key: str) -> None:
    """Also in a dry run, which would otherwise seem to accept it."""
    for target in ("tasks", "tasks?dry_run=true"):
        answer = shared_server.post(BODY, target, idempotency_key=key)
        assert (answer.status, "Idempotency-Key" in answer.detail) == (422, True)


def test_the_refusal_of_a_key_explains_how_to_quote_it(shared_server: CalledServer) -> None:
    """Quoted as the sentence says, the refused text becomes a valid key."""
    refused = posted(shared_server, 'a\\b "c", d')

    advice = "quote or backslash must be in double quotes, with a backslash before each quote and backslash in it"
    assert advice in refused.detail
    assert posted(shared_server, r'"a\\b \"c\", d"').status == 202


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "a"), ('"a"', '"b"'), ("a", '"b"'), ("", "b"), ("a", "")])
@pytest.mark.parametrize("joined", [None, ",", ", "])
def test_two_idempotency_keys_are_refused(
    shared_server: CalledServer, keys: tuple[str, str], joined: str | None
) -> None:
    """As two headers, and as the one header that API Gateway joins them to: one of the keys would be ignored."""
    values = keys if joined is None else [joined.join(keys)]
    headers = [*asgi.JSON.items(), *(("idempotency-key", value) for value in values)]

    answer = shared_server.call("POST", "tasks", headers=headers, parts=[b'{"prompt": "Say hello."}'])

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/Idempotency-Key")


@pytest.mark.parametrize(
    ("quoted", "bare"), [('"abc"', "abc"), (f'"{"x" * 255}"', "x" * 255), (r'"a\"b"', None), ('"two words, 2"', None)]
)
def test_a_key_may_be_quoted_or_bare(shared_server: CalledServer, quoted: str, bare: str | None) -> None:
    first = posted(shared_server, quoted)

    assert first.status == 202
    assert posted(shared_server, bare or quoted).json["task_id"] == first.json["task_id"]


def test_a_dry_run_does_not_bind_the_key(server: CalledServer) -> None:
    assert server.post(BODY, "tasks?dry_run=true", idempotency_key="k").status == 200
    assert posted(server, "k", {"prompt": "Another body."}).status == 202


def test_a_replay_can_wait_for_the_end_too(server: CalledServer) -> None:
    posted(server, "k")
    with server.working():
        answer = posted(server, "k", prefer="wait=10")

    assert (answer.json["status"], answer.headers["preference-applied"]) == ("Completed", "wait=10")
    assert answer.headers["idempotent-replayed"] == "true"


def test_a_hundred_concurrent_calls_create_one_task(server: CalledServer) -> None:
    """One call gets 202, the others are marked as replays."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: posted(server, "k"), range(100)))

    assert sorted(answer.status for answer in answers) == [200] * 99 + [202]
    assert len({answer.json["task_id"] for answer in answers}) == 1
    assert server.get("metrics").json["total_requests"] == 1


def test_a_task_whose_first_call_died_is_created_by_the_second(
    server: CalledServer, server_on: Callable[[Store], CalledServer]
) -> None:
    """The first call bound the key but stored no task, so the second call creates it and is not a replay."""
    with_a_fault = server_on(FailingStore(server.store, DOWN, "add"))
    assert posted(with_a_fault, "k").status == 503

    answer = posted(server, "k")

    assert (answer.status, "idempotent-replayed" in answer.headers) == (202, False)
    assert server.queue.receive(0) == Message(TaskRef("local", answer.json["task_id"]))
    assert server.get("metrics").json["queue_length"] == 1


def test_a_replay_does_not_need_the_engine(server: CalledServer) -> None:
    """The named engine was switched off meanwhile; a new task for it is refused."""
    body = BODY | {"engine": "embedded"}
    first = posted(server, "k", body)
    server.work()
    assert server.call("PATCH", "engines/embedded", headers=asgi.JSON, parts=[b'{"toggle": false}']).status == 200

    again, other = posted(server, "k", body), posted(server, "k2", body)

    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert (again.json["task_id"], again.json["status"]) == (first.json["task_id"], "Completed")
    assert (other.status, other.json["errors"][0]["pointer"]) == (422, "/engine")


OTHER_ROLE = '[roles.Poet-Agent]\npurpose = "Verse."\nprofiles = ["General"]\ntier = "fast"\nsystem_prompt = "Rhyme."\n'


@pytest.mark.parametrize(
    ("body", "pointer"), [(BODY | {"role": "Poet-Agent"}, "/role"), ({"prompt": "A longer prompt."}, "/prompt")]
)
def test_a_replay_does_not_depend_on_the_current_configuration(
    tmp_path: Path, body: dict[str, str], pointer: str
) -> None:
    """The role was removed, or the maximum prompt length reduced: only new tasks are refused for that."""
    with called_server(tmp_path, OTHER_ROLE) as server:
        first = posted(server, "k", body)
    with called_server(tmp_path, prompt_max_chars=15) as server:
        again, other = posted(server, "k", body), server.post(body)

    assert (first.status, again.status, other.status) == (202, 200, 422)
    assert again.json["task_id"] == first.json["task_id"]
    assert other.json["errors"][0]["pointer"] == pointer


def test_a_refused_body_leaves_its_idempotency_key_free(server: CalledServer) -> None:
    refused = posted(server, "k", BODY | {"role": "Missing-Agent"})

    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/role")
    assert posted(server, "k").status == 202


def test_a_bound_task_that_was_never_stored_is_checked_when_it_is_created(
    server: CalledServer, server_on: Callable[[Store], CalledServer]
) -> None:
    """The call that bound the key died, and then the engine was switched off."""
    body = BODY | {"engine": "embedded"}
    assert posted(server_on(FailingStore(server.store, DOWN, "add")), "k", body).status == 503
    server.service.switch_engine("embedded", {"toggle": False})

    answer = posted(server, "k", body)

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/engine")
    assert server.get("metrics").json["total_requests"] == 0


def test_an_acceptable_task_needs_no_separate_read_of_its_key(
    server: CalledServer, server_on: Callable[[Store], CalledServer]
) -> None:
    """The key's binding is read separately only if the checks refuse the body."""
    without = server_on(FailingStore(server.store, DOWN, "bound_idempotency_key"))

    assert (posted(without, "k").status, posted(without, "k").status) == (202, 200)


def test_a_task_created_after_a_refused_call_is_not_a_replay(server: CalledServer) -> None:
    """The first call was refused because the limit of tasks in flight was reached, so it created nothing."""
    caller = server.with_key("acme", "tasks", tasks_in_flight=1)
    caller.created()
    refused = posted(caller, "k")
    server.work()
    made, again = posted(caller, "k"), posted(caller, "k")

    assert [(a.status, a.headers.get("idempotent-replayed")) for a in (refused, made, again)] == [
        (429, None),
        (202, None),
        (200, "true"),
    ]
    assert made.json["task_id"] == again.json["task_id"]


def test_a_first_call_overtaken_by_its_repetition_answers_a_replay(
    server: CalledServer, server_on: Callable[[Store], CalledServer]
) -> None:
    """The repetition stores the task after the first call bound the key and before it stored its task."""
    twins: list[Accepted] = []
    same = partial(server.service.submit_once, "local", NewTask(prompt=BODY["prompt"]), "k")

    first = posted(server_on(OvertakenStore(server.store, lambda: twins.append(same()))), "k")

    assert [twin.replayed for twin in twins] == [False]
    assert (first.status, first.headers["idempotent-replayed"]) == (200, "true")
    assert server.get("metrics").json["total_requests"] == 1


def test_an_idempotency_key_can_be_used_again_after_24_hours(served: Served) -> None:
    """The earlier task stays unchanged."""
    first = served.service.submit_once("local", NewTask(prompt="One."), "k")
    served.clock.pass_s(KEPT_MS / 1000 - 0.001)
    again = served.service.submit_once("local", NewTask(prompt="One."), "k")
    served.clock.pass_s(0.001)
    second = served.service.submit_once("local", NewTask(prompt="Two."), "k")
    served.refs += [first.task.ref, second.task.ref]

    assert (again.task.ref, again.replayed) == (first.task.ref, True)
    assert (second.replayed, second.task.ref != first.task.ref) == (False, True)
    assert served.get(first.task.ref).request.prompt == "One."


def test_an_unused_field_does_not_change_the_hash_of_a_body() -> None:
    """So a later version with more fields still recognises bodies of the day before."""
    assert NewTask(prompt="One.").digest() == sha256(b'{"prompt":"One."}').hexdigest()


def test_tenants_have_separate_idempotency_keys(served: Served) -> None:
    tasks = [served.service.submit_once(tenant, NewTask(prompt="One."), "k").task for tenant in ("a", "b")]
    served.refs += [task.ref for task in tasks]

    assert tasks[0].task_id != tasks[1].task_id
