"""Arithmetic with the same bits on every machine: sums of whole numbers, and exponentials by basic operations.

A processor, a numpy release or a thread count may change the order in which floats are added, and with it the last
bits. Here every sum is one of whole numbers (int64), which has no rounding. The other steps are element by element:
IEEE 754 rounds each addition, multiplication and division correctly, so they are the same everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LN2 = 0.6931471805599453
# 1/n! for n = 0..13: the series of exp on ±ln(2)/2 is exact to 1e-16 with these.
_INVERSE_FACTORIALS = (1.0, 1.0, 0.5, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880, 1 / 3628800)


def whole(values: Floats, bits: int) -> Ints:
    """Return the values in units of 2**-bits, rounded to whole numbers."""
    return np.rint(values * float(1 << bits)).astype(np.int64)


def total(values: Floats, bits: int) -> float:
    """Return the sum of the values, each rounded to a multiple of 2**-bits first."""
    return int(whole(values, bits).sum()) / float(1 << bits)


def exp(x: Floats) -> Floats:
    """Return e**x for x in -700..700, to about 1e-14 of its size."""
    n = np.rint(x / _LN2)
    r = x - n * _LN2
    y = np.full_like(r, _INVERSE_FACTORIALS[-1])
    for factor in _INVERSE_FACTORIALS[-2::-1]:
        y = y * r + factor
    return np.ldexp(y, n.astype(np.int32))


def log(x: Floats) -> Floats:
    """Return the natural logarithm of positive x, to about 1e-14."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2, mantissa)
    exponent = exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    s2 = s * s
    series = np.full_like(s, 1 / 25)
    for n in range(23, 0, -2):
        series = series * s2 + 1 / n
    return np.asarray(2 * s * series + exponent * _LN2)
