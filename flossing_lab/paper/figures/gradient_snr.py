"""Beyond the paper: the signal-to-noise ratio of a flossed network's gradient, against network size.

Even when gradients no longer vanish, noise can hold a network at chance: the gradient of one batch mostly reflects the
bits of that batch. (noise / signal)^2 is the number of batches whose mean gradient has as much signal as noise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import GREY, new_figure, panel
from flossing_lab.paper.analysis.measures import LAST, numbers, short
from flossing_lab.paper.analysis.verdicts import correlates, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.paper.schedules import Setting
from flossing_lab.runs.plotting import running_mean
from flossing_lab.sweeps.spec import Spec

NAME = "gradient_snr"
IN_PAPER = False
TITLE = "Signal and noise in the gradient"
MISSING = "Not included, since their run directories are missing"
CAPTION = (
    "Temporal XOR at d = 0.95 N, networks after the preflossing of the adaptive schedule that flosses all directions. "
    "Signal: the mean over batches (16 sequences of 300 bits) of the part of dL/dJ that depends on the targets, at "
    "output 0; noise: its standard deviation; both are Frobenius norms. Left: (noise / signal)², the number of batches "
    "whose mean has as much signal as noise. Right: first epoch at which the running mean of the accuracy over 100 "
    "epochs reaches 0.55, in the frontier's runs, against that number; dashed: equality. Dots: each network; arrows: "
    "lower bounds for networks where 800 batches show no signal."
)

LEARNED = 0.55
"""A network has left chance."""


def batches_needed(gram: Float[np.ndarray, "G G"], square: float) -> tuple[float, float]:
    """(noise / signal)² and a lower bound for it, from the groups' mean gradients.

    Groups are independent, so the inner product of two different groups has the squared signal as its mean. The first
    value is infinite if that mean is within two standard errors of 0. The bound adds two standard errors to it.
    """
    apart = gram[~np.eye(len(gram), dtype=bool)]
    signal = float(apart.mean())
    # Jackknife over groups, since pairs share groups: the standard error of the mean over pairs.
    count = len(gram)
    without = [np.delete(np.delete(gram, i, 0), i, 1) for i in range(count)]
    means = np.array([(each.sum() - np.trace(each)) / ((count - 1) * (count - 2)) for each in without])
    error = float(np.sqrt((count - 1) / count * ((means - means.mean()) ** 2).sum()))
    noise = square - max(signal, 0.0)
    return (noise / signal if signal > 2 * error else np.inf), noise / (2 * error + max(signal, 0.0))


def settings(scale: Scale) -> list[Setting]:
    """The frontier's places at d = 0.95 N."""
    if scale == "tiny":
        return [Setting(8, [4], 2)]
    few = NETWORKS[scale]
    return [Setting(40, [19], few), Setting(80, [38], max(10, few)), Setting(160, [76], few)]


def specs(scale: Scale) -> list[Spec]:
    """The frontier's runs at these places that floss all directions."""
    return [schedules.spec_of(scale, setting, "whole") for setting in settings(scale)]


def calculations(scale: Scale) -> list[Calculation]:
    """One for each network."""
    return [calculation for _, _, calculation in _networks(scale)]


def _networks(scale: Scale) -> list[tuple[Setting, int, Calculation]]:
    values = {} if scale != "tiny" else {"preflossing": 3, "steps": 20, "batch": 2, "interval": 1}
    found = []
    for setting in settings(scale):
        for seed in range(1, setting.seeds + 1):
            arguments = {"units": setting.units, "delay": setting.delays[0], "seed": seed}
            arguments |= {"batches": 16 if scale == "tiny" else 800, "values": values}
            name = f"{NAME}-{scale}-{setting.units}-{seed}"
            found.append((setting, seed, Calculation(name, "signal_after_preflossing", arguments)))
    return found


