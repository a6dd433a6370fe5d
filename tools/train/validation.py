"""Judge the model on prompts it was not trained on: whole groups of sources that were left out."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from llm_server.cli.route import THRESHOLD
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import weights
from llm_server.orchestration.routing.analysis import FIELDS, MODES, logistic, share_and_margin
from llm_server.orchestration.routing.evaluation import (
    Interval,
    apgr,
    auroc,
    calibration_error,
    interval,
    rank_correlation,
    share,
)
from llm_server.orchestration.routing.signals import Signals, read
from train import fields
from train.fit import Sparse
from train.fit import logistic as logistic_fit
from train.heads import Expert, steps_logit, train_expert, train_steps
from train.model_file import rounded
from train.rows import DATA, Labelled, Paired, Row, Stepped, sound, spread_out

FOLDS = 5
LEFT_OUT = DATA / "left_out.csv"
Confidence = tuple[float, float, float]
Recovery = Callable[[Sequence[float], Sequence[float], Sequence[float]], float]
Rule = Callable[[Signals], float]
_COLUMNS = ("prompt", "fold", "field", "second", "share", "margin", "gain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decision for a prompt by a model that was trained without its group of sources.

    `share` and `margin` are the figures that confidence is made from; `gain` is the last score, the gain less 3.
    """

    row: Labelled
    fold: str
    field: str
    second: str
    share: float
    margin: float
    gain: float

    @property
    def role_right(self) -> bool:
        return self.field in self.row.fields

    @property
    def mode_right(self) -> bool:
        return MODES.get(self.field, Mode.AGENT) in self.row.modes

    @property
    def right(self) -> bool:
        return self.role_right and self.mode_right


def judge(corpus: fields.Corpus, only: str | None = None) -> Iterator[Judged]:
    """Judge each fold, or `only` the one with this name, with a model that was trained on the other prompts."""
    names = list(FIELDS)
    for fold, left_out in fields.folds(corpus.rows):
        if only in (None, fold):
            trained = corpus.train(~left_out)
            rows = [r for r in np.flatnonzero(left_out).tolist() if corpus.rows[r].judged]
            for r, scores in zip(rows, corpus.scores(trained, np.array(rows)).tolist(), strict=True):
                *by_field, gain = scores
                ranked = sorted(zip(by_field, names, strict=True), key=lambda pair: -pair[0])
                on_share, margin = share_and_margin([score for score, _ in ranked])
                yield Judged(
                    row=corpus.rows[r],
                    fold=fold,
                    field=ranked[0][1],
                    second=ranked[1][1],
                    share=round(on_share, 3),
                    margin=round(margin, 3),
                    gain=round(gain, 3),
                )


