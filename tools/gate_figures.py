"""Measure the answer gate on the pairs of data/answer_gate: what each check finds, misses and finds wrongly.

Prints the table of docs/engines.md; with `-v`, also each pair that is judged wrongly.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llm_server.orchestration.answer_gate import gate
from llm_server.orchestration.domain.engines.call import Completion
from llm_server.orchestration.domain.engines.usage import Usage

DATA = Path(__file__).parents[1] / "data" / "answer_gate"
PARTS = ("tuned", "held_out")
CHECKS = {
    "arithmetic": "arithmetic",
    "code": "code blocks",
    "json": "JSON",
    "refusal": "refusal",
    "form": "requested form",
    "empty": "empty",
    "cut_off": "cut off",
}
"""The checks as `Pair.fault` names them, and their names for readers."""
_PHRASES = (
    ("empty", "empty"),
    ("a refusal", "refusal"),
    ("cut off", "cut_off"),
    ("not the form asked for: JSON", "json"),
    ("not the form asked for", "form"),
    ("JSON code", "json"),
    ("Python code", "code"),
    ("wrong arithmetic", "arithmetic"),
)
"""How the faults of each check begin; the first match counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A request, an answer to it, and the check that must find a fault in the answer; None if the answer has none."""

    fault: str | None
    language: str
    prompt: str
    answer: str
    note: str


class Judged(NamedTuple):
    """A pair, the check that found a fault in it (None if none did), and the fault as the receipt shows it."""

    pair: Pair
    found: str | None
    fault: str | None

    @property
    def is_right(self) -> bool:
        return self.found == self.pair.fault


class Figures(NamedTuple):
    """How many faults there are of a kind, how many were found, and how many reports were wrong."""

    faults: int
    found: int
    false_alarms: int

    @property
    def precision(self) -> float:
        """The share of reported faults that are real; 1 if none was reported."""
        reported = self.found + self.false_alarms
        return self.found / reported if reported else 1.0

    @property
    def recall(self) -> float:
        """The share of real faults that are found; 1 without faults."""
        return self.found / self.faults if self.faults else 1.0


def pairs(part: str) -> list[Pair]:
    """Read the pairs of a part."""
    return [Pair(**json.loads(line)) for line in (DATA / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def judged(pair: Pair) -> Judged:
    """Return what the gate says about a pair."""
    completion = Completion(text=pair.answer, usage=Usage(), truncated=pair.fault == "cut_off")
    fault = gate.fault(pair.prompt, pair.prompt, completion)
    if fault is None:
        return Judged(pair, None, None)
    return Judged(pair, next(check for phrase, check in _PHRASES if fault.startswith(phrase)), fault)


def figures(results: Sequence[Judged], checks: Iterable[str]) -> Figures:
    """Return the figures of some checks together: a fault counts as found if one of the checks reports it."""
    names = set(checks)
    faults = [result for result in results if result.pair.fault in names]
    found = [result for result in results if result.found in names]
    both = sum(result.found in names for result in faults)
    return Figures(faults=len(faults), found=both, false_alarms=len(found) - both)


def table(tuned: Sequence[Judged], held_out: Sequence[Judged]) -> Iterator[str]:
    """Yield the rows of the table in docs/engines.md: each check, then all together."""
    figure_names = "faults | false alarms | precision | recall"
    yield f"| check | tuned: {figure_names} | held out: {figure_names} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, checks in (*((name, (check,)) for check, name in CHECKS.items()), ("all", tuple(CHECKS))):
        yield f"| {name} | {_cells(figures(tuned, checks))} | {_cells(figures(held_out, checks))} |"


def _cells(row: Figures) -> str:
    return f"{row.faults} | {row.false_alarms} | {row.precision:.2f} | {row.recall:.2f}"


def main(arguments: Sequence[str]) -> None:
    results = {part: [judged(pair) for pair in pairs(part)] for part in PARTS}
    print("\n".join(table(results["tuned"], results["held_out"])))
    for part, judgements in results.items():
        wrong = [result for result in judgements if not result.is_right]
        print(f"\n{part}: {len(judgements)} pairs, {len(wrong)} judged wrongly")
        for pair, _, fault in wrong if "-v" in arguments else ():
            print(f"\nwanted {pair.fault}, found {fault}: {pair.note}\n  {pair.prompt!r}\n  {pair.answer!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