def collect(results: Results, scale: Scale) -> Data:
    """`networks`: the number of `batches` each needs, its lower bound `at_least`, and the `epochs` it stayed at chance,
    if it was trained."""
    stayed = {}
    for setting, spec in zip(settings(scale), specs(scale), strict=True):
        for values, run in results.runs(spec):
            training = run.metrics("training", ("epoch", "accuracy"))
            epoch, accuracy = running_mean(training["epoch"], training["accuracy"], LAST)
            stayed[setting.units, values["seed"]] = short(epochs_at_chance(epoch, accuracy))
    rows = []
    for setting, seed, calculation in _networks(scale):
        arrays = results.calculation(calculation)
        if arrays is not None:
            batches, at_least = batches_needed(arrays["gram"], float(arrays["square"]))
            row = {"units": setting.units, "seed": seed, "epochs": stayed.get((setting.units, seed))}
            rows.append({**row, "batches": short(batches), "at_least": short(at_least)})
    return {"networks": rows}


def epochs_at_chance(epoch: np.ndarray, accuracy: np.ndarray) -> float:
    """The first epoch at which accuracy exceeds chance; infinite if it never does."""
    left = np.flatnonzero(accuracy >= LEARNED)
    return float(epoch[left[0]]) if len(left) else float("inf")


def draw(data: Data) -> Figure:
    """Batches needed against N, and epochs at chance against batches needed."""
    rows, colour = data["networks"], schedules.COLOURS["whole"]
    figure, ((needed, waited),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N", 1, 2, size=(9.6, 4.6))
    for row in rows:
        found = np.isfinite(float(row["batches"]))
        marker = {"marker": "o", "ms": 5, "mew": 0} if found else {"marker": r"$\uparrow$", "ms": 10}
        needed.plot(row["units"], row["batches" if found else "at_least"], color=colour, alpha=0.75, **marker)
    waited.plot(*_pairs(rows), "o", ms=5, color=colour, alpha=0.75, mew=0)
    panel(needed, "Batches until signal equals noise", xlabel="N", ylabel="(noise / signal)²")
    panel(waited, "Epochs at chance", xlabel="(noise / signal)² after preflossing", ylabel="first epoch at 0.55")
    for axes in (needed, waited):
        axes.set(xscale="log", yscale="log")
    sizes = sorted({row["units"] for row in rows})
    needed.set_xticks(sizes, [str(size) for size in sizes])
    needed.set_xticks([], minor=True)
    waited.axline((100, 100), (1000, 1000), color=GREY, lw=0.9, ls="--", zorder=0)
    return figure


def _pairs(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    # Of trained networks with a detected signal that left chance.
    pairs = np.array([numbers([row["batches"], row["epochs"]]) for row in rows if row["epochs"] is not None])
    return tuple(pairs[np.isfinite(pairs).all(1)].T) if len(pairs) else (np.empty(0), np.empty(0))


def claims(data: Data) -> list[Claim]:
    """Whether the signal falls with network size and correlates with the time at chance."""
    return [_falls(data["networks"]), _tells(data["networks"])]


def _falls(rows: Sequence[dict[str, Any]]) -> Claim:
    claim = "(Our question.) Larger networks need more batches until the signal equals the noise."
    sizes = sorted({row["units"] for row in rows})
    if len(sizes) < 2:
        return not_run(claim)
    medians = [np.median(numbers([row["batches"] for row in rows if row["units"] == size])) for size in sizes]
    seen = [f"{batches:.0f}" if np.isfinite(batches) else "no signal detected" for batches in medians]
    each = (f"N = {size}: {batches}" for size, batches in zip(sizes, seen, strict=True))
    found = f"Median of (noise / signal)²: {'; '.join(each)}."
    return correlates(claim, found, numbers([row["units"] for row in rows]), numbers([row["batches"] for row in rows]))


def _tells(rows: Sequence[dict[str, Any]]) -> Claim:
    claim = "(Our question.) (noise / signal)² correlates with the number of epochs at chance."
    # Both quantities change with size, so networks of one size are the stricter test.
    sizes = [row["units"] for row in rows]
    most = max(sizes, key=sizes.count) if sizes else 0
    batches, epochs = _pairs([row for row in rows if row["units"] == most])
    if len(batches) < 6:
        return not_run(claim)
    found = (
        f"Networks of N = {most} that left chance; median ratio of epochs to batches {np.median(epochs / batches):.1f}."
    )
    return correlates(claim, found, batches, epochs)
