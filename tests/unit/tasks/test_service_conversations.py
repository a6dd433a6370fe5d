"""Tasks that follow one another: what their engines are told, which role they keep, and who may follow whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llm_server.orchestration.domain.conversation import MAX_TASKS, Conversation
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import (
    ConversationBusy,
    ConversationNotFound,
    EngineUnavailable,
    InvalidInput,
    PromptRefused,
    StateConflict,
    StorageUnavailable,
    TaskNotFound,
)
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.builders import an_output, claimed
from support.deliveries import planning
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import SWEEP_S, Served
from support.triage_answers import triaging, unsure

LONG = "Please explain to me in detail why the sky over the sea is blue at noon."


def numbered(call: EngineCall) -> str:
    return f"Answer {len(call.messages) // 2 + 1}."


@pytest.fixture
def talking(served: Served) -> Served:
    """A server whose engine answers with the number of the turn."""
    served.engine = ScriptedEngine(numbered)
    served.use(a_catalog({"only": an_engine()}))
    return served


@pytest.fixture
def deleting(talking: Served) -> Served:
    """Switch the audit off: it recounts stored tasks, and deleted ones are missing."""
    talking.audit = lambda: None  # type: ignore[method-assign]
    return talking


def done(served: Served, prompt: str, **asked: Any) -> Snapshot:
    ref = served.submit(prompt, **asked)
    served.work()
    return served.get(ref)


def told(served: Served, call: int = -1) -> list[str]:
    """Return the texts of the messages of a call."""
    return [message.text for message in served.engine.calls[call].messages]


def refused(served: Served, **asked: Any) -> str:
    """Return the code of the conflict, or the field that is wrong; a dry run refuses the same."""
    found: list[str] = []
    new = NewTask(prompt="Why?", **asked)
    for use in (
        lambda: served.service.submit("local", new),
        lambda: served.service.quote("local", new).decision,
    ):
        try:
            use()
        except StateConflict as error:
            found.append(error.code)
        except InvalidInput as error:
            found.append(error.field)
    first, second = found
    assert first == second
    return str(first)


def begun(served: Served, tenant: str = "local") -> str:
    return served.service.conversations.create(tenant).conversation_id


# previous_task_id


def test_the_turns_before_are_told_oldest_first(talking: Served) -> None:
    first = done(talking, "One?")
    second = done(talking, "Two?", previous_task_id=first.task.task_id)
    third = done(talking, "Three?", previous_task_id=second.task.task_id)

    assert told(talking) == ["One?", "Answer 1.", "Two?", "Answer 2.", "Three?"]
    assert [m.role for m in talking.engine.calls[-1].messages] == ["user", "assistant"] * 2 + ["user"]
    assert third.result == "Answer 3."
    assert (third.request.previous_task_id, third.request.turns_before, third.turns_dropped) == ("t2", 2, 0)


def test_two_tasks_may_follow_the_same_one(talking: Served) -> None:
    first = done(talking, "One?").task.task_id
    done(talking, "Left?", previous_task_id=first)
    done(talking, "Right?", previous_task_id=first)

    assert told(talking, -2) == ["One?", "Answer 1.", "Left?"]
    assert told(talking) == ["One?", "Answer 1.", "Right?"]


def test_each_claim_of_a_task_is_told_the_same(served: Served) -> None:
    """Also after a retry."""
    served.engine = ScriptedEngine("One.", EngineUnavailable("Busy."), PromptRefused("No."), "Two.")
    served.use(a_catalog({"only": an_engine()}))
    first = done(served, "One?").task.task_id
    ref = served.submit("Two?", previous_task_id=first)
    served.work()
    served.clock.pass_s(SWEEP_S)
    served.work()
    served.service.retry(ref)
    served.clock.pass_s(SWEEP_S)
    served.work()

    assert served.get(ref).result == "Two."
    assert [told(served, n) for n in (1, 2, 3)] == [["One?", "One.", "Two?"]] * 3


@pytest.mark.parametrize("task_id", ["unknown", "", "x/y", "x" * 2000])
def test_an_unknown_previous_task_is_refused(talking: Served, task_id: str) -> None:
    assert refused(talking, previous_task_id=task_id) == "previous_task_id"


def test_a_task_of_another_tenant_cannot_be_followed(talking: Served) -> None:
    other = talking.service.submit("acme", NewTask(prompt="The secret of Acme."))
    talking.refs.append(other.ref)
    talking.work()
    conversation = begun(talking, "acme")

    assert refused(talking, previous_task_id=other.task_id) == "previous_task_id"
    assert refused(talking, conversation_id=conversation) == "conversation_id"


def test_an_open_task_cannot_be_followed_yet(talking: Served) -> None:
    first = talking.submit("One?")

    assert refused(talking, previous_task_id=first.task_id) == "previous_task_open"

    talking.work()
    assert done(talking, "Two?", previous_task_id=first.task_id).result == "Answer 2."


def test_a_task_without_a_result_cannot_be_followed(served: Served) -> None:
    served.engine = ScriptedEngine(PromptRefused("No."))
    served.use(a_catalog({"only": an_engine()}))
    failed = done(served, "One?")
    cancelled = served.submit("Two?")
    served.service.cancel(cancelled)

    assert failed.task.status is Status.FAILED
    for task_id in (failed.task.task_id, cancelled.task_id):
        assert refused(served, previous_task_id=task_id) == "previous_task_not_completed"


def test_later_turns_are_told_without_a_deleted_one(deleting: Served) -> None:
    """The receipt says so. Its child keeps its own texts."""
    first = done(deleting, "One?")
    second = done(deleting, "Two?", previous_task_id=first.task.task_id)
    deleting.service.delete(first.task.ref)

    third = done(deleting, "Three?", previous_task_id=second.task.task_id)

    assert told(deleting) == ["Two?", "Answer 2.", "Three?"]
    assert (third.request.turns_before, third.turns_dropped) == (2, 1)
    assert refused(deleting, previous_task_id=first.task.task_id) == "previous_task_id"


def test_a_turn_that_is_deleted_while_its_follower_waits_is_not_told(deleting: Served) -> None:
    first = done(deleting, "One?")
    waiting = deleting.submit("Two?", previous_task_id=first.task.task_id)
    deleting.service.delete(first.task.ref)
    deleting.work()

    assert told(deleting) == ["Two?"]
    assert deleting.get(waiting).turns_dropped == 1


def test_turns_beyond_every_context_are_not_even_read(talking: Served) -> None:
    """A long conversation costs no more reads than engines can be told."""
    talking.use(a_catalog({"only": an_engine(context=2_000, kind="openai")}, max_output_tokens=100))
    task_id, read = None, []
    for n in range(30):
        task_id = done(talking, f"{n} " + "x" * 900, previous_task_id=task_id).task.task_id
    turns = talking.store.turns
    talking.store.turns = lambda refs: (read.append(1) or turn for turn in turns(refs))  # type: ignore[method-assign, func-returns-value]

    last = done(talking, "And now?", previous_task_id=task_id)

    assert len(read) <= 10
    assert 1 <= len(talking.engine.calls[-1].messages) // 2 <= 8
    assert last.turns_dropped == 30 - len(talking.engine.calls[-1].messages) // 2


def test_a_long_chain_names_no_more_turns_than_may_be_told(talking: Served) -> None:
    task_id = None
    for n in range(MAX_TASKS + 2):
        last = done(talking, f"Say {n}.", previous_task_id=task_id)
        task_id = last.task.task_id

    assert (len(last.request.earlier), last.request.turns_before) == (MAX_TASKS, MAX_TASKS + 1)
    assert last.turns_dropped == 1


# the role of a follow-up


def test_a_short_prompt_keeps_the_role_and_the_mode_of_the_turn_before(talking: Served) -> None:
    """Alone, "And in French?" would be a translation; the reason says what was done."""
    first = done(talking, "Write a Python function that parses a CSV file and returns a list of dictionaries.")
    alone = talking.get(talking.submit("And in French?"))
    talking.work()

    follow = done(talking, "And in French?", previous_task_id=first.task.task_id)

    assert first.task.role != alone.task.role
    assert (follow.task.role, follow.task.mode, follow.task.profile) == (
        first.task.role,
        first.task.mode,
        first.task.profile,
    )
    assert follow.request.complexity == first.request.complexity
    assert "3 words" in follow.request.reasons[-1]
    assert "as in the turn before" in follow.request.reasons[-1]


def test_a_prompt_that_says_what_it_needs_gets_a_role_of_its_own(talking: Served) -> None:
    first = done(talking, "Write a poem about the sea and the wind in the evening.")
    new = "Write a Python function that parses a CSV file and returns a list of dictionaries."

    follow = done(talking, new, previous_task_id=first.task.task_id)

    assert (
        follow.task.role
        == talking.service.quote("local", NewTask(prompt=new)).decision.analysis.role
        != first.task.role
    )


def test_what_the_caller_chose_is_not_replaced(talking: Served) -> None:
    first = done(talking, "Write a poem about the sea and the wind in the evening.", mode=Mode.AGENT)

    by_role = done(talking, "Why?", previous_task_id=first.task.task_id, role="Teacher-Agent")
    by_mode = done(talking, "Why?", previous_task_id=first.task.task_id, mode=Mode.CHAT)

    assert by_role.task.role == "Teacher-Agent"
    assert by_mode.task.mode is Mode.CHAT


def test_a_role_that_the_chosen_profile_lacks_is_not_kept(talking: Served) -> None:
    first = done(talking, "Write a poem about the sea and the wind in the evening.", mode=Mode.AGENT)
    catalog = talking.service.catalog
    other = next(name for name in catalog.profiles if name not in catalog.roles[first.task.role].profiles)

    follow = done(talking, "And shorter?", previous_task_id=first.task.task_id, profile=other)

    assert (follow.task.profile, other in catalog.roles[follow.task.role].profiles) == (other, True)


def test_a_kept_role_is_not_triaged(served: Served) -> None:
    served.engine = triaging()
    served.use(unsure())
    first = done(served, LONG)
    follow = done(served, "And in French?", previous_task_id=first.task.task_id)

    assert [attempt.purpose for attempt in first.attempts] == ["triage", "answer"]
    assert [attempt.purpose for attempt in follow.attempts] == ["answer"]
    assert follow.task.role == first.task.role


def test_after_a_plan_a_short_prompt_is_answered_and_not_planned(served: Served) -> None:
    served.engine = planning(synthesis="Final.")
    served.use(a_catalog({"only": an_engine()}))
    first = done(served, "Build it.", mode=Mode.PLAN)

    decision = served.service.quote("local", NewTask(prompt="Shorter!", previous_task_id=first.task.task_id)).decision

    profile = a_catalog({}).profile(first.task.profile)
    assert (decision.analysis.mode, decision.analysis.role) == (Mode.AGENT, profile.default_role)


def test_plan_steps_and_synthesis_are_told_the_turns_but_no_verdict(served: Served) -> None:
    served.engine = ScriptedEngine("One.")
    served.use(a_catalog({"only": an_engine()}))
    first = done(served, "One?")
    served.engine = planning(synthesis="Final.")
    served.use(a_catalog({"only": an_engine()}))

    done(served, "Build it.", mode=Mode.PLAN, profile="Developer", previous_task_id=first.task.task_id)

    schemas = [call.answer_schema.name if call.answer_schema else "" for call in served.engine.calls]
    with_turns = [call.messages[0].text == "One?" and len(call.messages) == 3 for call in served.engine.calls]
    assert schemas[0] == "plan"
    assert {"", "verdict"} <= {*schemas}
    assert with_turns == [name != "verdict" for name in schemas]


# conversation_id


def test_the_tasks_of_a_conversation_follow_one_another(talking: Served) -> None:
    conversation = begun(talking)
    refs = [done(talking, prompt, conversation_id=conversation).task.ref for prompt in ("One?", "Two?", "Three?")]

    assert told(talking) == ["One?", "Answer 1.", "Two?", "Answer 2.", "Three?"]
    assert [talking.get(ref).request.previous_task_id for ref in refs] == [None, *(ref.task_id for ref in refs[:-1])]
    listed = talking.service.conversations.read("local", conversation)
    assert [task.ref for task in listed.tasks] == refs


def test_a_conversation_takes_one_task_at_a_time(talking: Served) -> None:
    conversation = begun(talking)
    talking.submit("One?", conversation_id=conversation)

    assert refused(talking, conversation_id=conversation) == "conversation_busy"

    talking.work()
    assert done(talking, "Two?", conversation_id=conversation).result == "Answer 2."


def test_of_two_callers_that_read_the_same_conversation_one_is_refused(talking: Served) -> None:
    """The second stores its task between the read and the write of the first."""
    conversation = begun(talking)
    add, others = talking.store.add, list[str]()

    def slow(*args: Any, **named: Any) -> bool:
        talking.store.add = add  # type: ignore[method-assign]
        others.append(talking.submit("Faster.", conversation_id=conversation).task_id)
        return add(*args, **named)

    talking.store.add = slow  # type: ignore[method-assign]
    with pytest.raises(ConversationBusy):
        talking.service.submit("local", NewTask(prompt="One?", conversation_id=conversation))

    assert talking.store.conversation("local", conversation).task_ids == tuple(others)


def test_a_turn_that_is_deleted_while_the_next_one_is_accepted_keeps_no_role(deleting: Served) -> None:
    """Its state was read, and its texts are gone."""
    conversation = begun(deleting)
    first = done(deleting, "One?", conversation_id=conversation).task
    get = deleting.store.get

    def gone(ref: TaskRef) -> Snapshot:
        if ref == first.ref:
            raise TaskNotFound
        return get(ref)

    deleting.store.get = gone  # type: ignore[method-assign]
    follow = deleting.service.submit("local", NewTask(prompt="Two?", conversation_id=conversation))
    deleting.store.get = get  # type: ignore[method-assign]

    assert deleting.get(follow.ref).request.turns_before == 1


def test_the_same_idempotency_key_gives_the_same_turn(talking: Served) -> None:
    """Also to the call that was overtaken by its twin, and while the task is open."""
    conversation = begun(talking)
    new = NewTask(prompt="One?", conversation_id=conversation)
    add, twins = talking.store.add, list[Any]()

    def slow(*args: Any, **named: Any) -> bool:
        talking.store.add = add  # type: ignore[method-assign]
        twins.append(talking.service.submit_once("local", new, "key"))
        return add(*args, **named)

    talking.store.add = slow  # type: ignore[method-assign]
    overtaken = talking.service.submit_once("local", new, "key")
    again = talking.service.submit_once("local", new, "key")
    talking.refs.append(overtaken.task.ref)

    assert [overtaken.task.task_id, again.task.task_id] == [twins[0].task.task_id] * 2
    assert (overtaken.replayed, again.replayed) == (True, True)
    assert talking.store.conversation("local", conversation).task_ids == (overtaken.task.task_id,)


def test_a_task_without_a_result_is_no_turn_of_its_conversation(served: Served) -> None:
    served.engine = ScriptedEngine("One.", PromptRefused("No."), "Three.")
    served.use(a_catalog({"only": an_engine()}))
    conversation = begun(served)
    for prompt in ("One?", "Two?"):
        done(served, prompt, conversation_id=conversation)
    served.service.cancel(served.submit("Never?", conversation_id=conversation))
    served.work()

    last = done(served, "Three?", conversation_id=conversation)

    assert told(served) == ["One?", "One.", "Three?"]
    assert (last.request.turns_before, last.turns_dropped) == (1, 0)


def test_a_previous_task_must_be_that_of_the_conversation(talking: Served) -> None:
    """So a caller can make sure that it has seen the last turn."""
    conversation = begun(talking)
    first = done(talking, "One?", conversation_id=conversation).task.task_id
    other = done(talking, "Other?").task.task_id

    assert refused(talking, conversation_id=conversation, previous_task_id=other) == "previous_task_id"
    assert refused(talking, conversation_id=begun(talking), previous_task_id=first) == "previous_task_id"
    assert done(talking, "Two?", conversation_id=conversation, previous_task_id=first).result == "Answer 2."


def test_a_full_conversation_takes_no_more(talking: Served) -> None:
    conversation = begun(talking)
    record = talking.store.conversation("local", conversation)
    for n in range(MAX_TASKS):
        record = record.with_task(f"gone{n}", now_ms=talking.clock())
    talking.store.remove_conversation(talking.store.conversation("local", conversation))
    talking.store.add_conversation(record)

    assert refused(talking, conversation_id=conversation) == "conversation_full"


def test_a_deleted_turn_is_counted_as_not_told(deleting: Served) -> None:
    conversation = begun(deleting)
    first = done(deleting, "One?", conversation_id=conversation)
    done(deleting, "Two?", conversation_id=conversation)
    deleting.service.delete(first.task.ref)

    third = done(deleting, "Three?", conversation_id=conversation)

    assert told(deleting) == ["Two?", "Answer 2.", "Three?"]
    assert (third.request.turns_before, third.turns_dropped) == (2, 1)
    assert len(deleting.service.conversations.read("local", conversation).tasks) == 2


# deletion of a conversation


def test_a_conversation_is_deleted_with_its_tasks(deleting: Served) -> None:
    """Open ones are cancelled first, those that are gone are skipped, and other tasks stay."""
    conversation = begun(deleting)
    refs = [done(deleting, prompt, conversation_id=conversation).task.ref for prompt in ("One?", "Two?")]
    other = done(deleting, "Other?").task.ref
    deleting.service.delete(refs[0])
    refs.append(deleting.submit("Three?", conversation_id=conversation))

    deleting.service.conversations.delete("local", conversation)

    for ref in refs:
        with pytest.raises(TaskNotFound):
            deleting.get(ref)
    assert deleting.get(other).task.status is Status.COMPLETED
    for use in (deleting.service.conversations.read, deleting.service.conversations.delete):
        with pytest.raises(ConversationNotFound):
            use("local", conversation)
    assert refused(deleting, conversation_id=conversation) == "conversation_id"


def test_a_conversation_with_a_task_at_work_is_not_deleted(talking: Served) -> None:
    """Nothing of it goes, not even the tasks that have ended."""
    conversation = begun(talking)
    first = done(talking, "One?", conversation_id=conversation).task.ref
    task = talking.get(talking.submit("Two?", conversation_id=conversation)).task
    mine = claimed(task, now_ms=talking.clock())
    talking.store.save(task, mine)

    with pytest.raises(StateConflict) as refusal:
        talking.service.conversations.delete("local", conversation)

    assert refusal.value.code == "task_in_progress"
    assert talking.get(first).result == "Answer 1."
    answer = an_output(attempts=())
    talking.store.save(mine, mine.completed(answer), answer)


def test_a_deletion_that_was_interrupted_is_repeated(deleting: Served) -> None:
    """The conversation goes last: without it, its other tasks would not be found any more."""
    conversation = begun(deleting)
    refs = [done(deleting, prompt, conversation_id=conversation).task.ref for prompt in ("One?", "Two?")]
    delete = deleting.store.delete

    def failing(task: Task) -> Any:
        if task.ref == refs[1]:
            raise StorageUnavailable("The database does not answer; try again.")
        return delete(task)

    deleting.store.delete = failing  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable):
        deleting.service.conversations.delete("local", conversation)
    deleting.store.delete = delete  # type: ignore[method-assign]
    deleting.service.conversations.delete("local", conversation)

    for ref in refs:
        with pytest.raises(TaskNotFound):
            deleting.get(ref)


def test_of_two_deletions_at_once_neither_fails(deleting: Served) -> None:
    name = begun(deleting)
    remove = deleting.store.remove_conversation

    def overtaken(conversation: Conversation) -> bool:
        assert remove(conversation)
        return remove(conversation)

    deleting.store.remove_conversation = overtaken  # type: ignore[method-assign]
    deleting.service.conversations.delete("local", name)

    with pytest.raises(ConversationNotFound):
        deleting.service.conversations.read("local", name)


def test_a_conversation_that_got_a_task_meanwhile_is_not_deleted(deleting: Served) -> None:
    conversation = begun(deleting)
    peek_each = deleting.store.peek_each

    def overtaken(refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        deleting.store.peek_each = peek_each  # type: ignore[method-assign]
        deleting.submit("Two?", conversation_id=conversation)
        return peek_each(refs)

    deleting.store.peek_each = overtaken  # type: ignore[method-assign]
    with pytest.raises(StateConflict, match="being changed"):
        deleting.service.conversations.delete("local", conversation)

    assert len(deleting.service.conversations.read("local", conversation).tasks) == 1


def test_another_tenant_s_conversation_is_not_found(talking: Served) -> None:
    conversation = begun(talking, "acme")

    for use in (talking.service.conversations.read, talking.service.conversations.delete):
        with pytest.raises(ConversationNotFound):
            use("local", conversation)
