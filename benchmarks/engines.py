"""CPU time of one engine call, compared with LiteLLM's SDK; both take turns with the same server on loopback.

LiteLLM has an environment of its own (`.venv/litellm`, 200 MB). If it is missing, it is made here from hash-pinned
wheels.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import environments
from benchmarks.engine_process import engine_process

ROUNDS, CALLS, STARTS = 9, 100, 3
SIDES = {
    "bare": "urllib3 and json alone",
    "ours": "ours, from choice to receipt",
    "litellm": "LiteLLM's completion()",
}


class Side:
    """A process that makes calls on demand and reports their CPU time."""

    def __init__(self, name: str, url: str) -> None:
        python = environments.python("litellm") if name == "litellm" else sys.executable
        command = [python, str(Path(__file__).with_name("calling.py")), name, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start_s, self.first_s = self._read(), self._read()

    def call_s(self, calls: int) -> float:
        assert self._process.stdin
        print(calls, file=self._process.stdin, flush=True)
        return self._read() / calls

    def end(self) -> None:
        self._process.communicate()

    def _read(self) -> float:
        assert self._process.stdout
        return float(self._process.stdout.readline())


def run() -> None:
    environments.make("litellm")
    url, stop = engine_process(0.0)
    with ExitStack() as stack:
        stack.callback(stop)
        starts = [{name: _start(name, url) for name in SIDES} for _ in range(STARTS)]
        sides = {name: stack.enter_context(_side(name, url)) for name in SIDES}
        for side in sides.values():
            side.call_s(CALLS)
        rounds = [{name: side.call_s(CALLS) for name, side in sides.items()} for _ in range(ROUNDS)]
    for name, what in SIDES.items():
        call_ms, import_ms, first_ms = (
            statistics.median(found) * 1000
            for found in ([r[name] for r in rounds], [s[name][0] for s in starts], [s[name][1] for s in starts])
        )
        print(
            f"  {what}: {call_ms:.2f} ms CPU a call; import and client {import_ms:.0f} ms, first call {first_ms:.0f} ms"
        )
    ratio = statistics.median(r["ours"] / r["litellm"] for r in rounds)
    added = statistics.median((r["ours"] - r["bare"]) / (r["litellm"] - r["bare"]) for r in rounds)
    imported = statistics.median(s["ours"][0] / s["litellm"][0] for s in starts)
    begun = statistics.median(sum(s["ours"]) / sum(s["litellm"]) for s in starts)
    print(f"  ratio to LiteLLM: a call {ratio:.3f}, its cost beyond the exchange {added:.3f} (expected <= 0.1)")
    print(f"  ratio to LiteLLM: import and client {imported:.3f}, with the first answer {begun:.3f} (expected <= 0.1)")


def _start(name: str, url: str) -> tuple[float, float]:
    with _side(name, url) as side:
        return side.start_s, side.first_s


@contextmanager
def _side(name: str, url: str) -> Iterator[Side]:
    side = Side(name, url)
    try:
        yield side
    finally:
        side.end()
