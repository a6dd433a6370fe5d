"""`python -m train` makes the data file; `python -m train --figures` prints the figures of docs/analysis.md."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llm_server.cli.route import THRESHOLD
from llm_server.orchestration.routing import weights
from llm_server.orchestration.routing.analysis import complexity
from llm_server.orchestration.routing.evaluation import calibration_error, share
from llm_server.orchestration.routing.signals import read
from train import rows, validation
from train.heads import train_expert, train_fields, train_steps
from train.model_file import Trained, pack


def train() -> tuple[Trained, list[validation.Judged]]:
    """Train all weights, and judge every labelled prompt with a model that was not trained on it."""
    steps = train_steps(rows.step_prompts())
    labelled = rows.labelled_prompts()
    judged = validation.judge_fields(labelled, steps)
    mmlu, sums = rows.sound(rows.engine_pairs("mmlu")), [*rows.engine_pairs("gsm8k"), *rows.engine_pairs("sums")]
    made = Trained(
        steps=steps,
        fields=train_fields(labelled, steps),
        experts={
            "exam": train_expert("exam", mmlu, validation.centres(mmlu)),
            "sum": train_expert("sum", sums, validation.centres(sums)),
        },
        confidence=validation.confidence_of(judged),
    )
    natural = [row.prompt for row in labelled if row.kind == "natural"]
    return replace(made, complexity_quantiles=complexity_quantiles(natural, weights.parse(pack(made)))), judged


def complexity_quantiles(prompts: Iterable[str], judging: weights.Weights) -> list[float]:
    """Return the percentiles 0 to 100 of the complexity that the server computes, with linear interpolation."""
    found = sorted(complexity(read(prompt), judging) for prompt in prompts)
    places = [n * (len(found) - 1) / 100 for n in range(101)]
    return [found[int(p)] + (p - int(p)) * (found[math.ceil(p)] - found[int(p)]) for p in places]


def field_figures(judged: list[validation.Judged]) -> dict[str, float]:
    """Return cross-validated figures of role, mode and calibration on natural prompts, and of role on hard ones."""
    natural = [j for j in judged if j.row.kind == "natural"]
    written = [j for j in judged if j.row.kind == "written"]
    crossed = zip(judged, validation.crossed_confidences(judged), strict=True)
    confidences, right = zip(*((c, j.right) for j, c in crossed if j.row.kind == "natural"), strict=True)
    return {
        "role acceptable": share([j.role_right for j in natural]),
        "mode acceptable": share([j.mode_right for j in natural]),
        "calibration error": calibration_error(confidences, right),
        "abstained": share([c < THRESHOLD for c in confidences]),
        "written to be hard: role acceptable": share([j.role_right for j in written]),
    }


def source_figures(trained: Trained) -> dict[str, float]:
    """Return figures of role and mode on natural prompts from sources that were left out of training."""
    judged = validation.judge_unseen_sources(rows.labelled_prompts(), trained.steps)
    right = {"role": [j.role_right for j in judged], "mode": [j.mode_right for j in judged]}
    return {f"{name} acceptable, source not seen": share(found) for name, found in right.items()}


def gap_figures() -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the recovered gap: cross-validated, on data sets left out of training, and by prompt length to compare."""
    mmlu, gsm8k, sums = (rows.engine_pairs(name) for name in ("mmlu", "gsm8k", "sums"))
    other = validation.as_served(train_expert("sum", sums, validation.centres(sums)), "sum")
    scored = {
        "MMLU": validation.crossed_gap("exam", mmlu, []),
        "MMLU by length": validation.by_length(mmlu),
        "GSM8K": validation.crossed_gap("sum", gsm8k, sums),
        "GSM8K by length": validation.by_length(gsm8k),
        "GSM8K, no word problem seen": validation.unseen_gap(gsm8k),
        "GSM8K, LLMRouter's word problems seen": validation.unseen_gap(gsm8k, other),
        "MMLU, no exam seen": validation.unseen_gap(mmlu),
    }
    scored |= {
        f"{name}, faulty rows left out": [pair for pair in scored[name] if not pair[1].faulty]
        for name in ("MMLU", "MMLU by length", "MMLU, no exam seen")
    }
    return {name: validation.apgr_with_interval(pairs) for name, pairs in scored.items()}


def step_figures() -> dict[str, float]:
    """Return the AUROC for several steps on each domain of TaskBench, trained on the other one."""
    stepped = rows.step_prompts()
    return {domain: validation.unseen_steps(stepped, domain) for domain in ("dai", "hug")}


def main(arguments: list[str]) -> int:
    made, judged = train()
    data = pack(made)
    if "--figures" in arguments:
        for name, figure in (field_figures(judged) | source_figures(made)).items():
            print(f"{name}: {figure:.3f}")
        for name, (figure, (low, high)) in gap_figures().items():
            print(f"APGR {name}: {figure:.3f} ({low:.3f} to {high:.3f})")
        for name, figure in step_figures().items():
            print(f"several steps, {name} not seen: AUROC {figure:.3f}")
        return 0
    target = Path(arguments[0] if arguments else weights.FILE)
    target.write_bytes(data)
    print(f"{target.name}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
