"""How runs of a trial ended: their values on test data, ordered, and summed up."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison.paired import is_solved
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.sections import TrialTask
from flossing_lab.statistics import median_interval

Run = dict[str, Any]


def runs_of(runs: Sequence[Run], task: str, network: str, arm: str, *, again: bool) -> list[Run]:
    """The runs of one arm: all its draws, or its best draw `again` with other seeds."""
    return [r for r in runs if (r["task"], r["network"], r["arm"]) == (task, network, arm) and bool(r["seed"]) == again]


def values(runs: Sequence[Run], task: TrialTask) -> list[float]:
    """The tested value of each run; NaN if it failed."""
    return [math.nan if run["failure"] else run[task.measure] for run in runs]


def ranked(runs: Sequence[Run], task: TrialTask) -> list[float]:
    """Numbers of which more is better; a run that failed is the worst."""
    sign = -1 if task.measure == "loss" else 1
    return [-math.inf if math.isnan(value) else sign * value for value in values(runs, task)]


def median(runs: Sequence[Run], task: TrialTask) -> float:
    """The median value, where a run that failed is the worst; NaN if the median is one of those."""
    middle = statistics.median(ranked(runs, task)) if runs else math.nan
    return math.nan if not math.isfinite(middle) else -middle if task.measure == "loss" else middle


def is_better(runs: Sequence[Run], others: Sequence[Run], task: TrialTask) -> bool:
    """Whether `runs` end better than `others` more often than worse, over all pairs: the sign of their rank sum."""
    ours, theirs = ranked(runs, task), ranked(others, task)
    return sum((a > b) - (a < b) for a in ours for b in theirs) > 0


def describe_median(runs: Sequence[Run], task: TrialTask) -> str:
    """The median value with its 95 % interval, and how many runs failed, in words."""
    worst = math.inf if task.measure == "loss" else -math.inf
    ended = [worst if math.isnan(value) else value for value in values(runs, task)]
    interval = median_interval(ended)
    between = f" ({_number(interval[0])} to {_number(interval[1])})" if interval else ""
    failed = sum(map(math.isinf, ended))
    return _number(median(runs, task)) + between + (f", {failed} failed" if failed else "")


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "failed"


def count_solved(trial: Trial, runs: Sequence[Run]) -> str:
    """How many of the runs solve their task."""
    return f"{sum(is_solved(trial, run) for run in runs)} of {len(runs)}"
