"""What a triage adds at each threshold: the share of prompts that is asked about, the roles that fit, and the cost.

It reads the decisions of data/routing/left_out.csv, made by models that had not seen the prompt's sources, or a file of
predictions, one JSON object a line: `role` and `confidence` of the analysis, the `ok_roles` that a label accepts, and
`prompt`, the prompt's length in characters. The engine is scripted: it is right in
90 % of the cases, drawn from a fixed seed, and its answers are read as a real engine's are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from llm_server.catalog_loading import configured_catalog
from llm_server.cli.route import family
from llm_server.engines.prices import price
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineKind, EngineSpec
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.triage import WHOLE
from llm_server.orchestration.execution.triage import tokens_in
from llm_server.orchestration.execution.triage_question import MAX_OUTPUT_TOKENS, Question
from llm_server.orchestration.routing.analysis import FIELDS
from llm_server.settings import Settings
from train import validation
from train.rows import labelled_prompts

ACCURACY = 0.9
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.01)
"""The last one asks about every prompt."""
SMALL_MODELS = {
    "gpt-4.1-nano": "https://api.openai.com/v1",
    "gpt-4o-mini": "https://api.openai.com/v1",
    "claude-haiku-4-5": "https://api.anthropic.com",
}
"""Small models and their base URLs; the price library knows what they cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the analysis said about a prompt that it was not trained on, and what is accepted."""

    role: str
    confidence: float
    ok_roles: frozenset[str]
    prompt: int

    def accepts(self, role: str) -> bool:
        """Return whether a label accepts a role; labels name one family for all coders, and one for all writers."""
        return not {role, family(role)}.isdisjoint(self.ok_roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a threshold gives: shares of all prompts (0 to 1), and the mean tokens of a question.

    `before` is the share of prompts whose role is accepted if the analysis decides all of them, `fallback` if the chat
    role answers below the threshold, `after` if an engine is asked there.
    """

    asked: float
    before: float
    fallback: float
    after: float
    tokens_in: int


def run(path: Path | None = None) -> None:
    if path is not None and not path.exists():
        print(f"  {path} is missing")
        return
    if path is not None:
        parts = {path.name: predictions(path)}
    else:
        parts = {f"{name} prompts": left_out(natural=name == "natural") for name in ("natural", "written")}
    for name, rows in parts.items():
        print(f"  {name}:")
        for line in report(rows):
            print(f"  {line}")


def left_out(*, natural: bool) -> list[Prediction]:
    """Return the decisions for natural or written prompts of sources that were left out."""
    judged = validation.committed(labelled_prompts())
    confidences = validation.crossed_confidences(judged)
    return [
        Prediction(
            role=FIELDS[j.field][0],
            confidence=confidence,
            ok_roles=frozenset(FIELDS[field][0] for field in j.row.fields),
            prompt=len(j.row.prompt),
        )
        for j, confidence in zip(judged, confidences, strict=True)
        if j.row.natural == natural
    ]


def predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions. Raises ValueError or KeyError if a line is not one."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Prediction(
            role=row["role"],
            confidence=float(row["confidence"]),
            ok_roles=frozenset(row["ok_roles"]),
            prompt=int(row["prompt"]),
        )
        for row in rows
    ]


def report(rows: Sequence[Prediction]) -> Iterator[str]:
    """Yield the lines of the table; costs are in USD for 1,000 prompts, asked about or not."""
    catalog = configured_catalog(Settings.read())
    models = {
        name: EngineSpec(kind=_kind(name), source="api", model=name, base_url=u) for name, u in SMALL_MODELS.items()
    }
    yield f"{len(rows):,} prompts; the engine is right in {ACCURACY:.0%} of the cases; its answers have 60 tokens"
    yield (
        f"{'threshold':>9} {'asked':>7} {'analysis':>9} {'with Chat':>10} {'triaged':>8}   "
        + "  ".join(f"{name:>17}" for name in models)
    )
    for threshold in THRESHOLDS:
        found = measure(rows, threshold, catalog)
        costs = "  ".join(f"{_usd(spec, found):>13.4f} USD" for spec in models.values())
        shown = "all" if threshold > 1 else f"{threshold:.2f}"
        yield (
            f"{shown:>9} {found.asked:>7.1%} {found.before:>9.3f} {found.fallback:>10.3f} {found.after:>8.3f}   {costs}"
        )
    yield "analysis: its role is accepted; with Chat: so is Chat-Agent's, which answers below the threshold;"
    yield "triaged: an engine is asked below the threshold. Costs are for 1,000 prompts, asked about or not."


def measure(rows: Sequence[Prediction], threshold: float, catalog: Catalog, *, seed: int = 7) -> Figures:
    """Return what a threshold gives; the same rows and the same seed give the same figures."""
    question = Question.of(catalog, catalog.defaults.profile, WHOLE)
    assert question is not None
    fallback = catalog.profile(catalog.defaults.profile).default_role
    chance, before, without, after = Random(seed), 0, 0, 0
    asked, tokens = 0, 0
    for row in rows:
        draw = chance.random(), chance.random()  # for every prompt, so that thresholds are compared on the same draws
        before += row.accepts(row.role)
        if row.confidence >= threshold:
            without += row.accepts(row.role)
            after += row.accepts(row.role)
            continue
        asked, tokens = asked + 1, tokens + tokens_in(question.about("x" * row.prompt))
        choice = question.read(_answer(row, question, *draw))
        without += row.accepts(fallback)
        after += row.accepts(choice.role if choice else fallback)
    count = max(len(rows), 1)
    return Figures(
        asked=asked / count,
        before=before / count,
        fallback=without / count,
        after=after / count,
        tokens_in=round(tokens / max(asked, 1)),
    )


def _answer(row: Prediction, question: Question, luck: float, which: float) -> str:
    """Return the scripted engine's answer: an accepted role if it is lucky, otherwise another one."""
    roles = [*question.roles, question.planner]
    fitting = [role for role in roles if row.accepts(role)]
    others = [role for role in roles if role not in fitting]
    named = _drawn((fitting if luck < ACCURACY else others) or roles, which)
    mode = "Plan" if named == question.planner else "Agent"
    return json.dumps({"mode": mode, "role": named, "complexity": 0.5})


def _drawn(roles: Sequence[str], which: float) -> str:
    return roles[int(which * len(roles))]


def _usd(spec: EngineSpec, found: Figures) -> float:
    """Return the cost of the questions per 1,000 prompts."""
    cost = price(spec, Usage(input_tokens=found.tokens_in, output_tokens=MAX_OUTPUT_TOKENS))
    return float("nan") if cost is None else 1_000 * found.asked * cost / 1_000_000


def _kind(model: str) -> EngineKind:
    return "anthropic" if model.startswith("claude") else "openai"


def main(names: Sequence[str]) -> int:
    if not names:
        run()
    for name in names:
        run(Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
