"""Figure 2 along training: the condition number of the long-term Jacobian, without and with flossing."""

from typing import Any

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import draw_summary, log10_condition_number, median, summary
from flossing_lab.paper.analysis.drawing import legend_below, new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, shorten
from flossing_lab.paper.analysis.verdicts import compare, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.runs.plotting import COLOURS, LABELS, LIGHT_GREY
from flossing_lab.sweeps.spec import Spec

NAME = "fig2_training"
IN_PAPER = True
TITLE = "Condition number along training"
CAPTION = (
    "The reference experiment (N = 80, temporal XOR at d = 40, k = 75): without flossing, with 500 flossing epochs "
    "before training, and with two more blocks before training epochs 100 and 200. κ_m = σ_1 / σ_m of the t-step "
    "Jacobian in float64, along random bits, as log10. A and B: at t = d, against the training epoch; 0 is before "
    "training, and after preflossing. C: against t, after training; the vertical line is d. Lines: median over "
    "networks; bands: quartiles; an infinite κ, where a direction is lost, is not drawn."
)
CONDITIONS = ("none", "before", "before_and_during")


def _sizes(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        small = {"units": 8, "batch": 2, "steps": 20, "flossing_steps": 30, "window": 12, "k": 4, "delay": 2}
        values = {**small, "preflossing": 10, "interflossing": 3, "interval": 1, "singular_values_every": 0}
        return {"networks": 2, "values": values, "epochs": [0, 100], "horizons": [2, 4, 8]}
    epochs = [0, 100, 200, 300, 500, 1000, 2000, 3000] + ([10_000] if scale == "paper" else [])
    horizons = [5, 10, 20, 40, 80, 150]
    return {"networks": max(10, NETWORKS[scale]), "values": {"delay": 20}, "epochs": epochs, "horizons": horizons}


def specs(scale: Scale) -> list[Spec]:
    """None: the training is part of a calculation, which keeps the networks along it."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """One for each condition, so that they run side by side."""
    return [
        Calculation(
            f"{NAME}-{scale}-{condition.replace('_', '-')}",
            "condition_through_training",
            _sizes(scale) | {"conditions": [condition]},
        )
        for condition in CONDITIONS
    ]


def collect(results: Results, scale: Scale) -> Data:
    """For each condition and m: log10 κ_m at t = d along training, and at each t after it."""
    sizes = _sizes(scale)
    k, units = sizes["values"].get("k", 75), sizes["values"].get("units", 80)
    d = 2 * sizes["values"]["delay"]
    at = sizes["horizons"].index(d)
    data: Data = {"networks": sizes["networks"], "d": d, "k": k, "units": units, "rows": []}
    for condition, calculation in zip(CONDITIONS, calculations(scale), strict=True):
        if (found := results.calculation(calculation)) is None:
            continue
        logs = found["log_singular_values"][0]
        row: dict[str, Any] = {"condition": condition, "accuracy": shorten(found["accuracy"][0]), "m": {}}
        for m in (k, units):
            condition_number = log10_condition_number(logs, m)
            row["m"][str(m)] = {
                "along": summary(sizes["epochs"], condition_number[:, :, at]),
                "after": summary(sizes["horizons"], condition_number[:, -1]),
                "first": shorten(condition_number[:, 0, at]),
                "last": shorten(condition_number[:, -1, at]),
            }
        data["rows"].append(row)
    return data


def draw(data: Data) -> Figure:
    """Along training in the flossed directions and in all, and after training against the horizon."""
    figure, ((flossed, whole, after),) = new_figure(f"{TITLE} ({data['networks']} networks)", 1, 3, size=(12.5, 4.2))
    k, units, d = data["k"], data["units"], data["d"]
    for row in data["rows"]:
        style = {"colour": COLOURS[row["condition"]], "label": LABELS[row["condition"]]}
        draw_summary(flossed, row["m"][str(k)]["along"], **style)
        draw_summary(whole, row["m"][str(units)]["along"], **style)
        draw_summary(after, row["m"][str(k)]["after"], **style)
    after.axvline(d, color=LIGHT_GREY, lw=0.8, zorder=0)
    panel(flossed, f"A  First {k} directions, t = d = {d}", xlabel="training epoch", ylabel=f"log₁₀ κ, m = {k}")
    panel(whole, f"B  All {units} directions, t = d", xlabel="training epoch", ylabel=f"log₁₀ κ, m = {units}")
    panel(after, f"C  After training, first {k} directions", xlabel="horizon t (steps)", ylabel=f"log₁₀ κ, m = {k}")
    for axes in (flossed, whole, after):
        axes.set_ylim(bottom=0)
    legend_below(figure, flossed)
    return figure


def claims(data: Data) -> list[Claim]:
    """Whether flossing lowers the condition number before and after training, and whether later blocks add to it."""
    first = f"the first {data['k']} directions"
    during = "before_and_during"
    return [
        _compared(f"Preflossing lowers the condition number in {first} before training.", data, "before", "first"),
        _compared(f"It is still lower after training: {first}.", data, "before", "last"),
        _compared(f"Flossing before and during training lowers it after training: {first}.", data, during, "last"),
        _compared(
            f"(Our question.) Flossing during training lowers it further than before alone: {first}.",
            data, during, "last", than="before",
        ),
    ]  # fmt: skip


def _compared(claim: str, data: Data, condition: str, when: str, than: str = "none") -> Claim:
    rows = {row["condition"]: row["m"][str(data["k"])][when] for row in data["rows"]}
    if not {condition, than} <= rows.keys():
        return not_run(claim)
    listed = f"{median(rows[condition]):.3g} {LABELS[condition]}, {median(rows[than]):.3g} {LABELS[than]}"
    found = f"Median log₁₀ κ at t = {data['d']}: {listed}."
    return compare(claim, found, numbers(rows[condition]), numbers(rows[than]), more=False)
