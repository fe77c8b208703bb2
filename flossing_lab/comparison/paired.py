"""Arms that are compared draw by draw: pairs of runs that solve the task or do not, and tests for them."""

from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison.protocol import Trial
from flossing_lab.statistics import Paired, pair


def is_solved(trial: Trial, run: dict[str, Any]) -> bool:
    """Whether the trained network reaches the value of its task on test data."""
    task = trial.tasks[run["task"]]
    if run["failure"]:
        return False
    return run[task.measure] <= task.solved if task.measure == "loss" else run[task.measure] >= task.solved


def drawn_pairs(
    trial: Trial, runs: Sequence[dict[str, Any]], network: str, task: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The runs of each draw of a network on a task that has been made in both arms."""
    of = [run for run in runs if (run["network"], run["task"]) == (network, task) and not run["seed"]]
    found = {(run["draw"], run["arm"]): run for run in of}
    first, second = list(trial.arms)[:2]
    draws = range(1, trial.networks[network].draws + 1)
    return [(found[i, first], found[i, second]) for i in draws if (i, first) in found and (i, second) in found]


def pairs(trial: Trial, runs: Sequence[dict[str, Any]], network: str, task: str | None = None) -> Paired:
    """The draws of a network that have been made in both arms, on one task or on all."""
    names = trial.tasks if task is None else [task]
    both = [each for name in names for each in drawn_pairs(trial, runs, network, name)]
    return pair([(is_solved(trial, a), is_solved(trial, b)) for a, b in both])


def shares(trial: Trial, runs: Sequence[dict[str, Any]], network: str, task: str) -> dict[str, float]:
    """The share of draws that solve a task, by arm, over draws that have been made in all arms; empty if none."""
    of = [run for run in runs if (run["network"], run["task"]) == (network, task) and not run["seed"]]
    found = {(run["draw"], run["arm"]): is_solved(trial, run) for run in of}
    arms = trial.networks[network].arms or tuple(trial.arms)
    made = [i for i in {draw for draw, _ in found} if all((i, arm) in found for arm in arms)]
    return {arm: sum(found[i, arm] for i in made) / len(made) for arm in arms} if made else {}


def smallest_difference(n: int, level: float) -> float:
    """The smallest difference that could have a p below `level` with n pairs: all discordant pairs on one side."""
    needed = next(m for m in range(1, 1000) if 2 * 0.5**m < level)
    return min(1.0, needed / n) if n >= needed else float("nan")
