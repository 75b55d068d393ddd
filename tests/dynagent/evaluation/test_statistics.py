"""Intervals: in simulations they cover the truth as often as they say, and conclusions follow them."""

import numpy as np
import pytest
import torch

from dynagent.evaluation.statistics import Estimate, conclusion, mean_interval, seed_interval


def coverage(intervals, truth) -> float:
    return float(np.mean([interval.ci_low <= truth <= interval.ci_high for interval in intervals]))


def bernoulli(generator, num_repetitions):
    """Right or wrong, right in one of five: 200 questions."""
    return generator.binomial(1, 0.2, (num_repetitions, 200)), 0.2


def skewed(generator, num_repetitions):
    """Mostly small gains, rarely a large one: the exponential distribution on 200 questions."""
    return generator.exponential(1.0, (num_repetitions, 200)), 1.0


@pytest.mark.parametrize("scores", [bernoulli, skewed])
def test_the_interval_of_a_mean_covers_the_truth_in_95_of_100_samples(scores):
    samples, truth = scores(np.random.default_rng(0), 1000)
    intervals = [mean_interval(sample, num_resamples=400, seed=i) for i, sample in enumerate(samples)]
    assert 0.93 <= coverage(intervals, truth) <= 0.97


def test_the_interval_over_seeds_covers_the_truth_in_95_of_100_samples():
    samples = np.random.default_rng(1).normal(0.3, 0.02, (2000, 10))
    assert 0.93 <= coverage([seed_interval(sample) for sample in samples], 0.3) <= 0.97


def test_a_bootstrap_over_few_seeds_would_be_too_sure_of_itself():
    """Why `seed_interval` is another interval."""
    samples = np.random.default_rng(2).normal(0.3, 0.02, (600, 5))
    bootstrap = [mean_interval(sample, num_resamples=400, seed=i) for i, sample in enumerate(samples)]
    assert coverage(bootstrap, 0.3) < 0.90
    assert 0.93 <= coverage([seed_interval(sample) for sample in samples], 0.3) <= 0.97


def test_the_interval_over_seeds_by_hand():
    """Mean .3, standard deviation .1 and t(.975, 3) = 3.1824 for four seeds."""
    found = seed_interval([0.3 - 0.05 * 3**0.5, 0.3 + 0.05 * 3**0.5] * 2)
    assert found.mean == pytest.approx(0.3)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.3 - 3.1824 * 0.05, 0.3 + 3.1824 * 0.05), abs=1e-5)
    assert found.n == 4


@pytest.mark.parametrize("interval", [mean_interval, seed_interval])
def test_scores_that_do_not_differ_have_no_width(interval):
    assert interval([0.25]) == Estimate(0.25, 0.25, 0.25, 1)
    assert interval([0.5] * 30) == Estimate(0.5, 0.5, 0.5, 30)


def test_the_same_seed_gives_the_same_interval():
    scores = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert mean_interval(scores, seed=3) == mean_interval(scores.tolist(), seed=3)
    assert mean_interval(scores, seed=3) != mean_interval(scores, seed=4)
    assert mean_interval(scores).mean == pytest.approx(float(scores.mean()))


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (Estimate(0.027, 0.018, 0.036, 4000), "gains +0.027 (95 % interval above zero)"),
        (Estimate(-0.006, -0.008, -0.004, 4000), "loses -0.006 (95 % interval below zero)"),
        (
            Estimate(0.001, 0.0, 0.003, 4000),
            "makes no difference that 4000 questions can show (+0.001, the interval contains zero)",
        ),
        (
            Estimate(-0.01, -0.04, 0.02, 90),
            "makes no difference that 90 questions can show (-0.010, the interval contains zero)",
        ),
    ],
)
def test_a_conclusion_is_what_the_interval_allows(effect, text):
    assert conclusion(effect) == text
