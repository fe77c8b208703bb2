"""Training against seconds, flossing included: a panel for each task and network, a curve for each arm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.comparison.ended import runs_of
from flossing_lab.comparison.picture import SHADES
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.training import CHUNK
from flossing_lab.runs.plotting import COLOURS, DARK, remove_spines


def draw(trial: Trial, runs: Sequence[dict[str, Any]]) -> Figure:
    """Medians over all draws, with quartiles, of the accuracy or loss in training; a run that ended keeps its value."""
    tasks, networks = trial.drawn_tasks, list(trial.networks)
    is_row = len(networks) == 1  # a single network has its tasks beside each other
    rows, columns = (1, len(tasks)) if is_row else (len(tasks), len(networks))
    width = 2.6 if is_row else 2.1
    figure = Figure(figsize=(max(width * columns + 1, 1.4 * len(trial.arms)), 1.9 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=False if is_row else "row", squeeze=False)
    panels = grid.reshape(len(tasks), len(networks))
    for row, name in zip(panels, tasks, strict=True):
        task = trial.tasks[name]
        measure = "accuracy" if task.measure == "accuracy" else "loss"
        for axes, network in zip(row, networks, strict=True):
            for arm, shade in zip(trial.arms, SHADES, strict=False):
                if trial.arms[arm].threshold is not None:
                    continue  # its blocks come whenever they are needed: runs differ in their times
                of = [run for run in runs_of(runs, name, network, arm, again=False) if run["curve"]]
                if of:
                    seconds = times(trial, name, network, arm)
                    low, middle, high = quartiles(of, measure, len(seconds))
                    axes.plot(seconds, middle, lw=1.4, color=COLOURS[shade], label=trial.label(arm))
                    axes.fill_between(seconds, low, high, lw=0, alpha=0.2, color=COLOURS[shade])
            if task.measure == measure:  # a valid time is not measured in training
                axes.axhline(task.solved, lw=0.8, ls="--", color=DARK)
                axes.axhline(task.trivial, lw=0.8, ls=":", color=DARK)
            axes.set_title(network, loc="left", fontsize=9, color=DARK)
            axes.set_xlim(left=0)
            remove_spines(axes)
        if measure == "loss":
            row[0].set_yscale("log")  # shared by the row
        row[0].set_ylabel(f"{task.title}\n{measure} in training", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("seconds on one core", fontsize=8)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(trial.arms), frameon=False
    )
    return figure


def times(trial: Trial, task: str, network: str, arm: str) -> np.ndarray:
    """The seconds at which each chunk of training ends, by the cost of an epoch in the protocol."""
    training, flossing, _ = trial.costs(task, network, arm)
    epochs = trial.epochs(task, network, arm)
    ends = np.minimum(np.arange(CHUNK, epochs + CHUNK, CHUNK), epochs)
    return trial.arms[arm].before * flossing + ends * training


def quartiles(runs: Sequence[dict[str, Any]], measure: str, length: int) -> np.ndarray:
    """The quartiles over runs of each chunk, (3, `length`)."""
    curves = [run["accuracies" if measure == "accuracy" else "curve"] for run in runs]
    full = [np.pad(np.asarray(curve, float), (0, length - len(curve)), mode="edge") for curve in curves]
    return np.nanpercentile(full, [25, 50, 75], axis=0)
