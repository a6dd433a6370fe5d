"""The trained part of the analysis: one data file, read once, when the first prompt comes.

The file is a line of JSON (names, weights, scales) and then the hashed tables, one signed byte a weight, in the
order of `tables` in that line. `tools/train` makes it; docs/analysis.md says from what.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter, mul

from llm_server.orchestration.routing import features
from llm_server.orchestration.routing.signals import Signals

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # with os.path: pathlib costs 4 ms
FILE = os.path.join(_PACKAGE, "data", "analysis.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One column of a hashed table: a weight is its byte times `scale`."""

    weights: Sequence[int]
    scale: float

    def total(self, rows: Sequence[int]) -> float:
        """The sum over rows, divided by the root of their number: a long prompt does not shout."""
        if len(rows) < 2:
            return self.scale * sum(self.weights[row] for row in rows)
        total: int = sum(itemgetter(*rows)(self.weights))
        return self.scale * total / math.sqrt(len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """What makes one kind of question hard for a weak engine: `level` + form + words, a logit."""

    level: float
    form: Sequence[float]
    words: Table
    bits: int

    def logit(self, text: str) -> float:
        rows = features.buckets(features.word_grams(text), self.bits)
        formal: float = sum(map(mul, self.form, features.question_form(text)))
        return self.level + formal + self.words.total(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All weights. `dense` has, for each figure, a weight for each field; `confidence` is slope and bias.

    `complexity_quantiles` are the 0th to the 100th percentile of complexity over natural open prompts, ascending.
    """

    fields: Sequence[str]
    dense: Mapping[str, Sequence[float]]
    columns: Sequence[Table]
    bits: int
    steps: Mapping[str, float]
    experts: Mapping[str, Expert]
    confidence: tuple[float, float]
    complexity_quantiles: tuple[float, ...]

    def steps_logit(self, s: Signals) -> float:
        """How much speaks for several steps; 0 is even."""
        figures = features.step_figures(s)
        return self.steps[""] + sum(self.steps[name] * figure for name, figure in figures.items() if name in self.steps)

    def learned(self, s: Signals) -> dict[str, float]:
        """What the words of the request say for each field, by the examples it was trained on."""
        rows = features.buckets(features.role_grams(s), self.bits)
        return {field: column.total(rows) for field, column in zip(self.fields, self.columns, strict=True)}

    def formal(self, figures: Mapping[str, float]) -> dict[str, float]:
        """What the form of the prompt and the lexicon's totals say for each field."""
        sums = list(self.dense["always"])
        for name, figure in figures.items():
            if figure:
                sums = [a + figure * b for a, b in zip(sums, self.dense[name], strict=True)]
        return dict(zip(self.fields, sums, strict=True))

    def expert(self, text: str) -> float | None:
        """The logit of complexity where the prompt is of a kind that was trained, else None."""
        expert = self.experts.get(features.kind_of_question(text) or "")
        return expert.logit(text) if expert else None


def parsed(data: bytes) -> Weights:
    """Read a data file."""
    end = data.index(b"\n")
    head = json.loads(data[:end])
    tables, start = {}, end + 1
    for name, bits, scale in head["tables"]:
        tables[name] = Table(weights=memoryview(data)[start : start + (1 << bits)].cast("b"), scale=scale)
        start += 1 << bits
    return Weights(
        fields=head["fields"],
        dense=head["dense"],
        columns=[tables[field] for field in head["fields"]],
        bits=head["bits"],
        steps=head["steps"],
        experts={
            name: Expert(level=e["level"], form=e["form"], words=tables[name], bits=e["bits"])
            for name, e in head["experts"].items()
        },
        confidence=tuple(head["confidence"]),
        complexity_quantiles=tuple(head["complexity_quantiles"]),
    )


@cache
def shipped() -> Weights:
    """The weights that this package ships."""
    with open(FILE, "rb") as data:
        return parsed(data.read())
