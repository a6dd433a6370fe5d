"""Process a task delivery by delivery without a store: each claim starts with the outputs of the earlier ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice

from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.snapshot import Limits, Request, Snapshot
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.execution.orchestrator import Orchestrator
from llm_server.orchestration.execution.outcome import Progress
from llm_server.storage.records import output_key_text
from support.builders import a_snapshot, a_task, output_key
from support.scripted_engine import (
    Answer,
    Clock,
    Script,
    ScriptedEngine,
    WatchedStore,
    a_balancer,
    a_catalog,
    an_engine,
)

SWEEP_S = 120
LEASE_S = 210
MAX_DELIVERIES = 3


class Deliveries:
    """An orchestrator with one or several engines, and the outputs of each delivery of a task."""

    def __init__(
        self,
        watched: WatchedStore,
        clock: Clock,
        engine: ScriptedEngine,
        *,
        catalog: Catalog | None = None,
        max_deliveries: int = MAX_DELIVERIES,
        **others: tuple[EngineSpec, ScriptedEngine],
    ) -> None:
        specs = {"only": an_engine()} | {name: spec for name, (spec, _) in others.items()}
        catalog = catalog or a_catalog(specs)
        engines = {"only": engine} | {name: other for name, (_, other) in others.items()}
        self.clock = clock
        self.engine = engine
        self.given: list[Progress] = []
        self._orchestrator = Orchestrator(
            catalog=catalog,
            balancer=a_balancer(catalog, engines, watched, clock),
            clock=clock,
            max_deliveries=max_deliveries,
            sweep_s=SWEEP_S,
        )

    def deliver(self, snapshot: Snapshot, *, for_s: float = 180, dies_after: int | None = None) -> Snapshot:
        """Claim the task and process it for `for_s` seconds; the worker dies after `dies_after` stored states."""
        now_ms = self.clock()
        task = snapshot.task.claimed(
            owner="w", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=output_key("PLAN") in snapshot.outputs
        )
        snapshot = replace(snapshot, task=task)
        until_ms = now_ms + round(for_s * 1000)
        with closing(self._orchestrator.run(snapshot, until_ms=until_ms)) as states:
            self.given = list(islice(states, dies_after))
        for progress in self.given:
            stored = {progress.output.key: progress.output} if progress.output else {}
            snapshot = replace(snapshot, task=progress.task, outputs={**snapshot.outputs, **stored})
        return snapshot

    @property
    def keys(self) -> list[str]:
        """The keys of the outputs of the last delivery, in order, as the stores write them."""
        return [output_key_text(progress.output.key) for progress in self.given if progress.output]

    @property
    def purposes(self) -> list[str]:
        """The purpose of each call that the last delivery recorded."""
        return [a.purpose for progress in self.given if progress.output for a in progress.output.attempts]


def accepted(
    mode: Mode = Mode.CHAT, role: str = "Chat-Agent", *, limits: Limits | None = None, **asked: object
) -> Snapshot:
    """Return a task as it is accepted, with the packaged catalogue."""
    task = a_task(mode=mode, role=role, profile="General")
    return a_snapshot(task, Request(prompt="Build it.", limits=limits or Limits(), **asked))  # type: ignore[arg-type]


def changed(snapshot: Snapshot, **changes: object) -> Snapshot:
    """Return the same task in another state."""
    return replace(snapshot, task=replace(snapshot.task, **changes))


def a_plan(depends_on: Mapping[str, str] | None = None, role: str = "Fast-Coder-Agent") -> str:
    """Return an engine's plan: steps by name with what they depend on; a step's instruction is its name."""
    steps = [
        {"id": name, "role": role, "instruction": name, "depends_on": list(depends)}
        for name, depends in (depends_on or {"a": "", "b": "a"}).items()
    ]
    return json.dumps({"goal": "The goal.", "steps": steps})


def planning(*proposals: str, **answers: Answer | Sequence[Answer]) -> ScriptedEngine:
    """Return an engine that proposes these plans in turn and does all steps; `answers` are by step or `synthesis`."""
    left = list(proposals or [a_plan()])
    scripts = {
        name: list(a) if isinstance(a, Sequence) and not isinstance(a, str) else [a] for name, a in answers.items()
    }

    def next_of(script: list[Answer]) -> Answer:
        return script.pop(0) if len(script) > 1 else script[0]

    def answer(call: EngineCall) -> Answer:
        if call.answer_schema and call.answer_schema.name == "verdict":
            return next_of(scripts.get("verdict", ['{"verdict": "pass", "findings": []}']))
        if call.answer_schema:
            return left.pop(0) if len(left) > 1 else left[0]
        name = "synthesis" if call.system == prompts.SYNTHESIS_SYSTEM else call.prompt.rpartition("\n")[2]
        return next_of(scripts[name]) if name in scripts else f"did {name}"

    script: Script = answer
    return ScriptedEngine(script)
