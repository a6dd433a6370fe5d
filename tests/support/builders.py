"""Builders of tasks, requests, engine calls and outputs; each fills in the fields that a test does not set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, cast

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.access.tokens import digest_of
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.api_key import Key
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Mode, Priority
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.lifecycle import Lifecycle
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.storage.records import output_key_text, parse_output_key

NOW_MS = 1_760_000_000_000
"""A Thursday in October 2025, UTC day 2025-10-09."""

LEASE_MS = 60_000
SWEEP_MS = 120_000

ROUTING = Path(__file__).parents[2] / "data" / "routing"
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in '"\\')

_numbers = count(1)


@cache
def noise(length: int, seed: int = 0) -> str:
    """Return a random text that can be compressed by only a fifth."""
    return "".join(Random(seed).choices(PRINTABLE, k=length))


@cache
def prose(size: int) -> tuple[str, ...]:
    """Return real prompts of data/routing, cut to `size` bytes."""
    names = ("mmlu_dev", "role_mode_dev", "weak_roles_dev")
    lines = [line for name in names for line in (ROUTING / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["prompt"].encode() for line in lines]
    return tuple(text[:size].decode(errors="ignore") for text in texts if len(text) >= size)


def a_task(task_id: str | None = None, **changes: Any) -> Task:
    """Return a Queued task; without an id, it gets a new one."""
    created_ms = changes.pop("created_ms", NOW_MS)
    wanted: dict[str, Any] = {
        "tenant": "local",
        "task_id": task_id or f"t{next(_numbers)}",
        "mode": Mode.CHAT,
        "role": "Chat-Agent",
        "profile": "General",
        "created_ms": created_ms,
        "updated_ms": created_ms,
        "due_ms": created_ms + SWEEP_MS,
    }
    return Task(**wanted | changes)


def a_request(prompt: str = "Say hello.", **changes: Any) -> Request:
    """Return a request."""
    return Request(prompt=prompt, **changes)


def a_key(**changes: Any) -> Key:
    """Return an API key for tasks, with a new id; its secret is 64 zeros."""
    wanted: dict[str, Any] = {
        "key_id": f"{next(_numbers):012x}",
        "tenant": "local",
        "scopes": ("tasks",),
        "digest": digest_of("0" * 64),
        "created_ms": NOW_MS,
    }
    return Key(**wanted | changes)


def an_attempt(**changes: Any) -> Attempt:
    """Return an answered engine call: 10 tokens in, 20 out, 1 s, 300 micro-USD."""
    wanted: dict[str, Any] = {
        "engine": "gpt",
        "model": "gpt-5-mini",
        "source": "api",
        "purpose": "answer",
        "started_ms": NOW_MS + 1_000,
        "duration_ms": 1_000,
        "tokens_in": 10,
        "tokens_out": 20,
        "cost_microusd": 300,
    }
    return Attempt(**wanted | changes)


def a_failed_attempt(error: str = "The engine is busy.", **changes: Any) -> Attempt:
    """Return a failed engine call without tokens and cost."""
    return an_attempt(**{"tokens_in": 0, "tokens_out": 0, "cost_microusd": 0, "error": error} | changes)


def output_key(key: OutputKey | str) -> OutputKey:
    """Return an output's key from the text that stores write, such as `STEP#a` or `RES#1`."""
    return parse_output_key(key) if isinstance(key, str) else key


def by_key(*outputs: Output) -> dict[OutputKey, Output]:
    """Return outputs by key, as a snapshot has them."""
    return {output.key: output for output in outputs}


def key_texts(keys: Iterable[OutputKey]) -> list[str]:
    """Return output keys as the stores write them, sorted."""
    return sorted(output_key_text(key) for key in keys)


def an_output(key: OutputKey | str = "RES#1", text: str | None = "Hello.", **changes: Any) -> Output:
    """Return an output with a text and one engine call."""
    wanted: dict[str, Any] = {"created_ms": NOW_MS + 2_000, "attempts": (an_attempt(),)}
    return Output(key=output_key(key), text=text, **wanted | changes)


def a_failure(key: OutputKey | str = "TRY#1", error: str | None = "No engine answered.", **changes: Any) -> Output:
    """Return the output of a claim without an answer; with `error=None`, that of a release."""
    return an_output(key, None, **{"error": error, "attempts": (a_failed_attempt(),)} | changes)


def a_snapshot(task: Task | None = None, request: Request | None = None, *outputs: Output) -> Snapshot:
    """Return a task as one read of the store gives it."""
    return Snapshot(task=task or a_task(), request=request or a_request(), outputs=by_key(*outputs))


def claimed(task: Task, *, now_ms: int = NOW_MS, owner: str = "w1", has_plan: bool = False) -> Task:
    """Return the state after a claim that lasts `LEASE_MS` from `now_ms`."""
    return task.claimed(owner=owner, now_ms=now_ms, lease_ms=now_ms + LEASE_MS, has_plan=has_plan)


class NoQueue:
    """A queue that loses every message, so that only the sweep wakes tasks."""

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        """Lose the message."""

    def depth(self) -> int:
        return 0


def a_lifecycle(store: Store, clock: Clock) -> Lifecycle:
    """Return a lifecycle without a queue."""
    no_keys = cast(KeyStore, None)  # callers without a key: it is never asked
    fleet = cast(Fleet, None)  # they limit no sources: it is never asked
    return Lifecycle(
        store=store,
        ledger=no_keys,
        keyring=Keyring(no_keys, clock, os.urandom),
        fleet=fleet,
        wakeups=WakeUps(NoQueue()),
        clock=clock,
        sweep_ms=SWEEP_MS,
    )


def another_tenants(ref: TaskRef) -> TaskRef:
    """Return the same task id in another tenant."""
    return TaskRef(f"{ref.tenant}-x", ref.task_id)
