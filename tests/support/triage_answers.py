"""Engines that answer the question of a triage, and a catalogue in which the analysis is never sure."""

from __future__ import annotations

import json
from typing import Any

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.errors import LLMServerError
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.triage import Triage
from support.scripted_engine import Answer, Script, ScriptedEngine, a_catalog, an_engine

DECIDED = Triage(
    mode=Mode.AGENT,
    role="Teacher-Agent",
    profile="General",
    complexity=0.25,
    decided=True,
    reasons=("triage: gpt decided: Agent mode, Teacher-Agent, complexity 0.25", "日本語 \N{GRINNING FACE}"),
    detail="gpt decided: Agent mode, Teacher-Agent, complexity 0.25",
    was_mode=Mode.CHAT,
    was_role="Chat-Agent",
)


def verdict(mode: str = "Agent", role: str = "Teacher-Agent", complexity: float = 0.25) -> str:
    """Return an engine's answer to the question of a triage."""
    return json.dumps({"mode": mode, "role": role, "complexity": complexity})


def triaging(*verdicts: Script, plan: str = "", answer: Answer = "Hello.") -> ScriptedEngine:
    """Return an engine that answers triages with these verdicts in turn, plans with `plan`, all else with `answer`."""
    engine_of_triages = ScriptedEngine(*(verdicts or [verdict()]))

    def respond(call: EngineCall) -> Answer:
        if call.answer_schema and call.answer_schema.name == "triage":
            return engine_of_triages.complete(call, timeout_s=0)
        return plan if call.answer_schema else answer

    def script(call: EngineCall) -> Answer:
        try:
            return respond(call)
        except LLMServerError as error:  # a script returns what its engine is to raise
            return error

    return ScriptedEngine(script)


def unsure(engines: dict[str, EngineSpec] | None = None, **defaults: Any) -> Catalog:
    """Return a catalogue in which every analysis is below the threshold, so that every task is triaged."""
    settings = {"triage": "auto", "confidence_threshold": 1.01} | defaults
    return a_catalog(engines or {"only": an_engine()}, **settings)


def triages(engine: ScriptedEngine) -> list[EngineCall]:
    """Return the calls that asked an engine for a triage."""
    return [call for call in engine.calls if call.answer_schema and call.answer_schema.name == "triage"]
