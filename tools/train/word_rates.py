"""`python -m train.word_rates` makes the table of how many prompts have a word, for roles that a configuration adds."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from llm_server.orchestration.routing import word_rates
from llm_server.orchestration.routing.features import bucket
from llm_server.orchestration.routing.own_roles import Features
from llm_server.orchestration.routing.text_features import text_features
from train import rows

FILES = ("weak_roles_dev.jsonl", "written_dev.jsonl", *rows.JUDGED)
"""Not role_mode_dev.jsonl, because own roles are judged beside its prompts."""
BITS = 15
SCALE = 20
_MIN_PROMPTS = 3
"""Features of fewer prompts are not counted, because there are many of them and they would fill all rows."""
_UNSEEN = 0.5
"""A feature that is not counted is taken to be in half a prompt."""


def pack(prompts: Iterable[str], features: Features = text_features, bits: int = BITS) -> bytes:
    """Return the content of the data file; prompts that occur twice count once.

    Of the features that share a row, the commonest decides its rate.
    """
    distinct = sorted(set(prompts))
    counts: Counter[str] = Counter()
    for prompt in distinct:
        counts.update(features(prompt))
    most: dict[int, int] = {}
    for feature, count in counts.items():
        if count >= _MIN_PROMPTS:
            row = bucket(feature, bits)
            most[row] = max(most.get(row, 0), count)
    shares = ((most.get(row, 0) + _UNSEEN) / (len(distinct) + 2 * _UNSEEN) for row in range(1 << bits))
    levels = bytes(min(255, round(-math.log(share) * SCALE)) for share in shares)
    head = {
        "about": "Made by tools/train from data/routing; see docs/analysis.md and NOTICE.",
        "bits": bits,
        "scale": SCALE,
        "features": round(counts.total() / len(distinct), 2),
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + levels


def prompts() -> list[str]:
    """Return the prompts that stand for prompts at large."""
    return [record["prompt"] for name in FILES for record in rows.records(name)]


def main(arguments: list[str]) -> int:
    target = Path(arguments[0] if arguments else word_rates.FILE)
    data = pack(prompts())
    target.write_bytes(data)
    print(f"{target.name}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
