"""The trained weights of the analysis, in one data file that is read once, at the first prompt.

The file starts with a line of JSON: names, small weights, and for each block its name and size in bytes. The blocks
follow. `tools/train` makes the file; docs/analysis.md describes its data.
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
from llm_server.orchestration.routing.concepts import Concepts
from llm_server.orchestration.routing.signals import Signals

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # os.path, because importing pathlib takes 4 ms
FILE = os.path.join(_PACKAGE, "data", "analysis.bin")
_MAX_SCORE = 30.0
MIN_SUM_SHARE = 0.25
"""A question with numbers that is so likely a word problem is ranked by the table of word problems alone."""


class Rows(Struct, frozen=True, kw_only=True):
    """A table with a row of weights for each feature: a byte for each output, so that one look-up serves all outputs.

    A weight is its byte less 128, times the output's scale.
    """

    data: bytes
    scales: Sequence[float]

    def totals(self, rows: Sequence[int]) -> list[float]:
        """Return for each output the sum of the weights in these rows."""
        data, width, middle = self.data, len(self.scales), 128 * len(rows)
        found = b"".join([data[row * width : row * width + width] for row in rows])
        return [(sum(found[output::width]) - middle) * scale for output, scale in enumerate(self.scales)]

    def weight(self, row: int, output: int) -> float:
        """Return one weight."""
        return (self.data[row * len(self.scales) + output] - 128) * self.scales[output]


class Table(Struct, frozen=True, kw_only=True):
    """A hashed table with one output; a weight is its signed byte times `scale`."""

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


class Scores(Struct, frozen=True, kw_only=True):
    """The score of each output: the fields, the gain, and the kinds of closed questions; and what they were made from.

    `form` are the contributions of the figures of form by name, `concepts` the rows of the concepts that were found,
    `words` the contributions of all words together.
    """

    totals: Sequence[float]
    form: Mapping[str, Sequence[float]]
    concepts: Sequence[int]
    words: Sequence[float]


class Weights(Struct, frozen=True, kw_only=True):
    """All trained weights. `form` maps each figure to a weight for each output: fields, gain, kinds of questions.

    `confidence` are the weights of the logit of the best field's share, of its distance from the second, and a bias.
    `complexity` are the slope and the bias that make a logit of the gain. `levels` are the complexity of each kind of
    closed questions, as a logit; the last kind are word problems, which their table ranks around their level, or around
    `sum_centre` if it is unlikely that they are any.
    `complexity_quantiles` are the percentiles 0 to 100 of the complexity of natural prompts, ascending.
    """

    fields: Sequence[str]
    form: Mapping[str, Sequence[float]]
    concepts: Concepts
    concept_rows: Rows
    gram_rows: Rows
    bits: int
    steps: Mapping[str, float]
    experts: Mapping[str, Expert]
    complexity: tuple[float, float]
    levels: tuple[float, ...]
    sum_centre: float
    confidence: tuple[float, float, float]
    complexity_quantiles: tuple[float, ...]

    def steps_logit(self, s: Signals) -> float:
        """Return the logit of the chance that the task has several steps; 0 means a chance of one half."""
        figures = features.step_figures(s)
        return self.steps[""] + sum(self.steps[name] * figure for name, figure in figures.items() if name in self.steps)

    def scores(self, s: Signals, steps_logit: float) -> Scores:
        """Return the score of each output, with what the parts of the prompt add."""
        form = {
            name: [figure * weight for weight in self.form[name]]
            for name, figure in features.form(s, steps_logit).items()
            if figure
        }
        concepts = self.concepts.rows((s.words, s.first, s.last))
        rows = features.buckets(features.field_grams(s), self.bits)
        scale = features.WORDS_SCALE / math.sqrt(max(len(rows), 1))
        words = [scale * total for total in self.gram_rows.totals(rows)]
        parts = (self.form["always"], words, self.concept_rows.totals(concepts), *form.values())
        return Scores(totals=list(map(sum, zip(*parts, strict=True))), form=form, concepts=concepts, words=words)

    def concept_weights(self, scores: Scores, best: int, second: int) -> dict[str, float]:
        """Return by how much each concept that was found speaks for one output against another, all places together."""
        found: dict[str, float] = {}
        for row in scores.concepts:
            name = self.concepts.names[row % len(self.concepts.names)]
            weight = self.concept_rows.weight(row, best) - self.concept_rows.weight(row, second)
            found[name] = found.get(name, 0.0) + weight
        return found

    def open_logit(self, scores: Scores) -> float:
        """Return the complexity as a logit, by the gain that form, concepts and words suggest."""
        slope, bias = self.complexity
        return slope * scores.totals[len(self.fields)] + bias

    def complexity_logit(self, text: str, scores: Scores) -> float:
        """Return how much better a strong engine would answer, as a logit.

        Questions with lettered answers have a table of their own. Other closed questions have the level of their kind,
        as far as the prompt is likely to be of that kind; word problems are ranked by a table around that level. All
        other prompts have the gain.
        """
        question = features.kind_of_question(text)
        if question == "exam" and "exam" in self.experts:
            return self.experts["exam"].logit(text)
        logit = self.open_logit(scores)
        if not self.levels:
            return logit
        shares = self._kind_shares(scores)
        if question == "sum":
            around = self.experts["sum"].logit(text)
            if shares[-1] >= MIN_SUM_SHARE:
                return self.levels[-1] + around
            logit = (logit + self.sum_centre + around) / 2
        return (1 - math.fsum(shares)) * logit + math.fsum(map(mul, shares, self.levels))

    def _kind_shares(self, scores: Scores) -> list[float]:
        """Return how likely the prompt is of each kind of closed questions; what is left to 1 is for all others."""
        odds = [math.exp(min(score, _MAX_SCORE)) for score in scores.totals[len(self.fields) + 1 :]]
        total = 1 + math.fsum(odds)
        return [odd / total for odd in odds]


def parse(data: bytes) -> Weights:
    """Read the content of a data file."""
    end = data.index(b"\n")
    head = json.loads(data[:end])
    blocks, start = {}, end + 1
    for name, size in head["blocks"]:
        blocks[name] = memoryview(data)[start : start + size]
        start += size
    scales = head["scales"]
    return Weights(
        fields=head["fields"],
        form=head["form"],
        concepts=Concepts(
            names=head["concepts"],
            languages=head["languages"],
            function_words=head["function_words"],
            checks=blocks["checks"].cast("H"),
            numbers=blocks["numbers"],
        ),
        concept_rows=Rows(data=bytes(blocks["concepts"]), scales=scales["concepts"]),
        gram_rows=Rows(data=bytes(blocks["grams"]), scales=scales["grams"]),
        bits=head["bits"],
        steps=head["steps"],
        experts={
            name: Expert(
                level=e["level"],
                form=e["form"],
                words=Table(weights=blocks[name].cast("b"), scale=scales[name]),
                bits=e["bits"],
            )
            for name, e in head["experts"].items()
        },
        complexity=tuple(head["complexity"]),
        levels=tuple(head["levels"]),
        sum_centre=head["sum_centre"],
        confidence=tuple(head["confidence"]),
        complexity_quantiles=tuple(head["complexity_quantiles"]),
    )


@cache
def load() -> Weights:
    """Return the weights of the package's data file; it is read at the first call only."""
    with open(FILE, "rb") as data:
        return parse(data.read())
