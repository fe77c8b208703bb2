"""Arms that are compared draw by draw: pairs of runs that solve the task or do not, and tests for them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import binomtest

from flossing_lab.comparison import solved
from flossing_lab.comparison.solved import Z
from flossing_lab.comparison.trial.protocol import Trial


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


def is_solved(trial: Trial, run: dict[str, Any]) -> bool:
    """Whether the trained network reaches the value of its task on test data."""
    return solved.is_solved(run, trial.tasks[run["task"]])


def pairs(trial: Trial, runs: Sequence[dict[str, Any]], network: str, task: str | None = None) -> Paired:
    """The draws of a network that have been made in both arms, on one task or on all."""
    found = {(r["task"], r["draw"], r["arm"]): r for r in runs if r["network"] == network and not r["seed"]}
    first, second = list(trial.arms)[:2]
    both = [
        (found[name, draw, first], found[name, draw, second])
        for name in (trial.tasks if task is None else [task])
        for draw in range(1, trial.networks[network].draws + 1)
        if (name, draw, first) in found and (name, draw, second) in found
    ]
    return pair([(is_solved(trial, a), is_solved(trial, b)) for a, b in both])


def smallest_difference(n: int, level: float = 0.05) -> float:
    """The smallest difference that could have a p below `level` with n pairs: all discordant pairs on one side."""
    needed = next(m for m in range(1, 1000) if 2 * 0.5**m < level)
    return min(1.0, needed / n) if n >= needed else float("nan")


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for the whole family (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
