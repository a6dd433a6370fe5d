"""Which tier of engines a task's calls want: by role and complexity, or by the share that the configuration allows."""

from __future__ import annotations

from bisect import bisect_left

from llm_server.orchestration.domain.catalog import Defaults, Role, Tier
from llm_server.orchestration.routing import weights

STRONG_FROM = 0.5
"""From this complexity on a strong engine is worth its price, where no share is set."""


def tier_of(role: Role | None, complexity: float, defaults: Defaults, *, wanted: Tier | None = None) -> Tier:
    """The tier for a call of a task.

    With `strong_share` set, the task's complexity alone decides, for all its calls alike. Without, `wanted` does, else
    the role's tier; None is the synthesis, which has no role.
    """
    if defaults.strong_share is not None:
        return "strong" if may_be_strong(complexity, defaults.strong_share) else "fast"
    return wanted or (role.tier if role else defaults.synthesis_tier)


def wanted_for(complexity: float) -> Tier | None:
    """The tier that an answer to a prompt of this complexity wants, whatever its role; None leaves it to the role."""
    return "strong" if complexity >= STRONG_FROM else None


def may_be_strong(complexity: float, strong_share: float) -> bool:
    """Whether a task is among the `strong_share` (0..1) most complex ones."""
    return strong_share > 0 and harder_than(complexity) >= 1 - strong_share


def harder_than(complexity: float) -> float:
    """The share (0..1) of natural prompts that are less complex, to a hundredth; docs/analysis.md says of which."""
    quantiles = weights.shipped().complexity_quantiles
    return min(bisect_left(quantiles, complexity) / (len(quantiles) - 1), 1.0)


def reasons(complexity: float, defaults: Defaults) -> tuple[str, ...]:
    """Say how a share that is set decided; nothing without one."""
    if defaults.strong_share is None:
        return ()
    tier = "strong" if may_be_strong(complexity, defaults.strong_share) else "fast"
    below = f"complexity {complexity:.2f} is above that of {harder_than(complexity):.0%} of prompts"
    return (f"{below}, strong_share is {defaults.strong_share:g}: {tier} tier",)
