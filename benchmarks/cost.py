"""Cost of a task on AWS, and of a month without tasks, with the prices of `aws_prices`.

Calls, units and bytes are counted. Times are measured on the emulator with an engine that takes 2 s; their CPU part is
scaled to the share of a core that Lambda gives. The constants below are assumptions.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import aws_prices as price
from benchmarks.aws import Deployment, deployment
from benchmarks.engine_process import engine_process
from support.builders import prose
from support.dynamodb_wire import Wire, recording, size

ENGINE_S = 2.0
READS = 2
"""How many GETs a caller makes for a task, if it follows Retry-After."""
TOGETHER = 10
CORE_MB = 1_769
"""Memory at which Lambda gives a full core: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""
API_MB, WORKER_MB = 512, 256
LOG_BYTES = 1_500
"""Log of one invocation, with Lambda's own lines and that of the access log."""
ITEM_BYTES = 100
"""The overhead of each stored item and index entry in DynamoDB."""
MINUTES = 30 * 24 * 60
POLLERS, POLL_S = 5, 20
"""Lambda's connections to an idle queue, and how long each waits for a message."""
ALARMS = 6
DUE_S = 1
"""The age at which a task is due for the sweep; short, because the benchmark waits for it."""
WAITING = 300
CONFIG = """
[engines.slow]
kind = "openai"
source = "api"
model = "fake-1"
base_url = "{url}"
price = {{input = 1, output = 2}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of task that is measured."""

    name: str
    prompt_bytes: int
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The resources one task uses; `worker_ms` if it is alone in its invocation, `shared_ms` if ten share one."""

    write_units: float
    read_units: float
    calls: float
    api_ms: float
    worker_ms: float
    shared_ms: float
    stored_bytes: float

    def usd(self, worker_ms: float, together: int) -> dict[str, float]:
        """Return the cost by service. The tasks of a batch share one receive, one delete and one invocation."""
        requests = 1 + READS
        invocations = requests + 1 / together
        gb_s = (self.api_ms * API_MB + worker_ms * WORKER_MB) / 1024 / 1000
        return {
            "DynamoDB": self.write_units * price.WRITE_UNIT + self.read_units * price.READ_UNIT,
            "Lambda": invocations * price.LAMBDA_REQUEST + gb_s * price.LAMBDA_GB_S,
            "SQS": (1 + 2 / together) * price.SQS_FAIR_REQUEST,
            "API": requests * price.API_REQUEST,
            "logs": invocations * LOG_BYTES / 1e9 * price.LOG_GB,
            "30 days kept": self.stored_bytes / 1e9 * price.TABLE_GB_MONTH,
        }


KINDS = (
    Kind(name="Chat 0.5/1.5 KB", prompt_bytes=500, mode="Chat"),
    Kind(name="Chat 2/4 KB", prompt_bytes=2_000, mode="Chat"),
    Kind(name="Plan of 5 steps", prompt_bytes=500, mode="Plan"),
)


def run() -> None:
    print(f"  assumed: an engine call of {ENGINE_S:g} s, its price left out; {READS} GETs a task; natural text;")
    print(f"  {LOG_BYTES:,} bytes of log for an invocation; a core at {CORE_MB:,} MB; us-east-1 prices, no free tier")
    print(f"  {'a task':17}{'units written':>14}{'read':>6}{'calls':>7}{'API ms':>8}{'worker ms':>11}{'of ten':>8}")
    with _deployed() as on:
        _measure(on, KINDS[0])  # warm up: imports, connections and prices
        found = {kind: _measure(on, kind) for kind in KINDS}
        sweep, looks_a_second = _sweep(on), _looks_a_second(on)
    for kind, used in found.items():
        print(
            f"  {kind.name:17}{used.write_units:>14.1f}{used.read_units:>6.1f}{used.calls:>7.1f}{used.api_ms:>8.0f}"
            f"{used.worker_ms:>11.0f}{used.shared_ms:>8.0f}"
        )
    _bills("each alone", {kind.name: used.usd(used.worker_ms, 1) for kind, used in found.items()})
    together = {kind.name: used.usd(used.shared_ms, TOGETHER) for kind, used in found.items()}
    _bills("ten to an invocation", together)
    _idle(sweep)
    print(
        f"\n  a sweep with {WORKER_MB} MB checks {looks_a_second:.0f} waiting tasks a second (measured with {WAITING})"
    )


def _bills(title: str, bills: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(dict.fromkeys(column for bill in bills.values() for column in bill))
    print(f"\n  USD for a million tasks, {title}\n  {'':17}{''.join(f'{name:>13}' for name in (*columns, 'all'))}")
    for name, bill in bills.items():
        figures = [*(bill[column] for column in columns), sum(bill.values())]
        print(f"  {name:17}{''.join(f'{figure * price.MILLION:>13.2f}' for figure in figures)}")


def _idle(sweep: Used) -> None:
    """Print the cost of a month without tasks; most of it are alarms and polling of the queue."""
    polls = POLLERS * MINUTES * 60 / POLL_S
    lines = {
        "sweep: schedule": MINUTES * price.SCHEDULE,
        "sweep: Lambda": MINUTES
        * (price.LAMBDA_REQUEST + sweep.worker_ms / 1e6 * WORKER_MB / 1.024 * price.LAMBDA_GB_S),
        f"sweep: {sweep.read_units:g} read units": MINUTES * sweep.read_units * price.READ_UNIT,
        "sweep: log": MINUTES * LOG_BYTES / 1e9 * price.LOG_GB,
        "sweep: traces (100,000 a month are free)": MINUTES * price.TRACE,
        f"Lambda's polling: {polls:,.0f} empty receipts at most": polls * price.SQS_REQUEST,
        f"{ALARMS} alarms (10 are free)": ALARMS * price.ALARM_MONTH,
    }
    print(f"\n  USD for 30 idle days ({MINUTES:,} sweeps of {sweep.worker_ms:.0f} ms, {sweep.calls:g} calls each)")
    for name, usd in (lines | {"all": sum(lines.values())}).items():
        print(f"  {name:55}{usd:>8.3f}")


@contextmanager
def _deployed() -> Iterator[Deployment]:
    url, stop = engine_process(ENGINE_S, answer)
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "engines.toml"
        config.write_text(CONFIG.format(url=url))
        with deployment(LLM_SERVER_CONFIG=str(config), LLM_SERVER_SWEEP_S=str(DUE_S)) as on:
            yield on
    stop()


def answer(asked: Mapping[str, Any]) -> str:
    """Return a plan of five independent steps, or natural text: 4 KB for a prompt of 2 KB, else 1.5 KB."""
    if "response_format" in asked:
        steps = [
            {"id": f"s{n}", "role": "Research-Agent", "instruction": text[:200], "depends_on": []}
            for n, text in enumerate(prose(500)[:5])
        ]
        return json.dumps({"goal": prose(500)[5][:200], "steps": steps})
    prompt = asked["messages"][-1]["content"]
    return prose(4_000)[0] if prompt == prose(2_000)[0] else prose(1_500)[0]


def _measure(on: Deployment, kind: Kind) -> Used:
    """Measure one task alone in its invocation, then ten in one; the API's times are medians of the ten."""
    post = partial(on.submit, prose(kind.prompt_bytes)[0], mode=kind.mode)
    with recording(*on.dynamodb) as wire:
        on.called.clear()
        task_id = post()
        records = on.messages()
        worker_ms, _ = _took(partial(on.worker, {"Records": records}), WORKER_MB)
        for _ in range(READS):
            on.get(task_id)
        writes, reads, calls, stored = wire.write_units(), wire.read_units(), on.called.total(), _stored(wire)
    posts = [_took(post, API_MB) for _ in range(TOGETHER)]
    records = on.messages()
    assert len(records) == TOGETHER
    together_ms, _ = _took(partial(on.worker, {"Records": records}), WORKER_MB)
    gets = [_took(partial(on.get, str(made)), API_MB) for _, made in posts]
    post_ms, get_ms = (statistics.median(took_ms for took_ms, _ in took) for took in (posts, gets))
    return Used(
        write_units=writes,
        read_units=reads,
        calls=calls,
        api_ms=post_ms + READS * get_ms,
        worker_ms=worker_ms,
        shared_ms=together_ms / TOGETHER,
        stored_bytes=stored,
    )


