"""Streamed tasks: readers get each piece once, in order, and the last item of an answer equals the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import Delta, NoLiveText
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event
from llm_server.orchestration.events.recent_text import RecentText
from llm_server.orchestration.events.text_stream import TextStream
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_failure, an_attempt, an_output
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, Served


class Killed(BaseException):
    """Stands for the end of a process in the middle of a call."""


class FailingAppends(SqliteStore):
    """A store that does not take text for a number of times."""

    failures = 0
    appended = 0

    def append(self, ref: TaskRef, group: Sequence[Delta]) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable("The database does not answer; try again.")
        super().append(ref, group)
        self.appended += 1


def streaming(*pieces: str, then: Callable[[], Answer | None] = lambda: None) -> Callable[[EngineCall], Answer]:
    """Return an engine's script that streams pieces, and then answers with all of them, or as `then` says."""

    def answer(call: EngineCall) -> Answer:
        assert call.on_text is not None
        for piece in pieces:
            call.on_text(piece)
        return then() or "".join(pieces)

    return answer


def serve(served: Served, *answers: Answer | Callable[[EngineCall], Answer], store: SqliteStore | None = None) -> None:
    served.engine = ScriptedEngine(*answers)
    served.use(a_catalog({"only": an_engine()}), store)


def texts(served: Served, ref: TaskRef, step: str | None = None) -> dict[int, str]:
    """Return the items of the answer, or of a step, with their texts."""
    found = dict[int, str]()
    for event in served.service.events(ref).events:
        if event.name == "text.delta" and event.step == step:
            assert event.item is not None
            found[event.item] = found.get(event.item, "") + (event.text or "")
    return found


def begun(served: Served, ref: TaskRef) -> list[Event]:
    return [event for event in served.service.events(ref).events if event.name == "attempt.started"]


def test_the_pieces_of_an_answer_come_once_and_in_order(served: Served) -> None:
    seen = list[Event]()

    def look() -> None:
        last = seen[-1].number if seen else 0
        seen.extend(served.service.events(ref, after=last).events)

    serve(served, streaming("One ", "by ", "one.", then=look))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()
    look()

    assert [event.text for event in seen if event.name == "text.delta"] == ["One ", "by ", "one."]
    assert texts(served, ref) == {begun(served, ref)[0].number: "One by one."}
    assert [event.name for event in seen][-3:] == ["attempt.completed", "completed", "receipt"]
    assert served.service.events(ref).ended


def test_a_killed_worker_leaves_its_item_and_the_next_call_begins_a_new_one(served: Served) -> None:
    def die() -> Answer | None:
        raise Killed

    serve(served, streaming("Half an ans", then=die), streaming("A whole ", "answer."))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    with suppress(Killed):
        served.work()
    before = served.service.events(ref).events
    served.clock.pass_s(LEASE_S + 1)
    served.service.process(ref, owner="w2")

    after = served.service.events(ref).events
    first, second = begun(served, ref)
    assert texts(served, ref)[second.number] == served.get(ref).result == "A whole answer."
    assert "Half an ans".startswith(texts(served, ref).get(first.number, ""))
    assert min(e.number for e in after if e.number not in {e.number for e in before}) > before[-1].number
    assert [(a.failure, a.answered) for a in served.get(ref).attempts] == [("lost", False), (None, True)]
    assert served.get(ref).task.receipt.failed_calls == 1


def test_a_failed_call_leaves_its_item_and_the_answer_has_one_of_its_own(served: Served) -> None:
    busy = streaming("Half", then=lambda: EngineUnavailable("The engine is busy."))
    served.engine = ScriptedEngine(busy, streaming("Whole."))
    served.use(a_catalog({"one": an_engine(), "two": an_engine(model="m-2")}))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    first, second = begun(served, ref)
    assert texts(served, ref) == {first.number: "Half", second.number: "Whole."}


@pytest.mark.parametrize(
    ("streamed", "answer", "items"),
    [
        ((), "Whole.", ["Whole."]),
        (("Who",), "Whole.", ["Whole."]),
        (("Wrong",), "Whole.", ["Wrong", "Whole."]),
        (("Whole.", " "), "Whole.", ["Whole. ", "Whole."]),
    ],
)
def test_the_last_item_of_an_answer_equals_the_result(
    served: Served, streamed: tuple[str, ...], answer: str, items: list[str]
) -> None:
    """Also if the engine streams nothing, or something else."""
    serve(served, streaming(*streamed, then=lambda: answer))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    assert served.get(ref).result == answer
    assert list(texts(served, ref).values()) == items


def test_the_steps_of_a_plan_stream_too(served: Served) -> None:
    planner = planning(a_plan({"a": "", "b": ""}))

    def answer(call: EngineCall) -> Answer:
        text = planner.complete(call, timeout_s=1)
        if call.on_text is not None:
            for letter in text.text:
                call.on_text(letter)
        return text

    serve(served, answer)
    ref = served.submit(stream=True, mode=Mode.PLAN)
    served.work()

    for step in ("a", "b"):
        assert list(texts(served, ref, step).values())[-1] == f"did {step}"
    assert list(texts(served, ref).values())[-1] == served.get(ref).result
    names = [event.name for event in served.service.events(ref).events]
    assert names.count("step.started") == names.count("step.completed") == 2


