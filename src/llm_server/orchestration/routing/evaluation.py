"""Measure how good routing decisions are: recovered quality gap, ranking, calibration, and bootstrap intervals."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

Interval = tuple[float, float]


def apgr(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> float:
    """Return the average performance gap recovered (RouteLLM, arXiv 2406.18665); 0.5 is chance.

    The strong engine gets the prompts with the highest scores first. The result is the part of the quality gap between
    weak and strong engine that is recovered, averaged over all shares of strong calls. Prompts of equal score are
    treated alike. NaN if both engines have the same total quality.
    """
    gap = sum(strong) - sum(weak)
    if not gap:
        return float("nan")
    gains = _gains(scores, weak, strong)
    return (sum(gains) - (gains[0] + gains[-1]) / 2) / (len(scores) * gap)


def cpt(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float], recovered: float) -> float:
    """Return the call-performance threshold (RouteLLM): the smallest share of strong calls that recovers `recovered`.

    `recovered` is a part (0..1) of the gap. Prompts of equal score are treated alike; between two prompts the share is
    interpolated. NaN if the strong engine is not better.
    """
    gap = sum(strong) - sum(weak)
    if gap <= 0:
        return float("nan")
    gains = _gains(scores, weak, strong)
    calls = 0
    while gains[calls] < recovered * gap - 1e-9:
        calls += 1
    step = gains[calls] - gains[calls - 1] if calls else 0.0
    surplus = (gains[calls] - recovered * gap) / step if step else 0.0
    return (calls - surplus) / len(scores)


def _gains(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> list[float]:
    """Return the quality gained over the weak engine by 0, 1, 2, ... strong calls, highest scores first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    gains = [0.0]
    for _, tied in groupby(order, key=lambda i: scores[i]):
        group = list(tied)
        mean = sum(strong[i] - weak[i] for i in group) / len(group)
        gains += [gains[-1] + mean * n for n in range(1, len(group) + 1)]
    return gains


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the chance that a positive is ranked above a negative; ties count half.

    NaN without a positive or without a negative.
    """
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


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank. NaN if all values of a side are equal."""
    x, y = _ranks(a), _ranks(b)
    middle = (len(a) - 1) / 2
    spread = math.sqrt(sum((r - middle) ** 2 for r in x) * sum((r - middle) ** 2 for r in y))
    if not spread:
        return float("nan")
    return sum((r - middle) * (s - middle) for r, s in zip(x, y, strict=True)) / spread


def _ranks(values: Sequence[float]) -> list[float]:
    ranks = [0.0] * len(values)
    first = 0
    for _, tied in groupby(sorted(range(len(values)), key=values.__getitem__), key=values.__getitem__):
        group = list(tied)
        for place in group:
            ranks[place] = first + (len(group) - 1) / 2
        first += len(group)
    return ranks


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 5) -> float:
    """Return the expected calibration error: the mean distance between confidence and share right.

    The answers are sorted by confidence and divided into bins of equal size.
    """
    pairs = sorted(zip(confidences, right, strict=True))
    edges = [round(len(pairs) * n / bins) for n in range(bins + 1)]
    distances = (
        abs(sum(c for c, _ in part) - sum(r for _, r in part)) for part in (pairs[a:b] for a, b in pairwise(edges))
    )
    return sum(distances) / max(len(pairs), 1)


def interval(size: int, figure: Callable[[list[int]], float], rounds: int = 500) -> Interval:
    """Return the 95 % bootstrap interval of a figure.

    `figure` is called with the indices of resampled rows. The same input always gives the same interval.
    """
    draw = random.Random(0)  # noqa: S311 - a fixed seed makes the interval repeatable
    found = sorted(figure(draw.choices(range(size), k=size)) for _ in range(rounds))
    return found[round(0.025 * (rounds - 1))], found[round(0.975 * (rounds - 1))]


def share(right: Sequence[bool]) -> float:
    """Return the share of True values; NaN for an empty sequence."""
    return sum(right) / len(right) if right else float("nan")
