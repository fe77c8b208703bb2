"""Tests and intervals for networks that solve a task or do not, and for numbers of paired networks."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, binomtest, norm, rankdata, spearmanr

LEVEL = 0.05
"""A difference counts as shown below this p value."""

EXACT = 8
"""The largest number of pairs whose rank correlation is tested over all their orders."""

Z = float(norm.ppf(0.975))
"""The 97.5 % quantile of the normal distribution."""


class Paired(NamedTuple):
    """Of `n` pairs: `first` and `second` solved in each arm; `only_first` and `only_second` in one arm alone."""

    n: int
    first: int
    second: int
    only_first: int
    only_second: int

    @property
    def difference(self) -> float:
        """The share solved in the second arm minus that in the first."""
        return (self.only_second - self.only_first) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference (Bonett & Price 2012, adjusted Wald)."""
        ours, theirs = (self.only_second + 1) / (self.n + 2), (self.only_first + 1) / (self.n + 2)
        half = Z * math.sqrt((ours + theirs - (ours - theirs) ** 2) / (self.n + 2))
        return max(-1.0, ours - theirs - half), min(1.0, ours - theirs + half)

    @property
    def p(self) -> float:
        """The p value of McNemar's exact test, two-sided."""
        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_second, discordant, 0.5).pvalue) if discordant else 1.0


def pair(found: Sequence[tuple[bool, bool]]) -> Paired:
    """Count pairs of whether the first and the second arm solved."""
    return Paired(
        n=len(found),
        first=sum(a for a, _ in found),
        second=sum(b for _, b in found),
        only_first=sum(a and not b for a, b in found),
        only_second=sum(b and not a for a, b in found),
    )


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927)."""
    found: Any = binomtest(successes, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for the whole family (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def signed_rank(differences: ArrayLike) -> float:
    """The p value of Wilcoxon's signed-rank test, two-sided and exact, also with ties.

    Differences of 0 are left out; 1 if none is left. Infinite differences have the largest ranks.
    """
    d, twice = _twice_the_ranks(differences)
    ways = np.ones(1)  # of each sum of the ranks that are positive, over all changes of sign
    for rank in twice:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    share, observed = ways / ways.sum(), twice[d > 0].sum()
    return float(min(1.0, 2 * min(share[: observed + 1].sum(), share[observed:].sum())))


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """The p value of the exact rank-sum test (Wilcoxon, Mann & Whitney), two-sided; ties have their mean rank."""
    doubled = np.rint(2 * rankdata([*first, *second])).astype(int)
    size, total = len(first), int(doubled.sum())
    ways = np.zeros((size + 1, total + 1))  # subsets by size and sum
    ways[0, 0] = 1
    for rank in doubled:
        ways[1:, rank:] += ways[:-1, : total + 1 - rank].copy()
    sums, mean = np.arange(total + 1), total * size / len(doubled)
    far = np.abs(sums - mean) >= abs(int(doubled[:size].sum()) - mean) - 1e-9
    return float(ways[size, far].sum() / ways[size].sum())


def rank_correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Spearman's rank correlation, and its p value, two-sided; exact, over all orders, of up to eight pairs."""
    ours, theirs = rankdata(x), rankdata(y)
    found: Any = spearmanr(ours, theirs)
    correlation, p = float(found.statistic), float(found.pvalue)
    if len(ours) > EXACT or not math.isfinite(correlation):
        return correlation, p
    orders = np.array([*itertools.permutations(theirs)])
    sums, mean = orders @ ours, ours.sum() * theirs.mean()
    return correlation, float((np.abs(sums - mean) >= abs(ours @ theirs - mean) - 1e-9).mean())


def rank_balance(differences: ArrayLike) -> float:
    """The sum of the ranks of the positive differences minus that of the negative ones."""
    d, twice = _twice_the_ranks(differences)
    return float((np.sign(d) * twice).sum() / 2)


def _twice_the_ranks(differences: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The differences that are not 0, and twice the ranks of their sizes: midranks of ties are halves."""
    d = np.asarray(differences, float)
    d = d[d != 0]
    return d, np.rint(2 * rankdata(np.abs(d))).astype(int)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a median, between two of the ordered values; None below six values, which allow none."""
    ordered = sorted(values)
    n = len(ordered)
    ranks = [r for r in range(n // 2) if 1 - 2 * binom.cdf(r, n, 0.5) >= 1 - LEVEL]
    return (ordered[ranks[-1]], ordered[-1 - ranks[-1]]) if ranks else None


def majority(successes: int, n: int) -> float:
    """The p value of a rate against one half (exact binomial test, two-sided)."""
    return float(binomtest(successes, n, 0.5).pvalue)
