"""Judge the model on prompts it was not trained on: whole groups of sources that were left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

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
from llm_server.orchestration.routing.signals import read
from train import fields
from train.concept_lists import ConceptTable
from train.fit import Sparse
from train.fit import logistic as logistic_fit
from train.heads import Expert, steps_logit, train_expert, train_steps, unknown_exam
from train.measured import Rule, centres, completed, complexity_logit
from train.model_file import Trained, pack, rounded
from train.rows import DATA, Labelled, Paired, Row, Stepped, sound, spread_out

FOLDS = 5
LEFT_OUT = DATA / "left_out.csv"
Confidence = tuple[float, float, float]
Recovery = Callable[[Sequence[float], Sequence[float], Sequence[float]], float]
Scored = list[tuple[float, Paired]]
_COLUMNS = ("prompt", "fold", "field", "second", "share", "margin", "complexity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decision for a prompt by a model that was trained without its group of sources.

    `share` and `margin` are the figures that confidence is made from; `complexity` is a logit.
    """

    row: Labelled
    fold: str
    field: str
    second: str
    share: float
    margin: float
    complexity: float

    @property
    def role_right(self) -> bool:
        return self.field in self.row.fields

    @property
    def mode_right(self) -> bool:
        return MODES.get(self.field, Mode.AGENT) in self.row.modes

    @property
    def right(self) -> bool:
        return self.role_right and self.mode_right


def judge(
    corpus: fields.Corpus, concepts: ConceptTable, steps: Mapping[str, float], only: str | None = None
) -> Iterator[Judged]:
    """Judge each fold, or `only` the one with this name, with a model that was trained on the other prompts.

    The few questions with lettered answers get the complexity of other prompts, so that their table need not be fitted.
    """
    names = list(FIELDS)
    for fold, left_out in fields.folds(corpus.rows):
        if only in (None, fold):
            trained = corpus.train(~left_out)
            rows = [r for r in np.flatnonzero(left_out).tolist() if corpus.rows[r].judged]
            made = Trained(steps=steps, concepts=concepts, fields=trained, experts={})
            served = weights.parse(pack(completed(made, None, corpus.asked)))
            for r, scores in zip(rows, corpus.scores(trained, np.array(rows)).tolist(), strict=True):
                by_field = scores[: len(names)]
                ranked = sorted(zip(by_field, names, strict=True), key=lambda pair: -pair[0])
                on_share, margin = share_and_margin([score for score, _ in ranked])
                yield Judged(
                    row=corpus.rows[r],
                    fold=fold,
                    field=ranked[0][1],
                    second=ranked[1][1],
                    share=round(on_share, 3),
                    margin=round(margin, 3),
                    complexity=round(complexity_logit(served, corpus.rows[r].prompt), 3),
                )


def as_csv(judged: Iterable[Judged]) -> str:
    """Return the decisions as CSV; a prompt is named by the first 12 hexadecimal digits of its SHA-256."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for j in judged:
        table.writerow((_name(j.row.prompt), j.fold, j.field, j.second, j.share, j.margin, j.complexity))
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
                complexity=float(line["complexity"]),
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
        "gain": rank_correlation([j.complexity for j in judged], gains),
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


def crossed_exams(rows: Sequence[Paired], taught: Sequence[float], rule: Rule) -> Scored:
    """Return cross-validated scores of questions with lettered answers."""
    found = []
    for train, held in folds(rows):
        seen = sound(train)
        expert = as_served(train_expert("exam", seen, centres(seen), rule, taught))
        found += [(expert.logit(read(row.prompt).text), row) for row in held]
    return found


def unseen_exams(rows: Sequence[Paired], sums: Expert) -> Scored:
    """Return scores of questions with lettered answers by a model that has seen none of them."""
    expert = as_served(unknown_exam(sums))
    return [(expert.logit(read(row.prompt).text), row) for row in rows]


def crossed_closed(corpus: fields.Corpus, made: Trained) -> Scored:
    """Return cross-validated scores of LLMRouter's questions and RouteLLM's word problems."""
    found: Scored = []
    for n in range(FOLDS):
        held = np.arange(len(corpus.asked)) % FOLDS == n
        found += without(corpus, made, held)
    return found


def without(corpus: fields.Corpus, made: Trained, held: NDArray[np.bool_]) -> Scored:
    """Return the scores of some questions by a model that has not seen them."""
    seen = replace(made, fields=corpus.with_kinds_of(made.fields, ~held))
    kept = [corpus.asked[r] for r in np.flatnonzero(~held).tolist()]
    served = weights.parse(pack(completed(seen, None, kept)))
    return [
        (complexity_logit(served, row.prompt), row) for row in (corpus.asked[r] for r in np.flatnonzero(held).tolist())
    ]


def left_out(corpus: fields.Corpus, made: Trained, engines: str) -> Scored:
    """Return the scores of a whole data set of engines' answers, for a model that has seen none of them."""
    return without(corpus, made, np.array([row.engines == engines for row in corpus.asked]))


def as_served(expert: Expert) -> weights.Expert:
    """Return an expert as the server loads it, with its weights rounded to bytes."""
    packed, scale = rounded(expert.words)
    table = weights.Table(weights=memoryview(packed).cast("b"), scale=scale)
    return weights.Expert(level=expert.level + expert.centre, form=expert.form, words=table, bits=expert.words.bits)


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
