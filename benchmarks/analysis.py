"""CPU time of analysing a prompt, and of importing the analysis; the goals are printed, not asserted."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from llm_server.orchestration.routing.analysis import analyse

PROMPTS = Path(__file__).parents[1] / "data" / "routing" / "labelled_dev.jsonl"
EVERY = 10
"""Of the 5,007 prompts, each tenth is analysed."""
IMPORT = "import time; start = time.process_time()\n{}\nprint(time.process_time() - start)"


def run() -> None:
    prompts = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()[::EVERY]]
    prompts.append("word after word " * 10_000)
    analyse(prompts[0])
    times = sorted(_cpu_ms(prompt) for prompt in prompts * 5)
    p50, p99 = (times[int(len(times) * q)] for q in (0.5, 0.99))
    print(f"  natural prompts: p50 {p50:.2f} ms (goal <= 0.5), p99 {p99:.2f} ms (goal <= 4)")
    for name, code in (
        ("import", "from llm_server.orchestration.routing import analysis"),
        ("import and first prompt", "from llm_server.orchestration.routing.analysis import analyse; analyse('hello')"),
    ):
        print(f"  {name}: {statistics.median(_fresh_ms(code) for _ in range(9)):.0f} ms (goal <= 25)")


def _cpu_ms(prompt: str) -> float:
    start = time.process_time()
    analyse(prompt)
    return (time.process_time() - start) * 1000


def _fresh_ms(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", IMPORT.format(code)], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000
