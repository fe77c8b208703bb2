"""Beyond the paper: how soon the gradient of a flossed network tells of its task, against the size of the network.

Once error feedback reaches back, what keeps a network at chance is noise: the gradient of one batch is nearly all due
to the bits of that batch. As many batches as bring signal and noise to the same size are what training has to wait for.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from flossing import tasks
from flossing._train import start_training, train
from flossing.experiment.config import Config
from flossing.experiment.figures import evenly, running_mean
from flossing.experiment.paper import frontier
from flossing.experiment.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing.experiment.paper.drawing import GREY, accuracy_axes, new_figure, panel
from flossing.experiment.paper.frontier import Place
from flossing.experiment.paper.judging import not_run
from flossing.experiment.paper.measures import LAST, POINTS, numbers, short, shorten
from flossing.experiment.reference import ReferenceModel, build
from flossing.experiment.spec import Spec

NAME = "signal"
TITLE = "How soon the gradient tells of the task"
CAPTION = (
    "Temporal XOR at d = 0.95 N, networks after preflossing as under the adaptive schedule that flosses all "
    "directions. Signal: the mean over batches (of 16 sequences of 300 bits) of what dL/dJ has of the targets at an "
    "output of 0; noise: its standard deviation, both as Frobenius norms. Left: (noise / signal)², the number of "
    "batches whose mean has as much of the one as of the other, in networks as the reference draws them, with biases "
    "up to 0.1, and with biases up to 1; arrows: no signal was found in 800 batches, at least so many are needed. "
    "Middle: the first epoch at which the running mean of the accuracy over 100 epochs is 0.55, in the runs of the "
    "frontier, against that number; on the dashed line they are equal. Right: training at N = 160 with biases up to 1. "
    "Dots and lines: each network."
)
LEARNT = 0.55
"""A network has left chance."""
GROUPS = 8
"""Batches are divided into so many groups, which are independent."""


def target_gradient(model: ReferenceModel, batch: tasks.Sequence) -> Float[Array, "N N"]:
    """The derivative by J of the mean of (y - 1/2) z over batch and scored steps, y being the target, z the output.

    The cross-entropy of a network whose output is 0 has the derivative 1/2 - y by z: this is what its gradient has of
    the task.
    """

    def agreement(model: ReferenceModel) -> Float[Array, ""]:
        scored = batch.mask.astype(batch.targets.dtype)
        return ((batch.targets - 0.5) * model.logits(batch.inputs) * scored).sum() / scored.sum()

    return eqx.filter_grad(agreement)(model).network.J


def signal_after_preflossing(
    units: int, delay: int, bias_scale: float, seed: int, batches: int, values: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Draw a network, floss it as before training, and see `batches` gradients of its task.

    `values` are further fields of the configuration, by name. `gram` (8, 8): the inner products of the mean gradients
    of 8 groups of batches; `square` (): the mean squared norm of the gradient of one batch.
    """
    config = Config().with_values(
        units=units, delay=delay, bias_scale=bias_scale, condition="adaptive", seed=seed, **values
    )
    experiment = build(config)
    gradient = eqx.filter_jit(target_gradient)
    model, key = _preflossed(experiment), jax.random.key(seed)
    means, square = [], 0.0
    for group in range(GROUPS):
        total = np.zeros((units, units))
        for index in range(group, batches, GROUPS):
            each = np.asarray(gradient(model, experiment.batch(jax.random.fold_in(key, index))), float)
            total, square = total + each, square + (each**2).sum()
        means.append(total.ravel() / len(range(group, batches, GROUPS)))
    return {"gram": np.stack(means) @ np.stack(means).T, "square": np.asarray(square / batches)}


def _preflossed(experiment: Any) -> ReferenceModel:
    model, start = experiment.model, start_training(experiment.model, experiment.optimiser, experiment.flossing)
    for progress in train(
        start,
        loss=experiment.loss,
        batch=experiment.batch,
        optimiser=experiment.optimiser,
        key=experiment.key,
        epochs=1,
        flossing=experiment.flossing,
        schedule=experiment.schedule,
    ):
        if progress.kind == "flossing":
            model = progress.state.model
    return model


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


