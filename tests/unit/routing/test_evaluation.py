"""The figures that measure decisions: known values, bounds and ties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.routing.evaluation import apgr, auroc, calibration_error, cpt, interval, share

SCORES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def test_apgr_is_a_half_for_no_opinion_and_more_for_the_right_order() -> None:
    """RouteLLM's figure: 0.5 is chance; the best order asks the strong engine first where only it is right."""
    weak, strong = [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]

    assert apgr([0.0] * 4, weak, strong) == pytest.approx(0.5)
    assert apgr([0.1, 0.2, 0.8, 0.9], weak, strong) == pytest.approx(0.75)
    assert apgr([0.9, 0.8, 0.2, 0.1], weak, strong) == pytest.approx(0.25)
    assert math.isnan(apgr([0.1], [1.0], [1.0]))


def test_cpt_is_the_least_share_of_strong_calls_that_wins_so_much_of_the_gap() -> None:
    """With equal scores, half the calls recover half the gap; the right order needs only two calls for all of it."""
    weak, strong = [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]

    assert cpt([0.0] * 4, weak, strong, 0.8) == pytest.approx(0.8)
    assert cpt([0.1, 0.2, 0.8, 0.9], weak, strong, 0.5) == pytest.approx(0.25)
    assert cpt([0.1, 0.2, 0.8, 0.9], weak, strong, 0.75) == pytest.approx(0.375)
    assert cpt([0.9, 0.8, 0.2, 0.1], weak, strong, 1.0) == pytest.approx(1.0)
    assert math.isnan(cpt([0.1], [1.0], [1.0], 0.5))


def test_cpt_looks_past_calls_that_make_it_worse() -> None:
    """If later strong calls lose quality again, the first share that reaches the goal counts."""
    weak, strong = [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]

    assert cpt([0.9, 0.8, 0.7, 0.6], weak, strong, 0.5) == pytest.approx(0.25)


def test_auroc_counts_ties_as_half() -> None:
    """A constant score gives 0.5."""
    assert auroc([0.1, 0.9], [False, True]) == 1
    assert auroc([0.5, 0.5, 0.5], [True, False, False]) == pytest.approx(0.5)
    assert math.isnan(auroc([0.5], [True]))


@given(SCORES)
def test_calibration_error_is_bounded_and_zero_for_the_truth(pairs: list[tuple[float, bool]]) -> None:
    """It is 0 for a confidence of 1 for all right and 0 for all wrong decisions."""
    scores, right = [score for score, _ in pairs], [label for _, label in pairs]

    assert 0 <= calibration_error(scores, right) <= 1 + 1e-9
    assert calibration_error([float(label) for label in right], right) == pytest.approx(0)


def test_an_interval_is_the_same_at_every_run() -> None:
    """Checks that compare with it must not change from run to run."""
    right = [True] * 90 + [False] * 10
    found = [interval(100, lambda chosen: share([right[i] for i in chosen])) for _ in range(2)]

    assert found[0] == found[1]
    assert 0.8 < found[0][0] < 0.9 < found[0][1] < 1
