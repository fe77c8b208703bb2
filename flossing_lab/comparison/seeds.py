"""Fixed networks: how many of their seeds solve a task, one row per network, one column per arm."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison.ended import count_solved, median, runs_of
from flossing_lab.comparison.paired import is_solved
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.sections import TrialTask
from flossing_lab.runs import tables
from flossing_lab.statistics import wilson

Run = dict[str, Any]


def markdown(trial: Trial, runs: Sequence[Run]) -> str:
    """One table per task; cells without runs are empty."""
    parts = []
    for name, task in trial.tasks.items():
        rows = [("network", *map(trial.label, trial.arms))]
        for network in trial.networks:
            of = [runs_of(runs, name, network, arm, again=True) for arm in trial.arms]
            if any(of):
                rows.append((network, *(_cell(trial, each, task) for each in of)))
        parts.append(f"### {task.title}\n\n{_caption(task)}\n\n{tables.markdown(rows)}")
    return "\n\n".join(parts)


def _caption(task: TrialTask) -> str:
    sign = "at most" if task.measure == "loss" else "at least"
    return (
        f"Each cell: the number of networks that end with a test {task.measure} of {sign} {task.solved:g}, their share "
        f"with its 95 % interval (Wilson), the median {task.measure}, the median number of training epochs of the "
        "networks that solve the task (left out if none does), and the median seconds on one core for flossing and "
        "training."
    )


def _cell(trial: Trial, runs: list[Run], task: TrialTask) -> str:
    if not runs:
        return ""
    good = [run for run in runs if is_solved(trial, run)]
    low, high = wilson(len(good), len(runs))
    parts = [f"**{count_solved(trial, runs)}** ({low:.2f} to {high:.2f})"]
    parts.append("failed" if math.isnan(middle := median(runs, task)) else f"{middle:.3f}")
    if good:
        parts.append(f"{statistics.median(run['epochs'] for run in good):.0f} epochs")
    parts.append(" + ".join(f"{statistics.median(run['seconds'][kind] for run in runs):.0f}" for kind in _KINDS) + " s")
    if failed := sum(bool(run["failure"]) for run in runs):
        parts.append(f"{failed} failed")
    return ", ".join(parts)


_KINDS = ("flossing", "training")