BIASES = {"biases up to 0.1": 0.1, "biases up to 1": 1.0}
"""Kinds of networks, and the scale of their biases."""
_COLOURS = {"biases up to 0.1": frontier.COLOURS["whole"], "biases up to 1": "#2563b0"}


def specs(scale: Scale) -> list[Spec]:
    """The frontier's runs that floss all directions at these places; and at the last with larger biases."""
    return [spec for _, _, spec in _trained(scale)]


def _trained(scale: Scale) -> list[tuple[int, str, Spec]]:
    # The number of units and the kind of networks of each specification.
    small, large = BIASES
    runs = [(place.units, small, frontier.spec_of(scale, place, "whole")) for place in places(scale)]
    units, _, last = runs[-1]
    base = {**last.base, "bias_scale": BIASES[large]}
    return [*runs, (units, large, last.model_copy(update={"name": f"{NAME}-{units}-biased", "base": base}))]


def calculations(scale: Scale) -> list[Calculation]:
    """One for each network."""
    return [each for _, _, _, each in _networks(scale)]


def _networks(scale: Scale) -> list[tuple[Place, str, int, Calculation]]:
    values = {} if scale != "tiny" else {"epochs_before": 3, "steps": 20, "batch": 2, "interval": 1}
    found = []
    for place in places(scale):
        for kind, bias in BIASES.items():
            # Of the first kind as many as there are runs; of the second a few.
            for seed in range(1, 1 + (place.seeds if bias == 0.1 else min(3, place.seeds))):
                arguments = {"units": place.units, "delay": place.delays[0], "bias_scale": bias, "seed": seed}
                arguments |= {"batches": 16 if scale == "tiny" else 800, "values": values}
                name = f"{NAME}-{scale}-{place.units}-{bias}-{seed}"
                found.append((place, kind, seed, Calculation(name, f"{__name__}:signal_after_preflossing", arguments)))
    return found


def collect(results: Results, scale: Scale) -> Data:
    """`networks`: the `batches` that each needs, `at_least` where no signal was found, and the `epochs` for which it
    stayed at chance, if it was trained; `curves`: the accuracy of networks with larger biases."""
    stayed, curves = {}, []
    for units, kind, spec in _trained(scale):
        for values, run in results.runs(spec):
            training = run.metrics("training", ("epoch", "accuracy"))
            epoch, accuracy = running_mean(training["epoch"], training["accuracy"], LAST)
            stayed[units, kind, values["seed"]] = short(epochs_at_chance(epoch, accuracy))
            if kind == list(BIASES)[-1]:
                curves.append({"units": units, "seed": values["seed"], **_thinned(epoch, accuracy)})
    rows = []
    for place, kind, seed, calculation in _networks(scale):
        arrays = results.calculation(calculation)
        if arrays is not None:
            batches, at_least = batches_needed(arrays["gram"], float(arrays["square"]))
            row = {"units": place.units, "kind": kind, "seed": seed, "epochs": stayed.get((place.units, kind, seed))}
            rows.append({**row, "batches": short(batches), "at_least": short(at_least)})
    return {"networks": rows, "curves": curves}


def _thinned(epoch: np.ndarray, accuracy: np.ndarray) -> dict[str, list[float]]:
    kept = evenly(len(epoch), POINTS)
    return {"epoch": shorten(epoch[kept]), "accuracy": shorten(accuracy[kept])}


def epochs_at_chance(epoch: np.ndarray, accuracy: np.ndarray) -> float:
    """The first epoch at which the accuracy is not that of chance; infinite if there is none."""
    left = np.flatnonzero(accuracy >= LEARNT)
    return float(epoch[left[0]]) if len(left) else float("inf")


