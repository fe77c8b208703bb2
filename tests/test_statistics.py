"""Tests and intervals against scipy, and against counting by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from flossing_lab.statistics import majority, median_interval, signed_rank

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 3, 6, 12, 20])
def test_signed_rank_is_that_of_scipy_without_ties(n):
    differences = RNG.normal(size=n) + 0.4
    _, expected = wilcoxon(differences, method="exact")
    assert signed_rank(differences) == pytest.approx(expected)


def test_signed_rank_with_ties_counts_all_changes_of_sign():
    differences = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -0.5, 0.0])
    ranks, signs = rankdata(abs(differences[:7])), np.sign(differences[:7])
    sums = np.array([ranks[np.array(each) > 0].sum() for each in itertools.product((-1, 1), repeat=7)])
    observed = ranks[signs > 0].sum()
    expected = min(1, 2 * min((sums >= observed).mean(), (sums <= observed).mean()))
    assert signed_rank(differences) == pytest.approx(expected)


def test_signed_rank_at_its_limits():
    assert signed_rank([]) == signed_rank([0, 0]) == signed_rank([5]) == 1
    assert signed_rank([np.inf] * 6) == pytest.approx(2 / 64)
    assert signed_rank([np.inf, -np.inf]) == 1


def test_the_interval_of_a_median_covers_it():
    assert median_interval(range(5)) is None
    assert median_interval(range(6)) == (0, 5)
    assert median_interval(range(10)) == (1, 8)
    samples = RNG.exponential(size=(2000, 12))
    inside = [low <= np.log(2) <= high for low, high in filter(None, map(median_interval, samples))]
    assert 0.95 <= np.mean(inside) < 0.97  # exactly 0.9614


def test_a_majority():
    assert majority(9, 10) == pytest.approx(22 / 1024)
    assert majority(5, 10) == 1
