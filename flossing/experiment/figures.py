"""The pictures of single runs and of the demo. Drawing reads run directories; nothing here trains."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flossing.experiment.directory import RunDirectory
from flossing.experiment.files import write_atomically

LABELS = {
    "none": "no flossing",
    "before": "flossing before",
    "during": "flossing during",
    "before_and_during": "flossing before and during",
    "adaptive": "adaptive flossing",
}
COLOURS = {
    "none": "#6b6b6b",
    "before": "#d9822b",
    "during": "#2f9e6e",
    "before_and_during": "#2563b0",
    "adaptive": "#8a3fa0",
}
INK, PALE = "#222222", "#c9c9c9"
_AT_RIGHT: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}


def save_figure(figure: Figure, path: Path):
    """Write a figure as PNG, beside its place first."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomically(path, picture.getvalue())


def draw_comparison(runs: Mapping[str, RunDirectory]) -> Figure:
    """The demo's picture: accuracy, exponents and gradient norms of one task under several conditions."""
    config = next(iter(runs.values())).config
    figure = Figure(figsize=(12.5, 4.7), layout="constrained")
    accuracy, spectra, gradient = figure.subplots(1, 3, width_ratios=[1.35, 1, 1])
    figure.suptitle(f"{config.title}: {config.network.units} tanh units", fontsize=12, color=INK)

    for condition, run in runs.items():
        metrics, colour = run.metrics("training"), COLOURS[condition]
        epochs, smooth = running_mean(metrics["epoch"], metrics["accuracy"])
        accuracy.plot(epochs, smooth, color=colour, lw=1.8, label=LABELS[condition])
        epochs, norm = running_median(metrics["epoch"], metrics["gradient_norm/x0"])
        gradient.plot(epochs, norm, color=colour, lw=1.5)
    _mark_blocks(accuracy, runs)
    _style_accuracy(accuracy)
    # Curves can go anywhere inside the axes; the keys stay out of them.
    figure.legend(*accuracy.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(runs))
    accuracy.set_title("Accuracy on fresh sequences", loc="left", fontsize=10)

    _draw_comparison_spectra(spectra, runs)
    gradient.set(yscale="log", xlabel="training epoch")
    gradient.set_title("Gradient norm at the initial states, |dL/dx₀|", loc="left", fontsize=10)
    for axes in (accuracy, spectra, gradient):
        clean(axes)
    return figure


