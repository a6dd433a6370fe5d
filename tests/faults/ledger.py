"""The table that an attack prints: what was attacked, where, with how many faults, and the number of alarms."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """One attack; `note` says what was measured."""

    attack: str
    where: str
    faults: int
    alarms: list[str]
    note: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Ledger:
    """The rows of a run. `started_s` is the start of the running test."""

    rows: list[Row] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    def enter(self, attack: str, where: str, faults: int, alarms: list[str], note: str = "") -> None:
        """Add a row, and fail if it has an alarm."""
        self.rows.append(Row(attack, where, faults, alarms, note, time.monotonic() - self.started_s))
        assert not alarms, "\n".join([f"{attack}: {len(alarms)} alarms", *alarms[:20]])

    def table(self) -> list[str]:
        lines = [f"{'attack':54} {'where':12} {'faults':>6} {'alarms':>6} {'s':>6}  measured"]
        for row in self.rows:
            figures = f"{row.faults:>6} {len(row.alarms):>6} {row.seconds:>6.1f}"
            lines.append(f"{row.attack:54} {row.where:12} {figures}  {row.note}".rstrip())
        faults, alarms = sum(row.faults for row in self.rows), sum(len(row.alarms) for row in self.rows)
        return [*lines, f"{faults} faults injected, {alarms} alarms"]
