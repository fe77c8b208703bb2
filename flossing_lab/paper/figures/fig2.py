"""Figure 2: the condition number of the long-term Jacobian, before and after flossing."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import draw_summary, k_colours, log10_condition_number, median, summary
from flossing_lab.paper.analysis.drawing import new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, short, shorten
from flossing_lab.paper.analysis.verdicts import compare_each, not_run
from flossing_lab.paper.calculations.ball_arithmetic import is_available
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale, Verdict
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.runs.plotting import DARK
from flossing_lab.sweeps.spec import Spec

NAME = "fig2"
IN_PAPER = True
TITLE = "Condition number of the long-term Jacobian"
CAPTION = (
    "Networks of N = 80 tanh units (g = 1), driven by random bits; 500 flossing epochs as in the reference experiment "
    "(window 55, Adam with learning rate 0.001). κ_m = σ_1 / σ_m is the condition number of the t-step Jacobian in its "
    "first m directions, shown as log10. A: before flossing, for several m. B: in the k flossed directions; dotted: "
    "the same directions before flossing. C: in all N directions. Lines: float64, median over networks, bands: "
    "quartiles. Dashed: the prediction exp((λ_1 - λ_m) t), with exponents over 1000 steps. Circles: network 1 in "
    "extended precision, with a proven error of 1e-9."
)

_FLOSSING = ("units", "epochs", "window", "learning_rate", "steps")


def _sizes(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        sizes = {"networks": 2, "units": 6, "k": [2], "horizons": [1, 5, 20], "exact": [5, 20]}
        return sizes | {"epochs": 8, "steps": 60, "window": 30, "learning_rate": 0.01}
    horizons = [1, 2, 5, 10, 20, 35, 55, 75, 100, 150, 200, 300, 400, 500]
    exact = [5, 20, 75, 200, 500] if scale == "paper" else [20, 75, 200]
    networks = max(4, NETWORKS[scale])
    sizes = {"networks": networks, "units": 80, "k": [1, 16, 32, 64, 75], "horizons": horizons, "exact": exact}
    return sizes | {"epochs": 500, "steps": 1000, "window": 55, "learning_rate": 0.001}


def specs(scale: Scale) -> list[Spec]:
    """None: nothing here is trained on a task."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """Networks without and with flossing; two of them also in extended precision if python-flint is installed."""
    flossed = [_calculation(scale, k) for k in (0, *_sizes(scale)["k"])]
    return [*flossed, *(_exact(scale, k) for k in _checked(scale))] if is_available() else flossed


def _checked(scale: Scale) -> tuple[int, int]:
    return 0, _sizes(scale)["k"][-1]


def _calculation(scale: Scale, k: int) -> Calculation:
    sizes = _sizes(scale)
    shared = {name: sizes[name] for name in (*_FLOSSING, "networks", "horizons")}
    more = {"kind": "vanilla", "gains": None, "k": k, "target": 0.0}
    return Calculation(f"{NAME}-{scale}-k{k}", "flossed_networks", shared | more)


def _exact(scale: Scale, k: int) -> Calculation:
    sizes = _sizes(scale)
    arguments = {name: sizes[name] for name in _FLOSSING} | {"k": k, "horizons": sizes["exact"]}
    return Calculation(f"{NAME}-{scale}-exact-k{k}", "extended_precision", arguments)


def collect(results: Results, scale: Scale) -> Data:
    """For each k: log10 of the condition numbers in the first m directions, for each m in a panel."""
    sizes = _sizes(scale)
    ms = [*(k for k in sizes["k"] if k > 1), sizes["units"]]
    data: Data = {name: sizes[name] for name in ("networks", "units", "k", "horizons", "window")}
    data |= {"m": ms, "rows": [], "exact": []}
    for k in (0, *sizes["k"]):
        if (found := results.calculation(_calculation(scale, k))) is not None:
            indices = ms if k == 0 else sorted({max(k, 2), sizes["units"]})
            numbers_by_m = {str(m): _condition(found, m, sizes["horizons"]) for m in indices}
            data["rows"].append({"k": k, "condition": numbers_by_m})
    for k in _checked(scale):
        if (found := results.calculation(_exact(scale, k))) is not None:
            values = {str(m): shorten(log10_condition_number(found["exact"], m)) for m in ms}
            worst = short(np.abs(found["ours"] - found["exact"]).max())
            data["exact"].append({"k": k, "horizons": sizes["exact"], "condition": values, "worst": worst})
    return data


def _condition(found: dict[str, np.ndarray], m: int, horizons: list[int]) -> dict[str, Any]:
    logs = log10_condition_number(found["log_singular_values"], m)
    slopes = log10_condition_number(found["exponents"], m)
    return {"curve": summary(horizons, logs), "each": [shorten(line) for line in logs], "predicted": shorten(slopes)}


def draw(data: Data) -> Figure:
    """Three panels: before flossing, in the flossed directions, in all directions."""
    figure, ((before, first, whole),) = new_figure(f"{TITLE} ({data['networks']} networks)", 1, 3, size=(12.5, 4.4))
    colours = k_colours(data["k"])
    rows = {row["k"]: row["condition"] for row in data["rows"]}
    exact = {row["k"]: row for row in data["exact"]}
    units = data["units"]
    shades = {**colours, units: DARK}
    for m in data["m"]:
        if 0 in rows:
            _draw(before, rows[0][str(m)], data, shades[m], f"m = {m}", exact.get(0), m)
    for k in data["k"]:
        m = max(k, 2)
        if k > 1 and 0 in rows:
            curve = rows[0][str(m)]["curve"]
            first.plot(numbers(curve["x"]), numbers(curve["middle"]), color=colours[k], lw=1, ls=":")
        if k in rows and k > 1:
            _draw(first, rows[k][str(m)], data, colours[k], f"k = {k}", exact.get(k), m)
    for k in sorted(rows):
        _draw(whole, rows[k][str(units)], data, colours[k], f"k = {k}" if k else "not flossed", exact.get(k), units)
    panel(before, "A  Before flossing, first m directions", ylabel="log₁₀ κₘ")
    panel(first, "B  After flossing k: first k directions", ylabel="log₁₀ κₖ")
    panel(whole, f"C  After flossing k: all {units} directions", ylabel="log₁₀ κ, all directions")
    flossed = numbers([value for k, row in rows.items() if k > 1 for line in row[str(k)]["each"] for value in line])
    top = float(np.max(flossed, where=np.isfinite(flossed), initial=0.0))
    if top > 0:
        first.set_ylim(0, 1.15 * top)  # the dotted lines continue beyond
    for axes in (before, first, whole):
        axes.set_xlabel("horizon t (steps)")
        axes.set_ylim(bottom=0)
        # B shares the colours of C; a legend would cover the lines.
        if axes is not first and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    figure.supxlabel(
        "line: float64 · dashed: exp((λ₁ − λₘ) t) · circles: extended precision, network 1 · "
        "B: colours as in C, dotted: not flossed",
        fontsize=9,
    )
    return figure


def _draw(axes: Axes, row: dict, data: Data, colour: str, label: str, exact: dict[str, Any] | None, m: int):
    draw_summary(axes, row["curve"], colour=colour, label=label)
    end = data["horizons"][-1]
    axes.plot([0, end], [0, end * median(row["predicted"])], color=colour, lw=1, ls="--")
    if exact is not None:
        values = numbers(exact["condition"][str(m)])
        axes.plot(exact["horizons"], values, color=colour, ls="none", marker="o", ms=5, mfc="white", zorder=4)


def claims(data: Data) -> list[Claim]:
    """Claims about growth, precision and the effect of flossing."""
    return [_prediction_claim(data), _precision_claim(data), _flossed_claim(data), _whole_claim(data)]


def _rows(data: Data) -> dict[int, dict[str, Any]]:
    return {row["k"]: row["condition"] for row in data["rows"]}


def _prediction_claim(data: Data) -> Claim:
    claim = "The condition number in the first m directions grows like exp((λ₁ − λ_m) t)."
    before = _rows(data).get(0)
    if before is None:
        return not_run(claim)
    end, errors = data["horizons"][-1], {}
    for m, row in before.items():
        measured = numbers([line[-1] for line in row["each"]])
        errors[m] = np.abs(numbers(row["predicted"]) * end / measured - 1)
    listed = ", ".join(f"m = {m}: {100 * np.max(error):.1f} %" for m, error in errors.items())
    largest = median([line[-1] for line in before[str(data["units"])]["each"]])
    found = (
        f"Before flossing, at t = {end}, largest relative error of the predicted log κₘ in any network: {listed}; "
        f"κ of all {data['units']} directions is 1e{largest:.0f} there. It holds if all errors are below 10 %."
    )
    return Claim(claim, found, data["networks"], _calculated(all(np.max(error) < 0.1 for error in errors.values())))


def _precision_claim(data: Data) -> Claim:
    claim = "Extended precision confirms the singular values in network 1."
    if not data["exact"]:
        return Claim(claim, "Not calculated: it needs python-flint (`pip install python-flint`).", 0, "not run")
    listed = "; ".join(_compared_precision(row, str(data["units"])) for row in data["exact"])
    which = f"logarithms of all {data['units']} singular values, float64 against ball arithmetic"
    found = f"Natural {which}: {listed}. It holds where the difference is below 1e-6."
    return Claim(claim, found, 1, _calculated(all(row["worst"] < 1e-6 for row in data["exact"])))


def _compared_precision(row: dict[str, Any], all_directions: str) -> str:
    which = f"k = {row['k']}" if row["k"] else "not flossed"
    horizons = ", ".join(map(str, row["horizons"]))
    largest = max(numbers(row["condition"][all_directions]))
    return f"{which}: at t = {horizons}, κ up to 1e{largest:.0f}, worst difference {row['worst']:.1g}"


def _flossed_claim(data: Data) -> Claim:
    claim = "Flossing k exponents lowers the condition number in the first k directions."
    return _compared(claim, data, {k: str(k) for k in data["k"] if k > 1}, "log₁₀ κₖ")


def _whole_claim(data: Data) -> Claim:
    claim = "Flossing k exponents also lowers the condition number in all N directions, for every k."
    directions = str(data["units"])
    return _compared(claim, data, dict.fromkeys(data["k"], directions), f"log₁₀ κ of all {directions} directions")


def _compared(claim: str, data: Data, directions: dict[int, str], name: str) -> Claim:
    rows, at = _rows(data), _at_window(data)
    cases = {k: [_each(rows[j][m], at) for j in (k, 0)] for k, m in directions.items() if {0, k} <= rows.keys()}
    if cases.keys() != directions.keys():
        return not_run(claim)
    listed = "; ".join(f"k = {k}: {median(was):.1f} before, {median(now):.1f} after" for k, (now, was) in cases.items())
    found = f"{name} at t = {data['horizons'][at]}, median over networks: {listed}."
    return compare_each(claim, found, [(now, was) for now, was in cases.values()], more=False)


def _at_window(data: Data) -> int:
    # The horizon nearest to twice the window: gradients must reach beyond the flossed window.
    return int(np.argmin(np.abs(np.asarray(data["horizons"]) - 2 * data["window"])))


def _each(row: dict[str, Any], at: int) -> list[float]:
    return [line[at] for line in row["each"]]


def _calculated(agrees: bool) -> Verdict:
    return "holds" if agrees else "fails"
