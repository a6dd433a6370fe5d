"""Run the steps of a plan; steps whose dependencies are finished run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.domain.plan import Plan, Step, ready


def run_steps(
    plan: Plan,
    finished: Mapping[str, bool],
    carry_out: Callable[[Step], Reply],
    *,
    at_once: int,
    succeeded: Callable[[Step], bool | None] | None = None,
    at_work: set[str] | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[tuple[Step, Reply]]:
    """Yield each step with its reply as it arrives; at most `at_once` steps run at the same time.

    `finished` says for each step of earlier claims whether it succeeded. `carry_out` makes one call of a step. The
    consumer stores each reply before it takes the next one, so a step starts only after the results it depends on are
    stored. Then `succeeded` says whether the step succeeded, failed, or needs another call (None). Without
    `succeeded`, a reply with a completion means success. `at_work` is kept equal to the ids of the running steps; a
    step that is yielded does not run any more.

    Steps that depend on a failed step, directly or not, are not run. After a failure that the next delivery can retry,
    no further step is started. An exception of `carry_out` is raised after the running steps have been yielded, because
    they are paid for. `waiting()` is entered while all steps that can run do so.
    """
    ended, at_work = dict(finished), set() if at_work is None else at_work
    stopped = False
    raised: BaseException | None = None
    running: dict[Future[Reply], Step] = {}
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="step") as pool:
        while True:
            if not stopped:
                for step in ready(plan, ended, at_work)[: at_once - len(running)]:
                    running[pool.submit(carry_out, step)] = step
                    at_work.add(step.id)
            if not running:
                break
            with waiting():
                done = wait(running, return_when=FIRST_COMPLETED).done
            for future in done:
                step = running.pop(future)
                if future.exception():
                    raised, stopped = future.exception(), True
                    continue  # the step stays at work: its announced call may be billed, so no other one replaces it
                at_work.remove(step.id)
                reply = future.result()
                stopped = stopped or reply.can_be_retried
                yield step, reply
                outcome = succeeded(step) if succeeded else reply.completion is not None
                if outcome is not None:
                    ended[step.id] = outcome
    if raised:
        raise raised
