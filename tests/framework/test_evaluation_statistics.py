"""Confidence intervals and paired tests against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from framework.evaluation.statistics import (
    bootstrap_interval,
    holm,
    mean_over_cases,
    mean_over_labels,
    median_over_cases,
    wilcoxon_signed_rank,
)
from framework.evaluation.summary import summarise


def test_interval_of_a_mean_is_the_closed_form_of_a_normal_sample():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    interval = bootstrap_interval(values, mean_over_cases, num_resamples=20000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval is not None
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


@pytest.mark.parametrize(("statistic", "of_scipy"), [(mean_over_cases, np.mean), (median_over_cases, np.median)])
def test_interval_is_that_of_scipy(statistic, of_scipy):
    values = np.random.default_rng(1).gamma(2, 1, 41)
    ours = bootstrap_interval(values, statistic, num_resamples=20000)
    theirs = scipy.stats.bootstrap(
        (values,), of_scipy, method="percentile", n_resamples=20000, rng=np.random.default_rng(2), vectorized=True
    ).confidence_interval
    assert ours is not None
    # Both draw at random; their ends differ by far less than the interval is wide.
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * (theirs.high - theirs.low))
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * (theirs.high - theirs.low))


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        interval = bootstrap_interval(generator.normal(size=40), mean_over_cases, num_resamples=500)
        assert interval is not None
        held += interval.low <= 0 <= interval.high
    # 0.95 for many cases; a percentile bootstrap of 40 falls short of it by about 0.015. Three standard errors.
    assert 0.89 < held / 300 < 0.98


def test_same_values_give_the_same_interval_and_one_case_gives_none():
    values = np.random.default_rng(4).random(30)
    assert bootstrap_interval(values, mean_over_cases) == bootstrap_interval(values, mean_over_cases)
    assert bootstrap_interval(values, mean_over_cases, seed=1) != bootstrap_interval(values, mean_over_cases)
    assert bootstrap_interval(values[:1], mean_over_cases) is None
    assert bootstrap_interval(values[:0], mean_over_cases) is None


def test_a_missed_structure_moves_the_median_like_a_very_large_distance():
    values = np.array([1.0, 2.0, 3.0, math.inf, math.inf])
    large = np.where(np.isinf(values), 1e9, values)
    assert median_over_cases(values[None])[0] == 3
    assert median_over_cases(np.array([[1, math.inf], [math.inf, math.inf]])).tolist() == [math.inf, math.inf]
    ours, expected = bootstrap_interval(values, median_over_cases), bootstrap_interval(large, median_over_cases)
    assert ours is not None
    assert expected is not None
    assert ours.low == expected.low
    assert ours.high == math.inf


def test_mean_over_labels_is_the_foreground_mean_of_the_summary():
    values = np.random.default_rng(5).random((7, 3))
    values[2, 1] = values[4, 0] = math.nan
    cases = [{"metrics": {label + 1: {"Dice": dice} for label, dice in enumerate(row)}} for row in values]
    assert mean_over_labels(values[None])[0] == pytest.approx(summarise(cases)["foreground_mean"]["Dice"])
    # nnU-Net has no foreground mean if a label is in no case; here it is left out.
    values[:, 2] = math.nan
    assert mean_over_labels(values[None])[0] == pytest.approx(np.nanmean(values[:, :2], axis=0).mean())
    assert bootstrap_interval(np.full((4, 2), math.nan), mean_over_labels) is None


def test_p_value_is_that_of_scipy_on_the_differences():
    for seed, size in ((0, 12), (1, 40), (2, 120)):
        differences = np.random.default_rng(seed).normal(0.2, 1, size)
        assert wilcoxon_signed_rank(differences)[0] == pytest.approx(scipy.stats.wilcoxon(differences).pvalue)


def test_infinite_differences_are_the_largest_ones():
    differences = np.array([0.3, -0.1, 0.4, 0.9, -0.2, 0.7, 0.8])
    infinite = np.where(differences == 0.9, math.inf, differences)
    assert wilcoxon_signed_rank(infinite) == wilcoxon_signed_rank(differences)


def test_effect_is_the_share_of_ranks_in_favour_minus_those_against():
    # ranks 1, 2, 3, 4 of which 2 is against: (8 - 2) / 10
    assert wilcoxon_signed_rank(np.array([0.1, -0.2, 0.3, 0.4]))[1] == pytest.approx(0.6)
    assert wilcoxon_signed_rank(np.array([1.0, 2.0, 3.0]))[1] == 1
    assert wilcoxon_signed_rank(np.array([0.0, 0.0])) == (1.0, 0.0)


def test_holm_multiplies_the_smallest_p_value_most_and_never_reverses_their_order():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not come below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.5, math.nan, 0.9])
    assert corrected[0] == 1
    assert math.isnan(corrected[1])
    assert corrected[2] == 1
