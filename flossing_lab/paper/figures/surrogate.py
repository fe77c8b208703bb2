"""Surrogate flossing: binary networks whose tangents use a surrogate derivative of the step function."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import (
    LN10,
    draw_summary,
    k_colours,
    log10_condition_number,
    median,
    quartiles_of,
    summary,
)
from flossing_lab.paper.analysis.drawing import new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, shorten
from flossing_lab.paper.analysis.verdicts import compare_each, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.runs.plotting import LIGHT_GREY
from flossing_lab.sweeps.spec import Spec

NAME = "surrogate"
IN_PAPER = True
TITLE = "Surrogate flossing of binary networks"
CAPTION = (
    "Networks of N = 80 binary units, driven by random bits. The forward pass uses a step function, the tangents its "
    "surrogate derivative 1 / (0.3 |v| + 1)^2. 300 flossing epochs, each with a fresh sequence of 100 bits, Adam with "
    "learning rate 0.001, for k = 1, 16 and 32 exponents. A: mean of |λᵢ| over the flossed exponents. B: all surrogate "
    "exponents over 1000 other bits. C: condition number of the surrogate long-term Jacobian in its first 32 "
    "directions, for every k. D: norm of the surrogate gradient backpropagated over t steps, starting with norm 1. "
    "Lines: median over networks, bands: quartiles. Surrogate flossing is from later work of the author (2024), not "
    "from the paper of 2023."
)


def _size(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        sizes = {"networks": 2, "units": 6, "epochs": 8, "steps": 60, "horizons": [1, 5, 20]}
        return sizes | {"window": 30, "learning_rate": 0.01}
    horizons = [1, 2, 5, 10, 15, 20, 30, 40, 50, 65, 80, 100, 120, 150]
    sizes = {"networks": max(5, NETWORKS[scale]), "units": 80, "epochs": 300, "steps": 1000}
    return sizes | {"horizons": horizons, "window": 100, "learning_rate": 0.001}


def flossed_counts(scale: Scale) -> list[int]:
    """The numbers of flossed exponents."""
    return [2] if scale == "tiny" else [1, 16, 32]


def specs(scale: Scale) -> list[Spec]:
    """None: nothing here is trained on a task."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """Networks as drawn, and flossed."""
    return [_calculation(scale, k) for k in (0, *flossed_counts(scale))]


def _calculation(scale: Scale, k: int) -> Calculation:
    more = {"kind": "binary", "gains": None, "k": k, "target": 0.0}
    function = "flossed_networks"
    return Calculation(f"{NAME}-{scale}-k{k}", function, _size(scale) | more)


def collect(results: Results, scale: Scale) -> Data:
    """A row for each available k; k = 0 is without flossing."""
    size, ks = _size(scale), flossed_counts(scale)
    data: Data = {"networks": size["networks"], "k": ks, "m": ks[-1], "horizons": size["horizons"], "rows": []}
    for k in (0, *ks):
        if (found := results.calculation(_calculation(scale, k))) is not None:
            data["rows"].append({"k": k, **_row(found, k, ks, size["horizons"])})
    return data


def _row(found: dict[str, np.ndarray], k: int, ks: list[int], horizons: list[int]) -> dict[str, Any]:
    exponents, logs, m = found["exponents"], found["log_singular_values"], ks[-1]
    index = np.arange(1, exponents.shape[1] + 1)
    spectrum = dict(zip(("low", "middle", "high"), map(shorten, quartiles_of(exponents)), strict=True))
    row: dict[str, Any] = {"spectrum": {"x": shorten(index), **spectrum}}
    row["size"] = {str(j): shorten(np.abs(exponents[:, :j]).mean(1)) for j in ks}
    row["condition"] = summary(horizons, log10_condition_number(logs, m))
    row["condition_end"] = shorten(log10_condition_number(logs[:, -1], m))
    row["feedback"] = summary(horizons, found["log_feedback"] / LN10)
    row["feedback_end"] = shorten(found["log_feedback"][:, -1] / LN10)
    if k:
        sizes = np.abs(found["along"].astype(float)).mean(2)
        row["along"] = summary(np.arange(sizes.shape[1]), sizes)
    return row


def draw(data: Data) -> Figure:
    """Exponents during flossing, spectra before and after; condition number and gradient norm against the horizon."""
    figure, ((along, spectra), (condition, feedback)) = new_figure(
        f"{TITLE} ({data['networks']} networks)", 2, 2, size=(9.6, 7.0)
    )
    colours = k_colours(data["k"])
    for row in data["rows"]:
        style = {"colour": colours[row["k"]], "label": f"k = {row['k']}" if row["k"] else "not flossed"}
        if "along" in row:
            draw_summary(along, row["along"], **style)
        draw_summary(spectra, row["spectrum"], **style)
        draw_summary(condition, row["condition"], **style)
        draw_summary(feedback, row["feedback"], **style)
    for axes in (spectra, feedback):
        axes.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    panel(along, "A  Mean of |λᵢ| over i ≤ k", xlabel="flossing epoch", ylabel="mean of |λᵢ| (per step)")
    along.set_yscale("log")
    panel(spectra, "B  All surrogate exponents", xlabel="index i", ylabel="λᵢ (per step)")
    name = f"C  Condition number, first {data['m']} directions"
    panel(condition, name, xlabel="horizon t (steps)", ylabel=f"log₁₀ κ, {data['m']} directions")
    panel(feedback, "D  Gradient norm t steps back", xlabel="horizon t (steps)", ylabel="log₁₀ |dL/dh|")
    for axes in (along, spectra, condition, feedback):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8.5)
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims about exponents, condition number and gradient norm."""
    rows = {row["k"]: row for row in data["rows"]}
    ks, before = data["k"], rows.get(0)
    end, m = data["horizons"][-1], data["m"]
    exponents = "(Engelken 2024.) Surrogate flossing moves the first k exponents of a binary network towards 0."
    condition = (
        f"(Engelken 2024.) It lowers the condition number of the surrogate long-term Jacobian in {m} directions, for "
        "every k."
    )
    feedback = f"(Engelken 2024.) It brings the norm of the surrogate gradient {end} steps back nearer to 1."
    if before is None or not {*ks} <= rows.keys():
        return [not_run(claim) for claim in (exponents, condition, feedback)]

    def each(claim: str, cases: dict[int, Any], what: str) -> Claim:
        listed = "; ".join(
            f"k = {k}: {median(was):.3g} before, {median(now):.3g} after" for k, (now, was) in cases.items()
        )
        found = f"{what}, median over networks: {listed}."
        return compare_each(claim, found, [cases[k] for k in ks], more=False)

    sizes = {k: (rows[k]["size"][str(k)], before["size"][str(k)]) for k in ks}
    conditions = {k: (rows[k]["condition_end"], before["condition_end"]) for k in ks}
    norms = {k: (abs(numbers(rows[k]["feedback_end"])), abs(numbers(before["feedback_end"]))) for k in ks}
    return [
        each(exponents, sizes, "Mean of |λᵢ| over i ≤ k"),
        each(condition, conditions, f"log₁₀ κ of the first {m} directions, of which k were flossed, at t = {end}"),
        each(feedback, norms, f"|log₁₀| of the gradient norm {end} steps back"),
    ]