def draw(data: Data) -> Figure:
    """Batches needed against N; epochs at chance against them; accuracy with larger biases."""
    figure, ((needed, waited, course),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N", 1, 3, size=(14.0, 4.6))
    for index, (kind, colour) in enumerate(_COLOURS.items()):
        there = [row for row in data["networks"] if row["kind"] == kind]
        _draw_needed(needed, there, colour, kind, 1.0 + 0.06 * (index - 0.5))
        batches, epochs = _pairs(there)
        waited.plot(batches, epochs, "o", ms=5, color=colour, alpha=0.75, mew=0)
    panel(needed, "Batches in which signal is as large as noise", xlabel="N", ylabel="(noise / signal)²")
    needed.set(xscale="log", yscale="log")
    sizes = sorted({row["units"] for row in data["networks"]})
    needed.set_xticks(sizes, [str(size) for size in sizes])
    needed.set_xticks([], minor=True)
    needed.legend(frameon=False, fontsize=8)
    panel(waited, "Epochs at chance", xlabel="(noise / signal)² after preflossing", ylabel="first epoch above 0.55")
    waited.set(xscale="log", yscale="log")
    waited.axline((100, 100), (1000, 1000), color=GREY, lw=0.9, ls="--", zorder=0)
    for curve in data["curves"]:
        course.plot(numbers(curve["epoch"]), numbers(curve["accuracy"]), color=_COLOURS[list(BIASES)[-1]], lw=1.2)
    accuracy_axes(course, "N = 160, biases up to 1", "training epoch")
    return figure


def _draw_needed(axes: Axes, rows: Sequence[dict[str, Any]], colour: str, label: str, beside: float):
    found = [row for row in rows if np.isfinite(float(row["batches"]))]
    axes.plot([], [], "o", color=colour, label=label)
    axes.plot(
        [beside * row["units"] for row in found], [row["batches"] for row in found], "o", ms=5, color=colour, mew=0
    )
    for row in rows:
        if row not in found:
            axes.plot(beside * row["units"], row["at_least"], marker=r"$\uparrow$", ms=10, color=colour)


def _pairs(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    # Of networks that were trained, whose signal was found, and which left chance.
    pairs = np.array([numbers([row["batches"], row["epochs"]]) for row in rows if row["epochs"] is not None])
    return tuple(pairs[np.isfinite(pairs).all(1)].T) if len(pairs) else (np.empty(0), np.empty(0))


def claims(data: Data) -> list[Claim]:
    """Whether the signal falls with the size, and tells how long training stays at chance; and whether biases help."""
    rows = data["networks"]
    small, large = BIASES
    return [
        _falls("(Our question.) The larger the network, the more batches its task needs to be seen.", rows, small),
        _tells("(Our question.) That number tells how long training stays at chance.", rows),
        _helps(f"(Our question.) With {large} it is fewer.", rows),
    ]


def _medians(rows: Sequence[dict[str, Any]], kind: str) -> dict[int, float]:
    sizes = sorted({row["units"] for row in rows if row["kind"] == kind})
    each = {size: [row for row in rows if (row["units"], row["kind"]) == (size, kind)] for size in sizes}
    return {size: float(np.median(numbers([row["batches"] for row in there]))) for size, there in each.items()}


def _number(batches: float) -> str:
    return f"{batches:.0f}" if np.isfinite(batches) else "more than could be seen"


def _falls(claim: str, rows: Sequence[dict[str, Any]], kind: str) -> Claim:
    medians = _medians(rows, kind)
    if len(medians) < 2:
        return not_run(claim)
    told = "; ".join(f"N = {size}: {_number(batches)}" for size, batches in medians.items())
    values = list(medians.values())
    held = all(after > before for before, after in zip(values, values[1:], strict=False))
    return Claim(claim, f"Median: {told}.", len(rows), "holds" if held else "does not hold")


def _tells(claim: str, rows: Sequence[dict[str, Any]]) -> Claim:
    batches, epochs = _pairs(rows)
    if len(batches) < 6:
        return not_run(claim)
    correlation = float(spearmanr(batches, epochs)[0])  # pyright: ignore[reportArgumentType]
    found = (
        f"{len(batches)} networks: rank correlation {correlation:.2f} (criterion: at least 0.7); epochs for each batch "
        f"{np.median(epochs / batches):.1f} in the median."
    )
    return Claim(claim, found, len(batches), "holds" if correlation >= 0.7 else "does not hold")


def _helps(claim: str, rows: Sequence[dict[str, Any]]) -> Claim:
    before, after = (_medians(rows, kind) for kind in BIASES)
    both = [size for size in before if size in after]
    if not both:
        return not_run(claim)
    told = "; ".join(f"N = {size}: {_number(after[size])} instead of {_number(before[size])}" for size in both)
    held = [after[size] < before[size] for size in both]
    verdict = "holds" if all(held) else "holds in part" if any(held) else "does not hold"
    return Claim(claim, f"Median: {told}.", len(rows), verdict)
