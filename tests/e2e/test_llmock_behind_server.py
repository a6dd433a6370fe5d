"""The whole server against llmock, which judges the retries: https://github.com/JulienRabault/LLMock.

All tasks run at the same time on one server, each with its own engine, so that their waits overlap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from llmock.journal import RequestRecord
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Delay, Match, Reply
from llmock.testing import LLMockServer
from llmock.verdict import Verdict, judge

from support.server_process import RunningServer, serving

KINDS = ("openai", "anthropic")
FAULTS = ("well", "limited", "overloaded", "crashed", "slow", "too-long", "declined", "key")
RETRY_AFTER_S = 7
"""Longer than the default pause of 5 s, so that a test can tell whether it was obeyed."""
WAITING = 12
OUTAGE_S = 3.0
LATENCY_S = 1.0
"""The latency of every answer, so that tasks that retry at the same time meet a probe in progress."""
TIMEOUTS_S = {"slow": 2, "outage": 2}
ENGINE = """
[engines.{kind}-{fault}]
kind = "{kind}"
source = "local"
model = "{kind}-{fault}"
base_url = "{base_url}"
timeout_s = {timeout_s}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The tasks by engine, the requests that llmock recorded, and the server's metrics while a key was wrong."""

    tasks: dict[str, list[Any]]
    records: list[RequestRecord]
    metrics: Any

    def task(self, engine: str) -> Any:
        [task] = self.tasks[engine]
        return task

    def requests(self, engine: str) -> list[RequestRecord]:
        return [record for record in self.records if record.model == engine]

    def verdict(self, engine: str) -> Verdict:
        return judge(self.requests(engine))


