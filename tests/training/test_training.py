"""Training of the analysis: the shipped file is what training produces, and as good as docs/analysis.md says.

Every figure is measured on prompts that the model was not trained on; bounds are the measured figures less a margin.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_server.orchestration.routing import weights as model
from llm_server.orchestration.routing.analysis import analyse
from llm_server.orchestration.routing.signals import read
from train import __main__ as training
from train import rows, validation
from train.fit import Sparse, logistic, platt, ridge
from train.heads import train_steps
from train.model_file import Trained, pack

pytestmark = pytest.mark.timeout(400)  # training takes 50 s, and four times that on a busy machine
Training = tuple[Trained, list[validation.Judged]]


@pytest.fixture(scope="module")
def trained() -> Training:
    return training.train()


def test_the_shipped_file_is_what_training_produces(trained: Training) -> None:
    """It is equal byte for byte, so anyone can check the numbers by training again."""
    assert pack(trained[0]) == Path(model.FILE).read_bytes()
    assert Path(model.FILE).stat().st_size <= 300_000


def test_complexity_quantiles_are_those_of_the_natural_prompts(trained: Training) -> None:
    """They turn a share of strong answers into a complexity: a tenth of the prompts lies above the 90th percentile."""
    quantiles = model.parse(pack(trained[0])).complexity_quantiles
    found = [analyse(row.prompt).complexity for row in rows.labelled_prompts() if row.kind == "natural"]

    assert len(quantiles) == 101
    assert list(quantiles) == sorted(quantiles)
    assert (quantiles[0], quantiles[100]) == (min(found), max(found))
    for n in (10, 50, 90):
        assert sum(figure > quantiles[n] for figure in found) / len(found) == pytest.approx(1 - n / 100, abs=0.02)


def test_roles_modes_and_confidence_of_unseen_prompts(trained: Training) -> None:
    """Goals: role .90, mode .95, calibration error .06."""
    figures = training.field_figures(trained[1])

    assert figures["role acceptable"] >= 0.915
    assert figures["mode acceptable"] >= 0.95
    assert figures["calibration error"] <= 0.05


def test_roles_and_modes_of_prompts_from_an_unseen_source(trained: Training) -> None:
    """Goals: role .90, mode .95, which the mode misses by one prompt in 217.

    Servers mostly get prompts of unseen sources.
    """
    figures = training.source_figures(trained[0])

    assert figures["role acceptable, source not seen"] >= 0.90
    assert figures["mode acceptable, source not seen"] >= 0.94


def test_the_quality_gap_recovered_on_unseen_questions() -> None:
    """Goals: MMLU .645, GSM8K .622, unseen data set .60 (not reached by exams).

    All must be better than prompt length alone.
    """
    recovered = {name: figure for name, (figure, _) in training.gap_figures().items()}

    assert recovered["MMLU"] >= 0.645
    assert recovered["MMLU, faulty rows left out"] >= 0.61
    assert recovered["GSM8K"] >= 0.63
    assert recovered["GSM8K, no word problem seen"] >= 0.60
    assert recovered["MMLU, no exam seen, faulty rows left out"] >= 0.565
    for name in ("MMLU", "GSM8K", "GSM8K, no word problem seen"):
        assert recovered[name] > recovered[f"{name.partition(',')[0]} by length"]
    for name in ("MMLU", "MMLU, no exam seen"):
        assert recovered[f"{name}, faulty rows left out"] > recovered["MMLU by length, faulty rows left out"]


def test_faulty_rows_are_not_used_for_training() -> None:
    """MMLU's faulty subject would make mathematics with lettered answers look easiest, so it is only measured."""
    exams = rows.engine_pairs("mmlu")
    faulty = [row for row in exams if row.faulty]
    learnt = sorted(analyse(row.prompt).complexity for row in exams)
    middle = sorted(analyse(row.prompt).complexity for row in faulty)[len(faulty) // 2]

    assert len(faulty) == 29
    assert not any(row.strong for row in faulty)
    assert not any(row.faulty for row in rows.sound(exams))
    assert learnt.index(middle) / len(learnt) > 0.15


def test_several_steps_on_an_unseen_domain() -> None:
    """Goal: AUROC .95 in both directions. The prompts of this domain were read when the kinds of work were listed."""
    stepped = rows.step_prompts()

    assert validation.unseen_steps(stepped, "dai") >= 0.98
    assert validation.unseen_steps(stepped, "hug") >= 0.95


def test_no_prompt_is_judged_by_a_model_trained_on_it() -> None:
    """Folds do not overlap and contain every prompt, and prompts labelled by hand are not used for the steps."""
    prompts = [row for row in rows.labelled_prompts() if row.kind != "weak"]

    judged = [row for train, held in validation.folds(prompts) for row in held if row not in train]
    assert len(judged) == len(prompts) == len(set(prompts))
    by_hand = {row.prompt for row in prompts if row.kind == "natural"}
    assert not by_hand & {row.prompt for row in rows.step_prompts()}
    assert not by_hand & {row.prompt for row in rows.labelled_prompts() if row.kind != "natural"}


def test_training_does_not_depend_on_the_order_of_the_rows() -> None:
    """Sums are rounded once, so the order of files on disk does not matter."""
    some = rows.step_prompts()[:300]

    assert train_steps(some) == train_steps(some[::-1])


def test_the_server_scores_like_the_trainer(trained: Training) -> None:
    """Up to rounding to bytes, since both use the same functions to read the prompt."""
    served = model.parse(pack(trained[0]))
    for row in rows.labelled_prompts()[::40]:
        signals = read(row.prompt)
        assert served.steps == trained[0].steps
        figure = validation.confidence_of(trained[1])
        assert served.confidence == pytest.approx(figure, abs=1e-4)
        assert analyse(row.prompt).multi_step == pytest.approx(
            1 / (1 + 2.718281828459045 ** -served.steps_logit(signals)), abs=1e-4
        )


def test_the_fits_find_known_solutions() -> None:
    """Closed forms: a ridge with one column, a balanced logistic regression, a slope with the right sign."""
    matrix = [Sparse((0, 1), (x, 0.0)) for x in (1.0, 2.0)]

    assert ridge(matrix, [1.0, 2.0], [1.0, 1.0], 20)[0] == pytest.approx(5 / 6, abs=1e-6)
    even = [Sparse((0, 1), (1.0, 0.0))] * 2
    assert logistic(even, [True, False], [1.0, 1.0], [0.1, 0.1], 20)[0] == pytest.approx(0, abs=1e-6)
    slope, _ = platt([0.0, 1.0, 2.0, 3.0] * 10, [False, False, True, True] * 10, [1.0] * 40)
    assert slope > 1
