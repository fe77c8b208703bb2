"""The plots of a run of the reference experiment and of the demo, drawn from run directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.runs import film
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import read_arrays
from flossing_lab.runs.plotting import (
    COLOURS,
    DARK,
    LABELS,
    LIGHT_GREY,
    as_exponents,
    draw_spectrum,
    evenly_spaced,
    remove_spines,
    running_mean,
    running_median,
)

_AT_RIGHT: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}


def draw_comparison(runs: Mapping[str, RunDirectory]) -> Figure:
    """The demo's plot: accuracy, exponents and gradient norms of one task under several conditions."""
    config = next(iter(runs.values())).config
    figure = Figure(figsize=(12.5, 4.7), layout="constrained")
    accuracy, spectra, gradient = figure.subplots(1, 3, width_ratios=[1.35, 1, 1])
    figure.suptitle(f"{config.title}: {config.network.units} tanh units", fontsize=12, color=DARK)

    for condition, run in runs.items():
        metrics, colour = run.metrics("training"), COLOURS[condition]
        epochs, smooth = running_mean(metrics["epoch"], metrics["accuracy"])
        accuracy.plot(epochs, smooth, color=colour, lw=1.8, label=LABELS[condition])
        epochs, norm = running_median(metrics["epoch"], metrics["gradient_norm/x0"])
        gradient.plot(epochs, norm, color=colour, lw=1.5)
    _mark_blocks(accuracy, runs)
    _style_accuracy(accuracy)
    # Curves can go anywhere inside the axes, so the legend stays outside.
    figure.legend(*accuracy.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(runs))
    accuracy.set_title("Accuracy on fresh sequences", loc="left", fontsize=10)

    _draw_comparison_spectra(spectra, runs)
    gradient.set(yscale="log", xlabel="training epoch")
    gradient.set_title("Gradient norm at the initial states, |dL/dx₀|", loc="left", fontsize=10)
    for axes in (accuracy, spectra, gradient):
        remove_spines(axes)
    return figure


def draw_run(run: RunDirectory) -> Figure:
    """The plot of one run: accuracy and loss, exponents through training, gradient norms, spectra."""
    config, info, training = run.config, run.info, run.metrics("training")
    colour = COLOURS[config.condition]
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    (accuracy, exponents), (gradient, spectra) = figure.subplots(2, 2)
    figure.suptitle(f"{config.title}, {LABELS[config.condition]}", fontsize=12, color=DARK)

    epochs, smooth = running_mean(training["epoch"], training["accuracy"])
    accuracy.plot(training["epoch"], training["accuracy"], color=LIGHT_GREY, lw=0.5)
    accuracy.plot(epochs, smooth, color=colour, lw=1.8)
    _mark_blocks(accuracy, {config.condition: run})
    _style_accuracy(accuracy)
    accuracy.set_title("Accuracy on fresh sequences: each epoch, running mean", loc="left", fontsize=10)

    epochs, measured = _measured_exponents(run)
    k = measured.shape[1]
    for index in sorted({0, k // 4, k // 2, 3 * k // 4, k - 1}):
        line = measured[:, index]
        exponents.plot(epochs, line, color=colour, lw=1.3, alpha=0.35 + 0.65 * (1 - index / k))
        exponents.annotate(f" λ{index + 1}", (epochs[-1], line[-1]), fontsize=8, va="center")
    exponents.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    exponents.set(xlabel="training epoch", ylabel="exponent (per step)")
    exponents.set_title("Lyapunov exponents over the flossing window", loc="left", fontsize=10)

    names = [name for name in training if name.startswith("gradient_norm/")]
    for name, shade in zip(names, np.linspace(0.1, 0.75, len(names)), strict=True):
        epochs, norm = running_median(training["epoch"], training[name])
        label = name.removeprefix("gradient_norm/").removeprefix("network.")
        gradient.plot(epochs, norm, lw=1.2, color=colormaps["viridis"](shade), label=label)
    gradient.axhline(config.clip, color=LIGHT_GREY, lw=0.8, ls="--", zorder=0)
    gradient.set(yscale="log", xlabel="training epoch")
    gradient.legend(frameon=False, fontsize=8, ncols=3)
    gradient.set_title("Gradient norms; dashed: clipping limit", loc="left", fontsize=10)

    names = {"start": "at the start", "after_preflossing": "after preflossing", "end": "after training"}
    shades = {"start": LIGHT_GREY, "after_preflossing": colour, "end": DARK}
    for name, values in info["spectra"].items():
        draw_spectrum(spectra, as_exponents(values), color=shades[name], label=names[name])
    spectra.legend(frameon=False, fontsize=8)
    spectra.set_title("Lyapunov spectrum over a whole sequence", loc="left", fontsize=10)
    for axes in (accuracy, exponents, gradient, spectra):
        remove_spines(axes)
    return figure


def write_film(run: RunDirectory) -> Path:
    """Write `film.gif`, the recurrent weights and their eigenvalues at the snapshots of a run; return its path.

    Raises ValueError if the run has no snapshots.
    """
    snapshots = list(run.snapshots.items())
    if not snapshots:
        raise ValueError(f"run must hold snapshots for a film, got {str(run.path)!r}: set snapshots_every above 0")
    frames = []
    for (epoch, flossing), path in (snapshots[index] for index in evenly_spaced(len(snapshots), film.MOST_FRAMES)):
        J = read_arrays(path)["network.J"]
        title = f"epoch {epoch:,}" + (f", after {flossing:,} of flossing" if flossing else "")
        frames.append(film.Frame(title, J, np.linalg.eigvals(J).astype(complex)))
    titles = ("Recurrent weights J", "Eigenvalues of J")
    order = np.arange(len(frames[0].J))
    return film.write_film(run.path / "film.gif", frames, order=order, titles=titles, unit="unit")


def _measured_exponents(run: RunDirectory) -> tuple[np.ndarray, np.ndarray]:
    """The exponents of the flossing window after each chunk of training and of flossing, by training epoch."""
    kinds = [metrics for kind in ("flossing", "training") if (metrics := run.metrics(kind))]
    epochs = np.concatenate([each["measured_epoch"] for each in kinds])
    order = np.argsort(epochs, kind="stable")
    return epochs[order], np.concatenate([each["measured_exponents"] for each in kinds])[order]


def _draw_comparison_spectra(axes: Axes, runs: Mapping[str, RunDirectory]):
    for condition, run in runs.items():
        spectra = run.info["spectra"]
        if condition == "none":
            draw_spectrum(axes, as_exponents(spectra["start"]), color=COLOURS["none"], label="at the start")
        else:
            style = {"color": COLOURS[condition]}
            if "after_preflossing" in spectra and (condition == "before" or "before" not in runs):
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
        axes.annotate("▼ flossing", (1, 0.455), fontsize=8, color="#888888", **_AT_RIGHT)


def _style_accuracy(axes: Axes):
    axes.axhline(0.5, color=LIGHT_GREY, lw=0.8, zorder=0)
    axes.set(xlabel="training epoch", ylabel="accuracy", ylim=(0.45, 1.02))
    axes.annotate("chance", (1, 0.5), fontsize=8, color="#888888", **_AT_RIGHT)
