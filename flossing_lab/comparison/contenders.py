"""A trial of many contenders against one of them, the reference: the draws that solve, and the best draw again.

All contenders cost the same. The best draw of each, chosen by its training, runs again with other seeds; an exact
rank-sum test compares these runs with those of the reference, adjusted (Holm) for the contenders of a task.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.comparison.ended import count_solved, describe_median, is_better, median, ranked, runs_of, values
from flossing_lab.comparison.paired import is_solved
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.runs import solves_again
from flossing_lab.comparison.sections import TrialTask
from flossing_lab.runs import tables
from flossing_lab.runs.plotting import COLOURS, DARK, remove_spines
from flossing_lab.statistics import LEVEL, holm, rank_sum, wilson

Run = dict[str, Any]
_GREY = "#888888"


class Contender(NamedTuple):
    """A network in one of its arms."""

    network: str
    arm: str
    name: str
    """In words: with the arm if the network runs in several, or is flossed."""


def contenders(trial: Trial) -> list[Contender]:
    """All contenders in the order of the protocol."""
    found = []
    for network, kind in trial.networks.items():
        arms = kind.arms or tuple(trial.arms)
        for arm in arms:
            is_named = len(arms) > 1 or trial.arms[arm].flosses
            found.append(Contender(network, arm, f"{network}, {trial.label(arm)}" if is_named else network))
    return found


def markdown(trial: Trial, runs: Sequence[Run]) -> str:
    """A table for each task."""
    return "\n\n".join(_of_task(trial, runs, name, task) for name, task in trial.tasks.items())


def draw(trial: Trial, runs: Sequence[Run]) -> Figure:
    """A column for each task. Top: the share of each contender's draws that solve it, with its interval. Bottom, once
    there are any: the best draw with other seeds, each run and their median."""
    everyone, tasks = contenders(trial), trial.tasks
    rows = 1 + any(run["seed"] for run in runs)
    size = 3.2 * len(tasks) + 2, (0.34 * len(everyone) + 1.2) * rows
    figure = Figure(figsize=size, layout="constrained")
    shares, *best = figure.subplots(rows, len(tasks), sharey=True, squeeze=False)
    for axes, (name, task) in zip(shares, tasks.items(), strict=True):
        _draw_shares(axes, trial, runs, name)
        _name_rows(axes, task.title, "share of draws that solve it", everyone)
    for axes, (name, task) in zip(best[0] if best else (), tasks.items(), strict=bool(best)):
        _draw_best(axes, trial, runs, name)
        _name_rows(axes, "Best draw with other seeds", f"test {task.measure}", everyone)
    return figure


def _draw_shares(axes: Axes, trial: Trial, runs: Sequence[Run], task: str):
    axes.set_xlim(-0.04, 1.04)
    for row, each in enumerate(contenders(trial)):
        drawn = runs_of(runs, task, each.network, each.arm, again=False)
        if drawn:
            solved = sum(is_solved(trial, run) for run in drawn)
            axes.plot(wilson(solved, len(drawn)), [row, row], lw=3, alpha=0.3, color=_colour(trial, each))
            axes.plot(solved / len(drawn), row, "o", ms=6, color=_colour(trial, each))


def _draw_best(axes: Axes, trial: Trial, runs: Sequence[Run], task: str):
    for row, each in enumerate(contenders(trial)):
        ended = [v for v in values(_again(runs, task, each), trial.tasks[task]) if math.isfinite(v)]
        axes.plot(ended, [row] * len(ended), "o", ms=4, alpha=0.5, color=_colour(trial, each))
        if math.isfinite(middle := median(_again(runs, task, each), trial.tasks[task])):
            axes.plot(middle, row, "|", ms=14, mew=2, color=_colour(trial, each))
    axes.axvline(trial.tasks[task].solved, lw=0.8, ls="--", color=DARK)


def _colour(trial: Trial, each: Contender) -> str:
    if (each.network, each.arm) == trial.reference:
        return COLOURS["before"]
    return COLOURS["before_and_during"] if trial.arms[each.arm].flosses else _GREY


def _name_rows(axes: Axes, title: str, label: str, everyone: Sequence[Contender]):
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", fontsize=10, color=DARK)
    axes.set_yticks(range(len(everyone)), [each.name for each in everyone])
    axes.set_ylim(len(everyone) - 0.5, -0.5)
    remove_spines(axes)


def _of_task(trial: Trial, runs: Sequence[Run], name: str, task: TrialTask) -> str:
    everyone, waits = contenders(trial), False
    if (shorter := task.settings_of) is not None:
        waits = any(len(_again(runs, shorter, each)) < trial.settings.again for each in everyone)
        everyone = [each for each in everyone if solves_again(trial, runs, shorter, each.network, each.arm)]
    again = {each: _again(runs, name, each) for each in everyone}
    reference = next(each for each in contenders(trial) if (each.network, each.arm) == trial.reference)
    others = [each for each in everyone if each != reference]
    is_complete = all(len(each) == trial.settings.again for each in again.values())  # p is adjusted for all of them
    is_complete = is_complete and reference in everyone and not waits
    p = [rank_sum(ranked(again[each], task), ranked(again[reference], task)) for each in others if is_complete]
    adjusted = dict(zip(others, holm(p), strict=True)) if is_complete else {}
    rows = []
    for each in everyone:
        drawn = runs_of(runs, name, each.network, each.arm, again=False)
        if drawn or again[each]:
            rows.append((each.name, _share(trial, drawn) if drawn else "", *_ended(trial, again[each], task),
                         _said(again, each, reference, adjusted.get(each), task)))  # fmt: skip
    head = ("contender", "draws that solve", "best draw again", f"median {task.measure}", "epochs", "seconds",
            f"against {reference.name}")  # fmt: skip
    note = ""
    if shorter is not None:
        note = f"Only those whose best draw solves {trial.tasks[shorter].title} at least once."
        note += "\n\n" if reference in everyone or waits else f" {reference.name} is not among them.\n\n"
    return f"### {task.title}\n\n{note}{tables.markdown([head, *rows])}"


def _share(trial: Trial, drawn: Sequence[Run]) -> str:
    low, high = wilson(sum(is_solved(trial, run) for run in drawn), len(drawn))
    return f"{count_solved(trial, drawn)} ({low:.2f} to {high:.2f})"


def _ended(trial: Trial, again: Sequence[Run], task: TrialTask) -> tuple[str, str, str, str]:
    if not again:
        return "", "", "", ""
    good = [run for run in again if is_solved(trial, run)]
    epochs = f"{statistics.median(run['epochs'] for run in good):.0f}" if good else ""
    seconds = f"{statistics.median(sum(run['seconds'].values()) for run in again):.0f}"
    return count_solved(trial, again), describe_median(again, task), epochs, seconds


def _said(
    again: dict[Contender, list[Run]], each: Contender, reference: Contender, p: float | None, task: TrialTask
) -> str:
    """What the test says of a contender against the reference, once the runs of all contenders are there."""
    if p is None:
        return ""
    if p >= LEVEL:
        return f"no difference shown (p = {p:.2g})"
    return f"{'better' if is_better(again[each], again[reference], task) else 'worse'} (p = {p:.2g})"


def _again(runs: Sequence[Run], task: str, contender: Contender) -> list[Run]:
    return runs_of(runs, task, contender.network, contender.arm, again=True)
