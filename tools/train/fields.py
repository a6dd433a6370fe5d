"""Train the fields of work and the gain of a strong engine on one design matrix, with some groups left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llm_server.orchestration.routing import features
from llm_server.orchestration.routing.analysis import FIELDS
from llm_server.orchestration.routing.concepts import PLACES, Concepts
from llm_server.orchestration.routing.signals import Signals, read
from train.exact import Floats
from train.exact_fit import Block, Design, ridge_fit, softmax_fit
from train.heads import steps_logit
from train.rows import DATA, REQUESTS, Labelled, Paired

BITS = 15
_UNIT = 64  # figures of form are whole numbers of 1/64
_LEAST_PROMPTS = 2  # a gram of a single prompt teaches nothing
_ITERATIONS = 40
_WRITTEN_SHARE = 0.7
_SHARES = {REQUESTS: 4.0}
"""The plain requests that the documentation shows must be understood."""
_LEVELLING = 0.8
"""A natural source of n prompts counts as n**0.2 of them: large, one-sided sources are weighed down."""
_FORM_STIFFNESS, _CONCEPT_STIFFNESS, _GRAM_STIFFNESS, _FREE = 8.0, 8.0, 4.0, 0.01
_GAIN_STIFFNESS = 2.0
_CONCEPT_PRIOR = 0.7
_NATURAL_GAIN_SHARE = 2.0
_NATURAL_OPEN_SHARE = 16.0
"""A natural prompt that is taken for a closed question costs as much as so many closed questions that are not found."""
KINDS = {
    "facts": ("trivia_qa", "natural_qa"),
    "science": ("gpqa", "agentverse-logicgrid"),
    "sense": ("arc_challenge", "commonsense_qa", "openbook_qa"),
    "sums": ("gsm8k", "agentverse-mgsm"),
}
"""The kinds of closed questions and their data sets. The data sets not named here have a gap near the mean."""
_KIND_OF = {source: kind for kind, sources in KINDS.items() for source in sources}
_FORM_PRIOR = {"steps in order": 1.0, "three specialities": 5.0}
"""What some figures of form speak for a plan before any example; the second one is hardly moved by examples."""
_FIRM, _FIRM_STIFFNESS = "three specialities", 100.0


@dataclass(frozen=True, slots=True)
class Features:
    """What the server reads of a prompt: figures of form, rows of concepts, and hashed grams (all their CRC bits)."""

    form: Mapping[str, float]
    concepts: Sequence[int]
    grams: Sequence[int]


@dataclass(frozen=True, slots=True)
class FieldWeights:
    """The weights after rounding to bytes: `form` by figure; a row a concept and place, a row a bucket of grams."""

    form: Mapping[str, Sequence[float]]
    concepts: NDArray[np.int64]
    concept_scales: Sequence[float]
    grams: NDArray[np.int64]
    gram_scales: Sequence[float]


class Corpus:
    """The labelled prompts, and after them the questions that engines were asked, as a design matrix."""

    def __init__(
        self, rows: Sequence[Labelled], asked: Sequence[Paired], concepts: Concepts, steps: Mapping[str, float]
    ) -> None:
        self.rows, self.asked = rows, asked
        prompts = [*(row.prompt for row in rows), *(row.prompt for row in asked)]
        self.found = [_features(read(prompt), concepts, steps) for prompt in prompts]
        self.size = len(concepts.names) * PLACES
        self.names = ["always", *sorted({name for f in self.found for name in f.form})]
        self._form = self._form_block()
        self._concepts = _block([f.concepts for f in self.found], self.size, np.ones(len(self.found)))
        factors = [features.WORDS_SCALE / math.sqrt(max(len(f.grams), 1)) for f in self.found]
        self._factors = np.array(factors)
        self.prior = _prior(self.names, concepts.names)

    def _form_block(self) -> Block:
        column = {name: i for i, name in enumerate(self.names)}
        figures = [{"always": 1.0} | dict(f.form) for f in self.found]
        cells = [
            (r, column[name], round(figure * _UNIT)) for r, row in enumerate(figures) for name, figure in row.items()
        ]
        return Block.of(_matrix(cells, (len(figures), len(column))), np.full(len(figures), 1 / _UNIT))

    def design(self, rows: NDArray[np.int64], *, seen: NDArray[np.bool_] | None = None) -> Design:
        """Return the matrix of some prompts; with `seen`, only of grams that at least two of those prompts have."""
        grams = [self.found[r].grams for r in rows.tolist()]
        if seen is not None:
            times = Counter(gram for r in np.flatnonzero(seen).tolist() for gram in self.found[r].grams)
            grams = [[gram for gram in row if times[gram] >= _LEAST_PROMPTS] for row in grams]
        hashed = [[gram & ((1 << BITS) - 1) for gram in row] for row in grams]
        return Design(
            [
                Block.of(csr_array(self._form.counts[rows]), self._form.factors[rows]),
                Block.of(csr_array(self._concepts.counts[rows]), self._concepts.factors[rows]),
                _block(hashed, 1 << BITS, self._factors[rows]),
            ]
        )

    def train(self, chosen: NDArray[np.bool_]) -> FieldWeights:
        """Fit the fields and the gain on the chosen prompts, the kinds of closed questions on all questions as well."""
        rows = np.flatnonzero(chosen)
        trained = [self.rows[r] for r in rows.tolist()]
        design = self.design(rows, seen=chosen)
        fields = list(FIELDS)
        right = np.array([[float(field in row.fields) for field in fields] for row in trained])
        shares = self._shares()[rows]
        weights = softmax_fit(design, right, shares, self._penalty(_FORM_STIFFNESS), self.prior, _ITERATIONS)
        known = [(i, row) for i, row in enumerate(trained) if row.gain is not None]
        gained = np.array([i for i, _ in known])
        target = np.array([float(row.gain or 0) for _, row in known]) - 3.0
        natural = np.array([_NATURAL_GAIN_SHARE if row.natural else 1.0 for _, row in known])
        gain = ridge_fit(design.take(gained), target, natural, self._penalty(_GAIN_STIFFNESS), _ITERATIONS)
        kinds = self._kinds(chosen, np.ones(len(self.asked), dtype=np.bool_))
        return self._rounded(np.concatenate([weights, gain, kinds], axis=1))

    def with_kinds_of(self, weights: FieldWeights, asked: NDArray[np.bool_]) -> FieldWeights:
        """Return the weights with kinds of closed questions that were fitted on some of the questions only."""
        kinds = self._rounded(self._kinds(np.ones(len(self.rows), dtype=np.bool_), asked))
        kept = len(FIELDS) + 1
        return FieldWeights(
            {name: [*row[:kept], *kinds.form[name]] for name, row in weights.form.items()},
            np.concatenate([weights.concepts[:, :kept], kinds.concepts], axis=1),
            [*weights.concept_scales[:kept], *kinds.concept_scales],
            np.concatenate([weights.grams[:, :kept], kinds.grams], axis=1),
            [*weights.gram_scales[:kept], *kinds.gram_scales],
        )

    def _kinds(self, chosen: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Floats:
        """Fit a softmax of the kinds of closed questions and of other prompts; return the scores less that of these."""
        seen = np.concatenate([chosen, asked])
        rows = np.flatnonzero(seen)
        kinds = ["", *KINDS]
        found = ["" for _ in self.rows] + [_KIND_OF.get(row.source, "") for row in self.asked]
        right = np.array([[float(found[r] == kind) for kind in kinds] for r in rows.tolist()])
        shares = [_NATURAL_OPEN_SHARE if row.natural else 1.0 for row in self.rows] + [1.0] * len(self.asked)
        prior = np.zeros((len(self.prior), len(kinds)))
        penalty = self._penalty(_FORM_STIFFNESS)
        fitted = softmax_fit(self.design(rows, seen=seen), right, np.array(shares)[rows], penalty, prior, _ITERATIONS)
        return np.asarray(fitted[:, 1:] - fitted[:, :1])

    def train_all(self) -> FieldWeights:
        """Fit all weights on all prompts."""
        return self.train(np.ones(len(self.rows), dtype=np.bool_))

    def scores(self, weights: FieldWeights, rows: NDArray[np.int64]) -> Floats:
        """Return the scores of the fields, the gain less 3, and the kinds of closed questions, as the server does."""
        form = np.array([weights.form[name] for name in self.names])
        concepts = weights.concepts * np.array(weights.concept_scales)
        grams = weights.grams * np.array(weights.gram_scales)
        return self.design(rows).scores(np.concatenate([form, concepts, grams]))

    def _shares(self) -> Floats:
        """Return the weights of the prompts: large natural sources are weighed down, and written prompts too."""
        sizes = Counter(row.source for row in self.rows)
        raw = [sizes[row.source] ** -_LEVELLING if row.natural else 0.0 for row in self.rows]
        mean = math.fsum(raw) / sum(row.natural for row in self.rows)
        return np.array(
            [
                round((share / mean if row.natural else _SHARES.get(row.source, _WRITTEN_SHARE)) * 256) / 256
                for row, share in zip(self.rows, raw, strict=True)
            ]
        )

    def _penalty(self, form: float) -> Floats:
        stiffness = {"always": _FREE, _FIRM: _FIRM_STIFFNESS}
        on_form = [stiffness.get(name, form) for name in self.names]
        return np.array([*on_form, *[_CONCEPT_STIFFNESS] * self.size, *[_GRAM_STIFFNESS] * (1 << BITS)])

    def _rounded(self, weights: Floats) -> FieldWeights:
        form, concepts, grams = np.split(weights, [len(self.names), len(self.names) + self.size])
        concept_bytes, concept_scales = _in_bytes(concepts)
        gram_bytes, gram_scales = _in_bytes(grams)
        return FieldWeights(
            {name: [round(float(w), 4) for w in row] for name, row in zip(self.names, form, strict=True)},
            concept_bytes,
            concept_scales,
            gram_bytes,
            gram_scales,
        )


def folds(rows: Sequence[Labelled]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the name of each fold and which prompts it leaves out: a natural group and a written slice at a time."""
    natural = sorted({row.group for row in rows if row.judged and row.natural})
    written = sorted({row.group for row in rows if row.judged and not row.natural})
    for n in range(max(len(natural), len(written))):
        left_out = [*natural[n : n + 1], *written[n : n + 1]]
        yield "+".join(left_out), np.array([row.group in left_out for row in rows])