def draw_run(run: RunDirectory) -> Figure:
    """The picture of one run: accuracy and loss, exponents through training, gradient norms, spectra."""
    config, info, training = run.config, run.info, run.metrics("training")
    colour = COLOURS[config.condition]
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    (accuracy, exponents), (gradient, spectra) = figure.subplots(2, 2)
    figure.suptitle(f"{config.title}, {LABELS[config.condition]}", fontsize=12, color=INK)

    epochs, smooth = running_mean(training["epoch"], training["accuracy"])
    accuracy.plot(training["epoch"], training["accuracy"], color=PALE, lw=0.5)
    accuracy.plot(epochs, smooth, color=colour, lw=1.8)
    _mark_blocks(accuracy, {config.condition: run})
    _style_accuracy(accuracy)
    accuracy.set_title("Accuracy on fresh sequences: each epoch, running mean", loc="left", fontsize=10)

    measured = training["measured_exponents"]
    k = measured.shape[1]
    for index in sorted({0, k // 4, k // 2, 3 * k // 4, k - 1}):
        line = measured[:, index]
        exponents.plot(training["measured_epoch"], line, color=colour, lw=1.3, alpha=0.35 + 0.65 * (1 - index / k))
        exponents.annotate(f" λ{index + 1}", (training["measured_epoch"][-1], line[-1]), fontsize=8, va="center")
    exponents.axhline(0, color=PALE, lw=0.8, zorder=0)
    exponents.set(xlabel="training epoch", ylabel="exponent (per step)")
    exponents.set_title("Lyapunov exponents over the flossing window", loc="left", fontsize=10)

    names = [name for name in training if name.startswith("gradient_norm/")]
    for name, shade in zip(names, np.linspace(0.1, 0.75, len(names)), strict=True):
        epochs, norm = running_median(training["epoch"], training[name])
        label = name.removeprefix("gradient_norm/").removeprefix("network.")
        gradient.plot(epochs, norm, lw=1.2, color=_viridis(shade), label=label)
    gradient.axhline(config.clip, color=PALE, lw=0.8, ls="--", zorder=0)
    gradient.set(yscale="log", xlabel="training epoch")
    gradient.legend(frameon=False, fontsize=8, ncols=3)
    gradient.set_title("Gradient norms; dashed: where each is clipped", loc="left", fontsize=10)

    names = {"start": "at the start", "after_preflossing": "after preflossing", "end": "after training"}
    shades = {"start": PALE, "after_preflossing": colour, "end": INK}
    for name, values in info["spectra"].items():
        draw_spectrum(spectra, as_exponents(values), color=shades[name], label=names[name])
    spectra.legend(frameon=False, fontsize=8)
    spectra.set_title("Lyapunov spectrum over a whole sequence", loc="left", fontsize=10)
    for axes in (accuracy, exponents, gradient, spectra):
        clean(axes)
    return figure


def draw_spectrum(axes: Axes, exponents: np.ndarray, **style):
    """Exponents against their index, with zero marked."""
    axes.axhline(0, color=PALE, lw=0.8, zorder=0)
    axes.plot(np.arange(1, len(exponents) + 1), exponents, lw=1.8, marker="." if len(exponents) < 40 else None, **style)
    axes.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (per step)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def as_exponents(values: list) -> np.ndarray:
    """Exponents as run.json holds them, `-inf` written as text."""
    return np.asarray([np.nan if value is None else float(value) for value in values])


def running_mean(epochs: np.ndarray, values: np.ndarray, width: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last `width` epochs, fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return epochs, (total[stop] - total[start]) / (stop - start)


def running_median(epochs: np.ndarray, values: np.ndarray, width: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Median over stretches of `width` epochs."""
    count = len(values) // width
    if count == 0:
        return epochs, values
    cut = slice(0, count * width)
    return epochs[cut].reshape(count, width).mean(1), np.median(values[cut].reshape(count, width), axis=1)


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices below `count`, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def clean(axes: Axes):
    """Leave out what frames the axes without need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _draw_comparison_spectra(axes: Axes, runs: Mapping[str, RunDirectory]):
    for condition, run in runs.items():
        spectra = run.info["spectra"]
        if condition == "none":
            draw_spectrum(axes, as_exponents(spectra["start"]), color=COLOURS["none"], label="at the start")
        else:
            style = {"color": COLOURS[condition]}
            if condition == "before" or "before" not in runs:
                after = as_exponents(spectra["after_preflossing"])
                draw_spectrum(axes, after, ls=":", label="after preflossing", **style)
            draw_spectrum(axes, as_exponents(spectra["end"]), label=f"end: {LABELS[condition]}", **style)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.set_title("Lyapunov spectrum", loc="left", fontsize=10)


def _mark_blocks(axes: Axes, runs: Mapping[str, RunDirectory]):
    marked = False
    for row, (condition, run) in enumerate(runs.items()):
        flossing = run.metrics("flossing")
        for epoch in np.unique(flossing["training_epoch"]) if flossing else []:
            axes.plot(epoch, 0.48 - 0.009 * row, marker="v", ms=5, color=COLOURS[condition], ls="none")
            marked = True
    if marked:
        axes.annotate("▼ flossing", (1, 0.475), fontsize=8, color="#888888", **_AT_RIGHT)


def _style_accuracy(axes: Axes):
    axes.axhline(0.5, color=PALE, lw=0.8, zorder=0)
    axes.set(xlabel="training epoch", ylabel="accuracy", ylim=(0.45, 1.02))
    axes.annotate(
        "chance", (1, 0.5), xycoords=("axes fraction", "data"), fontsize=8, color="#888888", ha="right", va="bottom"
    )


def _viridis(value: float):
    from matplotlib import colormaps

    return colormaps["viridis"](value)
