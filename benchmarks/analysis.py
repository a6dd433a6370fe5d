"""CPU time of analysing a prompt, and of importing the analysis; the goals are printed, not asserted."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llm_server.orchestration.routing.analysis import analyse

PROMPTS = Path(__file__).parents[1] / "data" / "routing" / "labelled_dev.jsonl"
EVERY = 10
"""Of the 5,007 prompts, each tenth is analysed five times, and then each tenth of the others once."""
MSGSPEC = "import json, msgspec"
"""The server imports these for all else that it does."""
IMPORT = "import time; {}\nstart = time.process_time()\n{}\nprint(time.process_time() - start)"


def run() -> None:
    labelled = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = [*labelled[::EVERY], "word after word " * 10_000]
    analyse(prompts[0])
    _print_quantiles("natural prompts", prompts * 5)
    _print_quantiles("natural prompts not seen before", labelled[EVERY // 2 :: EVERY])
    for name, code in (
        ("import", "from llm_server.orchestration.routing import analysis"),
        ("import and first prompt", "from llm_server.orchestration.routing.analysis import analyse; analyse('hello')"),
    ):
        whole, beside = (statistics.median(_fresh_ms(before, code) for _ in range(9)) for before in ("", MSGSPEC))
        print(f"  {name}: {whole:.0f} ms (goal <= 25), {beside:.1f} ms of them beside msgspec")


def _print_quantiles(name: str, prompts: Sequence[str]) -> None:
    times = sorted(_cpu_ms(prompt) for prompt in prompts)
    p50, p99 = (times[int(len(times) * q)] for q in (0.5, 0.99))
    print(f"  {name}: p50 {p50:.2f} ms (goal <= 0.5), p99 {p99:.2f} ms (goal <= 4)")


def _cpu_ms(prompt: str) -> float:
    start = time.process_time()
    analyse(prompt)
    return (time.process_time() - start) * 1000


def _fresh_ms(before: str, code: str) -> float:
    program = IMPORT.format(before, code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000
