"""The cost of a Chat task on AWS: the calls of both functions in order, DynamoDB units and SQS requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_server.storage.dynamodb import engine_states as dynamodb_engines
from support.builders import prose
from support.deployment import MODULES, Deployment
from support.dynamodb_wire import Call, Wire, recording
from support.fake_engine import FakeEngine, fake_engine

CONFIG = """
[engines.fake]
kind = "openai"
source = "api"
model = "fake-1"
base_url = "{url}"
price = {{input = {price}, output = {price}}}
"""

CLAIMED_AND_DONE = ["Query", "TransactWriteItems", "PutItem", "TransactWriteItems"]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


def is_about_engines(call: Call) -> bool:
    """Tell whether a call reads the states of engines, which each process does every 5 s regardless of tasks."""
    return bool(call.arguments.get("Key") == dynamodb_engines.KEY)


def a_task(deployment: Deployment, prompt: str) -> Wire:
    """Submit a Chat task and deliver its message; return the calls that this took."""
    with recording(*deployment.clients) as wire:
        task_id = deployment.submit(prompt, mode="Chat")
        deployment.deliver()
    assert deployment.get(task_id)["status"] == "Completed"
    wire.calls = [call for call in wire.calls if not is_about_engines(call)]
    return wire


@pytest.mark.parametrize(
    ("prompt_bytes", "answer_bytes", "price", "units"),
    [(500, 1_500, 0, 17), (2_000, 4_000, 0, 19), (500, 1_500, 1, 19), (2_000, 4_000, 1, 21)],
)
def test_a_task_makes_exactly_these_calls_and_units(
    deployment: Deployment,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt_bytes: int,
    answer_bytes: int,
    price: int,
    units: int,
) -> None:
    """The texts are real prompts; 14 of the 32 prompts of 2 KB (not this one) compress to one unit less.

    An engine that costs money adds two units, for the tenant's spending of the day. No Scan, and three SQS
    requests.
    """
    config = tmp_path / "engines.toml"
    config.write_text(CONFIG.format(url=engine.base_url, price=price), encoding="utf-8")
    monkeypatch.setenv("LLM_SERVER_CONFIG", str(config))
    for function in MODULES:
        deployment.start(function)
    engine.text = prose(answer_bytes)[0]
    a_task(deployment, "The API key is read once, and known from now on.")
    wire = a_task(deployment, prose(prompt_bytes)[0])

    to_submit = ["PutItem", "TransactWriteItems", "SendMessage"]
    called = [call.operation for call in wire.calls]
    by_lambda = ["ReceiveMessage", "DeleteMessageBatch"]
    assert called == [*to_submit, by_lambda[0], *CLAIMED_AND_DONE, by_lambda[1]]
    assert (wire.write_units(), wire.read_units()) == (units, 1)


def calls(deployment: Deployment, act: Callable[[], object]) -> tuple[list[str], int, float]:
    """Return the calls that something takes, apart from the states of engines, and their write and read units."""
    with recording(*deployment.clients) as wire:
        act()
    wire.calls = [call for call in wire.calls if not is_about_engines(call)]
    return [call.operation for call in wire.calls], wire.write_units(), wire.read_units()


def test_conversations_and_events_take_exactly_these_calls_and_units(
    deployment: Deployment, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/performance.md has the figures. The texts are short: of a prompt of 0.5 KB and an answer of 1.5 KB."""
    config = tmp_path / "engines.toml"
    config.write_text(CONFIG.format(url=engine.base_url, price=0), encoding="utf-8")
    monkeypatch.setenv("LLM_SERVER_CONFIG", str(config))
    for function in MODULES:
        deployment.start(function)
    engine.text = prose(1_500)[0]
    prompt, found = prose(500)[0], dict[str, tuple[list[str], int, float]]()
    a_task(deployment, "The API key is read once, and known from now on.")
    conversation = ""

    def begin() -> None:
        nonlocal conversation
        conversation = deployment.ask("POST", "/conversations", {})["json"]["conversation_id"]

    def turn(**fields: object) -> Callable[[], object]:
        def act() -> None:
            tasks.append(deployment.submit(prompt, mode="Chat", **fields))
            deployment.deliver()

        return act

    tasks = list[str]()
    found["begin"] = calls(deployment, begin)
    found["plain"] = calls(deployment, turn())
    for number in ("first", "second", "third"):
        found[number] = calls(deployment, turn(conversation_id=conversation))
    found["read"] = calls(deployment, lambda: deployment.ask("GET", f"/conversations/{conversation}"))
    found["follow"] = calls(deployment, turn(previous_task_id=tasks[0]))
    found["events"] = calls(deployment, lambda: deployment.ask("GET", f"/tasks/{tasks[0]}/events"))
    turn(stream=True)()
    reading, _, units = calls(deployment, lambda: deployment.ask("GET", f"/tasks/{tasks[-1]}/events"))

    posted, worked = ["TransactWriteItems", "SendMessage", "ReceiveMessage"], [*CLAIMED_AND_DONE, "DeleteMessageBatch"]
    told = ["Query", "BatchGetItem", "BatchGetItem", *worked[1:]]
    assert found == {
        "begin": (["PutItem"], 1, 0),
        "plain": (["PutItem", *posted, *worked], 17, 1),
        "first": (["GetItem", *posted, *worked], 20, 2),
        "second": (["GetItem", "BatchGetItem", "Query", *posted, *told], 20, 7),
        "third": (["GetItem", "BatchGetItem", "Query", *posted, *told], 20, 11),
        "read": (["GetItem", "BatchGetItem"], 0, 4),
        "follow": (["Query", "PutItem", *posted, *told], 17, 5),
        "events": (["Query"], 0, 1),
    }
    assert (reading, units in (2, 3)) == (["Query", "Query"], True)  # its text is stored in groups, by the clock


def test_a_plan_that_waits_is_polled_with_one_query(
    deployment: Deployment, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its process has looked at the tasks from which the quote says what to expect."""
    config = tmp_path / "engines.toml"
    config.write_text(CONFIG.format(url=engine.base_url, price=0), encoding="utf-8")
    monkeypatch.setenv("LLM_SERVER_CONFIG", str(config))
    for function in MODULES:
        deployment.start(function)
    task_id = deployment.submit("Build it.", mode="Plan", plan_approval=True)
    deployment.deliver()
    polls = [calls(deployment, lambda: deployment.get(task_id)) for _ in range(3)]

    assert deployment.get(task_id)["awaiting_approval"]
    assert [operations for operations, *_ in polls] == [["Query", "Query", "BatchGetItem"], ["Query"], ["Query"]]
