"""The pending calls of a claim: what each stored state says of the engine calls that no output holds yet."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import OutOfTime, StorageUnavailable, TaskCancelled, TaskLost
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.tasks.claimed_task import ClaimedTask
from support.builders import NOW_MS, a_failed_attempt, a_task, an_attempt, an_output, claimed
from support.scripted_engine import Clock
from support.triage_answers import DECIDED


class Saves:
    """A store that remembers the states it was given, and fails with `error` if that is set."""

    def __init__(self) -> None:
        self.states: list[Task] = []
        self.error: Exception | None = None

    def save(self, before: Task, after: Task, output: Output | None = None) -> None:
        if self.error:
            raise self.error
        assert after.rev == before.rev + 1
        self.states.append(after)


@pytest.fixture
def saves() -> Saves:
    return Saves()


@pytest.fixture
def cancellation() -> Cancellation:
    return Cancellation()


def lost(purpose: str = "answer", engine: str = "gpt", withheld: int | None = 100) -> Attempt:
    return an_attempt(engine=engine, purpose=purpose, tokens_in=0, tokens_out=0, duration_ms=0).lost(withheld)


def a_claim(saves: Saves, cancellation: Cancellation, *pending: Attempt) -> ClaimedTask:
    clock = Clock()
    return ClaimedTask(
        replace(claimed(a_task()), pending=pending),
        store=saves,  # type: ignore[arg-type] # it needs no other method
        clock=clock,
        sleep=clock.pass_s,
        until_ms=NOW_MS + 10_000,
        cancellation=cancellation,
    )


def pending_of(saves: Saves) -> tuple[Attempt, ...]:
    """Return the pending calls of the only state that was saved, without the numbers of their events."""
    [state] = saves.states
    return tuple(replace(attempt, number=0) for attempt in state.pending)


@pytest.mark.parametrize("withheld", [100, 60])
def test_a_call_that_was_foreseen_costs_no_save(saves: Saves, cancellation: Cancellation, withheld: int) -> None:
    """Its key's day may leave less money than was foreseen."""
    a_claim(saves, cancellation, lost()).announce((lost(withheld=withheld),))

    assert saves.states == []


@pytest.mark.parametrize(
    "call", [lost(engine="claude"), lost(withheld=101), lost(withheld=None), lost("step s1")], ids=repr
)
def test_a_call_that_is_not_the_foreseen_one_is_announced_by_a_save(
    saves: Saves, cancellation: Cancellation, call: Attempt
) -> None:
    """Another engine, more money, an unknown price, another purpose."""
    a_claim(saves, cancellation, lost()).announce((call,))

    assert pending_of(saves)[-1] == call
    assert len(pending_of(saves)) == (2 if call.purpose == "step s1" else 1)


def test_a_failover_replaces_the_first_call_by_its_outcome(saves: Saves, cancellation: Cancellation) -> None:
    claim, failed = a_claim(saves, cancellation, lost(), lost("step s2")), a_failed_attempt(purpose="answer")
    claim.announce((failed, lost(engine="claude")))

    assert pending_of(saves) == (lost("step s2"), failed, lost(engine="claude"))


def test_an_output_holds_its_calls_and_the_next_ones_are_announced_with_it(
    saves: Saves, cancellation: Cancellation
) -> None:
    """A step whose call was foreseen and never made has no attempt; its pending call goes all the same."""
    claim = a_claim(saves, cancellation, lost("step s1"), lost("step s2"))
    ended = an_output("STEP#s1", attempts=())
    claim.save(claim.task.progressed(ended), ended, foreseen=(lost("step s3"),))

    assert pending_of(saves) == (lost("step s2"), lost("step s3"))


def test_a_triage_ends_its_call_also_if_that_was_never_made(saves: Saves, cancellation: Cancellation) -> None:
    claim = a_claim(saves, cancellation, lost("triage"))
    ended = an_output("TRIAGE", DECIDED.to_json(), attempts=())
    decided = claim.task.triaged(ended, mode=DECIDED.mode, role=DECIDED.role, profile=DECIDED.profile)
    claim.save(decided, ended, foreseen=(lost(),))

    assert pending_of(saves) == (lost(),)


def test_a_claim_that_ends_has_no_pending_calls(saves: Saves, cancellation: Cancellation) -> None:
    claim, answer = a_claim(saves, cancellation, lost()), an_output(attempts=(an_attempt(),))
    claim.save(claim.task.completed(answer), answer)

    assert pending_of(saves) == ()


def test_a_refused_announcement_cancels_the_claim(saves: Saves, cancellation: Cancellation) -> None:
    """Another writer has changed the task: no other call is made, and nothing is saved any more."""
    claim, saves.error = a_claim(saves, cancellation), TaskLost("t1")
    with pytest.raises(TaskCancelled):
        claim.announce((lost(),))
    saves.error = None
    with pytest.raises(TaskLost):
        claim.save(claim.task, None)

    assert cancellation.is_cancelled
    assert saves.states == []


def test_a_store_that_does_not_answer_ends_the_claim(saves: Saves, cancellation: Cancellation) -> None:
    claim, saves.error = a_claim(saves, cancellation), StorageUnavailable("The database does not answer; try again.")
    with pytest.raises(OutOfTime, match="database"):
        claim.announce((lost(),))

    assert not cancellation.is_cancelled
