"""Read the development data and its labels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from llm_server.orchestration.routing.analysis import FIELDS

DATA = Path(__file__).parents[2] / "data" / "routing"
FIELD_OF = {
    "Chat-Agent": "talk",
    "Coder": "code",
    "Writing": "text",
    "Research": "research",
    "Teacher": "teaching",
    "QA": "quality",
    "Financial": "money",
    "Spreadsheet": "tables",
    "Vision": "pictures",
    "Personal-Trainer": "training",
    "Planner": "plan",
}
# role_mode_dev.jsonl has no labels for these fields, so its labels do not count against one that the rules find.
UNLABELLED = ("tables", "pictures", "training")
# GPT-4 has 0 of its 29 questions right and Mixtral 13: the answers of this subject were misread.
FAULTY_SUBJECT = "high_school_mathematics"
_MAX_FROM_SOURCE = 30  # weak labels from one source are very similar
_STRONG = (
    "llama-3.1-nemotron-51b-instruct",
    "llama-3.3-nemotron-super-49b-v1",
    "llama-3.1-8b-instruct",
    "qwen2.5-7b-instruct",
)
_WEAK = ("mistral-7b-instruct-v0.3", "codegemma-7b", "llama3-chatqa-1.5-8b", "llama3-chatqa-1.5-70b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A prompt and its acceptable fields. `kind` is natural, written (for this project) or weak (a weak label)."""

    prompt: str
    fields: frozenset[str]
    modes: frozenset[str]
    kind: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A question, and how well a weak and a strong engine answered it, 0..1; `source` is its data set.

    `faulty` rows are measured with the others, but are left out of training.
    """

    prompt: str
    weak: float
    strong: float
    source: str
    faulty: bool = False

    @property
    def gap(self) -> float:
        return self.strong - self.weak


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """A prompt and whether it has several steps."""

    prompt: str
    several: bool
    domain: str


Row = TypeVar("Row", Labelled, Paired, Stepped)


def records(name: str) -> Iterator[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def spread_out(rows: Iterable[Row]) -> list[Row]:
    """Return the rows in an order that is independent of their source and always the same."""
    return sorted(rows, key=lambda row: (crc32(row.prompt.encode()), row.prompt))


def labelled_prompts() -> list[Labelled]:
    """Return the natural, the written and the weakly labelled prompts."""
    natural = [_labelled(r, "natural", r["source"], r["ok_modes"]) for r in records("role_mode_dev.jsonl")]
    written = [_labelled(r, "written", "written", ()) for r in records("written_dev.jsonl")]
    groups: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    for r in records("weak_roles_dev.jsonl"):
        row = _labelled(r | {"ok_roles": [r["weak_role"]]}, "weak", r["source"], ())
        groups[row.source, r["weak_role"]].append(row)
    weak = [row for group in groups.values() for row in spread_out(group)[:_MAX_FROM_SOURCE]]
    return [*natural, *written, *weak]


def step_prompts() -> list[Stepped]:
    """Return TaskBench's prompts without those that were labelled by hand, and weak labels from other sources."""
    by_hand = {r["prompt"] for r in records("role_mode_dev.jsonl")}
    bench = [
        Stepped(prompt=r["prompt"], several=r["multi_step"], domain=r["id"][:3])
        for r in records("plan_taskbench_dev.jsonl")
        if r["prompt"] not in by_hand
    ]
    other = [
        Stepped(prompt=r["prompt"], several=r["weak_role"] == "Planner", domain="other")
        for r in records("weak_roles_dev.jsonl")
        if r["source"] != "taskbench"
    ]
    return spread_out([*bench, *other])[::2]  # half of the rows, because all of them take longer and give no more


def engine_pairs(name: str) -> list[Paired]:
    """Return the rows of `mmlu`, `gsm8k` or `sums` (LLMRouter's word problems).

    For `sums`, the figures are the means of LLMRouter's weaker and of its better models.
    """
    if name != "sums":
        return [
            Paired(
                prompt=r["prompt"],
                weak=r["weak"],
                strong=r["strong"],
                source=name,
                faulty=r.get("subject") == FAULTY_SUBJECT,
            )
            for r in records(f"{name}_dev.jsonl")
        ]
    return [
        Paired(prompt=r["prompt"], weak=_mean(r["scores"], _WEAK), strong=_mean(r["scores"], _STRONG), source=r["task"])
        for r in records("llmrouter_sums_dev.jsonl")
    ]


def sound(rows: Iterable[Paired]) -> list[Paired]:
    """Return the rows that are not faulty."""
    return [row for row in rows if not row.faulty]


def _labelled(record: dict[str, Any], kind: str, source: str, modes: Iterable[str]) -> Labelled:
    fields = frozenset(FIELD_OF[role] for role in record["ok_roles"])
    assert fields <= FIELDS.keys()
    return Labelled(prompt=record["prompt"], fields=fields, modes=frozenset(modes), kind=kind, source=source)


def _mean(scores: dict[str, float], models: tuple[str, ...]) -> float:
    return sum(scores[model] for model in models) / len(models)
