"""How many networks solve a task, as a Markdown table: one row per network, one column per arm."""

import statistics
from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison.protocol import Protocol, TaskSetting
from flossing_lab.statistics import wilson

Run = dict[str, Any]


def markdown(protocol: Protocol, runs: Sequence[Run]) -> str:
    """One table per task; cells without runs are empty."""
    parts = []
    for name, task in protocol.tasks.items():
        found = [run for run in runs if run["task"] == name]
        rows = [("network", *protocol.arms), ("---",) * (1 + len(protocol.arms))]
        for network in protocol.networks:
            of = [run for run in found if run["network"] == network]
            cells = [_cell([run for run in of if run["condition"] == arm], task) for arm in protocol.arms]
            if of:
                rows.append((network, *cells))
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        parts.append(f"### {task.title}\n\n{_caption(task)}\n\n{table}")
    return "\n\n".join(parts)


def is_solved(run: Run, task: Any) -> bool:
    """Whether the trained network reaches the value of the task on test data."""
    if run["failure"]:
        return False
    return run[task.measure] <= task.solved if task.measure == "loss" else run[task.measure] >= task.solved


def _caption(task: TaskSetting) -> str:
    sign = "at least" if task.measure == "accuracy" else "at most"
    return (
        f"Networks that end with a test {task.measure} of {sign} {task.solved:g}, their share with its 95 % interval "
        f"(Wilson), the median {task.measure}, the median of training epochs of the solved, and the median of seconds "
        "on one core for flossing and training."
    )


def _cell(runs: list[Run], task: TaskSetting) -> str:
    if not runs:
        return ""
    good = [run for run in runs if is_solved(run, task)]
    low, high = wilson(len(good), len(runs))
    text = f"**{len(good)} of {len(runs)}** ({low:.2f} to {high:.2f})"
    ended = [run[task.measure] for run in runs if not run["failure"]]
    if ended:
        text += f", {statistics.median(ended):.3f}"
    if good:
        text += f", {statistics.median(run['epochs'] for run in good):.0f} epochs"
    seconds = (statistics.median(run["seconds"][kind] for run in runs) for kind in ("flossing", "training"))
    failed = sum(bool(run["failure"]) for run in runs)
    return text + ", {:.0f} + {:.0f} s".format(*seconds) + (f", {failed} failed" if failed else "")
