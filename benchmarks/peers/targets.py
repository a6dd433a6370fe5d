"""Print figures beside their targets, and remember which targets were missed."""

import math

MISSED: list[str] = []


def at_most(what: str, value: float, limit: float, unit: str = "") -> None:
    _print(what, value, "<=", limit, unit, value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> None:
    _print(what, value, ">=", limit, unit, value >= limit)


def _print(what: str, value: float, sign: str, limit: float, unit: str, met: bool) -> None:
    if not met:
        MISSED.append(what)
    digits = 0 if value == int(value) or abs(value) >= 1000 else 2
    print(
        f"  {what}: {value:,.{digits}f}{unit} (target {sign} {limit:g}{unit}: {'met' if met else 'MISSED'})", flush=True
    )


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` (0..1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
