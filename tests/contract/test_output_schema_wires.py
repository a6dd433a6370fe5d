"""A result that follows a schema, across the APIs of engines: whatever one takes, the schema is never dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.status import Mode, Status
from support.engine_wires import WIRES, pool, wire
from support.fake_engine import FakeEngine, fake_engine, status
from support.scripted_engine import a_catalog, an_engine
from support.scripted_service import Served

__all__ = ["pool"]  # a fixture
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"canary_field": {"type": "integer", "minimum": 3}},
    "required": ["canary_field"],
    "additionalProperties": False,
}
VALID = '{"canary_field": 3}'
BROKEN = '{"canary_field": 2}'
FAULT = "schema: at /canary_field: minimum 3"


@pytest.fixture
def two() -> Iterator[tuple[FakeEngine, FakeEngine]]:
    with fake_engine() as first, fake_engine() as second:
        yield first, second


def served(folder: Path, engines: dict[str, Any]) -> Served:
    """Return a service whose engines are asked in this order."""
    specs = {name: an_engine(model=f"m-{name}") for name in engines}
    service = Served(folder)
    service.use(a_catalog(specs), None, **engines)
    return service


def names_the_field(server: FakeEngine) -> list[bool]:
    """Return for each request whether the schema is in it, in a field or in the prompt."""
    return ["canary_field" in json.dumps(seen.body) for seen in server.seen]


@pytest.mark.parametrize("first", WIRES)
@pytest.mark.parametrize("second", WIRES)
@pytest.mark.parametrize("way", ["json_schema", "refused", "none"])
def test_the_schema_is_not_dropped_on_failover(
    tmp_path: Path, two: tuple[FakeEngine, FakeEngine], pool: Any, first: str, second: str, way: str
) -> None:
    """The first engine ignores the schema twice. The next one has it in its request, whatever its API takes."""
    ignores, obeys = two
    ignores.answer, obeys.answer = lambda _: BROKEN, lambda _: f"Here:\n```json\n{VALID}\n```"
    fields = {"structured_output": "none"} if way == "none" else {}
    engines = {
        "a": wire(first, ignores, pool).engine,
        "b": wire(second, obeys, pool, **fields).engine,
    }
    if way == "refused":
        obeys.script(*[status(400)] * (2 if second == "openai" else 1))
    service = served(tmp_path, engines)
    ref = service.submit("Say three.", mode=Mode.CHAT, output_schema=SCHEMA)
    service.work()
    snapshot = service.get(ref)
    service.close()

    assert (snapshot.task.status, snapshot.result) == (Status.COMPLETED, VALID)
    assert [attempt.fault for attempt in snapshot.attempts] == [FAULT, FAULT, None]
    assert names_the_field(ignores) == [True, True]
    assert set(names_the_field(obeys)) == {True}


@pytest.mark.parametrize("name", WIRES)
def test_what_was_found_out_is_shown(tmp_path: Path, two: tuple[FakeEngine, FakeEngine], pool: Any, name: str) -> None:
    """`GET /engines` shows it; the configuration stays as it is."""
    server, _ = two
    engine = wire(name, server, pool).engine
    service = served(tmp_path, {"a": engine})
    assert service.service.engines()["a"].spec.structured_output == "json_schema"
    server.script(*[status(400)] * (2 if name == "openai" else 1))
    service.submit("Make a plan.", mode=Mode.PLAN)
    service.work()
    shown = service.service.engines()["a"].spec.structured_output
    configured = service.service.catalog.engines["a"].structured_output
    service.close()

    assert (shown, configured) == ("none", "json_schema")
