"""Make the data file: weights rounded for the server, in a fixed order, so that equal models give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_server.orchestration.routing.analysis import FIELDS
from train.heads import ROLE_BITS, Expert, Fields, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """All trained weights, before rounding."""

    steps: Mapping[str, float]
    fields: Fields
    experts: Mapping[str, Expert]
    confidence: tuple[float, float] = (1.0, 0.0)
    complexity_quantiles: Sequence[float] = ()


def pack(trained: Trained) -> bytes:
    """Return the content of the file."""
    tables = list(zip(FIELDS, trained.fields.words, strict=True))
    tables += [(name, expert.words) for name, expert in trained.experts.items()]
    scaled = [(name, words, _scale(words)) for name, words in tables]
    head = {
        "about": "Trained by tools/train from data/routing; see docs/analysis.md and NOTICE.",
        "fields": list(FIELDS),
        "bits": ROLE_BITS,
        "dense": trained.fields.dense,
        "steps": trained.steps,
        "experts": {
            name: {"level": e.level, "form": e.form, "bits": e.words.bits} for name, e in trained.experts.items()
        },
        "confidence": [round(figure, 4) for figure in trained.confidence],
        "complexity_quantiles": [round(figure, 4) for figure in trained.complexity_quantiles],
        "tables": [[name, words.bits, scale] for name, words, scale in scaled],
    }
    text = json.dumps(head, ensure_ascii=True, separators=(",", ":"))
    return b"".join([text.encode(), b"\n", *(_bytes(words, scale) for _, words, scale in scaled)])


def _scale(words: Words) -> float:
    """Return the step of a table to six digits; the largest weight is 127 steps."""
    largest = max((abs(weight) for weight in words.weights.values()), default=0.0)
    return float(f"{largest / 127:.6g}") if largest else 1.0


def _bytes(words: Words, scale: float) -> bytes:
    rounded = bytearray(1 << words.bits)
    for bucket, weight in words.weights.items():
        rounded[bucket] = max(-127, min(127, round(weight / scale))) & 0xFF
    return bytes(rounded)
