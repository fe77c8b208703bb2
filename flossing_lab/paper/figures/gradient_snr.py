"""Beyond the paper: how soon the gradient of a flossed network tells of its task, against the size of the network.

Once error feedback reaches back, what keeps a network at chance is noise: the gradient of one batch is nearly all due
to the bits of that batch. As many batches as bring signal and noise to the same size are what training has to wait for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import GREY, new_figure, panel
from flossing_lab.paper.analysis.measures import LAST, numbers, short
from flossing_lab.paper.analysis.verdicts import not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.schedules import Place
from flossing_lab.runs.plotting import running_mean
from flossing_lab.sweeps.spec import Spec

NAME = "gradient_snr"
IN_PAPER = False
TITLE = "How soon the gradient tells of the task"
MISSING = "Networks whose directories are not here"
CAPTION = (
    "Temporal XOR at d = 0.95 N, networks after preflossing as under the adaptive schedule that flosses all "
    "directions. Signal: the mean over batches (of 16 sequences of 300 bits) of what dL/dJ has of the targets at an "
    "output of 0; noise: its standard deviation, both as Frobenius norms. Left: (noise / signal)², the number of "
    "batches whose mean has as much of the one as of the other. Right: the first epoch at which the running mean of "
    "the accuracy over 100 epochs is 0.55, in the runs of the frontier, against that number; on the dashed line they "
    "are equal. Dots: each network; an arrow where no signal was found in 800 batches, at the least that it needs."
)

LEARNT = 0.55
"""A network has left chance."""


def batches_needed(gram: Float[np.ndarray, "G G"], square: float) -> tuple[float, float]:
    """(noise / signal)², and from how many batches on it would not be known from none: from the groups' mean gradients.

    Groups are independent, so that an inner product of two different ones has the squared signal as its mean. The
    second number takes twice the standard error of that mean as the signal.
    """
    apart = gram[~np.eye(len(gram), dtype=bool)]
    signal = float(apart.mean())
    # Leaving out one group after the other: the error of the mean over pairs, which share groups.
    count = len(gram)
    without = [np.delete(np.delete(gram, i, 0), i, 1) for i in range(count)]
    means = np.array([(each.sum() - np.trace(each)) / ((count - 1) * (count - 2)) for each in without])
    error = float(np.sqrt((count - 1) / count * ((means - means.mean()) ** 2).sum()))
    noise = square - max(signal, 0.0)
    return (noise / signal if signal > 2 * error else np.inf), noise / (2 * error + max(signal, 0.0))


def places(scale: Scale) -> list[Place]:
    """Where it is measured: the frontier's places at 0.95 N, as many networks at each."""
    if scale == "tiny":
        return [Place(8, [4], 2)]
    few = 3 if scale == "laptop" else 20
    return [Place(40, [19], few), Place(80, [38], 10 if scale == "laptop" else 20), Place(160, [76], few)]


def specs(scale: Scale) -> list[Spec]:
    """The frontier's runs that floss all directions at these places."""
    return [schedules.spec_of(scale, place, "whole") for place in places(scale)]


def calculations(scale: Scale) -> list[Calculation]:
    """One for each network."""
    return [calculation for _, _, calculation in _networks(scale)]


def _networks(scale: Scale) -> list[tuple[Place, int, Calculation]]:
    values = {} if scale != "tiny" else {"epochs_before": 3, "steps": 20, "batch": 2, "interval": 1}
    found = []
    for place in places(scale):
        for seed in range(1, place.seeds + 1):
            arguments = {"units": place.units, "delay": place.delays[0], "seed": seed}
            arguments |= {"batches": 16 if scale == "tiny" else 800, "values": values}
            name = f"{NAME}-{scale}-{place.units}-{seed}"
            found.append((place, seed, Calculation(name, "signal_after_preflossing", arguments)))
    return found


def collect(results: Results, scale: Scale) -> Data:
    """`networks`: the `batches` that each needs, `at_least` where no signal was found, and the `epochs` for which it
    stayed at chance, if it was trained."""
    stayed = {}
    for place, spec in zip(places(scale), specs(scale), strict=True):
        for values, run in results.runs(spec):
            training = run.metrics("training", ("epoch", "accuracy"))
            epoch, accuracy = running_mean(training["epoch"], training["accuracy"], LAST)
            stayed[place.units, values["seed"]] = short(epochs_at_chance(epoch, accuracy))
    rows = []
    for place, seed, calculation in _networks(scale):
        arrays = results.calculation(calculation)
        if arrays is not None:
            batches, at_least = batches_needed(arrays["gram"], float(arrays["square"]))
            row = {"units": place.units, "seed": seed, "epochs": stayed.get((place.units, seed))}
            rows.append({**row, "batches": short(batches), "at_least": short(at_least)})
    return {"networks": rows}