@pytest.fixture(scope="module")
def seen(llmock_server: LLMockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("llmock")
    llmock = LLMock(llmock_server).reset()
    llmock_server.state.chaos.latency_ms = round(LATENCY_S * 1000)
    config = folder / "engines.toml"
    config.write_text(_config(llmock))
    _script(llmock)
    with serving(folder / "tasks.db", "--workers", "40", env={"LLM_SERVER_CONFIG": str(config)}) as server:
        started_s = time.monotonic()
        ids = {engine: _submit(server, engine) for engine in _engines()}
        time.sleep(max(0.0, started_s + OUTAGE_S - time.monotonic()))
        metrics = server.call("GET", "/metrics").json()
        llmock_server.state.scenarios.clear()
        _refuse_keys(llmock)
        tasks = {
            engine: [_finished(server, task_id, waits="-key" in engine) for task_id in submitted]
            for engine, submitted in ids.items()
        }
    yield Seen(tasks=tasks, records=llmock.requests, metrics=metrics)
    llmock.reset()


def _engines() -> list[str]:
    return [f"{kind}-{fault}" for fault in (*FAULTS, "outage") for kind in KINDS]


def _config(llmock: LLMock) -> str:
    return "".join(
        ENGINE.format(kind=kind, fault=fault, base_url=llmock.base_url(kind), timeout_s=TIMEOUTS_S.get(fault, 30))
        for kind, _, fault in (engine.partition("-") for engine in _engines())
    )


def _script(llmock: LLMock) -> None:
    llmock.truncate(times=None).corrupt(times=None).disconnect(times=None)  # for streams
    _refuse_keys(llmock)
    for kind in KINDS:
        llmock.fail(429, retry_after=RETRY_AFTER_S, model=f"{kind}-limited")
        llmock.fail(529, retry_after=1, model=f"{kind}-overloaded")
        llmock.fail(500, model=f"{kind}-crashed")
        llmock.add(Delay(3.0, match=Match(model=f"{kind}-slow")))
        llmock.fail(400, message="maximum context length exceeded", times=None, model=f"{kind}-too-long")
        llmock.add(Reply(text="No.", finish_reason="content_filter", match=Match(model=f"{kind}-declined")))
        llmock.fail(503, retry_after=1, times=None, model=f"{kind}-outage")


def _refuse_keys(llmock: LLMock) -> None:
    for kind in KINDS:
        llmock.fail(401, times=None, model=f"{kind}-key")


def _submit(server: RunningServer, engine: str) -> list[str]:
    count = WAITING if engine.endswith("outage") else 1
    prompts = (f"Say {engine} {n}." for n in range(count))
    return [server.submit(prompt, mode="Chat", engine=engine)["task_id"] for prompt in prompts]


def _finished(server: RunningServer, task_id: str, *, waits: bool) -> Any:
    return server.call("GET", f"/tasks/{task_id}").json() if waits else server.finished(task_id)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("fault", ["limited", "overloaded", "crashed", "slow"])
def test_a_temporary_fault_costs_a_delay_and_one_more_request(seen: Seen, kind: str, fault: str) -> None:
    """llmock has no warnings: no early retry, no burst of requests, and the request was not given up."""
    engine = f"{kind}-{fault}"
    seen.verdict(engine).assert_ok(strict=True)

    assert len(seen.requests(engine)) == 2
    task = seen.task(engine)
    assert (task["status"], task["error"]) == ("Completed", None)
    assert [bool(attempt["error"]) for attempt in task["attempts"]] == [True, False]


def test_retry_after_is_obeyed(seen: Seen, kind: str) -> None:
    first, second = seen.requests(f"{kind}-limited")

    assert first.retry_after == RETRY_AFTER_S
    assert RETRY_AFTER_S <= second.started_at - first.ended_at < RETRY_AFTER_S + 6


def test_a_slow_answer_is_abandoned_after_the_engines_timeout(seen: Seen, kind: str) -> None:
    first = seen.task(f"{kind}-slow")["attempts"][0]

    assert first["error"] == "The engine did not answer in time."
    assert 1_900 <= first["duration_ms"] < 3_800


@pytest.mark.parametrize(
    ("fault", "said"), [("too-long", "maximum context length exceeded"), ("declined", "declined to answer this prompt")]
)
def test_a_refused_prompt_is_sent_once(seen: Seen, kind: str, fault: str, said: str) -> None:
    engine = f"{kind}-{fault}"
    seen.verdict(engine).assert_ok(strict=True)

    assert len(seen.requests(engine)) == 1
    assert seen.task(engine)["status"] == "Failed"
    assert said in seen.task(engine)["error"]
    assert seen.metrics["llm_status"][engine] == "online"


def test_a_wrong_key_is_retried_only_by_probes(seen: Seen, kind: str) -> None:
    """llmock warns about any retry after a 401.

    Probes after 5 s, 10 s, ... are intended, because keys may be renewed.
    """
    engine = f"{kind}-key"

    assert {finding.code for finding in seen.verdict(engine).findings} == {"retried_non_retryable"}
    first, probe, *later = seen.requests(engine)
    assert probe.started_at - first.ended_at >= 5
    assert not later or later[0].started_at - probe.ended_at >= 10
    assert seen.task(engine)["status"] == "Queued"
    assert seen.metrics["llm_status"][engine] == "offline"


def test_tasks_that_waited_for_an_outage_send_one_probe(seen: Seen, kind: str) -> None:
    """Twelve tasks return at the same time: one of them sends the probe, and the others use its result."""
    engine = f"{kind}-outage"
    seen.verdict(engine).assert_ok(strict=True)

    assert [task["status"] for task in seen.tasks[engine]] == ["Completed"] * WAITING
    records = seen.requests(engine)
    refused = [record for record in records if record.status == 503]
    assert len(records) - len(refused) == WAITING
    probe, *others = sorted(
        (record for record in records if record.status == 200), key=lambda record: record.started_at
    )
    assert max(record.ended_at for record in refused) < probe.started_at
    assert min(record.started_at for record in others) >= probe.started_at + LATENCY_S


def test_answers_are_not_requested_as_streams(seen: Seen, kind: str) -> None:
    """So faults in the middle of a stream cannot happen."""
    seen.verdict(f"{kind}-well").assert_ok(strict=True)

    assert seen.task(f"{kind}-well")["status"] == "Completed"
    assert not [record for record in seen.records if record.stream or (record.fault or "").startswith("stream")]
