"""Train the parts of the model: the fields of work, several steps, and the difficulty of questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from llm_server.orchestration.routing import features
from llm_server.orchestration.routing.analysis import FIELDS, field_totals
from llm_server.orchestration.routing.evidence import effort, gather, totals
from llm_server.orchestration.routing.signals import Signals, read
from train.fit import Sparse, Vector, logistic, minimise, ridge
from train.rows import UNLABELLED, Labelled, Paired, Stepped

ROLE_BITS = 14
EXPERT_BITS = {"exam": 15, "sum": 14}
_SHARE = {"natural": 1.0, "written": 0.5, "weak": 0.15}
_SEEN_BY_RULE = 2.0
_WORDS_SCALE = 3.0
_WORD_STIFFNESS = 4.0
_CROSS_STIFFNESS = 100.0
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
class Fields:
    """The weights for the fields of work."""

    dense: Mapping[str, Sequence[float]]
    words: Sequence[Words]


@dataclass(frozen=True, slots=True)
class Expert:
    """The weights for one kind of question."""

    level: float
    form: Sequence[float]
    words: Words


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


def field_figures(signals: Signals, steps: Mapping[str, float]) -> dict[str, float]:
    """Return all dense figures of a prompt, by name."""
    ruled = field_totals(totals(gather(signals, None)))
    return {"always": 1.0} | ruled | features.form(signals, steps_logit(steps, signals))


def train_fields(rows: Sequence[Labelled], steps: Mapping[str, float], iterations: int = 15) -> Fields:
    """Fit a softmax over the fields; the likelihood of a row is the sum over its acceptable fields.

    The weights start at the decision of the rules (a weight of 1 from each field's total to that field), and the
    penalty pulls them towards it.
    """
    signals = [read(row.prompt) for row in rows]
    dense = [field_figures(s, steps) for s in signals]
    documents = [features.role_grams(s) for s in signals]
    grams = Grams.seen(documents, ROLE_BITS, 2)
    names, size = list(dense[0]), len(dense[0]) + len(grams.column_of)
    matrix = [grams.row(d, list(f.values()), _WORDS_SCALE) for d, f in zip(documents, dense, strict=True)]
    known = [_judged(row, figures) for row, figures in zip(rows, dense, strict=True)]
    shares = [_SHARE[row.kind] for row in rows]
    prior = [0.0] * (size * len(FIELDS))
    for k, field in enumerate(FIELDS):
        prior[k * size + names.index(field)] = 1.0
    penalty = [
        weight
        for field in FIELDS
        for weight in (*(_stiffness(name, field) for name in names), *[_WORD_STIFFNESS] * len(grams.column_of))
    ]

    def objective(w: Vector) -> tuple[float, Vector]:
        away = [a - b for a, b in zip(w, prior, strict=True)]
        gradient = list(map(mul, penalty, away))
        columns = [w[k * size : (k + 1) * size] for k in range(len(FIELDS))]
        losses = []
        for row, (possible, right), share in zip(matrix, known, shares, strict=True):
            loss, pulls = _softmax([row.dot(columns[k]) for k in possible], right)
            losses.append(share * loss)
            for k, pull in zip(possible, pulls, strict=True):
                if abs(pull) > 1e-5:
                    row.add_to(gradient, share * pull, k * size)
        cost = math.fsum(p * a * a for p, a in zip(penalty, away, strict=True)) / 2
        return math.fsum(losses) + cost, gradient

    w = minimise(objective, prior, iterations)
    columns = [w[k * size : (k + 1) * size] for k in range(len(FIELDS))]
    return Fields(
        {name: [round(column[i], 4) for column in columns] for i, name in enumerate(names)},
        [_words(column[len(names) :], grams, _WORDS_SCALE) for column in columns],
    )


def train_expert(kind: str, rows: Sequence[Paired], centre: Mapping[str, float]) -> Expert:
    """Fit the gap between the engines, less the mean gap of the source, by ridge regression.

    The mean and the spread of the logits are set to those of the rule on the same prompts, so that questions with and
    without an expert can be compared.
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
    matrix = [grams.row(d, form, 1.0) for d, form in zip(documents, scaled, strict=True)]
    penalty = [3.0 if kind == "exam" else 10.0] * (len(scaled[0]) + len(grams.column_of))
    w = ridge(matrix, [row.gap - centre[row.source] for row in rows], penalty, 25)
    predicted = [row.dot(w) for row in matrix]
    rule = [effort(s) for s in texts]
    (mean,), (sd,) = _moments([[p] for p in predicted])
    (level,), (height,) = _moments([[r] for r in rule])
    stretch = height / sd
    weights = [stretch * ease * a / b for a, b in zip(w, sds, strict=False)]
    return Expert(
        round(level - stretch * mean - math.fsum(map(mul, weights, means)), 5),
        [round(weight, 6) for weight in weights],
        _words(w[len(scaled[0]) :], grams, stretch),
    )


def _stiffness(name: str, field: str) -> float:
    """Return the penalty on a weight; it is high for the effect of one field's total on another field."""
    if name == "always":
        return 0.1
    return 3.0 if name == field or name not in FIELDS else _CROSS_STIFFNESS


def _judged(row: Labelled, figures: Mapping[str, float]) -> tuple[list[int], list[bool]]:
    """Return the numbers of the fields that a row can be judged on, and for each whether it is right."""
    fields = list(FIELDS)
    unsure = {field for field in UNLABELLED if row.kind != "written" and figures[field] >= _SEEN_BY_RULE}
    possible = [k for k, field in enumerate(fields) if field not in unsure]
    return possible, [fields[k] in row.fields for k in possible]


def _softmax(scores: Vector, right: Sequence[bool]) -> tuple[float, Vector]:
    """Return the loss for a set of right answers, and its gradient by the scores."""
    top = max(scores)
    odds = [math.exp(score - top) for score in scores]
    whole = math.fsum(odds)
    good = math.fsum(o for o, ok in zip(odds, right, strict=True) if ok)
    return math.log(whole / good), [o / whole - (o / good if ok else 0.0) for o, ok in zip(odds, right, strict=True)]


def _moments(rows: Sequence[Sequence[float]]) -> tuple[Vector, Vector]:
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    squares = [
        math.fsum((x - m) ** 2 for x in column) / len(rows)
        for column, m in zip(zip(*rows, strict=True), means, strict=True)
    ]
    return means, [math.sqrt(square) or 1.0 for square in squares]


def _words(weights: Sequence[float], grams: Grams, scale: float) -> Words:
    return Words({bucket: scale * weights[column] for bucket, column in grams.column_of.items()}, grams.bits)
