"""The total size of a task's texts is limited: a larger text fails the task, and its call stays on the receipt."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES, Review
from llm_server.orchestration.domain.status import Mode, Status
from support.builders import an_output, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served


def use(served: Served, engine: ScriptedEngine) -> None:
    served.engine = engine
    served.use(a_catalog({"only": an_engine()}))


@pytest.mark.parametrize(("character", "size"), [("a", 1), ("€", 3), ('"', 2), ("x\ny", 4), ("\x01", 6)])
def test_a_result_of_4_mb_is_kept_whole_and_a_larger_one_fails(served: Served, character: str, size: int) -> None:
    """Sizes are bytes of JSON, as callers read them.

    The call of the refused answer stays on the receipt with its price.
    """
    most = MAX_TEXTS_BYTES // size
    use(served, ScriptedEngine(character * most, character * (most + 1)))
    kept, refused = served.submit(), served.submit()
    served.work()

    assert served.get(kept).result == character * most
    task = served.get(refused).task
    assert task.status is Status.FAILED
    assert "only 4,000,000 of the task's 4,000,000 are left" in (task.error or "")
    assert (task.receipt.calls, task.receipt.cost_microusd) == (1, 50)
    assert not any(output.text for output in served.get(refused).outputs.values())


def test_a_steps_result_counts_toward_the_size_of_its_task(served: Served) -> None:
    """The second step would exceed the limit; the first step's result stays readable."""
    use(served, planning(a_plan({"a": "", "b": "a"}), a="a" * 3_000_000, b="b" * 1_000_000))
    ref = served.submit(mode=Mode.PLAN, profile="General")
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.error or "").startswith(
        "Step b failed: The answer has 1,000,000 bytes as JSON, but only 999,"
    )
    assert snapshot.outputs[output_key("STEP#a")].size == 3_000_000
    assert (snapshot.task.receipt.calls, served.queue.depth()) == (3, 0)


def test_a_synthesis_shares_the_limit_with_the_results_of_the_steps(served: Served) -> None:
    use(served, planning(a_plan({"a": ""}), a="a" * 3_000_000, synthesis="s" * 1_000_000))
    ref = served.submit(mode=Mode.PLAN, profile="General")
    served.work()

    assert (served.get(ref).task.error or "").startswith("The answer has 1,000,000 bytes as JSON, but only 999,")


def test_the_findings_of_a_review_count_as_text() -> None:
    """They are stored and shown with the step."""
    review = Review(verdict="fail", findings=("Off by one.", '"'))

    assert an_output("VERDICT#a#0", None, review=review).size == len("Off by one.") + 2
