"""Figure 4: flossing before training against flossing before and during training, temporal and spatial XOR."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import band, count, draw_final, draw_learning, legend_below, new_figure, panel
from flossing_lab.paper.analysis.measures import SMOOTH, are_timed, by_task, longest_lag, numbers, short
from flossing_lab.paper.analysis.verdicts import UNDECIDED, compare, networks, not_run, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import TASKS, delays_spec
from flossing_lab.reference.config import Condition, TaskName
from flossing_lab.runs.plotting import COLOURS
from flossing_lab.sweeps.spec import Spec

NAME = "fig4"
IN_PAPER = True
TITLE = "Flossing before and during training"
CAPTION = (
    "Temporal XOR (top) and spatial XOR of three input channels (bottom): no flossing, 500 flossing epochs (k = 75) "
    "before training, and the same with two more blocks of 500, before training epochs 100 and 200. Left: accuracy on "
    "fresh sequences against the training epoch at one long lag, running mean over 25 epochs. Against time, where the "
    "runs of all networks were timed: the same, with the seconds that flossing and training took on one core, without "
    "compilation. Then final accuracy, averaged over the last 100 epochs, against the longest lag d; line: median, "
    "dots: each network. Right: norm of the raw gradient at the initial states, |dL/dx₀|, running median over 25 "
    "epochs. Bands: quartiles over networks. All networks start from the reference's Gaussian weights, input scale and "
    "bias; other starts were not tried here."
)
CONDITIONS: tuple[Condition, ...] = ("none", "before", "before_and_during")
_TASKS: tuple[TaskName, ...] = ("temporal_xor", "spatial_xor")


def specs(scale: Scale) -> list[Spec]:
    """Both tasks at all delays, under three conditions; some of these runs are shared with figure 3."""
    return [delays_spec(NAME, scale, task, CONDITIONS) for task in _TASKS]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """For each task: `groups` of each network's results, and `curves` at one delay, with its longest lag `d`, and there
    `first_gradients`: |dL/dx0| of each network, the median of the first 25 epochs, by condition and seed."""
    found = by_task(results, specs(scale), scale)
    for spec in specs(scale):
        task = found[spec.base["task"]]
        task["first_gradients"] = {name: {} for name in CONDITIONS}
        for values, run in results.runs(spec):
            if longest_lag(run) == task["d"]:
                norm = run.metrics("training", ("gradient_norm/x0",))["gradient_norm/x0"][:SMOOTH]
                task["first_gradients"][values["condition"]][str(values["seed"])] = short(np.median(norm))
    return {"tasks": found}


def draw(data: Data) -> Figure:
    """Two tasks: accuracy against the epoch and against the longest lag, gradient norm against the epoch."""
    rows = [row for task in data["tasks"].values() for row in task["groups"]]
    more = are_timed(data["tasks"])
    figure, grid = new_figure(f"{TITLE} (k = 75, {count(rows)})", 2, 3 + more, size=(12.5 + 3.2 * more, 6.8))
    for (*learning, final, gradient), (name, task) in zip(grid, data["tasks"].items(), strict=True):
        draw_learning(learning, task["curves"], f"{TASKS[name]}, d = {task['d']}")
        for curve in task["curves"]:
            band(gradient, curve["gradient"], colour=COLOURS[curve["condition"]])
        draw_final(final, task["groups"], CONDITIONS, "Final accuracy")
        panel(gradient, f"Gradient norm, d = {task['d']}", xlabel="training epoch", ylabel="|dL/dx₀|", yscale="log")
    legend_below(figure, grid[0, -2])
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims about reach and gradient norms on both tasks."""
    found = []
    for name, task in data["tasks"].items():
        what, rows = TASKS[name].lower().replace("xor", "XOR"), task["groups"]
        found += [
            reaches_further(f"Flossing before and during training solves the {what} at longer lags than no flossing.",
                            rows, "before_and_during", "none"),
            reaches_further(f"Flossing before and during training solves longer lags than before it alone: {what}.",
                            rows, "before_and_during", "before"),
            _raises_gradients(f"Flossing before training raises |dL/dx₀| at the start of training: {what}.", task),
        ]  # fmt: skip
    return found


def _raises_gradients(claim: str, task: dict[str, Any]) -> Claim:
    first = {curve["condition"]: _first(curve["gradient"]["middle"]) for curve in task["curves"]}
    if not {"none", "before"} <= first.keys():
        return not_run(claim)
    ratio = first["before"] / first["none"] if first["none"] > 0 else np.inf
    found = (
        f"Median |dL/dx₀| in the first 25 epochs at d = {task['d']}: {first['before']:.1e} with flossing before, "
        f"{first['none']:.1e} without, {ratio:.1e} times as large."
    )
    each = task.get("first_gradients")
    if each is None:  # data from before version 0.2 have the medians alone
        return Claim(claim, found, networks(task["groups"]), UNDECIDED)
    seeds = sorted(each["before"].keys() & each["none"].keys())
    norms = ([each[name][seed] for seed in seeds] for name in ("before", "none"))
    ours, theirs = (np.log10(np.maximum(numbers(values), np.finfo(float).tiny)) for values in norms)
    return compare(claim, f"{found} Its log₁₀, network by network:", ours, theirs)


def _first(values: Sequence[Any]) -> float:
    return float(numbers(values)[0])
