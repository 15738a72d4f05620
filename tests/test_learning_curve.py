"""Calls for a target and budgets out of reach, on curves whose truth is known."""

import math

import numpy as np
import pytest
import scipy.stats

from tuition import learning_curve
from tuition.learning_curve import RoundsCurve

CALLS = (10, 20, 40, 80, 160, 320)
INPUTS = 1000


def truth(calls):
    return 98 - 200 * np.asarray(calls, dtype=float) ** -0.7


def inverse(target):
    return ((98 - target) / 200) ** (-1 / 0.7)


def exact(calls=CALLS, inputs=10**9):
    return RoundsCurve.of(calls, truth(calls), inputs)


def measured(generator, calls=CALLS, inputs=INPUTS):
    """The rounds of one run, counted on the same inputs: what a round knows the next one mostly knows too."""
    shape = len(calls), inputs
    hardness = np.where(generator.random(shape) < 0.7, generator.random(inputs), generator.random(shape))
    right = hardness < truth(calls)[:, None] / 100
    return RoundsCurve.of(calls, 100 * right.mean(axis=1), inputs)


def test_the_error_of_a_round_is_that_of_agresti_and_coull():
    curve = RoundsCurve.of([10, 20], [90.0, 100.0], 200)
    assert curve.error == pytest.approx(
        [100 * math.sqrt(p * (1 - p) / 204) for p in ((180 + 2) / 204, (200 + 2) / 204)]
    )


def test_combined_noise_bounds_every_common_correlation():
    generator = np.random.default_rng(0)
    curve = RoundsCurve.of([10, 20, 40], [60.0, 75.0, 85.0], 300)
    for _ in range(50):
        weights = generator.normal(size=3)
        _, half = curve.combine(weights)
        for correlation in (0.0, 0.3, 0.7, 1.0):
            covariance = np.outer(curve.error, curve.error) * (correlation + (1 - correlation) * np.eye(3))
            assert half >= scipy.stats.norm.ppf(0.975) * math.sqrt(weights @ covariance @ weights) - 1e-9


def test_calls_inside_the_range_are_interpolated_with_an_interval_that_holds_the_truth():
    generator, held = np.random.default_rng(1), []
    crossing = float(np.interp(90.0, truth(CALLS), CALLS))
    for _ in range(300):
        needed = learning_curve.calls_needed(measured(generator), 90.0)
        assert needed.measured
        assert not needed.why
        assert needed.low <= needed.value <= needed.high
        held.append(needed.low <= crossing <= needed.high)
    assert np.mean(held) >= 0.93


def test_calls_beyond_the_range_follow_the_power_law_as_far_as_it_is_trusted():
    near, far = float(truth(500)), float(truth(2000))
    needed = learning_curve.calls_needed(exact(), near)
    assert needed.value == pytest.approx(500, rel=1e-3)
    assert not needed.measured
    assert needed.low <= 500 <= needed.high
    beyond = learning_curve.calls_needed(exact(), far)
    assert math.isnan(beyond.value)
    assert "times the most calls measured" in beyond.why


@pytest.mark.parametrize(
    ("curve", "target", "word"),
    [
        (exact(CALLS[:1]), 90, "one number of calls"),
        (exact(CALLS[:3]), 94, "too few counts"),
        (exact(), 99, "above the fitted limit"),
        (RoundsCurve.of(CALLS, [90, 80, 70, 60, 50, 40], INPUTS), 95, "does not rise"),
        (RoundsCurve.of(CALLS, [50, 60, 70, 80, 90, 91], 10**6), 93, "expects"),
        (RoundsCurve.of(CALLS, [50, 80, 60, 85, 70, 88], INPUTS), 93, "poor fit"),
        (RoundsCurve.of(CALLS, truth(CALLS), 40), 95.6, "no upper end"),
        (exact(), 50, "do it already"),
    ],
)
def test_what_is_not_known_is_not_told_and_the_reason_is(curve, target, word):
    needed = learning_curve.calls_needed(curve, target)
    assert math.isnan(needed.value)
    assert word in needed.why


def test_a_budget_is_out_of_reach_only_where_it_is():
    """On 200 noisy runs: a target the budget reaches is rarely given up, one far above it mostly."""
    generator = np.random.default_rng(2)
    runs = [measured(generator, CALLS[:5]) for _ in range(200)]
    reached = float(truth(640))
    wrong = [bool(learning_curve.out_of_reach(run, reached, 640)) for run in runs]
    assert np.mean(wrong) <= 0.03
    hopeless = [bool(learning_curve.out_of_reach(run, 99.9, 320)) for run in runs]
    assert np.mean(hopeless) >= 0.7


@pytest.mark.parametrize(
    ("accuracy", "why"),
    [
        ([10, 10.2, 10.1, 10.3], "it has not begun to rise"),
        ([10, 11, 20, 50], "it rises ever faster"),
        ([50, 70], "two rounds are too few"),
    ],
)
def test_nothing_is_given_up_while_the_curve_tells_nothing(accuracy, why):
    curve = RoundsCurve.of(CALLS[: len(accuracy)], accuracy, INPUTS)
    assert learning_curve.out_of_reach(curve, 99.0, 400) == "", why


def test_the_sentence_names_what_the_budget_reaches_at_most():
    curve = RoundsCurve.of(CALLS[:4], [50, 70, 80, 85], 10**9)
    said = learning_curve.out_of_reach(curve, 97, 160)
    assert said.startswith("160 calls will not reach 97 %")
    most = float(said.split("reach ")[-1].split(" %")[0])
    assert 85 < most <= 90.1  # the last doubling brought 5 points
