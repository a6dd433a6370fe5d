"""Steps run in parallel, and each starts only after the results it needs were handed over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.domain.errors import EngineUnavailable, LLMServerError, OutOfTime, PromptRefused
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.execution.step_runner import run_steps
from support.scripted_engine import WAIT_S, a_completion


def a_plan(**depends_on: str) -> Plan:
    """Return a plan with steps by name and what they depend on, as in `a_plan(a="", b="a")`."""
    steps = (Step(id=n, role="Coder", instruction=n, depends_on=tuple(d)) for n, d in depends_on.items())
    return Plan(goal="g", steps=tuple(steps))


def done(step: Step) -> Reply:
    return Reply(completion=a_completion(step.id))


def failing(names: str, error: LLMServerError) -> Callable[[Step], Reply]:
    """Return a function that carries steps out, except these."""
    return lambda step: Reply(failure=error) if step.id in names else done(step)


class Watched:
    """Carries steps out, and records which started and how many ran at the same time."""

    def __init__(self, meeting: int = 1) -> None:
        self._barrier = threading.Barrier(meeting, timeout=WAIT_S)
        self._lock = threading.Lock()
        self._running = 0
        self.begun: list[str] = []
        self.most = 0

    def __call__(self, step: Step) -> Reply:
        with self._lock:
            self.begun.append(step.id)
            self._running += 1
            self.most = max(self.most, self._running)
        self._barrier.wait()
        with self._lock:
            self._running -= 1
        return done(step)


def test_independent_steps_run_at_the_same_time() -> None:
    """Four steps meet at a barrier, which steps that run one after the other would never pass."""
    watched = Watched(meeting=4)

    ended = [step.id for step, _ in run_steps(a_plan(a="", b="", c="", d=""), {}, watched, at_once=4)]

    assert sorted(ended) == ["a", "b", "c", "d"]


def test_no_more_steps_run_than_are_allowed() -> None:
    """One task must not take all places of an engine."""
    watched = Watched(meeting=2)

    assert len(list(run_steps(a_plan(a="", b="", c="", d="", e="", f=""), {}, watched, at_once=2))) == 6
    assert watched.most == 2


def test_a_step_starts_only_after_its_dependency_was_handed_over() -> None:
    """A result is stored before other steps use it, so that a crash does not make it paid for twice."""
    watched = Watched()
    steps = run_steps(a_plan(a="", b="a"), {}, watched, at_once=4)

    assert next(steps)[0].id == "a"
    assert watched.begun == ["a"]
    assert next(steps)[0].id == "b"
    assert list(steps) == []


def test_a_diamond_runs_in_order() -> None:
    """A step that joins two branches waits for both."""
    ended = [step.id for step, _ in run_steps(a_plan(d="bc", b="a", c="a", a=""), {}, done, at_once=4)]

    assert (ended[0], ended[-1], sorted(ended)) == ("a", "d", ["a", "b", "c", "d"])


def test_finished_steps_are_not_run_again() -> None:
    """They are paid for. Failed steps stay failed in this delivery."""
    watched = Watched()

    ended = [s.id for s, _ in run_steps(a_plan(a="", b="a", c="", d="c"), {"a": True, "c": False}, watched, at_once=4)]

    assert ended == ["b"]
    assert watched.begun == ["b"]


def test_a_failed_step_stops_its_descendants_and_not_its_siblings() -> None:
    """All other steps are finished."""
    carry_out = failing("a", PromptRefused("No."))

    ended = [step.id for step, _ in run_steps(a_plan(a="", b="a", c="b", x="", y="x"), {}, carry_out, at_once=1)]

    assert sorted(ended) == ["a", "x", "y"]


@pytest.mark.parametrize("error", [EngineUnavailable("Busy."), OutOfTime("Late.")])
def test_after_a_failure_that_may_pass_nothing_new_is_started(error: LLMServerError) -> None:
    """The next delivery runs the rest; more calls would not help a resting engine."""
    ended = [step.id for step, _ in run_steps(a_plan(a="", b="", c=""), {}, failing("a", error), at_once=1)]

    assert ended == ["a"]


def test_running_steps_are_handed_over_after_a_failure_that_may_pass() -> None:
    """They are paid for; only new steps are not started."""
    handed_over = threading.Event()

    def carry_out(step: Step) -> Reply:
        if step.id == "a":
            return Reply(failure=EngineUnavailable("Busy."))
        assert handed_over.wait(WAIT_S)
        return done(step)

    steps = run_steps(a_plan(a="", b="", c=""), {}, carry_out, at_once=2)
    assert next(steps)[0].id == "a"
    handed_over.set()

    assert [step.id for step, _ in steps] == ["b"]


def test_a_step_that_raises_does_not_lose_its_siblings() -> None:
    """The exception is raised after the replies of the other running steps were handed over."""
    broken = threading.Event()

    def carry_out(step: Step) -> Reply:
        if step.id == "a":
            broken.set()
            raise ZeroDivisionError
        broken.wait(WAIT_S)
        return done(step)

    ended: list[str] = []
    with pytest.raises(ZeroDivisionError):
        ended.extend(step.id for step, _ in run_steps(a_plan(a="", b=""), {}, carry_out, at_once=2))
    assert ended == ["b"]


def test_a_step_that_raises_stays_at_work() -> None:
    """Its call may be billed, so the call that was announced for it must not be replaced by another one."""
    broken, at_work = threading.Event(), set[str]()

    def carry_out(step: Step) -> Reply:
        if step.id == "a":
            broken.set()
            raise ZeroDivisionError
        broken.wait(WAIT_S)
        time.sleep(0.05)  # so that the other step has ended
        return done(step)

    seen: list[set[str]] = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(set(at_work) for _ in run_steps(a_plan(a="", b=""), {}, carry_out, at_once=2, at_work=at_work))

    assert seen == [{"a"}]


def test_a_closed_run_leaves_no_thread_behind() -> None:
    """A worker that lost its task leaves no threads running."""
    together = threading.Barrier(2, timeout=WAIT_S)
    leave = threading.Event()

    def carry_out(step: Step) -> Reply:
        together.wait()
        if step.id == "b":
            leave.wait(WAIT_S)
        return done(step)

    with closing(run_steps(a_plan(a="", b="", c="a"), {}, carry_out, at_once=2)) as steps:  # type: ignore[type-var]
        assert next(steps)[0].id == "a"
        leave.set()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step")]
