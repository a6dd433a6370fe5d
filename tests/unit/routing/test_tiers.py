"""The tier of a call depends on role and complexity, or on `strong_share`."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from llm_server.orchestration.domain.engines.catalog import Defaults, Role, Tier
from llm_server.orchestration.routing import tiers, weights
from llm_server.orchestration.routing.analysis import analyse
from support.scripted_engine import a_catalog

CATALOG = a_catalog({})
FAST, STRONG = CATALOG.roles["Chat-Agent"], CATALOG.roles["Architect-Agent"]
PROMPTS = [
    "Hi!",
    "What is the capital of France?",
    "Write a haiku about autumn.",
    "Summarise this text: the cat sat on the mat.",
    "Design a distributed rate limiter that survives network partitions; compare three algorithms, prove the bounds.",
    "Implement a lock-free queue in C++ with hazard pointers, tests, benchmarks and a proof of linearizability.",
]


def with_share(share: float | None) -> Defaults:
    return msgspec.structs.replace(CATALOG.defaults, strong_share=share)


@pytest.mark.parametrize(
    ("role", "wanted", "tier"),
    [(FAST, None, "fast"), (STRONG, None, "strong"), (FAST, "strong", "strong"), (None, None, "strong")],
)
def test_without_a_share_the_role_decides_unless_more_is_wanted(
    role: Role | None, wanted: Tier | None, tier: Tier
) -> None:
    """The synthesis has no role; the catalogue sets its tier."""
    assert tiers.tier_of(role, 0.99, with_share(None), preferred=wanted) == tier


@pytest.mark.parametrize(("share", "tier"), [(0.0, "fast"), (1.0, "strong")])
@pytest.mark.parametrize("role", [FAST, STRONG, None])
@pytest.mark.parametrize("complexity", [0.0, 0.5, 1.0])
def test_the_ends_of_the_share_are_none_and_all(share: float, tier: Tier, role: Role | None, complexity: float) -> None:
    """This holds for every role and complexity."""
    assert tiers.tier_of(role, complexity, with_share(share), preferred="strong") == tier


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_a_share_is_that_share_of_natural_prompts(share: float) -> None:
    """The quantiles are those of measured complexities, so the upper part of them is that share."""
    quantiles = weights.load().complexity_quantiles
    middles = [(low + high) / 2 for low, high in pairwise(quantiles)]
    strong = [tiers.may_be_strong(middle, share) for middle in middles]

    assert sum(strong) / len(strong) == pytest.approx(share, abs=0.02)
    assert strong == sorted(strong)


def test_a_larger_share_never_takes_a_task_away_from_the_strong_tier() -> None:
    """Raising the share only adds tasks to the strong tier."""
    for prompt in PROMPTS:
        complexity = analyse(prompt).complexity
        strong = [tiers.may_be_strong(complexity, n / 100) for n in range(101)]
        assert strong == sorted(strong)


def test_the_reason_names_the_knob_only_where_it_is_set() -> None:
    """The reason tells users which setting chose the tier."""
    assert tiers.reasons(0.9, with_share(None)) == ()
    (reason,) = tiers.reasons(1.0, with_share(0.2))
    assert reason == "complexity 1.00 is above that of 100% of prompts, strong_share is 0.2: strong tier"