def _features(signals: Signals, concepts: Concepts, steps: Mapping[str, float]) -> Features:
    return Features(
        {k: v for k, v in features.form(signals, steps_logit(steps, signals)).items() if v},
        concepts.rows((signals.words, signals.first, signals.last)),
        features.buckets(features.field_grams(signals), 32),
    )


def _prior(names: Sequence[str], concepts: Sequence[str]) -> Floats:
    """Return what the weights are before any example: concept_fields.txt names the fields that a concept speaks for."""
    prior = np.zeros((len(names) + len(concepts) * PLACES + (1 << BITS), len(FIELDS)))
    for name, weight in _FORM_PRIOR.items():
        prior[names.index(name), list(FIELDS).index("plan")] = weight
    for line in (DATA / "concept_fields.txt").read_text(encoding="utf-8").splitlines():
        field, _, found = line.partition(":")
        for entry in found.split():
            concept, _, share = entry.partition(":")
            for place in range(PLACES):
                row = len(names) + place * len(concepts) + concepts.index(concept)
                prior[row, list(FIELDS).index(field)] = _CONCEPT_PRIOR * float(share or 1)
    return prior


def _block(rows: Sequence[Sequence[int]], width: int, factors: Floats) -> Block:
    return Block.of(_matrix([(r, c, 1) for r, row in enumerate(rows) for c in row], (len(rows), width)), factors)


def _matrix(cells: Sequence[tuple[int, int, int]], shape: tuple[int, int]) -> csr_array:
    rows, columns, values = (np.array(part, dtype=np.int64) for part in zip(*cells, strict=True))
    return csr_array((values, (rows, columns)), shape=shape)


def _in_bytes(weights: Floats) -> tuple[NDArray[np.int64], list[float]]:
    """Return the weights as whole numbers from -127 to 127, and the scale of each column to six digits."""
    largest = np.abs(weights).max(axis=0)
    scales = [float(f"{size / 127:.6g}") if size else 1.0 for size in largest]
    return np.clip(np.rint(weights / np.array(scales)), -127, 127).astype(np.int64), scales
