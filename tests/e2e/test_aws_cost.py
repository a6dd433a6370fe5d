"""The cost of a Chat task on AWS: the calls of both functions in order, DynamoDB units and SQS requests."""

from __future__ import annotations

from collections.abc import Iterator
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
    to_do = ["Query", "TransactWriteItems", "PutItem", "TransactWriteItems"]
    called = [call.operation for call in wire.calls]
    assert called == [*to_submit, "ReceiveMessage", *to_do, "DeleteMessageBatch"]  # Lambda receives and deletes
    assert (wire.write_units(), wire.read_units()) == (units, 1)
