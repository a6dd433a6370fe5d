"""Runs a plan's steps: those whose dependencies are done, at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.domain.plan import Plan, Step, ready


def run_steps(
    plan: Plan,
    finished: Mapping[str, bool],
    carry_out: Callable[[Step], Reply],
    *,
    at_once: int,
    succeeded: Callable[[Step], bool | None] | None = None,
) -> Iterator[tuple[Step, Reply]]:
    """Yield each step with its reply as it comes, at most `at_once` running.

    `finished` tells of the steps that ended before whether they succeeded. A step starts only after the consumer has
    taken (and so stored) what it depends on; then `succeeded` is asked how the step ended, and one that has not (None)
    is carried out further by another call. After a reply without a completion its descendants are left out; after one
    that another delivery may cure nothing new is started. What `carry_out` raises is raised here, but only after the
    steps that run beside it have been handed over: they are paid for.
    """
    ended = dict(finished)
    stopped = False
    broken: BaseException | None = None
    running: dict[Future[Reply], Step] = {}
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="step") as pool:
        while True:
            names = {step.id for step in running.values()}
            free = [] if stopped else ready(plan, ended, names)[: at_once - len(running)]
            running |= {pool.submit(carry_out, step): step for step in free}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                if future.exception():
                    broken, stopped = future.exception(), True
                    continue
                reply = future.result()
                stopped = stopped or reply.can_be_retried
                yield step, reply
                outcome = succeeded(step) if succeeded else reply.completion is not None
                if outcome is not None:
                    ended[step.id] = outcome
    if broken:
        raise broken
