"""Read the development data and its labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

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
# GPT-4 has 0 of its 29 questions right and Mixtral 13: the answers of this subject were misread.
FAULTY_SUBJECT = "high_school_mathematics"
SUMS = ("gsm8k", "agentverse-mgsm")
"""The tasks of LLMRouter that are word problems."""
_STRONG = (
    "llama-3.1-nemotron-51b-instruct",
    "llama-3.3-nemotron-super-49b-v1",
    "llama-3.1-8b-instruct",
    "qwen2.5-7b-instruct",
)
_WEAK = ("mistral-7b-instruct-v0.3", "codegemma-7b", "llama3-chatqa-1.5-8b", "llama3-chatqa-1.5-70b")


# Sources that resemble one another are left out together, when prompts are judged as from sources never seen.
GROUPS = {
    "devices": "homeassistant nlu_home typeagent",
    "tools": "bfcl stabletoolbench toolalpaca taubench typechat",
    "money": "banking77 rasa_fin tatqa",
    "data": "agentbench_db spider2 sqleval dabench",
    "pictures": "llava_qa90 owleval",
    "formats": "ifeval mifeval followbench",
    "chats": "arenahard2 vicuna selfinstruct_user biggen arenahard mtbench selfinstruct-user",
    "seeds": "belle_eval belle_seed rulm_seed",
    "code": "mbpp qa_prompts",
    "research": "scholarqa factool afriqa",
    "writing": "writingbench longwriter promptschat",
    "teaching": "dair prompts_for_edu biblio_ia guide_ia",
    "web": "autogpt_bench webarena taskbench clinc-in clinc-oos",
}
_GROUP_OF = {source: group for group, sources in GROUPS.items() for source in sources.split()}
JUDGED = ("labelled_dev.jsonl", "written2_dev.jsonl", "written3_dev.jsonl", "written4_dev.jsonl")
REQUESTS = "requests_dev.jsonl"
TAUGHT = ("role_mode_dev.jsonl", "written_dev.jsonl", REQUESTS)
"""Files of prompts that are trained on, but not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A prompt, its acceptable fields and modes, and how much a strong engine gains, 1..5 (None: not known).

    `natural` prompts come from elsewhere, the others were written for this project. `group` is a group of similar
    natural sources, or a slice of written prompts. `judged` prompts are judged by models that were not trained on their
    group; the others, from older files, are trained on only. `language` is empty if it is not known.
    """

    prompt: str
    fields: frozenset[str]
    modes: frozenset[str]
    gain: int | None
    source: str
    group: str
    natural: bool
    judged: bool
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A question, and how well a weak and a strong engine answered it, 0..1; `source` is its data set.

    `engines` names the data set that the engines' answers come from.
    `faulty` rows are measured with the others, but are left out of training.
    """

    prompt: str
    weak: float
    strong: float
    source: str
    engines: str
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
    """Return the labelled prompts of all files, in the files' order."""
    judged = [_labelled(r, name, judged=True) for name in JUDGED for r in records(name)]
    older = [_labelled(r, name, judged=False) for name in TAUGHT for r in records(name)]
    return [*judged, *older]


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
    """Return the rows of `mmlu`, `gsm8k`, `llmrouter` or `sums` (LLMRouter's word problems).

    For LLMRouter, the figures are the means of its weaker and of its better models.
    """
    if name in ("llmrouter", "sums"):
        return [
            Paired(
                prompt=r["prompt"],
                weak=_mean(r["scores"], _WEAK),
                strong=_mean(r["scores"], _STRONG),
                source=r["task"],
                engines="llmrouter",
            )
            for r in records("llmrouter_dev.jsonl")
            if name == "llmrouter" or r["task"] in SUMS
        ]
    return [
        Paired(
            prompt=r["prompt"],
            weak=r["weak"],
            strong=r["strong"],
            source=name,
            engines=name,
            faulty=r.get("subject") == FAULTY_SUBJECT,
        )
        for r in records(f"{name}_dev.jsonl")
    ]


def asked() -> list[Paired]:
    """Return LLMRouter's questions and RouteLLM's word problems, mixed, always in the same order."""
    return spread_out([*engine_pairs("llmrouter"), *engine_pairs("gsm8k")])


def sound(rows: Iterable[Paired]) -> list[Paired]:
    """Return the rows that are not faulty."""
    return [row for row in rows if not row.faulty]


def _labelled(record: dict[str, Any], source: str, *, judged: bool) -> Labelled:
    source = record.get("source", source)
    return Labelled(
        prompt=record["prompt"],
        fields=frozenset(FIELD_OF[role] for role in record["ok_roles"]),
        modes=frozenset(record.get("ok_modes", ())),
        gain=record.get("gain"),
        source=source,
        group=_GROUP_OF.get(source, source),
        natural=source in _GROUP_OF,
        judged=judged,
        language=record.get("lang", ""),
    )


def _mean(scores: dict[str, float], models: tuple[str, ...]) -> float:
    return sum(scores[model] for model in models) / len(models)
