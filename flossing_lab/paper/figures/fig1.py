"""Figure 1: flossing moves Lyapunov exponents to a target."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import draw_summary, k_colours, median, quartiles_of, summary
from flossing_lab.paper.analysis.drawing import new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, shorten
from flossing_lab.paper.analysis.verdicts import most_do, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.runs.plotting import LIGHT_GREY, evenly_spaced
from flossing_lab.sweeps.spec import Spec

NAME = "fig1"
IN_PAPER = True
TITLE = "Flossing moves Lyapunov exponents to a target"
CAPTION = (
    "Networks of N = 32 tanh units, driven by random bits, with Gaussian recurrent weights whose gain g is drawn from "
    "U(0, 1) for each network. Each flossing epoch uses a fresh sequence of 100 bits and takes one Adam step of size "
    "0.01. We chose this learning rate so that exponents settle within 50 epochs; the paper's is not known to us. A: "
    "the largest exponent, flossed to -1, -0.5 and 0; thin lines: each network. B: its squared distance from the "
    "target. C: mean of the k squared exponents flossed to 0. D: all 32 exponents before and after flossing, over 1000 "
    "other bits. Lines: median over networks, bands: quartiles."
)
TARGETS = (-1.0, -0.5, 0.0)
NEAR = 0.1
"""An exponent within this distance of its target, per step, has reached it."""
SETTLED_BY = 50

_TARGET_COLOURS = {-1.0: "#8a5fb0", -0.5: "#c2557f", 0.0: "#d9822b"}


def _size(scale: Scale, k: int = 1) -> dict[str, Any]:
    if scale == "tiny":
        return {"networks": 2, "units": 6, "epochs": 8, "steps": 60, "window": 30}
    # Several exponents need more epochs to settle.
    epochs = 80 if k <= 1 else 250
    return {"networks": 10, "units": 32, "epochs": epochs, "steps": 1000, "window": 100}


def flossed_counts(scale: Scale) -> list[int]:
    """The numbers k of flossed exponents; at the tiny scale all figures share one k, since each k compiles anew."""
    return [2] if scale == "tiny" else [1, 16, 32]


def specs(scale: Scale) -> list[Spec]:
    """None: nothing here is trained on a task."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """Networks as drawn; one exponent flossed to each target; k exponents flossed to 0."""
    ks = flossed_counts(scale)
    wanted = [(0, 0.0), *((ks[0], target) for target in TARGETS), *((k, 0.0) for k in ks[1:])]
    return [_calculation(scale, k, target) for k, target in wanted]


def _calculation(scale: Scale, k: int, target: float) -> Calculation:
    size = _size(scale, k)
    gains = np.random.default_rng(1).uniform(size=size["networks"]).round(4).tolist()
    more = {"kind": "vanilla", "gains": gains, "learning_rate": 0.01, "horizons": [], "k": k, "target": target}
    function = "flossed_networks"
    return Calculation(f"{NAME}-{scale}-k{k}-target{target:g}", function, size | more)


def collect(results: Results, scale: Scale) -> Data:
    """`targets`, `flossed` (by k) and the spectrum before flossing; missing calculations are left out."""
    size, ks = _size(scale), flossed_counts(scale)
    data: Data = {"networks": size["networks"], "k": ks, "targets": [], "flossed": [], "before": None}
    for target in TARGETS:
        if (found := results.calculation(_calculation(scale, ks[0], target))) is not None:
            data["targets"].append({"target": target, **_towards(found, target)})
    for k in (0, *ks):
        found = results.calculation(_calculation(scale, k, 0.0))
        if found is None:
            continue
        spectrum = _spectrum(found["exponents"])
        if k == 0:
            data["before"] = spectrum
            data["sizes_before"] = {str(m): _mean_size(found, m) for m in ks}
        else:
            squares = (found["along"].astype(float) ** 2).mean(2)
            mean_square = summary(np.arange(squares.shape[1]), squares)
            sizes = {"size": _mean_size(found, k)}
            data["flossed"].append({"k": k, "mean_square": mean_square, "spectrum": spectrum, **sizes})
    return data


def _towards(found: dict[str, np.ndarray], target: float) -> dict[str, Any]:
    first = found["along"][:, :, 0].astype(float)
    epochs, indices = np.arange(first.shape[1]), evenly_spaced(first.shape[1], 41)
    return {
        "square": summary(epochs, (first - target) ** 2),
        "exponent": summary(epochs, first),
        "each": [shorten(line[indices]) for line in first],
        "each_at": indices.tolist(),
        "farthest": shorten(np.abs(first - target)[:, SETTLED_BY:].max(1, initial=0.0)),
        "after": shorten(found["exponents"][:, 0]),
    }


def _spectrum(exponents: np.ndarray) -> dict[str, list[float]]:
    low, middle, high = quartiles_of(exponents)
    index = np.arange(1, exponents.shape[1] + 1)
    return {"x": shorten(index), "low": shorten(low), "middle": shorten(middle), "high": shorten(high)}


def _mean_size(found: dict[str, np.ndarray], k: int) -> list[float]:
    return shorten(np.abs(found["exponents"][:, :k]).mean(1))


def draw(data: Data) -> Figure:
    """Exponents and squared distances against the flossing epoch, and spectra."""
    figure, ((first, squares), (means, spectra)) = new_figure(
        f"{TITLE} ({data['networks']} networks)", 2, 2, size=(9.6, 7.0)
    )
    for row in data["targets"]:
        _draw_target(first, squares, row)
    colours = k_colours(data["k"])
    if data["before"]:
        draw_summary(spectra, data["before"], colour=colours[0], label="before flossing")
    for row in data["flossed"]:
        label = f"k = {row['k']}"
        draw_summary(means, row["mean_square"], colour=colours[row["k"]], label=label)
        draw_summary(spectra, row["spectrum"], colour=colours[row["k"]], label=label)
    spectra.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    panel(first, "A  The largest exponent", xlabel="flossing epoch", ylabel="λ₁ (per step)")
    panel(squares, "B  Its squared distance from the target", xlabel="flossing epoch", ylabel="(λ₁ − target)²")
    panel(means, "C  Flossed to 0: mean of λᵢ² over i ≤ k", xlabel="flossing epoch", ylabel="mean of λᵢ²")
    panel(spectra, "D  All exponents, before and after", xlabel="index i", ylabel="λᵢ (per step)")
    for axes in (squares, means):
        axes.set_yscale("log")
    for axes in (first, squares, means, spectra):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8.5)
    return figure


def _draw_target(first: Axes, squares: Axes, row: dict[str, Any]):
    target = row["target"]
    colour, label = _TARGET_COLOURS[target], f"target {target:g}".replace("-", "−")
    for line in row["each"]:
        first.plot(row["each_at"], numbers(line), color=colour, lw=0.5, alpha=0.45)
    first.plot(numbers(row["exponent"]["x"]), numbers(row["exponent"]["middle"]), color=colour, lw=2, label=label)
    first.axhline(target, color=LIGHT_GREY, lw=0.8, zorder=0)
    draw_summary(squares, row["square"], colour=colour, label=label)


def claims(data: Data) -> list[Claim]:
    """Claims about targets, speed and the number of exponents."""
    return [_targets_claim(data), _speed_claim(data), _counts_claim(data)]


def _targets_claim(data: Data) -> Claim:
    claim = "Flossing moves the largest Lyapunov exponent to a target of −1, −0.5 or 0."
    if len(data["targets"]) < len(TARGETS):
        return not_run(claim)
    medians = ", ".join(f"{median(row['after']):.2f} for {row['target']:g}" for row in data["targets"])
    counts = [_near(numbers(row["after"]) - row["target"]) for row in data["targets"]]
    found = f"λ₁ after flossing, measured over other bits, median: {medians}. Networks within {NEAR} of each target:"
    return most_do(claim, found, counts)


def _speed_claim(data: Data) -> Claim:
    claim = f"It settles within {SETTLED_BY} flossing epochs."
    is_known = all("farthest" in row for row in data["targets"])  # not in data of version 0.1
    if len(data["targets"]) < len(TARGETS) or data["targets"][0]["each_at"][-1] < SETTLED_BY or not is_known:
        return not_run(claim)
    counts = [_settled(row) for row in data["targets"]]
    rate = "we chose the learning rate"
    found = f"Networks whose λ₁ stays within {NEAR} of −1, −0.5 and 0 from epoch {SETTLED_BY} on ({rate}):"
    return most_do(claim, found, counts)


def _settled(row: dict[str, Any]) -> tuple[int, int]:
    return _near(numbers(row["farthest"]))


def _near(distances: Iterable[float]) -> tuple[int, int]:
    near = [abs(each) <= NEAR for each in distances]
    return sum(near), len(near)


def _counts_claim(data: Data) -> Claim:
    claim = "Flossing can move one, half or all of the exponents near 0."
    if len(data["flossed"]) < len(data["k"]) or not data["before"]:
        return not_run(claim)
    pairs = [(row["k"], median(data["sizes_before"][str(row["k"])]), median(row["size"])) for row in data["flossed"]]
    listed = "; ".join(f"k = {k}: {before:.2f} before, {after:.2f} after" for k, before, after in pairs)
    found = f"Mean of |λᵢ| over i ≤ k, median over networks: {listed}. Networks in which less than {NEAR} remains:"
    return most_do(claim, found, [_near(numbers(row["size"])) for row in data["flossed"]])
