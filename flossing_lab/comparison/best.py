"""The best draw of each of two arms, with other seeds: how often it solves a task, medians, and a test for each row."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import fisher_exact

from flossing_lab.comparison.ended import count_solved, describe_median, is_better, median, ranked, runs_of
from flossing_lab.comparison.paired import is_solved
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.runs import solves_again
from flossing_lab.comparison.sections import TrialTask
from flossing_lab.statistics import LEVEL, holm, rank_sum

Run = dict[str, Any]
POINT, TENTH = 0.01, 0.1
"""What counts as harm: a point of accuracy, or a tenth of the loss or of the valid time."""


class Row(NamedTuple):
    """A task, a network, and the runs of its best draw in the first and in the second arm."""

    task: TrialTask
    network: str
    first: list[Run]
    second: list[Run]


def rows_of(trial: Trial, runs: Sequence[Run]) -> list[Row]:
    """The rows of the table: those with runs in both arms; on longer tasks one arm may run alone."""
    one, other = list(trial.arms)[:2]
    found = []
    for (name, task), network in itertools.product(trial.tasks.items(), trial.networks):
        arms = [runs_of(runs, name, network, arm, again=True) for arm in (one, other)]
        if all(arms) or (task.settings_of is not None and any(arms)):
            found.append(Row(task, network, *arms))
    return found


def cells_of(trial: Trial, row: Row, p: tuple[float, float] | None) -> tuple[str, ...]:
    """One line of the table; `p` is that of solving the task, and that of the value on test data."""
    arms = [
        f"{count_solved(trial, each)}, {describe_median(each, row.task)}" if each else ""
        for each in (row.first, row.second)
    ]
    return (
        row.task.title,
        row.network,
        *arms,
        *([f"{each:.2g}" for each in p] if p else ["", ""]),
        _verdict(trial, row, p),
    )


def table(trial: Trial, runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, ...]], str]:
    """The head and the rows of the table, and what they say about harm."""
    one, other = list(trial.arms)[:2]
    rows = rows_of(trial, runs)
    made = [i for i, row in enumerate(rows) if len(row.first) == len(row.second) == trial.settings.again]
    both = [rows[i] for i in made]
    fisher = [_fisher(trial, row) for row in both]
    value = [rank_sum(ranked(row.second, row.task), ranked(row.first, row.task)) for row in both]
    p = holm(fisher + value)  # one family: all rows and both tests
    is_complete = len(both) >= _planned(trial, runs)  # p is adjusted for all of them
    adjusted = dict(zip(made, zip(p[: len(both)], p[len(both) :], strict=True), strict=True)) if is_complete else {}
    labels = trial.label(one), trial.label(other)
    head = ["task", "network", *labels, "p (solved, Fisher)", "p (value, rank sum)", labels[1]]
    lines = [cells_of(trial, row, adjusted.get(i)) for i, row in enumerate(rows)]
    harmed = [f"{row.network} on {row.task.title}" for row in both if is_harmed(row)]
    note = (
        "p values, once all rows are complete, are adjusted for all rows and both tests (Holm). Median worse by more "
        f"than a point of accuracy, or a tenth of other measures: {_list(harmed)}."
    )
    return head, lines, note


def _planned(trial: Trial, runs: Sequence[Run]) -> int:
    """The rows with both arms that a finished trial has: of each task with draws, and of longer tasks that both run."""
    arms = list(trial.arms)[:2]
    networks = trial.in_arms(arms)
    longer = [
        (task.settings_of, network)
        for task, network in itertools.product(trial.tasks.values(), networks)
        if task.settings_of is not None
        and all(solves_again(trial, runs, task.settings_of, network, arm) for arm in arms)
    ]
    return len(trial.drawn_tasks) * len(networks) + len(longer)


def is_harmed(row: Row) -> bool:
    """Whether the median of the second arm is worse than that of the first by more than a point, or a tenth."""
    before, after = (median(runs, row.task) for runs in (row.first, row.second))
    if math.isnan(after):
        return not math.isnan(before)
    if row.task.measure == "accuracy":
        return before - after > POINT
    lost = after - before if row.task.measure == "loss" else before - after
    return lost > TENTH * before


def _solved(trial: Trial, row: Row) -> list[int]:
    return [sum(is_solved(trial, run) for run in runs) for runs in (row.first, row.second)]


def _fisher(trial: Trial, row: Row) -> float:
    table = [[n, len(runs) - n] for n, runs in zip(_solved(trial, row), (row.first, row.second), strict=True)]
    p: Any = fisher_exact(table)[1]
    return float(p)


def _verdict(trial: Trial, row: Row, p: tuple[float, float] | None) -> str:
    """What is shown: whether the second arm solves the task more often or ends better, or the first does."""
    if p is None:
        return ""
    first, second = _solved(trial, row)
    signs = (second > first, is_better(row.second, row.first, row.task))
    shown = {sign for sign, value in zip(signs, p, strict=True) if value < LEVEL}
    if len(shown) == 2:
        return "solves more, ends worse" if signs[0] else "solves less, ends better"
    return {True: "better", False: "worse"}[shown.pop()] if shown else "no difference shown"


def _list(names: Sequence[str]) -> str:
    return "; ".join(names) if names else "none"
