"""The plot of a run of any experiment: its metrics, the flossed exponents, and the spectra at the start and the end."""

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import (
    COLOURS,
    DARK,
    LABELS,
    LIGHT_GREY,
    as_exponents,
    draw_spectrum,
    remove_spines,
    running_mean,
)

_METRICS = ("accuracy", "loss")


def draw_run(run: RunDirectory) -> Figure:
    """Accuracy, if there is one, and loss through training; with flossing, also exponents and spectra."""
    config, training, flossing = run.config, run.metrics("training"), run.metrics("flossing")
    spectra = {name: as_exponents(values) for name, values in run.info["spectra"].items()}
    colour = COLOURS[config.condition]
    metrics = [name for name in _METRICS if name in training]
    panels = [*metrics, *(["exponents"] if flossing else []), *(["spectra"] if spectra else [])]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.25 * columns, 3.5 * rows), layout="constrained")
    found = dict(zip(panels, figure.subplots(rows, columns, squeeze=False).flat, strict=False))
    for spare in figure.axes[len(panels) :]:
        spare.remove()
    figure.suptitle(f"{config.title}, {LABELS[config.condition]}", fontsize=12, color=DARK, parse_math=False)
    for name in metrics:
        axes = found[name]
        axes.plot(training["epoch"], training[name], color=LIGHT_GREY, lw=0.5)
        axes.plot(*running_mean(training["epoch"], training[name]), color=colour, lw=1.8)
        axes.set_title(f"{name.capitalize()} of training: each epoch, running mean", loc="left", fontsize=10)
        axes.set_xlabel("training epoch; dotted: flossing" if flossing else "training epoch")
        for epoch in np.unique(flossing["training_epoch"]) if flossing else []:
            axes.axvline(epoch, color=LIGHT_GREY, lw=0.6, ls=":")
    if flossing:
        axes, exponents = found["exponents"], flossing["exponents"]
        epochs = np.arange(1, len(exponents) + 1)
        axes.plot(epochs, exponents[:, 0], color=colour, lw=1.2, label="the largest")
        axes.plot(epochs, exponents[:, -1], color=DARK, lw=1.2, label="the smallest")
        axes.legend(frameon=False, fontsize=8)
        axes.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
        axes.set(xlabel="flossing epoch", ylabel="flossed exponent (per step)")
        axes.set_title("Flossing", loc="left", fontsize=10)
    shades = {"start": LIGHT_GREY, "after_preflossing": colour, "end": DARK}
    for name, values in spectra.items():
        draw_spectrum(found["spectra"], values, color=shades[name], label=name.replace("_", " "))
    if spectra:
        found["spectra"].legend(frameon=False, fontsize=8)
        found["spectra"].set_title(f"Lyapunov spectrum, driven by {config.driven_by}", loc="left", fontsize=10)
    for axes in figure.axes:
        remove_spines(axes)
    return figure
