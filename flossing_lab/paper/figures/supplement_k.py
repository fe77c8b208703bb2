"""Supplement: how many exponents to floss."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import GREY, accuracy_axes, count, medians, new_figure, panel
from flossing_lab.paper.analysis.measures import groups, numbers
from flossing_lab.paper.analysis.verdicts import best_is_between
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import SIZES, spec
from flossing_lab.runs.plotting import COLOURS
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_k"
IN_PAPER = True
TITLE = "How many exponents to floss"
CAPTION = (
    "Temporal XOR at the longest lag d = 40, flossing before and during training, against the number k of flossed "
    "exponents, of N = 80. Left: final accuracy, averaged over the last 100 epochs. Right: first epoch at which the "
    "running mean of the accuracy over 25 epochs reaches 0.95; networks that do not reach it are left out; the line is "
    "the median of all networks, drawn where more than half reach it. Dots: each network."
)


def specs(scale: Scale) -> list[Spec]:
    """One task, with flossing before and during training, for each k."""
    size = SIZES[scale]
    base = {"task": "temporal_xor", "delay": size.delay, "condition": "before_and_during"}
    return [spec(NAME, size, base, k=size.k)]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, one for each k."""
    return {"groups": groups(results, *specs(scale))}


def draw(data: Data) -> Figure:
    """Final accuracy and speed against k."""
    return draw_along(data["groups"], "k", TITLE, "flossed exponents k")


def claims(data: Data) -> list[Claim]:
    """The claim about the best k."""
    return [best_is_between("An intermediate number of flossed exponents is best.", data["groups"], "k")]


def draw_along(rows: list, key: str, title: str, label: str) -> Figure:
    """Final accuracy, and epochs until the task is solved, against `key`."""
    lags = sorted({row["d"] for row in rows})
    where = f", d = {', '.join(map(str, lags))}" if lags else ""
    figure, grid = new_figure(f"{title}: temporal XOR{where} ({count(rows)})", 1, 2, size=(9.6, 3.7))
    final, speed = grid[0]
    colour = COLOURS["before_and_during"]
    for axes, measure in ((final, "final_accuracy"), (speed, "epochs_to_solve")):
        medians(axes, rows, key, measure, colour=colour, label="flossing before and during")
    accuracy_axes(final, "Final accuracy", label)
    panel(speed, "Epochs to accuracy 0.95", xlabel=label, ylabel="training epoch")
    values = [row[key] for row in rows]
    if values:
        room = 1 + 0.06 * (max(values) - min(values))
        speed.set(xlim=(min(values) - room, max(values) + room), ylim=(0, 1.12 * speed.get_ylim()[1]))
        final.set_xlim(speed.get_xlim())
    for row in rows:
        never = int(np.isinf(numbers(row["epochs_to_solve"])).sum())
        if never:
            place: Any = (row[key], 1), ("data", "axes fraction")
            speed.annotate(
                f"{never} never", place[0], xycoords=place[1], fontsize=7.5, color=GREY, ha="center", va="top"
            )
    return figure
