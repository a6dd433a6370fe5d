"""Make the data file: weights rounded for the server, in a fixed order, so that equal models give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_server.orchestration.routing.analysis import FIELDS
from train.concept_lists import ConceptTable
from train.fields import BITS, FieldWeights
from train.heads import Expert, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """All trained weights, before the experts are rounded."""

    steps: Mapping[str, float]
    concepts: ConceptTable
    fields: FieldWeights
    experts: Mapping[str, Expert]
    levels: Sequence[float] = ()
    confidence: tuple[float, float, float] = (1.0, 0.0, 0.0)
    complexity_quantiles: Sequence[float] = ()


COMPLEXITY = (1.5, 0.0)
"""The slope and the bias that make a logit of the predicted gain less 3; a gain of 3 (of 1 to 5) becomes 0.5."""


def pack(trained: Trained) -> bytes:
    """Return the content of the file."""
    blocks = {
        "checks": trained.concepts.checks,
        "numbers": trained.concepts.numbers,
        "concepts": _rows(trained.fields.concepts),
        "grams": _rows(trained.fields.grams),
        **{name: rounded(expert.words)[0] for name, expert in trained.experts.items()},
    }
    head = {
        "about": "Trained by tools/train from data/routing; see docs/analysis.md and NOTICE.",
        "fields": list(FIELDS),
        "form": trained.fields.form,
        "concepts": trained.concepts.names,
        "languages": trained.concepts.languages,
        "function_words": trained.concepts.function_words,
        "bits": BITS,
        "steps": trained.steps,
        "experts": {
            name: {
                "level": round(e.level + (0 if name == "sum" else e.centre), 5),
                "form": e.form,
                "bits": e.words.bits,
            }
            for name, e in trained.experts.items()
        },
        "complexity": COMPLEXITY,
        "levels": [round(level, 4) for level in trained.levels],
        "sum_centre": trained.experts["sum"].centre if trained.levels else 0.0,
        "confidence": [round(figure, 4) for figure in trained.confidence],
        "complexity_quantiles": [round(figure, 4) for figure in trained.complexity_quantiles],
        "scales": {
            "concepts": trained.fields.concept_scales,
            "grams": trained.fields.gram_scales,
            **{name: rounded(expert.words)[1] for name, expert in trained.experts.items()},
        },
        "blocks": [[name, len(block)] for name, block in blocks.items()],
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    return b"".join([text.encode(), b"\n", *blocks.values()])


def _rows(weights: NDArray[np.int64]) -> bytes:
    """Return a byte for each weight, row by row: the weight plus 128."""
    return (weights + 128).astype(np.uint8).tobytes()


def rounded(words: Words) -> tuple[bytes, float]:
    """Return a signed byte for each bucket, and the step of the table: the largest weight is 127 steps."""
    largest = max((abs(weight) for weight in words.weights.values()), default=0.0)
    scale = float(f"{largest / 127:.6g}") if largest else 1.0
    table = bytearray(1 << words.bits)
    for bucket, weight in words.weights.items():
        table[bucket] = max(-127, min(127, round(weight / scale))) & 0xFF
    return bytes(table), scale
