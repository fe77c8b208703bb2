"""Figure 4: flossing before training against flossing before and during training, temporal and spatial XOR."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import band, count, draw_final, draw_learning, legend_below, new_figure, panel
from flossing_lab.paper.analysis.measures import Group, by_task, numbers, of_task
from flossing_lab.paper.analysis.verdicts import compare, not_run, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import SIZES, STOPPING, TASKS, delays_spec
from flossing_lab.reference.config import TaskName
from flossing_lab.runs.config import Condition
from flossing_lab.sweeps.spec import Spec

NAME = "fig4"
IN_PAPER = True
TITLE = "Flossing before and during training"
CAPTION = (
    "Temporal XOR (top) and spatial XOR of three input channels (bottom): no flossing, 500 flossing epochs (k = 75) "
    "before training, and the same with two more blocks of 500, before training epochs 100 and 200. Left: accuracy on "
    "fresh sequences against the training epoch at one long lag, running mean over 25 epochs. Then the same against "
    "the seconds that flossing and training took on one core, without compilation, for networks that were timed; final "
    "accuracy, averaged over the last 100 epochs, against the longest lag d; line: median, dots: each network. Right: "
    "norm of the raw gradient at the initial states, |dL/dx₀|, running median over 25 epochs. Bands: quartiles over "
    "networks. " + STOPPING + " All networks start from the reference's Gaussian weights, input scale and bias; other "
    "starts were not tried here."
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
    """`groups` of each network's results, with `task`, and with curves and first gradients at one delay."""
    return {"groups": by_task(results, specs(scale), SIZES[scale].hard)}


def draw(data: Data) -> Figure:
    """Two tasks: accuracy against the epoch, time and the longest lag, gradient norm against the epoch."""
    figure, grid = new_figure(f"{TITLE} (k = 75, {count(data['groups'])})", 2, 4, size=(15.7, 6.8))
    for (*learning, final, gradient), task in zip(grid, _TASKS, strict=True):
        rows, with_curves = of_task(data["groups"], task)
        draw_learning(learning, with_curves, TASKS[task])
        draw_final(final, rows, CONDITIONS, "Final accuracy")
        for row in with_curves:
            band(gradient, row, "gradient")
        panel(gradient, "Gradient norm", xlabel="training epoch", ylabel="|dL/dx₀|", yscale="log")
    legend_below(figure, grid[0, -2])
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims about reach and gradient norms on both tasks."""
    found = []
    for task in _TASKS:
        what, (rows, with_curves) = TASKS[task].lower().replace("xor", "XOR"), of_task(data["groups"], task)
        found += [
            reaches_further(f"Flossing before and during training solves the {what} at longer lags than no flossing.",
                            rows, "before_and_during", "none"),
            reaches_further(f"Flossing before and during training solves longer lags than before it alone: {what}.",
                            rows, "before_and_during", "before"),
            _raises_gradients(f"Flossing before training raises |dL/dx₀| at the start of training: {what}.",
                              {row["condition"]: row for row in with_curves}),
        ]  # fmt: skip
    return found


def _raises_gradients(claim: str, by_condition: Mapping[str, Group]) -> Claim:
    if not {"none", "before"} <= by_condition.keys():
        return not_run(claim)
    norms = [
        dict(zip(row["seed"], np.maximum(numbers(row["first_gradient"]), np.finfo(float).tiny), strict=True))
        for row in (by_condition["before"], by_condition["none"])
    ]
    seeds = sorted(norms[0].keys() & norms[1].keys())
    before, none = (np.array([each[seed] for seed in seeds]) for each in norms)
    found = (
        f"Median |dL/dx₀| in the first 25 epochs at d = {by_condition['none']['d']}: {np.median(before):.1e} with "
        f"flossing before, {np.median(none):.1e} without. Its log₁₀, network by network:"
    )
    return compare(claim, found, np.log10(before), np.log10(none))
