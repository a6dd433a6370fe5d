"""The data file: weights rounded to what the server needs, in one order, so that the same model is the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_server.orchestration.routing.analysis import FIELDS
from train.heads import ROLE_BITS, Expert, Fields, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Everything that is trained, before it is rounded."""

    steps: Mapping[str, float]
    fields: Fields
    experts: Mapping[str, Expert]
    confidence: tuple[float, float] = (1.0, 0.0)
    complexity_quantiles: Sequence[float] = ()


def packed(trained: Trained) -> bytes:
    """Return the file's bytes."""
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
    """The step of a table: the largest weight is 127 steps; six digits are enough."""
    return float(f"{max((abs(weight) for weight in words.weights.values()), default=0.0) / 127 or 1.0:.6g}")


def _bytes(words: Words, scale: float) -> bytes:
    rounded = bytearray(1 << words.bits)
    for bucket, weight in words.weights.items():
        rounded[bucket] = max(-127, min(127, round(weight / scale))) & 0xFF
    return bytes(rounded)
