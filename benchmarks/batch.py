"""Time of a worker invocation with ten messages, compared with one message; the engine takes 100 ms."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.aws import deployment
from support.fake_engine import fake_engine

ROUNDS = 7
CONFIG = """
[engines.slow]
kind = "openai"
source = "local"
model = "fake-1"
base_url = "{url}"
"""


def run() -> None:
    with fake_engine(latency_s=0.1) as engine, tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "engines.toml"
        config.write_text(CONFIG.format(url=engine.base_url))
        with deployment(LLM_SERVER_CONFIG=str(config)) as on:

            def took_s(count: int) -> float:
                for n in range(count):
                    on.submit(f"Say {n}.")
                records = on.messages()
                assert len(records) == count
                start = time.perf_counter()
                assert on.worker({"Records": records}) == {"batchItemFailures": []}
                return time.perf_counter() - start

            took_s(10)
            pairs = [(took_s(10), took_s(1)) for _ in range(ROUNDS)]
    ten, one = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"  ten messages {ten * 1000:.0f} ms, one {one * 1000:.0f} ms: {ten / one:.2f} x (expected <= 1.5)")