def test_an_answer_whose_worker_died_before_it_was_used_is_the_last_item(served: Served) -> None:
    """Its text was stored, or was not."""
    serve(served, streaming("never"))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    task = served.get(ref).task
    dead = task.claimed(owner="w1", now_ms=served.clock(), lease_ms=served.clock() + 1, has_plan=False)
    served.store.save(task, dead)
    kept = an_output("RES#1", "Kept.", attempts=(an_attempt(),), fence=1)
    served.store.keep(ref, kept)
    served.clock.pass_s(LEASE_S)
    served.service.process(ref, owner="w2")

    assert served.get(ref).result == "Kept."
    assert list(texts(served, ref).values()) == ["Kept."]


def test_text_that_cannot_be_stored_is_shown_and_stored_later(served: Served) -> None:
    store = FailingAppends(served.store._database)
    store.failures = 1
    seen = list[Event]()

    def look() -> None:
        seen.extend(served.service.events(ref).events)

    serve(served, streaming("One ", "by one.", then=look), store=store)
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    assert "".join(event.text or "" for event in seen) == "One by one."
    assert "".join(delta.text for delta in store.deltas(ref)) == "One by one."


def test_a_task_ends_also_if_its_text_can_never_be_stored(served: Served) -> None:
    store = FailingAppends(served.store._database)
    store.failures = 10**9
    serve(served, streaming("One ", "by one."), store=store)
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
    assert served.get(ref).result == "One by one."


def test_nothing_is_written_after_a_task_was_cancelled(served: Served) -> None:
    store = FailingAppends(served.store._database)
    numbers, ends = list[int](), list[int]()

    def cancel() -> None:
        served.service.cancel(ref)
        ends.extend(event.number for event in served.service.events(ref).events if event.name == "cancelled")
        numbers.append(store.appended)

    def answer(call: EngineCall) -> Answer:
        assert call.on_text is not None
        call.on_text("Before. ")
        cancel()
        call.on_text("After.")
        return "Before. After."

    serve(served, answer, store=store)
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    assert "After." not in "".join(texts(served, ref).values())
    assert store.appended == numbers[0]
    page = served.service.events(ref)
    assert page.ended
    assert [event.number for event in page.events if event.name == "cancelled"] == ends
    assert page.events[-1].name == "receipt"


def test_a_task_that_does_not_stream_stores_no_text(served: Served) -> None:
    store = FailingAppends(served.store._database)

    def answer(call: EngineCall) -> Answer:
        assert call.on_text is None
        return "Hello."

    serve(served, answer, store=store)
    ref = served.submit(mode=Mode.CHAT)
    served.work()

    assert store.appended == 0
    assert texts(served, ref) == {}


def test_the_records_of_a_chat_task_hold_no_numbers(served: Served) -> None:
    """The numbers of a task with one call follow from its state: a write unit holds 1 KB."""
    ref = served.submit(mode=Mode.CHAT)
    served.work()

    task, outputs = served.get(ref).task, served.get(ref).outputs
    assert task.status is Status.COMPLETED
    assert (task.revs, task.final_rev) == ((), 0)
    assert {(output.rev, *(a.number for a in output.attempts)) for output in outputs.values()} == {(0, 0)}


def test_a_failover_changes_no_number(served: Served) -> None:
    """The second call is announced by a save of its own."""
    seen = list[Event]()

    def look() -> Answer:
        seen.extend(served.service.events(ref).events)
        return "Whole."

    served.engine = ScriptedEngine(EngineUnavailable("The engine is busy."), streaming("Whole.", then=look))
    served.use(a_catalog({"one": an_engine(), "two": an_engine(model="m-2")}))
    ref = served.submit(stream=True, mode=Mode.CHAT)
    served.work()

    assert {(e.number, e.name) for e in seen} <= {(e.number, e.name) for e in served.service.events(ref).events}
    assert [event.name for event in seen].count("attempt.started") == 2


def test_pieces_that_come_during_a_save_are_numbered_after_it(served: Served) -> None:
    ref = served.submit(stream=True, mode=Mode.CHAT)
    recent = RecentText(NoLiveText())
    stream = TextStream(ref, 1, store=served.store, recent=recent, clock=served.clock, is_over=lambda: False)
    take = stream.open_item(event_numbers.FIRST_CALL, "")
    stream.freeze()
    take("late")
    assert recent.of(ref, after=0) == []
    stream.go_on(2)

    assert [event_numbers.rev_of(delta.number) for delta in recent.of(ref, after=0)] == [2]
    stream.close()


def test_no_text_is_shown_of_a_later_state_than_the_one_that_was_read(served: Served) -> None:
    """Events of that state are still missing, and they have lower numbers."""
    ref = served.submit(stream=True, mode=Mode.CHAT)
    for rev in (1, 2):
        number = event_numbers.number(rev, event_numbers.TEXT)
        served.service._recent.publish(ref, Delta(number=number, item=1, text=str(rev), at_ms=0))

    assert list(texts(served, ref).values()) == ["1"]


def test_calls_of_an_output_that_is_replaced_keep_the_numbers_of_their_ends() -> None:
    """A failed step is done again after a retry."""
    earlier = a_failure("STEP#s1", attempts=(an_attempt(),), rev=5)
    later = an_output("STEP#s1", attempts=(an_attempt(),), rev=9).after(earlier).with_ends(9)

    assert [event_numbers.rev_of(attempt.end_number) for attempt in later.attempts] == [5, 9]
