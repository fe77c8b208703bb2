"""The result of a trial as one picture: the share of draws that solve each task in each arm."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from flossing_lab.comparison.paired import shares
from flossing_lab.comparison.protocol import Trial
from flossing_lab.runs.plotting import COLOURS, DARK, LIGHT_GREY, remove_spines

SHADES = ("none", "before", "before_and_during", "good_start")
"""The colours of the first arms, by their names in `COLOURS`."""


def draw(trial: Trial, runs: Sequence[dict[str, Any]]) -> Figure:
    """One panel for each task with draws; a row for each network, with a dot for each arm."""
    networks = list(trial.networks)
    figure = Figure(figsize=(3.4 * len(trial.drawn_tasks) + 1, 0.45 * len(networks) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(trial.drawn_tasks), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, trial.drawn_tasks, strict=True):
        for row, network in enumerate(networks):
            solved = shares(trial, runs, network, name)
            axes.plot([*solved.values()], [row] * len(solved), color=LIGHT_GREY, lw=3, zorder=1)
            # One beside the other, since arms may have equal shares.
            at = {arm: row + 0.13 * (index - (len(trial.arms) - 1) / 2) for index, arm in enumerate(trial.arms)}
            for arm, shade in zip(trial.arms, SHADES, strict=False):
                if arm in solved:
                    label = trial.label(arm) if row == 0 else None
                    axes.scatter(solved[arm], at[arm], s=50, color=COLOURS[shade], label=label, zorder=2)
        axes.set(xlim=(-0.04, 1.04), xlabel="share of draws that solve it")
        axes.set_title(trial.tasks[name].title, loc="left", fontsize=10, color=DARK)
        remove_spines(axes)
    panels[0].set_yticks(range(len(networks)), networks)
    panels[0].set_ylim(len(networks) - 0.5, -0.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(trial.arms), frameon=False
    )
    return figure
