"""How well the complexity tells which prompts need the strong engine, compared with RouteLLM's published figures.

Measured on RouteLLM's answers of Mixtral-8x7B and GPT-4-1106: our score (cross-validated, and with
the data set left out), the prompt length, and a random order. RouteLLM's own figures are copied, not measured.
"""

import random
import statistics
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from llm_server.orchestration.routing.evaluation import Interval, apgr, cpt
from train import __main__ as training
from train import rows, validation
from train.measured import rule_of
from train.rows import Paired
from train.validation import Recovery

Scored = list[tuple[float, Paired]]
SHUFFLES = 100
WEAK_PRICE, STRONG_PRICE = 0.24, 24.7  # USD for a million tokens, RouteLLM's section 5.4
FIGURES: tuple[Recovery, ...] = (apgr, partial(cpt, recovered=0.5), partial(cpt, recovered=0.8))
PUBLISHED = "published, not measured here: arXiv 2406.18665, {}"


class Published(NamedTuple):
    """A row of RouteLLM's table 2 (MMLU) or 3 (GSM8K), for a router with augmented training data."""

    router: str
    cpt_50: float
    cpt_80: float
    apgr: float


MMLU = (
    Published("RouteLLM SW ranking", 0.3540, 0.7155, 0.603),
    Published("RouteLLM causal LLM (8B)", 0.3549, 0.7031, 0.600),
    Published("RouteLLM matrix factorization", 0.3546, 0.7140, 0.597),
    Published("RouteLLM BERT", 0.4130, 0.7220, 0.572),
    Published("random, their run", 0.5007, 0.7993, 0.500),
)
GSM8K = (
    Published("RouteLLM causal LLM (8B)", 0.3364, 0.6326, 0.622),
    Published("RouteLLM SW ranking", 0.4121, 0.7220, 0.568),
    Published("RouteLLM matrix factorization", 0.3882, 0.7262, 0.565),
    Published("RouteLLM BERT", 0.4476, 0.7909, 0.531),
    Published("random, their run", 0.5000, 0.8008, 0.497),
)


def run() -> None:
    made, corpus = training.train()
    mmlu, sums = rows.engine_pairs("mmlu"), made.experts["sum"]
    crossed = validation.crossed_exams(mmlu, sums.taught, rule_of(made))
    _table("MMLU", "no exam seen", crossed, validation.unseen_exams(mmlu, sums))
    _published(
        PUBLISHED.format("table 2, 14,042 questions; routers trained on Arena and MMLU's validation split"), MMLU
    )
    closed = validation.crossed_closed(corpus, made)
    for name, engines, unseen in (
        ("LLMRouter", "llmrouter", "only GSM8K seen"),
        ("GSM8K", "gsm8k", "other word problems seen"),
    ):
        own = [pair for pair in closed if pair[1].engines == engines]
        _table(name, unseen, own, validation.left_out(corpus, made, engines))
    _published(PUBLISHED.format("table 3, over 1,000 questions; routers trained on Arena and a judge's labels"), GSM8K)


def _table(name: str, unseen: str, crossed: Scored, left_out: Scored) -> None:
    asked = [row for _, row in left_out]
    print(f"  {name}: measured in this run, {len(asked):,} questions, with 95 % bootstrap intervals")
    print(f"    {'':32}{'APGR':22}{'CPT(50%)':22}{'CPT(80%)':22}cost at 50 %, 80 % of the gap")
    for router, scored in (
        ("ours (5 folds)", crossed),
        (f"ours ({unseen})", left_out),
        ("prompt length alone", validation.by_length(asked)),
    ):
        gap, *thresholds = (validation.with_interval(scored, figure) for figure in FIGURES)
        _line(router, [_shown(gap), *map(_shown, thresholds)], [found for found, _ in thresholds])
    gap_r, *thresholds_r = (_shuffled(asked, figure) for figure in FIGURES)
    _line("random order", [f"{found:.3f}" for found in (gap_r, *thresholds_r)], thresholds_r)


def _published(source: str, table: Iterable[Published]) -> None:
    print(f"   {source}")
    for router, *thresholds, gap in table:
        _line(router, [f"{found:.3f}" for found in (gap, *thresholds)], thresholds)


def _line(router: str, figures: Iterable[str], strong_calls: Iterable[float]) -> None:
    costs = ", ".join(f"{_cost(calls):.0%}" for calls in strong_calls)
    print(f"    {router:32}{''.join(f'{figure:22}' for figure in figures)}{costs}")


def _cost(strong_calls: float) -> float:
    """Return the cost as a share of the cost with the strong engine alone."""
    return strong_calls + (1 - strong_calls) * WEAK_PRICE / STRONG_PRICE


def _shown(found: tuple[float, Interval]) -> str:
    figure, (low, high) = found
    return f"{figure:.3f} ({low:.3f}-{high:.3f})"


def _shuffled(asked: list[Paired], figure: Recovery) -> float:
    draw = random.Random(0)
    weak, strong = [row.weak for row in asked], [row.strong for row in asked]
    return statistics.fmean(figure([draw.random() for _ in asked], weak, strong) for _ in range(SHUFFLES))