def epochs_at_chance(epoch: np.ndarray, accuracy: np.ndarray) -> float:
    """The first epoch at which the accuracy is not that of chance; infinite if there is none."""
    left = np.flatnonzero(accuracy >= LEARNT)
    return float(epoch[left[0]]) if len(left) else float("inf")


def draw(data: Data) -> Figure:
    """Batches needed against N; epochs at chance against them."""
    rows, colour = data["networks"], schedules.COLOURS["whole"]
    figure, ((needed, waited),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N", 1, 2, size=(9.6, 4.6))
    for row in rows:
        found = np.isfinite(float(row["batches"]))
        marker = {"marker": "o", "ms": 5, "mew": 0} if found else {"marker": r"$\uparrow$", "ms": 10}
        needed.plot(row["units"], row["batches" if found else "at_least"], color=colour, alpha=0.75, **marker)
    waited.plot(*_pairs(rows), "o", ms=5, color=colour, alpha=0.75, mew=0)
    panel(needed, "Batches in which signal is as large as noise", xlabel="N", ylabel="(noise / signal)²")
    panel(waited, "Epochs at chance", xlabel="(noise / signal)² after preflossing", ylabel="first epoch above 0.55")
    for axes in (needed, waited):
        axes.set(xscale="log", yscale="log")
    sizes = sorted({row["units"] for row in rows})
    needed.set_xticks(sizes, [str(size) for size in sizes])
    needed.set_xticks([], minor=True)
    waited.axline((100, 100), (1000, 1000), color=GREY, lw=0.9, ls="--", zorder=0)
    return figure


def _pairs(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    # Of networks that were trained, whose signal was found, and which left chance.
    pairs = np.array([numbers([row["batches"], row["epochs"]]) for row in rows if row["epochs"] is not None])
    return tuple(pairs[np.isfinite(pairs).all(1)].T) if len(pairs) else (np.empty(0), np.empty(0))


def claims(data: Data) -> list[Claim]:
    """Whether the signal falls with the size, and tells how long training stays at chance."""
    return [_falls(data["networks"]), _tells(data["networks"])]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 6:
        return float("nan")
    return float(spearmanr(x, y)[0])  # pyright: ignore[reportArgumentType]


def _falls(rows: Sequence[dict[str, Any]]) -> Claim:
    claim = "(Our question.) The larger the network, the more batches its task needs to be seen."
    sizes = sorted({row["units"] for row in rows})
    if len(sizes) < 2:
        return not_run(claim)
    medians = [np.median(numbers([row["batches"] for row in rows if row["units"] == size])) for size in sizes]
    seen = [f"{batches:.0f}" if np.isfinite(batches) else "more than could be seen" for batches in medians]
    each = (f"N = {size}: {batches}" for size, batches in zip(sizes, seen, strict=True))
    found = f"Median of (noise / signal)²: {'; '.join(each)}."
    return Claim(claim, found, len(rows), "holds" if (np.diff(medians) > 0).all() else "does not hold")


def _tells(rows: Sequence[dict[str, Any]]) -> Claim:
    claim = "(Our question.) That number tells how long training stays at chance."
    batches, epochs = _pairs(rows)
    if len(batches) < 6:
        return not_run(claim)
    # Networks of several sizes differ in both; those of one size say more.
    sizes = [row["units"] for row in rows]
    most = max(sizes, key=sizes.count)
    both = [_correlation(batches, epochs), _correlation(*_pairs([row for row in rows if row["units"] == most]))]
    found = (
        f"{len(batches)} networks that left chance: rank correlation {both[0]:.2f}, and {both[1]:.2f} among those of "
        f"N = {most} (criterion: at least 0.7); epochs over batches {np.median(epochs / batches):.1f} in the median."
    )
    outcomes = [correlation >= 0.7 for correlation in both]
    return Claim(
        claim, found, len(batches), "holds" if all(outcomes) else "holds in part" if any(outcomes) else "does not hold"
    )
