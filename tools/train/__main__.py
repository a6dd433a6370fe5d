"""`python -m train` makes the data file; `--left-out` first judges all groups anew; `--figures` prints the tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llm_server.orchestration.routing import weights
from llm_server.orchestration.routing.analysis import logistic
from train import reliability, rows, validation
from train.concept_lists import concept_table
from train.fields import Corpus
from train.heads import train_steps
from train.measured import completed, complexity_logit, rule_of
from train.model_file import Trained, pack

PERCENTILES_OF = "role_mode_dev.jsonl"
DATA_SETS = ("MMLU", "GSM8K", "LLMRouter")


def train(judged: list[validation.Judged] | None = None) -> tuple[Trained, Corpus]:
    """Train all weights; the confidence is that of left_out.csv, or of `judged`."""
    steps = train_steps(rows.step_prompts())
    concepts = concept_table()
    corpus = Corpus(rows.labelled_prompts(), rows.asked(), concepts.concepts(), steps)
    if judged is None:
        judged = validation.committed(corpus.rows)
    made = Trained(
        steps=steps,
        concepts=concepts,
        fields=corpus.train_all(),
        experts={},
        confidence=validation.confidence_of(judged),
    )
    made = completed(made, rows.sound(rows.engine_pairs("mmlu")), corpus.asked)
    natural = [record["prompt"] for record in rows.records(PERCENTILES_OF)]
    return replace(made, complexity_quantiles=complexity_quantiles(natural, weights.parse(pack(made)))), corpus


def complexity_quantiles(prompts: Iterable[str], judging: weights.Weights) -> list[float]:
    """Return the percentiles 0 to 100 of the complexity that the server computes, with linear interpolation."""
    found = sorted(round(logistic(complexity_logit(judging, prompt)), 4) for prompt in prompts)
    places = [n * (len(found) - 1) / 100 for n in range(101)]
    return [found[int(p)] + (p - int(p)) * (found[math.ceil(p)] - found[int(p)]) for p in places]


def field_figures(judged: list[validation.Judged]) -> dict[str, dict[str, float]]:
    """Return the figures of left-out prompts: all natural and all written ones, by language, by group, by source."""
    confidences = validation.crossed_confidences(judged)
    pairs = list(zip(judged, confidences, strict=True))
    parts = {
        "natural": [(j, c) for j, c in pairs if j.row.natural],
        "written": [(j, c) for j, c in pairs if not j.row.natural],
        "natural, English": [(j, c) for j, c in pairs if j.row.language == "en"],
        "natural, not English": [(j, c) for j, c in pairs if j.row.natural and j.row.language != "en"],
    }
    for group in sorted({j.row.group for j in judged}):
        parts[f"group {group}"] = [(j, c) for j, c in pairs if j.row.group == group]
    for source in sorted({j.row.source for j in judged if j.row.natural}):
        parts[f"source {source}"] = [(j, c) for j, c in pairs if j.row.source == source]
    for language in ("de", "es", "fr", "ja", "ru", "zh"):
        parts[f"language {language}"] = [(j, c) for j, c in pairs if j.row.language == language]
    return {
        name: validation.left_out_figures([j for j, _ in part], [c for _, c in part]) for name, part in parts.items()
    }


def gap_figures(made: Trained, corpus: Corpus) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the recovered gap: cross-validated, on data sets left out of training, and by prompt length to compare."""
    mmlu, rule = rows.engine_pairs("mmlu"), rule_of(made)
    closed = validation.crossed_closed(corpus, made)
    scored = {
        "MMLU": validation.crossed_exams(mmlu, made.experts["sum"].taught, rule),
        "MMLU left out": validation.unseen_exams(mmlu, made.experts["sum"]),
    }
    for name, engines in (("GSM8K", "gsm8k"), ("LLMRouter", "llmrouter")):
        scored[name] = [pair for pair in closed if pair[1].engines == engines]
        scored[f"{name} left out"] = validation.left_out(corpus, made, engines)
    scored |= {f"{name} by length": validation.by_length(row for _, row in scored[name]) for name in DATA_SETS}
    scored |= {
        f"{name}, faulty rows left out": [pair for pair in scored[name] if not pair[1].faulty]
        for name in ("MMLU", "MMLU by length", "MMLU left out")
    }
    return {name: validation.apgr_with_interval(pairs) for name, pairs in scored.items()}


def step_figures() -> dict[str, float]:
    """Return the AUROC for several steps on each domain of TaskBench, trained on the other one."""
    stepped = rows.step_prompts()
    return {domain: validation.unseen_steps(stepped, domain) for domain in ("dai", "hug")}


def _print_figures(judged: list[validation.Judged], made: Trained, corpus: Corpus) -> None:
    for name, figures in field_figures(judged).items():
        print(f"{name}: " + ", ".join(f"{what} {figure:.3f}".replace(".000", "") for what, figure in figures.items()))
    for name, (figure, (low, high)) in gap_figures(made, corpus).items():
        print(f"APGR {name}: {figure:.3f} ({low:.3f} to {high:.3f})")
    for name, figure in step_figures().items():
        print(f"several steps, {name} not seen: AUROC {figure:.3f}")


def main(arguments: list[str]) -> int:
    judged = None
    if "--left-out" in arguments:
        concepts, steps = concept_table(), train_steps(rows.step_prompts())
        corpus = Corpus(rows.labelled_prompts(), rows.asked(), concepts.concepts(), steps)
        judged = list(validation.judge(corpus, concepts, steps))
        validation.LEFT_OUT.write_text(validation.as_csv(judged), encoding="utf-8")
        drawn = reliability.diagram(judged, validation.crossed_confidences(judged))
        reliability.FILE.write_text(drawn, encoding="utf-8")
    made, corpus = train(judged)
    if "--figures" in arguments:
        _print_figures(validation.committed(corpus.rows), made, corpus)
        return 0
    data = pack(made)
    target = Path(next((name for name in arguments if not name.startswith("--")), weights.FILE))
    target.write_bytes(data)
    print(f"{target.name}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
