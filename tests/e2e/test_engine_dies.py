"""One of two engines is killed while tasks run: every task completes, and the attempts show the failover."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from support.fake_engine import a_config, fake_engine, reset
from support.server_process import serving

TASKS = 200


def test_200_tasks_complete_although_an_engine_is_killed(tmp_path: Path) -> None:
    """Calls in progress on it fail; they and all later calls go to the other engine."""
    with ExitStack() as stack:
        steady = stack.enter_context(fake_engine(latency_s=0.02))
        with fake_engine(latency_s=0.02) as dying:
            server = stack.enter_context(serving(tmp_path / "t.db", env=a_config(tmp_path, dying=dying, steady=steady)))
            ids = [server.submit(f"Say {n}.", mode="Chat")["task_id"] for n in range(TASKS // 2)]
            for task_id in ids[:20]:
                server.finished(task_id)
            dying.script(*[reset] * TASKS)  # connections in progress are reset, too; new ones are refused
        ids += [server.submit(f"Say {n}.", mode="Chat")["task_id"] for n in range(TASKS // 2)]
        tasks = [server.finished(task_id) for task_id in ids]
        metrics = server.call("GET", "/metrics").json()

    assert [task["status"] for task in tasks] == ["Completed"] * TASKS
    assert metrics["llm_status"]["steady"] == "online"
    assert metrics["llm_status"]["dying"] in ("cooling", "offline")
    attempts = [attempt for task in tasks for attempt in task["attempts"]]
    assert {a["engine"] for a in attempts if a["error"]} == {"dying"}
    assert {a["engine"] for a in attempts if not a["error"]} == {"dying", "steady"}
    assert "failover from dying" in {a["why"].removesuffix(", probe") for a in attempts if a["engine"] == "steady"}
    for task in tasks:
        answered = [a for a in task["attempts"] if not a["error"]]
        assert (task["receipt"]["calls"], task["receipt"]["failed_calls"]) == (1, len(task["attempts"]) - 1)
        assert task["engine"] == answered[-1]["engine"]
