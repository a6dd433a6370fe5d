"""Fit softmax and ridge regressions with L-BFGS on exact sums (exact.py), so that every machine gets the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from train.exact import Floats, exp, log, total, whole

Objective = Callable[[Floats], tuple[float, Floats]]
_MEMORY = 8
_WEIGHT_BITS, _ERROR_BITS, _SUM_BITS = 20, 24, 24
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Block:
    """Some columns of a design matrix: whole numbers, and a factor for each row."""

    counts: csr_array
    transposed: csr_array
    factors: Floats

    @classmethod
    def of(cls, counts: csr_array, factors: Floats) -> Block:
        return cls(counts, csr_array(counts.T), factors.reshape(-1, 1))


class Design:
    """A sparse design matrix of blocks, one row a prompt."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.width = sum(block.counts.shape[1] for block in blocks)

    def take(self, rows: NDArray[np.int64]) -> Design:
        return Design([Block.of(csr_array(block.counts[rows]), block.factors[rows]) for block in self.blocks])

    def scores(self, weights: Floats) -> Floats:
        """Return the product with a matrix of weights, one row a column of the design."""
        scores, start = None, 0
        for block in self.blocks:
            part = whole(weights[start : start + block.counts.shape[1]], _WEIGHT_BITS)
            found = (block.counts @ part) * (block.factors / float(1 << _WEIGHT_BITS))
            scores = found if scores is None else scores + found
            start += block.counts.shape[1]
        assert scores is not None
        return np.asarray(scores)

    def gradient(self, errors: Floats) -> Floats:
        """Return the product of the transposed matrix with errors, one row a prompt."""
        parts = [block.transposed @ whole(errors * block.factors, _ERROR_BITS) for block in self.blocks]
        return np.asarray(np.concatenate(parts) / float(1 << _ERROR_BITS))


def softmax_fit(
    design: Design, right: Floats, shares: Floats, penalty: Floats, prior: Floats, iterations: int
) -> Floats:
    """Fit a softmax whose loss for a row is the logarithm of what its right classes get together.

    `right` has 1.0 for each right class of each row, `shares` are the weights of the rows. The penalty on a weight
    pulls it towards its prior. Returns a matrix of weights: one row a column of the design, one column a class.
    """
    share = shares.reshape(-1, 1)
    pull = penalty.reshape(-1, 1)

    def objective(weights: Floats) -> tuple[float, Floats]:
        scores = design.scores(weights)
        likely = _softmax(scores)
        good = likely * right
        known = np.maximum(_sum_of_columns(good), _SMALLEST)
        away = weights - prior
        loss = -total(share * log(known), _SUM_BITS) + 0.5 * total(pull * away * away, _SUM_BITS)
        return loss, design.gradient((likely - good / known) * share) + pull * away

    return _minimise(objective, prior.copy(), iterations)


def ridge_fit(design: Design, target: Floats, shares: Floats, penalty: Floats, iterations: int) -> Floats:
    """Fit least squares with a penalty for each column and a weight for each row; returns one weight a column."""
    share, wanted, pull = shares.reshape(-1, 1), target.reshape(-1, 1), penalty.reshape(-1, 1)

    def objective(weights: Floats) -> tuple[float, Floats]:
        errors = design.scores(weights) - wanted
        loss = 0.5 * (total(share * errors * errors, _SUM_BITS) + total(pull * weights * weights, _SUM_BITS))
        return loss, design.gradient(share * errors) + pull * weights

    return _minimise(objective, np.zeros((design.width, 1)), iterations)


def _softmax(scores: Floats) -> Floats:
    odds = exp(np.maximum(scores - scores.max(axis=1, keepdims=True), -60.0))
    return np.asarray(odds / _sum_of_columns(odds))


def _sum_of_columns(values: Floats) -> Floats:
    """Return the sums of the rows, added column by column: always in the same order."""
    sums = values[:, :1].copy()
    for column in range(1, values.shape[1]):
        sums += values[:, column : column + 1]
    return sums


def _dot(a: Floats, b: Floats) -> float:
    return total(a * b, _SUM_BITS)


def _minimise(objective: Objective, start: Floats, iterations: int) -> Floats:
    """Minimise with limited-memory BFGS and backtracking (Nocedal & Wright, Numerical Optimization, algorithm 7.4)."""
    weights = start
    value, gradient = objective(weights)
    steps: list[tuple[Floats, Floats, float]] = []
    for _ in range(iterations):
        direction, passed = gradient, []
        for moved, bent, inverse in reversed(steps):
            passed.append(inverse * _dot(moved, direction))
            direction = direction - passed[-1] * bent
        if steps:
            moved, bent, inverse = steps[-1]
            direction = direction * (1 / (inverse * _dot(bent, bent)))
        for (moved, bent, inverse), share in zip(steps, reversed(passed), strict=True):
            direction = direction + moved * (share - inverse * _dot(bent, direction))
        slope = -_dot(direction, gradient)
        if slope > -1e-6:
            break
        rate = 1.0 if steps else 1.0 / max(1.0, float(np.sqrt(_dot(gradient, gradient))))
        for _ in range(20):
            new = weights - rate * direction
            new_value, new_gradient = objective(new)
            if new_value <= value + 1e-4 * rate * slope:
                break
            rate /= 2
        moved, bent = new - weights, new_gradient - gradient
        curvature = _dot(moved, bent)
        if curvature > 1e-9:
            steps = [*steps[1 - _MEMORY :], (moved, bent, 1 / curvature)]
        weights, value, gradient = new, new_value, new_gradient
    return weights
