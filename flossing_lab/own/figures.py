"""The plot of a run with a task and a cell of one's own."""

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


def draw_run(run: RunDirectory) -> Figure:
    """Accuracy and loss through training, the flossed exponents, and the spectra at the start and the end."""
    config, training, flossing = run.config, run.metrics("training"), run.metrics("flossing")
    colour = COLOURS[config.condition]
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    (accuracy, loss), (exponents, spectra) = figure.subplots(2, 2)
    figure.suptitle(f"{config.title}, {LABELS[config.condition]}", fontsize=12, color=DARK, parse_math=False)
    for axes, name, title in ((accuracy, "accuracy", "Accuracy"), (loss, "loss", "Loss")):
        axes.plot(training["epoch"], training[name], color=LIGHT_GREY, lw=0.5)
        axes.plot(*running_mean(training["epoch"], training[name]), color=colour, lw=1.8)
        axes.set_title(f"{title} on fresh trials: each epoch, running mean", loc="left", fontsize=10)
        axes.set_xlabel("training epoch")
        for epoch in np.unique(flossing["training_epoch"]) if flossing else []:
            axes.axvline(epoch, color=LIGHT_GREY, lw=0.6, ls=":")
    if flossing:
        first, *_, last = (flossing["exponents"][:, i] for i in (0, flossing["exponents"].shape[1] - 1))
        epochs = np.arange(1, len(first) + 1)
        exponents.plot(epochs, first, color=colour, lw=1.2, label="the largest")
        exponents.plot(epochs, last, color=DARK, lw=1.2, label="the smallest")
        exponents.legend(frameon=False, fontsize=8)
    exponents.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    exponents.set(xlabel="flossing epoch", ylabel="flossed exponent (per step)")
    exponents.set_title("Flossing", loc="left", fontsize=10)
    shades = {"start": LIGHT_GREY, "after_preflossing": colour, "end": DARK}
    for name, values in run.info["spectra"].items():
        draw_spectrum(spectra, as_exponents(values), color=shades[name], label=name.replace("_", " "))
    spectra.legend(frameon=False, fontsize=8)
    spectra.set_title("Lyapunov spectrum over a whole sequence", loc="left", fontsize=10)
    for axes in (accuracy, loss, exponents, spectra):
        remove_spines(axes)
    return figure
