"""Fit linear models with L-BFGS, in plain Python.

All sums use `math.fsum`, which rounds once, so that every Python version gets the same bits in any order of addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter, mul

Vector = list[float]
Objective = Callable[[Vector], tuple[float, Vector]]
_MEMORY = 5


class Sparse:
    """A sparse row of a matrix, with at least two columns and their values."""

    __slots__ = ("columns", "get", "values")

    def __init__(self, columns: Sequence[int], values: Sequence[float]) -> None:
        assert len(columns) >= 2
        self.columns, self.values, self.get = columns, values, itemgetter(*columns)

    def dot(self, weights: Vector) -> float:
        return math.fsum(map(mul, self.get(weights), self.values))

    def add_to(self, gradient: Vector, factor: float, start: int = 0) -> None:
        for column, value in zip(self.columns, self.values, strict=True):
            gradient[start + column] += factor * value


def minimise(objective: Objective, start: Vector, iterations: int) -> Vector:
    """Minimise with limited-memory BFGS and backtracking (Nocedal & Wright, Numerical Optimization, algorithm 7.4)."""
    w, (value, gradient) = start, objective(start)
    steps: list[tuple[Vector, Vector, float]] = []
    for _ in range(iterations):
        direction = _direction(gradient, steps)
        slope = -_dot(direction, gradient)
        if slope > -1e-9:
            break
        rate = 1.0 if steps else 1.0 / max(1.0, math.sqrt(_dot(gradient, gradient)))
        for _ in range(20):
            new = [a - rate * b for a, b in zip(w, direction, strict=True)]
            new_value, new_gradient = objective(new)
            if new_value <= value + 1e-4 * rate * slope:
                break
            rate /= 2
        moved = [a - b for a, b in zip(new, w, strict=True)]
        bent = [a - b for a, b in zip(new_gradient, gradient, strict=True)]
        curvature = _dot(moved, bent)
        if curvature > 1e-12:
            steps = [*steps[1 - _MEMORY :], (moved, bent, 1 / curvature)]
        w, value, gradient = new, new_value, new_gradient
    return w


def _direction(gradient: Vector, steps: list[tuple[Vector, Vector, float]]) -> Vector:
    q, shares = gradient, []
    for moved, bent, inverse in reversed(steps):
        share = inverse * _dot(moved, q)
        shares.append(share)
        q = [a - share * b for a, b in zip(q, bent, strict=True)]
    if steps:
        _, bent, inverse = steps[-1]
        scale = 1 / (inverse * _dot(bent, bent))
        q = [scale * a for a in q]
    for (moved, bent, inverse), share in zip(steps, reversed(shares), strict=True):
        back = share - inverse * _dot(bent, q)
        q = [a + back * b for a, b in zip(q, moved, strict=True)]
    return q


def ridge(rows: Sequence[Sparse], targets: Sequence[float], penalty: Vector, iterations: int) -> Vector:
    """Fit least squares with a penalty for each weight."""

    def objective(w: Vector) -> tuple[float, Vector]:
        gradient = list(map(mul, penalty, w))
        errors = [row.dot(w) - target for row, target in zip(rows, targets, strict=True)]
        for row, error in zip(rows, errors, strict=True):
            row.add_to(gradient, error)
        cost = math.fsum(e * e for e in errors) + math.fsum(p * a * a for p, a in zip(penalty, w, strict=True))
        return cost / 2, gradient

    return minimise(objective, [0.0] * len(penalty), iterations)


def logistic(
    rows: Sequence[Sparse], labels: Sequence[bool], shares: Sequence[float], penalty: Vector, iterations: int
) -> Vector:
    """Fit a logistic regression; `shares` are the weights of the rows."""

    def objective(w: Vector) -> tuple[float, Vector]:
        gradient = list(map(mul, penalty, w))
        losses = []
        for row, label, share in zip(rows, labels, shares, strict=True):
            z = row.dot(w) if label else -row.dot(w)
            losses.append(share * (math.log1p(math.exp(-abs(z))) + max(-z, 0.0)))
            pull = share / (1 + math.exp(min(z, 700.0)))
            row.add_to(gradient, -pull if label else pull)
        cost = math.fsum(p * a * a for p, a in zip(penalty, w, strict=True)) / 2
        return math.fsum(losses) + cost, gradient

    return minimise(objective, [0.0] * len(penalty), iterations)


def platt(margins: Sequence[float], right: Sequence[bool], shares: Sequence[float]) -> tuple[float, float]:
    """Return the slope and bias that turn a margin into a likelihood (Platt 1999), with a small penalty on both."""
    rows = [Sparse((0, 1), (margin, 1.0)) for margin in margins]
    slope, bias = logistic(rows, right, shares, [0.1, 0.1], 50)
    return slope, bias


def _dot(a: Vector, b: Vector) -> float:
    return math.fsum(map(mul, a, b))
