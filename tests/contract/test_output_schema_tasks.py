"""A task with an output schema on each store: accepted or refused, repaired, and carried on after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.audit import audit
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
VALID, INVALID = '{"n": 3}', '{"n": "three"}'
FAULT = 'schema: at /n: type "integer"'


class Killed(BaseException):
    """The worker's process ends here."""


@pytest.fixture
def on_store(tmp_path: Path, store: Store) -> Iterator[Served]:
    served = Served(tmp_path / "engine_states")
    served.use(a_catalog({"only": an_engine()}), store)
    yield served
    audit(store, served.refs)
    served.close()


def answering(served: Served, store: Store, *answers: Any) -> ScriptedEngine:
    served.engine = ScriptedEngine(*answers)
    served.use(a_catalog({"only": an_engine()}), store)
    return served.engine


def ended(served: Served, store: Store, ref: TaskRef) -> Snapshot:
    served.work()
    return store.get(ref)


def test_the_result_is_repaired_and_stored_as_json(on_store: Served, store: Store) -> None:
    """The schema comes back from the store as it was given; the receipt shows both calls."""
    engine = answering(on_store, store, INVALID, f"```json\n{VALID}\n```")
    snapshot = ended(on_store, store, on_store.submit(output_schema=SCHEMA))

    assert (snapshot.task.status, snapshot.result) == (Status.COMPLETED, VALID)
    assert snapshot.request.output_schema == SCHEMA
    assert engine.calls[0].answer_schema is not None
    assert engine.calls[0].answer_schema.schema == SCHEMA
    assert [attempt.fault for attempt in snapshot.attempts] == [FAULT, None]


@pytest.mark.parametrize("stream", [True, False])
def test_the_text_of_an_answer_and_of_its_repair_is_streamed(on_store: Served, store: Store, stream: bool) -> None:
    """Only the calls of the server's own schemas are not shown."""
    engine = answering(on_store, store, INVALID, VALID)
    ended(on_store, store, on_store.submit(output_schema=SCHEMA, stream=stream))

    assert [call.on_text is not None for call in engine.calls] == [stream, stream]


def test_an_invalid_result_is_never_stored(on_store: Served, store: Store) -> None:
    """The task is Failed at once, although it has deliveries left."""
    answering(on_store, store, INVALID)
    snapshot = ended(on_store, store, on_store.submit(output_schema=SCHEMA))

    assert (snapshot.task.status, snapshot.result) == (Status.FAILED, None)
    assert snapshot.task.error == 'The result does not follow output_schema: at /n: type "integer".'
    assert snapshot.task.receipt.calls == 2


def test_a_worker_that_dies_during_the_repair_loses_no_attempt(on_store: Served, store: Store) -> None:
    """The next claim asks again from the beginning, and both calls of the first one are on the receipt."""

    def dies(_: EngineCall) -> str:
        raise Killed

    engine = answering(on_store, store, INVALID, dies, VALID)
    ref = on_store.submit(output_schema=SCHEMA)
    with pytest.raises(Killed):
        on_store.work()
    on_store.clock.pass_s(LEASE_S + SWEEP_S)
    on_store.service.sweep()
    snapshot = ended(on_store, store, ref)

    assert (snapshot.task.status, snapshot.result) == (Status.COMPLETED, VALID)
    assert [(a.fault, a.failure) for a in snapshot.attempts] == [(FAULT, None), (None, "lost"), (None, None)]
    assert engine.calls[2].prompt == engine.calls[0].prompt


def test_a_schema_that_cannot_be_used_is_refused_by_task_and_dry_run(on_store: Served) -> None:
    """Nothing is stored."""
    new = NewTask(prompt="Why?", output_schema={"$ref": "https://example.com/"})
    for refuse in (on_store.service.quote, on_store.service.submit):
        with pytest.raises(InvalidInput) as caught:
            refuse("local", new)
        assert caught.value.field == "output_schema"
