"""Train the parts of the model: the fields of work, several steps, and the difficulty of questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from llm_server.orchestration.routing import features
from llm_server.orchestration.routing.signals import Signals, read
from train.fit import Sparse, Vector, logistic, ridge
from train.rows import Paired, Stepped

EXPERT_BITS = {"exam": 15, "sum": 14}
_COMMON_FORM = (0, 1, 2, 7)  # words, commas, repetition, sentences


@dataclass(frozen=True, slots=True)
class Grams:
    """Maps the rows of a hashed table that occur in training to columns of a compact matrix."""

    column_of: Mapping[int, int]
    bits: int

    @classmethod
    def seen(cls, documents: Sequence[set[str]], bits: int, at_least: int) -> Grams:
        """Keep the features that occur in at least `at_least` documents; rarer ones do not generalise."""
        times = Counter(gram for document in documents for gram in document)
        kept = sorted({features.bucket(gram, bits) for gram, n in times.items() if n >= at_least})
        return cls({bucket: column for column, bucket in enumerate(kept)}, bits)

    def row(self, document: set[str], dense: Sequence[float], scale: float) -> Sparse:
        """Return a row of the dense figures and then the hashed ones, scaled as in the server."""
        found = Counter(features.buckets(document, self.bits))
        value = scale / math.sqrt(max(len(document), 1))
        hashed = [(self.column_of[b], n) for b, n in found.items() if b in self.column_of]
        columns = [*range(len(dense)), *(len(dense) + column for column, _ in hashed)]
        return Sparse(columns, [*dense, *(value * n for _, n in hashed)])


@dataclass(frozen=True, slots=True)
class Words:
    """The weights of a hashed table by bucket, before rounding."""

    weights: Mapping[int, float]
    bits: int


@dataclass(frozen=True, slots=True)
class Expert:
    """The weights for one kind of question: its logits are around `centre`, which `level` does not contain.

    `taught` are the weights of the form before they were stretched to logits: what they add to the gap of the engines.
    """

    level: float
    form: Sequence[float]
    words: Words
    centre: float
    taught: Sequence[float]


def train_steps(rows: Sequence[Stepped]) -> dict[str, float]:
    """Return a weight for each figure, and the bias under ""; figures set in fewer than 10 prompts are left out."""
    figures = [features.step_figures(read(row.prompt)) for row in rows]
    times = Counter(name for figure in figures for name, size in figure.items() if size)
    kinds = sorted(name for name, n in times.items() if n >= 10)
    column_of = {name: column for column, name in enumerate(kinds, 1)}
    matrix = []
    for figure in figures:
        known = [(column_of[name], size) for name, size in sorted(figure.items()) if size and name in column_of]
        matrix.append(Sparse([0, 0, *(c for c, _ in known)], [0.5, 0.5, *(v for _, v in known)]))
    shares = [0.15 if row.domain == "other" else 1.0 for row in rows]
    penalty = [0.01] + [15.0] * len(kinds)
    weights = logistic(matrix, [row.several for row in rows], shares, penalty, 30)
    return dict(zip(["", *kinds], (round(w, 3) for w in weights), strict=True))


def steps_logit(steps: Mapping[str, float], signals: Signals) -> float:
    """Return the logit for several steps, as the server computes it."""
    figures = features.step_figures(signals)
    return steps[""] + sum(steps[name] * figure for name, figure in figures.items() if name in steps)


def train_expert(
    kind: str,
    rows: Sequence[Paired],
    centre: Mapping[str, float],
    rule: Callable[[Signals], float],
    taught: Sequence[float] | None = None,
) -> Expert:
    """Fit the gap between the engines, less the mean gap of the source, by ridge regression.

    The penalty pulls the weights of the form towards `taught`, those of another kind of question (default: 0).

    The mean and the spread of the logits are set to those of `rule` on the same prompts. It is the logit of prompts
    without an expert, so that questions with and without one can be compared.
    """
    texts = [read(row.prompt) for row in rows]
    forms = [features.question_form(s.text) for s in texts]
    documents = [features.word_grams(s.text) for s in texts]
    grams = Grams.seen(documents, EXPERT_BITS[kind], 3)
    means, sds = _moments(forms)
    ease = 0.2 if kind == "exam" else 0.1
    scaled = [[ease * (f - m) / sd for f, m, sd in zip(form, means, sds, strict=True)] for form in forms]
    if kind == "sum":  # 1,089 similar rows are too few to fit more than the figures common to all questions
        scaled = [[f if i in _COMMON_FORM else 0.0 for i, f in enumerate(form)] for form in scaled]
    prior = taught or [0.0] * len(means)
    before = [math.fsum(p * (f - m) for p, f, m in zip(prior, form, means, strict=True)) for form in forms]
    matrix = [grams.row(d, form, 1.0) for d, form in zip(documents, scaled, strict=True)]
    penalty = [3.0 if kind == "exam" else 10.0] * (len(scaled[0]) + len(grams.column_of))
    w = ridge(
        matrix, [row.gap - centre[row.source] - known for row, known in zip(rows, before, strict=True)], penalty, 25
    )
    predicted = [row.dot(w) + known for row, known in zip(matrix, before, strict=True)]
    on_open = [rule(s) for s in texts]
    (mean,), (sd,) = _moments([[p] for p in predicted])
    (level,), (height,) = _moments([[r] for r in on_open])
    stretch = height / sd
    found = [p + ease * a / b for a, b, p in zip(w, sds, prior, strict=False)]
    weights = [stretch * weight for weight in found]
    return Expert(
        level=round(-stretch * mean - math.fsum(map(mul, weights, means)), 5),
        form=[round(weight, 6) for weight in weights],
        words=_words(w[len(scaled[0]) :], grams, stretch),
        centre=round(level, 5),
        taught=found,
    )


def unknown_exam(sums: Expert) -> Expert:
    """Return an expert for questions with lettered answers if none was seen: the form that word problems teach."""
    return Expert(level=0.0, form=sums.taught, words=Words({}, EXPERT_BITS["exam"]), centre=0.0, taught=sums.taught)


def _moments(rows: Sequence[Sequence[float]]) -> tuple[Vector, Vector]:
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    squares = [
        math.fsum((x - m) ** 2 for x in column) / len(rows)
        for column, m in zip(zip(*rows, strict=True), means, strict=True)
    ]
    return means, [math.sqrt(square) or 1.0 for square in squares]


def _words(weights: Sequence[float], grams: Grams, scale: float) -> Words:
    return Words({bucket: scale * weights[column] for bucket, column in grams.column_of.items()}, grams.bits)
