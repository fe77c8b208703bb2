"""Beyond the paper: how many of Newton's iterations evaluate a network in parallel over time, flossed or not.

Lim et al. (2024) evaluate a recurrent network on its whole trajectory at once. Gonzalez et al. (2025) show that the
sign of the largest Lyapunov exponent decides how many iterations this takes.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import draw_summary, summary
from flossing_lab.paper.analysis.drawing import new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, shorten
from flossing_lab.paper.analysis.verdicts import compare, correlates, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.runs.plotting import COLOURS, LABELS, LIGHT_GREY
from flossing_lab.sweeps.spec import Spec

NAME = "newton"
IN_PAPER = False
TITLE = "Newton's iterations on a whole trajectory"
CAPTION = (
    "Networks of N = 64 tanh units driven by random bits; ten seeds for each of the gains 1, 1.5, 2 and 3. Their first "
    "16 exponents are flossed to 0, or to -0.1, for 500 epochs over windows of 30 steps (settings chosen on two other "
    "seeds). In float64, along the same bits. A: iterations until no state changes, over 1000 steps, against the "
    "largest exponent; lines join the same network. B: iterations against the number of steps, which is about the most "
    "they can be (grey). C: through the training of the reference experiment at delay 20 (N = 80), over 300 steps; "
    "epoch 0 is before training, and after preflossing. D: the largest exponent of these networks. Lines: median over "
    "networks, bands: quartiles."
)
CONDITIONS = ("none", "before")
TARGETS = (0.0, -0.1)
_NAMES = ("as drawn", "flossed to 0", "flossed to −0.1")
_SHADES = ("#222222", "#d9822b", "#0b6fa4")
_STYLES = ("-", "--", ":")


def _size(scale: Scale) -> dict[str, Any]:
    shared = {"first": 11, "targets": list(TARGETS)}
    if scale == "tiny":
        small = {"units": 6, "gains": [0.5, 3.0], "k": 2, "epochs": 3, "window": 10, "lengths": [10, 20]}
        return {**shared, "networks": 2, "learning_rate": 0.01, **small}
    more = {"units": 64, "gains": [1.0, 1.5, 2.0, 3.0], "k": 16, "epochs": 500, "window": 30}
    return {**shared, "networks": 10, "learning_rate": 0.003, "lengths": [30, 100, 300, 1000], **more}


def _training(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        small = {"units": 8, "batch": 2, "steps": 20, "flossing_steps": 30, "window": 12, "k": 4, "delay": 2}
        values = {**small, "preflossing": 100, "interval": 1, "singular_values_every": 0}
        return {"networks": 2, "values": values, "epochs": [0, 100], "conditions": list(CONDITIONS), "length": 120}
    epochs = [0, 100, 200, 300, 500, 1000, 2000, 3000]
    return {"networks": 10, "values": {"delay": 20}, "epochs": epochs, "conditions": list(CONDITIONS), "length": 300}


def specs(scale: Scale) -> list[Spec]:
    """None: the training is part of a calculation, which keeps the networks along it."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """Drawn and flossed networks; networks through training."""
    return [
        Calculation(f"{NAME}-{scale}-flossed", "newton_of_flossed", _size(scale)),
        Calculation(f"{NAME}-{scale}-training", "newton_through_training", _training(scale)),
    ]


def collect(results: Results, scale: Scale) -> Data:
    """`gains`: a row for each; `training`: a row for each condition. Missing calculations are left out."""
    size, training = _size(scale), _training(scale)
    flossed, trained = (results.calculation(each) for each in calculations(scale))
    data: Data = {"networks": size["networks"], "lengths": size["lengths"], "gains": [], "training": []}
    for i, gain in enumerate(size["gains"] if flossed is not None else []):
        assert flossed is not None
        kinds = [
            {"exponent": shorten(exponent[i]), "count": shorten(count[i, :, -1]),
             "along": summary(size["lengths"], count[i])}
            for exponent, count in zip(flossed["exponent"], flossed["count"], strict=True)
        ]  # fmt: skip
        data["gains"].append({"gain": gain, "kinds": kinds})
    for i, condition in enumerate(CONDITIONS if trained is not None else ()):
        assert trained is not None
        count, exponent = (summary(training["epochs"], trained[name][i]) for name in ("count", "exponent"))
        last = {"last": shorten(trained["count"][i, :, -1]), "accuracy": shorten(trained["accuracy"][i])}
        data["training"].append({"condition": condition, "count": count, "exponent": exponent, **last})
    return data


def draw(data: Data) -> Figure:
    """Iterations against the exponent, the length and the training epoch."""
    figure, ((against, along), (training, exponents)) = new_figure(
        f"{TITLE} ({data['networks']} networks for each gain)", 2, 2, size=(9.6, 7.0)
    )
    for row in data["gains"]:
        _draw_gain(against, along, row)
    steps = data["lengths"]
    along.plot(steps, steps, color=LIGHT_GREY, lw=0.9, ls="--", zorder=0)
    against.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    panel(against, f"A  Iterations over {steps[-1]} steps", xlabel="λ₁ (per step)", ylabel="iterations", yscale="log")
    panel(along, "B  Against the number of steps", xlabel="steps", ylabel="iterations", xscale="log", yscale="log")
    for row in data["training"]:
        style = {"colour": COLOURS[row["condition"]], "label": LABELS[row["condition"]]}
        draw_summary(training, row["count"], **style)
        draw_summary(exponents, row["exponent"], **style)
    panel(training, "C  Through training", xlabel="training epoch", ylabel="iterations over 300 steps")
    panel(exponents, "D  The largest exponent", xlabel="training epoch", ylabel="λ₁ (per step)")
    for axes in (against, along, training):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8.5)
    return figure


def _draw_gain(against: Axes, along: Axes, row: dict[str, Any]):
    points = [(numbers(kind["exponent"]), numbers(kind["count"])) for kind in row["kinds"]]
    against.plot(*np.transpose(points, (1, 0, 2)), color=LIGHT_GREY, lw=0.6, zorder=1)
    is_first = not against.collections
    for kind, (exponent, count), colour, name, style in zip(
        row["kinds"], points, _SHADES, _NAMES, _STYLES, strict=True
    ):
        against.scatter(exponent, count, s=16, color=colour, label=name if is_first else None, lw=0, zorder=2)
        curve = kind["along"]
        along.plot(numbers(curve["x"]), numbers(curve["middle"]), color=colour, ls=style, lw=1.3)
    curve = row["kinds"][0]["along"]
    along.annotate(f"gain {row['gain']:g}", (curve["x"][-1], curve["middle"][-1]), xytext=(4, 0),
                   textcoords="offset points", fontsize=8, va="center")  # fmt: skip


def claims(data: Data) -> list[Claim]:
    """What flossing does to networks that start chaotic and to those that start contracting, and what training does."""
    chaotic = "of networks that start chaotic."
    grows = "(Our question.) The number of iterations of drawn networks grows with their largest exponent."
    exponents = [value for row in data["gains"] for value in row["kinds"][0]["exponent"]]
    counts = [value for row in data["gains"] for value in row["kinds"][0]["count"]]
    return [
        correlates(grows, "All gains and seeds.", numbers(exponents), numbers(counts)) if counts else not_run(grows),
        _compared(f"(Our question.) Flossing to 0 lowers the number {chaotic}", data, 1, chaotic=True),
        _compared(f"(Our question.) Flossing to −0.1 lowers the number {chaotic}", data, 2, chaotic=True),
        _compared(
            "(Our question.) Flossing to 0 raises it for networks that start contracting.", data, 1, chaotic=False
        ),
        _trained("(Our question.) At the end of training, flossed networks need more iterations than others.", data),
    ]


def _compared(claim: str, data: Data, kind: int, *, chaotic: bool) -> Claim:
    """Whether flossing changes the number of networks whose largest exponent was above 0 before, or below."""
    pairs = [
        (after, before)
        for row in data["gains"]
        for exponent, before, after in zip(
            row["kinds"][0]["exponent"], row["kinds"][0]["count"], row["kinds"][kind]["count"], strict=True
        )
        if (exponent > 0) == chaotic
    ]
    if not pairs:
        return not_run(claim)
    after, before = np.transpose(pairs)
    found = f"Median iterations: {np.median(before):g} before flossing, {np.median(after):g} after."
    return compare(claim, found, after, before, more=not chaotic)


def _trained(claim: str, data: Data) -> Claim:
    last = {row["condition"]: row["last"] for row in data["training"]}
    if len(last) < len(CONDITIONS):
        return not_run(claim)
    listed = "; ".join(f"{LABELS[name]}: {np.median(values):g}" for name, values in last.items())
    return compare(claim, f"Median iterations over 300 steps, {listed}.", last["before"], last["none"])
