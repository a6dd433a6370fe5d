"""How good decisions are: recovered quality gap, calibration, ranking, with intervals; plain functions of numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

Interval = tuple[float, float]


def apgr(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> float:
    """Average performance gap recovered (RouteLLM, arXiv 2406.18665): .5 is chance.

    The strong engine gets the prompts of highest score first; the mean, over all shares of strong calls, of the
    part of the gap between weak and strong that is won so. Prompts of equal score go in together. Nan without a gap.
    """
    gap = sum(strong) - sum(weak)
    if not gap:
        return float("nan")
    won = _won(scores, weak, strong)
    return (sum(won) - (won[0] + won[-1]) / 2) / (len(scores) * gap)


def cpt(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float], recovered: float) -> float:
    """Call-performance threshold (RouteLLM): the least share of strong calls that wins `recovered` of the gap.

    Prompts of equal score go in together; between two prompts the share is interpolated. Nan without a gap.
    """
    gap = sum(strong) - sum(weak)
    if gap <= 0:
        return float("nan")
    won = _won(scores, weak, strong)
    calls = next(n for n, part in enumerate(won) if part >= recovered * gap - 1e-9)
    step = won[calls] - won[calls - 1] if calls else 0.0
    return (calls - (won[calls] - recovered * gap) / step if step else calls) / len(scores)


def _won(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> list[float]:
    """What is won over the weak engine by 0, 1, 2, ... strong calls, those of highest score first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    won = [0.0]
    for _, tied in groupby(order, key=lambda i: scores[i]):
        group = list(tied)
        mean = sum(strong[i] - weak[i] for i in group) / len(group)
        won += [won[-1] + mean * n for n in range(1, len(group) + 1)]
    return won


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that a positive is ranked before a negative; ties count half. Nan without both."""
    positive = sum(labels)
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    above, rank = 0.0, 0
    for _, tied in groupby(sorted(zip(scores, labels, strict=True)), key=lambda pair: pair[0]):
        group = [label for _, label in tied]
        above += sum(group) * (rank + (len(group) + 1) / 2)
        rank += len(group)
    return (above - positive * (positive + 1) / 2) / (positive * negative)


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 5) -> float:
    """Expected calibration error over bins of equal size: mean distance between confidence and share right."""
    pairs = sorted(zip(confidences, right, strict=True))
    edges = [round(len(pairs) * n / bins) for n in range(bins + 1)]
    distances = (
        abs(sum(c for c, _ in part) - sum(r for _, r in part)) for part in (pairs[a:b] for a, b in pairwise(edges))
    )
    return sum(distances) / max(len(pairs), 1)


def interval(size: int, figure: Callable[[list[int]], float], rounds: int = 500) -> Interval:
    """The 95 % bootstrap interval of a figure of resampled rows; the same at every run."""
    draw = random.Random(0)  # noqa: S311 - the same draws every time are what is wanted
    found = sorted(figure(draw.choices(range(size), k=size)) for _ in range(rounds))
    return found[round(0.025 * (rounds - 1))], found[round(0.975 * (rounds - 1))]


def share(right: Sequence[bool]) -> float:
    """The share that is right; nan of nothing."""
    return sum(right) / len(right) if right else float("nan")
