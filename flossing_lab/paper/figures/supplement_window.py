"""Supplement: the length of the flossing window."""

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.measures import SOLVED, groups
from flossing_lab.paper.analysis.verdicts import NO_DIFFERENCE, UNDECIDED, compare, not_run, solved_share
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.figures.supplement_k import draw_along
from flossing_lab.paper.scales import SIZES, spec
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_window"
IN_PAPER = True
TITLE = "Length of the flossing window"
CAPTION = (
    "Temporal XOR at the longest lag d = 60, flossing before and during training (k = 75), against the length of the "
    "flossing window; its first steps, 10 plus a tenth of the window, are the transient. Left: final accuracy, "
    "averaged over the last 100 epochs. Right: first epoch at which the running mean of the accuracy over 25 epochs "
    "reaches 0.95; networks that do not reach it are left out; the line is the median of all networks, drawn where "
    "more than half reach it. Dots: each network."
)


def specs(scale: Scale) -> list[Spec]:
    """One task, with flossing before and during training, for each window."""
    size = SIZES[scale]
    base = {"task": "temporal_xor", "delay": size.window_delay, "condition": "before_and_during"}
    return [spec(NAME, size, base, window=size.window)]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, one for each window."""
    return {"groups": groups(results, *specs(scale))}


def draw(data: Data) -> Figure:
    """Final accuracy and speed against the window."""
    return draw_along(data["groups"], "window", TITLE, "flossing window (steps)")


def claims(data: Data) -> list[Claim]:
    """The claim that windows should span the longest lag."""
    claim = "(Our question.) With a flossing window of at least d steps, more networks solve the task."
    rows = data["groups"]
    long = solved_share(rows, lambda row: row["window"] >= row["d"])
    less = solved_share(rows, lambda row: row["window"] < row["d"])
    if not long or not less:
        return [not_run(claim)]
    found = (
        f"Share of the runs that a network solves (final accuracy ≥ {SOLVED}), mean over networks: {np.mean(long):.2f} "
        f"with window ≥ d, {np.mean(less):.2f} below."
    )
    if min(*long, *less) == 1:
        return [Claim(claim, f"{found} {NO_DIFFERENCE}", len(long), UNDECIDED)]
    return [compare(claim, found, long, less)]
