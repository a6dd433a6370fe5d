"""Cross-validate the model: every prompt is judged by a model that was not trained on it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import weights
from llm_server.orchestration.routing.analysis import FIELDS, MODES, logistic
from llm_server.orchestration.routing.evaluation import Interval, apgr, auroc, interval
from llm_server.orchestration.routing.evidence import effort
from llm_server.orchestration.routing.signals import read
from train.fit import platt
from train.heads import (
    Expert,
    Fields,
    Words,
    field_figures,
    steps_logit,
    train_expert,
    train_fields,
    train_steps,
)
from train.model_file import Trained, pack
from train.rows import Labelled, Paired, Row, Stepped, sound, spread_out

FOLDS = 5
Recovery = Callable[[Sequence[float], Sequence[float], Sequence[float]], float]
_WRITTEN_SHARE = 0.05
_ORIGINS = {"clinc-in": "clinc", "clinc-oos": "clinc", "selfinstruct-user": "seed"}  # parts of one source


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decision of a model for a row it was not trained on."""

    row: Labelled
    field: str
    margin: float

    @property
    def role_right(self) -> bool:
        return self.field in self.row.fields

    @property
    def mode_right(self) -> bool:
        return MODES.get(self.field, Mode.AGENT) in self.row.modes

    @property
    def right(self) -> bool:
        """Whether role and mode are acceptable; written prompts have no label for the mode."""
        return self.role_right and (self.mode_right or not self.row.modes)


def folds(rows: Iterable[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Return pairs of the rows to train on and the rows to judge."""
    mixed = spread_out(rows)
    return [
        ([row for i, row in enumerate(mixed) if i % FOLDS != n], [row for i, row in enumerate(mixed) if i % FOLDS == n])
        for n in range(FOLDS)
    ]


def judge_fields(rows: Sequence[Labelled], steps: Mapping[str, float]) -> list[Judged]:
    """Judge the natural and the written prompts; weakly labelled prompts are only used for training."""
    weak = [row for row in rows if row.kind == "weak"]
    found = []
    for train, held in folds(row for row in rows if row.kind != "weak"):
        trained = Trained(steps=steps, fields=train_fields([*train, *weak], steps), experts={})
        found += [_judge(row, weights.parse(pack(trained)), steps) for row in held]
    return found


def judge_unseen_sources(rows: Sequence[Labelled], steps: Mapping[str, float]) -> list[Judged]:
    """Judge the natural prompts of each source with a model that was trained without any row of that source."""
    found = []
    for origin in sorted({_ORIGINS.get(row.source, row.source) for row in rows if row.kind == "natural"}):
        train = [row for row in rows if _ORIGINS.get(row.source, row.source) != origin]
        held = [row for row in rows if _ORIGINS.get(row.source, row.source) == origin and row.kind == "natural"]
        trained = weights.parse(pack(Trained(steps=steps, fields=train_fields(train, steps), experts={})))
        found += [_judge(row, trained, steps) for row in held]
    return found


def confidence_of(judged: Sequence[Judged]) -> tuple[float, float]:
    """Return Platt's slope and bias; the written prompts count less, because they are hard on purpose."""
    shares = [1.0 if j.row.kind == "natural" else _WRITTEN_SHARE for j in judged]
    return platt([j.margin for j in judged], [j.right for j in judged], shares)


def crossed_confidences(judged: Sequence[Judged]) -> list[float]:
    """Return the likelihood of each decision, with a slope and a bias that were fitted on the other folds."""
    fitted = [confidence_of([j for i, j in enumerate(judged) if i % FOLDS != n]) for n in range(FOLDS)]
    pairs = ((fitted[i % FOLDS], j.margin) for i, j in enumerate(judged))
    return [logistic(slope * margin + bias) for (slope, bias), margin in pairs]


def crossed_gap(kind: str, rows: Sequence[Paired], others: Sequence[Paired]) -> list[tuple[float, Paired]]:
    """Return cross-validated scores of the rows; the `others` are added to the training rows of every fold."""
    found = []
    for train, held in folds(rows):
        seen = sound([*train, *others])
        expert = as_served(train_expert(kind, seen, centres(seen)), kind)
        found += [(expert.logit(read(row.prompt).text), row) for row in held]
    return found


def unseen_gap(rows: Sequence[Paired], expert: weights.Expert | None = None) -> list[tuple[float, Paired]]:
    """Return scores of the rows by an expert that was trained on another data set, or by rule without one."""
    texts = [read(row.prompt) for row in rows]
    return [(expert.logit(s.text) if expert else effort(s), row) for s, row in zip(texts, rows, strict=True)]


def as_served(expert: Expert, kind: str) -> weights.Expert:
    """Return an expert as the server loads it, with its weights rounded to bytes."""
    empty = {"always": [0.0] * len(FIELDS)}
    fields = Fields(empty, [Words({}, 14)] * len(FIELDS))
    return weights.parse(pack(Trained(steps={}, fields=fields, experts={kind: expert}))).experts[kind]


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


def _judge(row: Labelled, trained: weights.Weights, steps: Mapping[str, float]) -> Judged:
    signals = read(row.prompt)
    from_form = trained.form_scores(field_figures(signals, steps) | {"always": 0.0})
    from_words = trained.word_scores(signals)
    scores = sorted(((from_form[field] + from_words[field], field) for field in FIELDS), reverse=True)
    return Judged(row=row, field=scores[0][1], margin=scores[0][0] - scores[1][0])
