"""Money: counted in whole micro-USD, said in USD."""

from __future__ import annotations

MICROUSD_PER_USD = 1_000_000
