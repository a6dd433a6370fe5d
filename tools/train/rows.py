"""The development data, read and labelled."""

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
# The families of role_mode_dev.jsonl know nothing of these; a label never speaks against them where a rule sees them.
UNLABELLED = ("tables", "pictures", "training")
# GPT-4 is right in none of its 29 questions, Mixtral in 13: answers that were misread, not easy questions.
FAULTY_SUBJECT = "high_school_mathematics"
_FROM_EACH_SOURCE = 30  # weak labels of one kind say the same thing over and over
_STRONG = (
    "llama-3.1-nemotron-51b-instruct",
    "llama-3.3-nemotron-super-49b-v1",
    "llama-3.1-8b-instruct",
    "qwen2.5-7b-instruct",
)
_WEAK = ("mistral-7b-instruct-v0.3", "codegemma-7b", "llama3-chatqa-1.5-8b", "llama3-chatqa-1.5-70b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A prompt and the fields that may do it. `kind` is natural, written (for this project) or weak."""

    prompt: str
    fields: frozenset[str]
    modes: frozenset[str]
    kind: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A question and how well a weak and a strong engine answered it, 0..1; `source` is its data set.

    Where the figures are `faulty` they are counted in what is measured on the whole file, and teach nothing.
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
    """The same rows in an order that has nothing to do with their source, and is always the same."""
    return sorted(rows, key=lambda row: (crc32(row.prompt.encode()), row.prompt))


def labelled() -> list[Labelled]:
    """Natural, written and weakly labelled prompts."""
    natural = [_labelled(r, "natural", r["source"], r["ok_modes"]) for r in records("role_mode_dev.jsonl")]
    written = [_labelled(r, "written", "written", ()) for r in records("written_dev.jsonl")]
    groups: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    for r in records("weak_roles_dev.jsonl"):
        row = _labelled(r | {"ok_roles": [r["weak_role"]]}, "weak", r["source"], ())
        groups[row.source, r["weak_role"]].append(row)
    weak = [row for group in groups.values() for row in spread_out(group)[:_FROM_EACH_SOURCE]]
    return [*natural, *written, *weak]


def stepped() -> list[Stepped]:
    """TaskBench's prompts without those that are labelled by hand, and weak labels from elsewhere."""
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
    return spread_out([*bench, *other])[::2]  # the other half adds seconds and nothing else


def paired(name: str) -> list[Paired]:
    """`mmlu`, `gsm8k`, or `sums`: LLMRouter's word problems, with the mean of its better and of its weaker models."""
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
    """The rows to learn from."""
    return [row for row in rows if not row.faulty]


def _labelled(record: dict[str, Any], kind: str, source: str, modes: Iterable[str]) -> Labelled:
    fields = frozenset(FIELD_OF[role] for role in record["ok_roles"])
    assert fields <= FIELDS.keys()
    return Labelled(prompt=record["prompt"], fields=fields, modes=frozenset(modes), kind=kind, source=source)


def _mean(scores: dict[str, float], models: tuple[str, ...]) -> float:
    return sum(scores[model] for model in models) / len(models)