def _sweep(on: Deployment) -> Used:
    with recording(*on.dynamodb) as wire:
        on.called.clear()
        sweep_ms, _ = _took(partial(on.worker, {"sweep": True}), WORKER_MB)
        used = {"write_units": wire.write_units(), "read_units": wire.read_units(), "calls": on.called.total()}
    return Used(**used, api_ms=0, worker_ms=sweep_ms, shared_ms=sweep_ms, stored_bytes=0)


def _looks_a_second(on: Deployment) -> float:
    """Return the sweep's speed while the queue is long: it reads and postpones each due task, and sends no message."""
    for _ in range(WAITING):
        on.submit("Say hello.", mode="Chat")
    time.sleep(DUE_S)
    on.called.clear()
    took_ms, _ = _took(partial(on.worker, {"sweep": True}), WORKER_MB)
    assert (on.called["UpdateItem"], on.called["SendMessage"]) == (WAITING, 0), on.called
    return WAITING / took_ms * 1000


def _took(act: Callable[[], Any], memory_mb: int) -> tuple[float, Any]:
    """Return the milliseconds that Lambda would bill for a call, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    wall_ms, cpu_ms = (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000
    return wall_ms + cpu_ms * (CORE_MB / memory_mb - 1), result


def _stored(wire: Wire) -> int:
    """Return the bytes of a finished task in the table, with its entry in the listing's index."""
    rows = [row for call in wire.calls if call.operation == "Query" for row in call.answer["Items"]]
    last = {row["sk"]["S"]: row for row in rows}
    state = last["STATE"]
    entry = {name: state[name] for name in ("pk", "sk", "tenant", "created")}
    return sum(size(row) + ITEM_BYTES for row in (*last.values(), entry))
