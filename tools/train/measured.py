"""Complete a model with what engines' answers teach: tables for exams and sums, and levels of closed questions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from llm_server.orchestration.routing import weights
from llm_server.orchestration.routing.signals import Signals, read
from train.fields import KINDS
from train.heads import train_expert, unknown_exam
from train.model_file import Trained, pack
from train.rows import SUMS, Paired

Rule = Callable[[Signals], float]
_STRETCH = 10.0
"""So much is added to the logit of a kind of questions for each point that its gap is above the mean gap."""


def completed(made: Trained, exams: Sequence[Paired] | None, asked: Sequence[Paired]) -> Trained:
    """Return the model with tables and levels from these questions.

    If there are no `exams`, they are ranked by their form, as word problems teach it. If `exams` is None, they have no
    table.
    """
    rule = rule_of(made)
    sums = [row for row in asked if row.source in SUMS]
    on_sums = train_expert("sum", sums, centres(sums), rule)
    experts = {}
    if exams is not None:
        taught = on_sums.taught
        experts["exam"] = train_expert("exam", exams, centres(exams), rule, taught) if exams else unknown_exam(on_sums)
    return replace(made, experts=experts | {"sum": on_sums}, levels=_levels(asked, rule))


def rule_of(made: Trained) -> Rule:
    """Return the complexity, as a logit, of prompts that are not closed questions."""
    served = weights.parse(pack(replace(made, experts={}, levels=())))

    def rule(signals: Signals) -> float:
        return served.open_logit(served.scores(signals, served.steps_logit(signals)))

    return rule


def complexity_logit(served: weights.Weights, prompt: str) -> float:
    """Return the complexity of a prompt, as a logit, as the server computes it."""
    signals = read(prompt)
    return served.complexity_logit(signals.text, served.scores(signals, served.steps_logit(signals)))


def centres(rows: Iterable[Paired]) -> dict[str, float]:
    """Return the mean gap of each data set."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        gaps[row.source].append(row.gap)
    return {source: math.fsum(found) / len(found) for source, found in gaps.items()}


def _levels(asked: Sequence[Paired], rule: Rule) -> list[float]:
    """Return the level of each kind of closed questions, as a logit.

    Gaps are compared within LLMRouter, which asked all its engines all its questions; without it, all levels are equal.
    """
    rows = [row for row in asked if row.engines == "llmrouter"] or list(asked)
    middle = _mean([rule(read(row.prompt)) for row in rows])
    gap = _mean([row.gap for row in rows])
    of_kinds = [[row.gap for row in rows if row.source in sources] for sources in KINDS.values()]
    return [middle + _STRETCH * (_mean(gaps) - gap) if gaps else middle for gaps in of_kinds]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
