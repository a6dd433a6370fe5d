"""The triage of a task: what an engine decided about it, because the analysis of its prompt was unsure (ADR 47)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.status import Mode

PURPOSE = "triage"
"""The purpose of the attempt."""
LOST = "triage: the worker died before it stored what the engine said, so the analysis decides"

Undecided = Literal["role", "mode", "profile"]
"""What an engine may decide about a task. What the caller chose is never among it."""
WHOLE: tuple[Undecided, ...] = ("role", "mode", "profile")


class Triage(Struct, frozen=True, kw_only=True):
    """How a task's triage ended. It is stored once, before any other call is made for the task, and never changes.

    `mode`, `role`, `profile` and `complexity` hold for the task from then on, and `reasons` says why. If `decided` is
    False, the engine said nothing usable, and they are those of the analysis. `was_mode` and `was_role` are what the
    analysis had chosen. `detail` is the triage in a few words, for the task's history.
    """

    mode: Mode
    role: str
    profile: str
    complexity: float
    decided: bool
    reasons: tuple[str, ...]
    detail: str
    was_mode: Mode
    was_role: str

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


class TriageQuote(Struct, frozen=True, kw_only=True):
    """What a triage would cost, in micro-USD: as expected, and at the most. None: the engine's price is unknown."""

    engine: str
    expected_microusd: int | None
    ceiling_microusd: int | None


def from_json(text: str) -> Triage:
    """Read a stored triage."""
    return msgspec.json.decode(text, type=Triage)


def undecided(
    catalog: Catalog, *, confidence: float, role: str | None, mode: Mode | None, profile: str | None
) -> tuple[Undecided, ...]:
    """Return what an engine may decide about a new task; () if the task is not to be triaged.

    `role`, `mode` and `profile` are what the caller chose. A role decides the mode as well, and Chat and Plan mode
    decide the role.
    """
    if role is not None or mode in (Mode.CHAT, Mode.PLAN) or not catalog.defaults.triages(confidence):
        return ()
    if not any(spec.triages for spec in catalog.engines.values()):
        return ()
    chosen = {"mode": mode, "profile": profile}
    return tuple(name for name in WHOLE if chosen.get(name) is None)
