"""A reader follows a streamed task, while its worker meets each kind of fault at each single call of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Killed, Kind
from faults.ledger import Ledger
from faults.readers import TEXT
from faults.strikes import IN_TIME_S, SINGLE, Faults, Scenario, quickly, strike
from faults.substrates import again
from faults.world import World

WRITES = {"SQLite": "store.append", "moto": "dynamodb.put_item"}
"""The calls that store text."""
TEXTS = {"streamed_chat": 2, "streamed_plan": 7}
CALLS = {"streamed_chat": 1, "streamed_plan": 6}
"""How often text is stored, beside the answer itself on AWS, and how many engine calls are streamed."""


@pytest.fixture(autouse=True)
def silent_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not report a kill in the thread that stores text: it was planned."""
    usual = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda args: args.exc_type is Killed or usual(args))


def streamed_chat(world: World, faults: Faults) -> None:
    """Post a question whose answer is streamed."""
    _stream(world, faults, "Say hello.", mode="Chat")


def streamed_plan(world: World, faults: Faults) -> None:
    """Post a plan whose steps, one of them repaired, and whose answer are streamed."""
    _stream(world, faults, "Build it.", mode="Plan", profile="Developer")


def _stream(world: World, faults: Faults, prompt: str, **fields: Any) -> None:
    world.watch()
    world.post(prompt, stream=True, **fields)
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


def deleted_stream(world: World, faults: Faults) -> None:
    """Delete a streamed task: while a call of its worker hangs, as soon as another one has ended it, or else later."""
    world.post("Say hello.", stream=True, mode="Chat")
    (ref,) = world.refs()

    def delete() -> None:
        world.clock.pass_s(world.substrate.lease_s + 1)
        world.work([again(ref)], world.process("next"))
        world.delete(ref, world.store.get(ref))
        assert world.insist("DELETE", f"/tasks/{ref.task_id}", world.process("deleting")) == 204

    world.during_hang = delete
    world.deliver(world.process("worker", faults.get("worker")))
    if ref not in world.deleted:
        delete()
    world.settle(within_s=IN_TIME_S)


@pytest.mark.parametrize("kind", [Kind.KILLED_AFTER, Kind.DELAYED, Kind.LATE])
def test_no_streamed_text_of_a_deleted_task_is_left(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """Neither of a worker that died, nor of one that writes when the task is gone."""
    strike(sqlite_worlds, deleted_stream, kind, ledger, struck=["worker"])


@pytest.mark.parametrize("kind", quickly(Kind.DELAYED))
def test_no_streamed_text_of_a_deleted_task_is_left_on_aws(moto_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(moto_worlds, deleted_stream, kind, ledger, struck=["worker"])


@pytest.mark.parametrize("kind", SINGLE)
def test_no_single_fault_spoils_a_stream(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, streamed_chat, kind, ledger, struck=["worker"])


@pytest.mark.parametrize("kind", quickly(Kind.KILLED_AFTER, Kind.DELAYED))
def test_no_single_fault_spoils_a_stream_on_aws(moto_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(moto_worlds, streamed_chat, kind, ledger, struck=["worker"])


@pytest.mark.parametrize("kind", quickly(Kind.KILLED_AFTER))
def test_no_single_fault_spoils_the_stream_of_a_plan(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, streamed_plan, kind, ledger, struck=["worker"])


@pytest.mark.attack
@pytest.mark.parametrize("kind", [Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.DELAYED])
def test_no_single_fault_spoils_the_stream_of_a_plan_on_aws(moto_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(moto_worlds, streamed_plan, kind, ledger, struck=["worker"])


@pytest.mark.parametrize("scenario", [streamed_chat, streamed_plan])
def test_the_readers_see_text_before_its_task_is_answered(worlds: Worlds, scenario: Scenario) -> None:
    """The other tests compare with this run. The first piece is stored at once, the rest of a call at its end."""
    world = worlds()
    scenario(world, {})
    (worker,) = [caller for caller in world.callers if caller.name == "worker" and caller.points][:1]
    (reader,) = world.readers.values()

    assert alarms(world) == []
    written = [point.name for point in worker.points].count(WRITES[world.substrate.name])
    assert written == TEXTS[scenario.__name__] + (world.substrate.name == "moto")
    pieces = [event for event in reader.events if event.name == TEXT]
    assert len({event.item for event in pieces}) == CALLS[scenario.__name__]
    assert pieces[0].text != world.final[world.refs()[0]].result
