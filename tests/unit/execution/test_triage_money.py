"""A triage never takes the money that the task's first call needs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.triage import WHOLE
from support.deliveries import Deliveries, accepted
from support.scripted_engine import Answer, Clock, ScriptedEngine, WatchedStore, a_completion
from support.triage_answers import unsure, verdict

LONG = "a" * 60_000
FIXED_MICROUSD = 61_000
"""About what the input of the answer may cost: a token for each byte of the prompt and of the role's system prompt."""


def unsure_task(max_cost_usd: float) -> Snapshot:
    snapshot = accepted(limits=Limits(max_cost_usd=max_cost_usd), undecided=WHOLE)
    return replace(snapshot, request=replace(snapshot.request, prompt=LONG))


@pytest.mark.parametrize(("spare_microusd", "calls"), [(1_500, ["answer"]), (15_000, ["triage", "answer"])])
def test_a_long_prompt_that_just_fits_is_not_triaged(
    watched: WatchedStore, clock: Clock, spare_microusd: int, calls: list[str]
) -> None:
    """A triage would cost a tenth of the money at the most, and the answer would not fit any more."""

    def costly(call: EngineCall) -> Answer:
        tokens_in = len(call.system) + len(call.prompt)
        return a_completion(verdict() if call.answer_schema else "Hello.", tokens_in=tokens_in)

    deliveries = Deliveries(watched, clock, ScriptedEngine(costly), catalog=unsure())
    ended = deliveries.deliver(unsure_task((FIXED_MICROUSD + spare_microusd) / 1_000_000))

    assert ended.task.status is Status.COMPLETED, ended.task.error
    assert [attempt.purpose for attempt in ended.attempts] == calls
