"""Throughput and latency of this server and of the queues, side by side."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.peers.engine import Engine, serving_engine
from benchmarks.peers.processes import cpu_s
from benchmarks.peers.sides import OURS, Start, starts
from benchmarks.peers.targets import at_least, at_most, percentile

IN_FLIGHT = 64
TASKS, WARM_UP, ROUNDS = 3_000, 300, 5
MAX_ROUND_S = 10.0
"""A round of a slow side ends after this time, with fewer tasks."""
BUSY_POLL_S = 0.05
"""How often a queue's front looks for a result. Trials on a busy machine found no difference from 20 to 100 ms."""
IDLE_REQUESTS = 200
IDLE_POLL_S = 0.005
"""More often, so that the queues are not slow because their front looks late."""
DURABILITY = {
    OURS: "each commit is synced to disk before it is acknowledged; receipts, history, listing, metrics",
    "arq": "nothing synced to disk (Redis' defaults), no receipts, results kept for 60 s",
    "taskiq": "nothing synced to disk (Redis' defaults), no receipts, results kept for 60 s",
}


def throughput() -> None:
    sides = starts()
    for name in sides:
        print(f"  {name}: {DURABILITY[name]}")
    print(
        f"  up to {TASKS:,} tasks or {MAX_ROUND_S:g} s a round, {IN_FLIGHT} requests in flight, "
        f"an engine that answers at once; median of {ROUNDS} rounds in turns"
    )
    with serving_engine() as engine:
        rounds = [{name: _measured(start, engine) for name, start in sides.items()} for _ in range(ROUNDS)]
    for name in sides:
        rates, cpus = zip(*(found[name] for found in rounds), strict=True)
        print(
            f"  {name:12}{statistics.median(rates):6.0f} tasks/s ({_list(rates, 0)}), "
            f"{statistics.median(cpus):5.2f} ms CPU a task ({_list(cpus, 2)})"
        )
    _print_ratios(rounds)


def _print_ratios(rounds: Sequence[Mapping[str, tuple[float, float]]]) -> None:
    """Print medians of the ratios within each round, so that a disturbance that hits one round counts little."""
    queues = [name for name in rounds[0] if name != OURS]
    if not queues:
        return
    best = max(queues, key=lambda name: statistics.median(found[name][0] for found in rounds))
    rate, cpu = (statistics.median(found[OURS][n] / found[best][n] for found in rounds) for n in (0, 1))
    at_least(f"tasks/s, ratio to the best queue ({best})", rate, 1.0)
    at_most(f"CPU a task, ratio to the best queue ({best})", cpu, 0.5)


def _measured(start: Start, engine: Engine) -> tuple[float, float]:
    """Return the tasks per second and the milliseconds of CPU time for each task, of a side that was just started."""
    with start(engine, BUSY_POLL_S) as side:
        side.tasks(WARM_UP, in_flight=IN_FLIGHT)
        cpu_before = cpu_s(side.processes)
        calls_before, _ = engine.calls()
        answers = side.tasks(TASKS, first=WARM_UP, in_flight=IN_FLIGHT, max_s=MAX_ROUND_S)
        cpu, calls = cpu_s(side.processes) - cpu_before, engine.calls()[0] - calls_before
    assert calls == len(answers), f"{calls} engine calls for {len(answers)} tasks"
    took_s = max(a.received_s for a in answers) - min(a.sent_s for a in answers)
    return len(answers) / took_s, cpu * 1000 / len(answers)


def latency() -> None:
    print(f"  {IDLE_REQUESTS} requests one after another, from POST to the result, an engine that answers at once")
    with serving_engine() as engine:
        found = {name: _latencies(start, engine) for name, start in starts().items()}
    for name, times_ms in found.items():
        print(f"  {name:12}p50 {percentile(times_ms, 0.5):6.1f} ms, p99 {percentile(times_ms, 0.99):6.1f} ms")
    at_most("POST to result, p50", percentile(found[OURS], 0.5), 8, " ms")


def _latencies(start: Start, engine: Engine) -> list[float]:
    with start(engine, IDLE_POLL_S) as side:
        side.tasks(IDLE_REQUESTS // 4, in_flight=1)
        return [answer.took_ms for answer in side.tasks(IDLE_REQUESTS, first=IDLE_REQUESTS, in_flight=1)]


def _list(values: tuple[float, ...], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
