"""What a triage costs on DynamoDB: one transaction more, and nothing for the tasks without one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.output import TRIAGE, Output
from llm_server.orchestration.domain.triage import WHOLE
from llm_server.storage import records
from llm_server.storage.dynamodb.store import DynamoStore
from support.builders import NOW_MS, a_request, a_task, an_attempt, claimed
from support.dynamodb_wire import Wire, size
from support.triage_answers import DECIDED

UUID = "01979f5e-7a3c-7b21-9c4d-5e6f708192a3"


@pytest.mark.parametrize(("cost_microusd", "units"), [(0, 8), (90, 10)])
def test_a_triage_costs_one_transaction(moto_store: DynamoStore, wire: Wire, cost_microusd: int, units: int) -> None:
    """State, triage and counters; two units for a call that cost money: what its tenant has spent."""
    task = a_task(UUID)
    moto_store.add(task, a_request(undecided=WHOLE))
    taken = claimed(task, owner=UUID)
    moto_store.save(task, taken)
    attempt = an_attempt(purpose="triage", tier="fast", why="fast tier, cheapest", cost_microusd=cost_microusd)
    output = Output(key=TRIAGE, created_ms=NOW_MS, text=DECIDED.to_json(), attempts=(attempt,), fence=1)
    after = taken.triaged(output, mode=DECIDED.mode, role=DECIDED.role, profile=DECIDED.profile)
    wire.calls.clear()
    moto_store.save(taken, replace(after, pending=(attempt.lost(900),)), output)

    assert wire.operations == {"TransactWriteItems": 1}
    assert wire.write_units() == units
    assert max(size(item) for call in wire.calls for item in call.puts) < 1_024


def test_the_record_of_a_task_without_a_triage_is_as_before() -> None:
    """Byte for byte, as versions wrote it that know no triage."""
    assert "undecided" not in records.encode(a_request())
    assert '"undecided":["role","mode","profile"]' in records.encode(a_request(undecided=WHOLE))
