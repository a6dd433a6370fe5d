"""Time of several independent steps in parallel, compared with one step, on SQLite."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import aws  # noqa: F401 - puts tests/ on the path
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.status import Mode
from support.deliveries import a_plan, planning
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served

STEP_S = 0.2
ROUNDS = 5
MAX_STEPS = 4


def run() -> None:
    for count in range(1, MAX_STEPS + 1):
        ratio = statistics.median(_steps_s(count) for _ in range(ROUNDS)) / STEP_S
        print(f"  {count} steps of {STEP_S * 1000:.0f} ms: {ratio:.2f} x the time of one (expected <= 1.2)")


def _steps_s(count: int) -> float:
    """Return the seconds from the first step's call to that of the synthesis, when all steps are stored."""
    script = planning(a_plan(dict.fromkeys("abcd"[:count], "")))
    began: list[float] = []

    def answer(call: EngineCall) -> str:
        began.append(time.perf_counter())
        if "Do this step" in call.prompt:
            time.sleep(STEP_S)
        return script.complete(call, timeout_s=1).text

    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder), ScriptedEngine(answer), catalog=a_catalog({"only": an_engine()}))
        served.submit(mode=Mode.PLAN, profile="General")
        served.work()
        served.close()
    return began[-1] - began[1]
