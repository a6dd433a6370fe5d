"""Money: counted in whole micro-USD, said in USD."""

from __future__ import annotations

MICROUSD_PER_USD = 1_000_000


def usd(microusd: int) -> str:
    """An amount of at least 0 in USD, exact and plain: `1234567.89`, `0.000001`, `5`."""
    whole, rest = divmod(microusd, MICROUSD_PER_USD)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
