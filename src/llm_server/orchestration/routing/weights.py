"""The trained weights of the analysis, in one data file that is read once, at the first prompt.

The file starts with a line of JSON (names, weights, scales). The hashed tables follow, one signed byte for each
weight, in the order of the JSON field `tables`. `tools/train` makes the file; docs/analysis.md describes its data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter, mul

from msgspec import Struct

from llm_server.orchestration.routing import features
from llm_server.orchestration.routing.signals import Signals

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # os.path, because importing pathlib takes 4 ms
FILE = os.path.join(_PACKAGE, "data", "analysis.bin")


class Table(Struct, frozen=True, kw_only=True):
    """One column of a hashed table; a weight is its byte times `scale`."""

    weights: Sequence[int]
    scale: float

    def total(self, rows: Sequence[int]) -> float:
        """Return the sum of the weights divided by the square root of their number, so that length counts less."""
        if len(rows) < 2:
            return self.scale * sum(self.weights[row] for row in rows)
        total: int = sum(itemgetter(*rows)(self.weights))
        return self.scale * total / math.sqrt(len(rows))


class Expert(Struct, frozen=True, kw_only=True):
    """Estimates how hard one kind of question is for a weak engine, from its form and its words."""

    level: float
    form: Sequence[float]
    words: Table
    bits: int

    def logit(self, text: str) -> float:
        """Return the complexity of a question as a logit."""
        rows = features.buckets(features.word_grams(text), self.bits)
        from_form: float = sum(map(mul, self.form, features.question_form(text)))
        return self.level + from_form + self.words.total(rows)


class Weights(Struct, frozen=True, kw_only=True):
    """All trained weights. `dense` maps each figure to a weight for each field; `confidence` is a slope and a bias.

    `complexity_quantiles` are the percentiles 0 to 100 of the complexity of natural prompts, ascending.
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
        """Return the logit of the chance that the task has several steps; 0 means a chance of one half."""
        figures = features.step_figures(s)
        return self.steps[""] + sum(self.steps[name] * figure for name, figure in figures.items() if name in self.steps)

    def word_scores(self, s: Signals) -> dict[str, float]:
        """Return the score of each field by the words of the prompt."""
        rows = features.buckets(features.role_grams(s), self.bits)
        return {field: column.total(rows) for field, column in zip(self.fields, self.columns, strict=True)}

    def form_scores(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the score of each field by the figures of the prompt's form and by the rules' totals."""
        sums = list(self.dense["always"])
        for name, figure in figures.items():
            if figure:
                sums = [a + figure * b for a, b in zip(sums, self.dense[name], strict=True)]
        return dict(zip(self.fields, sums, strict=True))

    def expert(self, text: str) -> float | None:
        """Return the complexity, as a logit, of an exam question or a word problem; None for other prompts."""
        kind = features.kind_of_question(text)
        if kind is None or kind not in self.experts:
            return None
        return self.experts[kind].logit(text)


def parse(data: bytes) -> Weights:
    """Read the content of a data file."""
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
def load() -> Weights:
    """Return the weights of the package's data file; it is read at the first call only."""
    with open(FILE, "rb") as data:
        return parse(data.read())
