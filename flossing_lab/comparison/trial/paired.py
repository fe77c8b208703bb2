"""Arms that are compared draw by draw: pairs of runs that solve the task or do not, and tests for them."""

from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison import solved
from flossing_lab.comparison.trial.protocol import Trial
from flossing_lab.statistics import Paired, pair


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
