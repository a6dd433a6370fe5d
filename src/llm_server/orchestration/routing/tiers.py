"""Choose the tier of a task's calls: by role and complexity, or by the configured share of strong tasks."""

from __future__ import annotations

from bisect import bisect_left

from llm_server.orchestration.domain.engines.catalog import Defaults, Role, Tier
from llm_server.orchestration.routing import weights

MIN_STRONG_COMPLEXITY = 0.5
"""From this complexity on, answers come from the strong tier, unless `strong_share` is configured."""


def tier_of(role: Role | None, complexity: float, defaults: Defaults, *, preferred: Tier | None = None) -> Tier:
    """Return the tier for a call of a task.

    If `strong_share` is configured, the task's complexity alone decides, for all its calls alike. Otherwise the
    `preferred` tier is used, or the role's tier. `role` None is the synthesis, which has no role.
    """
    if defaults.strong_share is not None:
        return "strong" if may_be_strong(complexity, defaults.strong_share) else "fast"
    if preferred is not None:
        return preferred
    return role.tier if role else defaults.synthesis_tier


def preferred_tier(complexity: float) -> Tier | None:
    """Return the tier for the answer to a prompt of this complexity; None leaves the choice to the role."""
    return "strong" if complexity >= MIN_STRONG_COMPLEXITY else None


def may_be_strong(complexity: float, strong_share: float) -> bool:
    """Return whether a task is among the `strong_share` (0..1) most complex tasks."""
    return strong_share > 0 and complexity_rank(complexity) >= 1 - strong_share


def complexity_rank(complexity: float) -> float:
    """Return the share (0..1) of natural prompts that are less complex, in steps of 0.01; see docs/analysis.md."""
    quantiles = weights.load().complexity_quantiles
    return min(bisect_left(quantiles, complexity) / (len(quantiles) - 1), 1.0)


def reasons(complexity: float, defaults: Defaults) -> tuple[str, ...]:
    """Say how the configured `strong_share` chose the tier; empty if it is not configured."""
    if defaults.strong_share is None:
        return ()
    tier = "strong" if may_be_strong(complexity, defaults.strong_share) else "fast"
    rank = f"complexity {complexity:.2f} is above that of {complexity_rank(complexity):.0%} of prompts"
    return (f"{rank}, strong_share is {defaults.strong_share:g}: {tier} tier",)
