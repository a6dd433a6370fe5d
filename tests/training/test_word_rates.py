"""The table of how many prompts have a word is made from the committed prompts, and own roles are chosen with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import own_roles as benchmark

from llm_server.orchestration.routing import word_rates
from train.word_rates import main, pack


def test_the_packaged_table_is_made_from_the_data(tmp_path: Path) -> None:
    """Byte for byte."""
    assert main([str(tmp_path / "rates.bin")]) == 0

    assert (tmp_path / "rates.bin").read_bytes() == Path(word_rates.FILE).read_bytes()


def test_a_rate_is_the_share_of_prompts() -> None:
    """Prompts that occur twice count once; a word of fewer than three prompts has the lowest rate."""
    prompts = [f"common word{n} x{n}" for n in range(100)] + ["common word1 x1"]
    rates = word_rates.parse(pack([*prompts, *(f"half {n}y" for n in range(100))]))

    assert rates.rate("common") == pytest.approx(0.5, rel=0.05)
    assert rates.rate("never") == rates.rate("word7") == pytest.approx(0.5 / 200, rel=0.05)


def test_invented_roles_are_chosen_as_docs_analysis_says() -> None:
    """Less a margin of four prompts of 120; the packaged prompts lose at most one in eight to own roles."""
    own, packaged = benchmark.rows("own_roles_dev.jsonl"), benchmark.rows("role_mode_dev.jsonl")
    catalog = benchmark.with_examples(10)

    alone, _ = benchmark.decided(catalog, catalog.roles_of("Own"), own, [])
    beside, others = benchmark.decided(catalog, list(catalog.roles), own, packaged)

    assert sum(benchmark.right(alone)) >= 0.76 * 120 - 4
    assert sum(benchmark.right(beside)) >= 0.52 * 120 - 4
    assert sum(analysis.role in catalog.roles_of("Own") for _, analysis in others) <= 0.13 * len(others)


def test_the_prompts_of_the_invented_roles_are_not_their_examples() -> None:
    """They would flatter; half of them are English."""
    prompts = benchmark.rows("own_roles_dev.jsonl")
    catalog = benchmark.with_examples(10)
    examples = {example for name in catalog.roles_of("Own") for example in catalog.role(name).examples}

    assert len(examples) == 40
    assert not examples & {row["prompt"] for row in prompts}
    assert sum(row["lang"] == "en" for row in prompts) == len(prompts) / 2
