"""A server without any engine answers with the real demonstration model. What the model says is not judged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_server.orchestration.domain.engines import demonstration
from support.command_line import COMMAND
from support.server_process import RunningServer, serving

pytestmark = pytest.mark.demonstration

PLAN_S = 90
NOTHING_SET = {"LLM_SERVER_MODEL": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("server") / "tasks.db", env=NOTHING_SET) as started:
        yield started


def test_the_start_says_what_answers_and_how_to_get_a_better_one(server: RunningServer) -> None:
    assert "engine    demonstration: No LLM was found (" in server.printed
    assert demonstration.OF_MODEL in server.printed


def test_the_engines_say_it_too(server: RunningServer) -> None:
    engines = server.call("GET", "/engines").json()["engines"]

    assert list(engines) == ["demonstration"]
    shown = engines["demonstration"]
    assert (shown["demonstration"], shown["note"], shown["source"]) == (True, demonstration.OF_MODEL, "local")


@pytest.mark.parametrize(
    ("mode", "prompt"),
    [("Chat", "Why is exercise good for you?"), ("Agent", "Write a one-sentence slogan for a bakery.")],
)
def test_a_prompt_is_answered_with_real_tokens(server: RunningServer, mode: str, prompt: str) -> None:
    answer = server.submit(prompt, mode=mode, wait_s=30)
    task = server.finished(answer["task_id"], within_s=60)

    [attempt] = task["attempts"]
    assert (task["status"], task["mode"], task["engine"]) == ("Completed", mode, "demonstration")
    assert task["demonstration"]
    assert task["result"].strip()
    assert 0 < attempt["tokens_out"] <= 256
    assert 10 < attempt["tokens_in"] < 100
    assert not attempt["usage_estimated"]
    assert task["receipt"] | {"calls": 1, "cost_microusd": 0, "tokens_out": attempt["tokens_out"]} == task["receipt"]


def test_a_plan_is_carried_out_step_by_step(server: RunningServer) -> None:
    """The analysis makes the plan, and the model does its steps. The reviews of the profile are left out, and said."""
    prompt = "Design a small cache in Python, then write its tests, then document it."
    answer = server.submit(prompt, mode="Plan", profile="Developer")
    task = server.finished(answer["task_id"], within_s=PLAN_S)

    steps = task["plan"]["steps"]
    assert (task["status"], task["mode"]) == ("Completed", "Plan")
    assert len(steps) >= 2
    assert {step["status"] for step in steps} == {"Completed"}
    assert all(step["result"].strip() in task["result"] for step in steps)
    whys = {attempt["purpose"]: attempt["why"] for attempt in task["attempts"]}
    assert whys["plan"] == "the analysis made the plan, the model was not asked"
    assert sum(attempt["tokens_out"] > 0 for attempt in task["attempts"]) == len(steps)
    assert {step["review"]["verdict"] for step in steps if step["review"]} <= {"not judged"}


def test_a_plan_of_numbered_steps_is_carried_out_in_their_order(server: RunningServer) -> None:
    """Each step sees the result of the one before it, cut so that it fits into the model's context."""
    prompt = "\n".join(f"{n}. Write one sentence about the number {n}." for n in range(1, 4)) + "\n4. Write a slogan."
    answer = server.submit(prompt, mode="Plan")
    task = server.finished(answer["task_id"], within_s=PLAN_S)

    assert (task["status"], task["mode"], len(task["plan"]["steps"])) == ("Completed", "Plan", 4)


def test_the_command_line_says_it_after_the_answer(server: RunningServer) -> None:
    command = [*COMMAND, "submit", "Name three colours.", "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip()
    assert done.stderr.splitlines()[-1] == demonstration.OF_MODEL


def test_a_key_takes_its_place(tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db", env=NOTHING_SET | {"OPENAI_API_KEY": "k"}) as server:
        engines = server.call("GET", "/engines").json()["engines"]

    assert list(engines) == ["openai"]