def as_csv(judged: Iterable[Judged]) -> str:
    """Return the decisions as CSV; a prompt is named by the first 12 hexadecimal digits of its SHA-256."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for j in judged:
        table.writerow((_name(j.row.prompt), j.fold, j.field, j.second, j.share, j.margin, j.gain))
    return text.getvalue()


def committed(rows: Sequence[Labelled]) -> list[Judged]:
    """Return the decisions of left_out.csv, in the order of the judged prompts."""
    judged = [row for row in rows if row.judged]
    by_name = {(_name(row.prompt), row.group): row for row in judged}
    with LEFT_OUT.open(encoding="utf-8", newline="") as lines:
        return [
            Judged(
                row=next(
                    by_name[line["prompt"], group]
                    for group in line["fold"].split("+")
                    if (line["prompt"], group) in by_name
                ),
                fold=line["fold"],
                field=line["field"],
                second=line["second"],
                share=float(line["share"]),
                margin=float(line["margin"]),
                gain=float(line["gain"]),
            )
            for line in csv.DictReader(lines)
        ]


def confidence_of(judged: Sequence[Judged]) -> Confidence:
    """Fit the weights of share and margin, and the bias; natural and written prompts count alike as a whole."""
    natural = sum(j.row.natural for j in judged)
    shares = [1.0 if j.row.natural else natural / max(len(judged) - natural, 1) for j in judged]
    matrix = [Sparse((0, 1, 2), (j.share, j.margin, 1.0)) for j in judged]
    on_share, on_margin, bias = logistic_fit(matrix, [j.right for j in judged], shares, [1.0] * 3, 50)
    return on_share, on_margin, bias


def crossed_confidences(judged: Sequence[Judged]) -> list[float]:
    """Return the likelihood of each decision, with weights that were fitted on the other folds."""
    fitted = {fold: confidence_of([j for j in judged if j.fold != fold]) for fold in {j.fold for j in judged}}
    return [_likelihood(fitted[j.fold], j) for j in judged]


def left_out_figures(judged: Sequence[Judged], confidences: Sequence[float]) -> dict[str, float]:
    """Return figures of role, mode, calibration, gain and abstention of some left-out prompts.

    `length` is the rank correlation of the prompt's length with the gain, to compare.
    """
    right = [j.right for j in judged]
    gains = [float(j.row.gain or 0) for j in judged]
    unsure = [ok for ok, c in zip(right, confidences, strict=True) if c < THRESHOLD]
    return {
        "prompts": len(judged),
        "role": share([j.role_right for j in judged]),
        "mode": share([j.mode_right for j in judged]),
        "calibration": calibration_error(confidences, right, 10),
        "gain": rank_correlation([j.gain for j in judged], gains),
        "length": rank_correlation([float(len(j.row.prompt)) for j in judged], gains),
        "unsure": len(unsure) / len(judged),
        "right if unsure": share(unsure),
        "right if sure": share([ok for ok, c in zip(right, confidences, strict=True) if c >= THRESHOLD]),
    }


def _likelihood(fitted: Confidence, judged: Judged) -> float:
    on_share, on_margin, bias = fitted
    return logistic(on_share * judged.share + on_margin * judged.margin + bias)


def _name(prompt: str) -> str:
    return sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def folds(rows: Iterable[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Return pairs of the rows to train on and the rows to judge."""
    mixed = spread_out(rows)
    return [
        ([row for i, row in enumerate(mixed) if i % FOLDS != n], [row for i, row in enumerate(mixed) if i % FOLDS == n])
        for n in range(FOLDS)
    ]


def crossed_gap(kind: str, rows: Sequence[Paired], others: Sequence[Paired], rule: Rule) -> list[tuple[float, Paired]]:
    """Return cross-validated scores of the rows; the `others` are added to the training rows of every fold."""
    found = []
    for train, held in folds(rows):
        seen = sound([*train, *others])
        expert = as_served(train_expert(kind, seen, centres(seen), rule))
        found += [(expert.logit(read(row.prompt).text), row) for row in held]
    return found


def unseen_gap(rows: Sequence[Paired], expert: weights.Expert) -> list[tuple[float, Paired]]:
    """Return scores of the rows by an expert that was trained on other data sets."""
    return [(expert.logit(read(row.prompt).text), row) for row in rows]


def as_served(expert: Expert) -> weights.Expert:
    """Return an expert as the server loads it, with its weights rounded to bytes."""
    packed, scale = rounded(expert.words)
    table = weights.Table(weights=memoryview(packed).cast("b"), scale=scale)
    return weights.Expert(level=expert.level, form=expert.form, words=table, bits=expert.words.bits)


def centres(rows: Iterable[Paired]) -> dict[str, float]:
    """Return the mean gap of each data set."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        gaps[row.source].append(row.gap)
    return {source: math.fsum(found) / len(found) for source, found in gaps.items()}


def apgr_with_interval(scored: Sequence[tuple[float, Paired]]) -> tuple[float, Interval]:
    """Return the recovered gap and its bootstrap interval."""
    return with_interval(scored, apgr)


def with_interval(scored: Sequence[tuple[float, Paired]], figure: Recovery) -> tuple[float, Interval]:
    """Return a figure of the scores and the two engines' answers, and its bootstrap interval."""

    def of(chosen: Iterable[int]) -> float:
        part = [scored[i] for i in chosen]
        return figure([score for score, _ in part], [row.weak for _, row in part], [row.strong for _, row in part])

    return of(range(len(scored))), interval(len(scored), of)


def by_length(rows: Iterable[Paired]) -> list[tuple[float, Paired]]:
    """Return the prompt length as score, the baseline to compare with."""
    return [(float(len(row.prompt)), row) for row in rows]


def unseen_steps(rows: Sequence[Stepped], domain: str) -> float:
    """Return the AUROC on a domain of TaskBench, for a model that was trained on the other domain."""
    steps = train_steps([row for row in rows if row.domain != domain])
    held = [row for row in rows if row.domain == domain]
    return auroc([steps_logit(steps, read(row.prompt)) for row in held], [row.several for row in held])
