"""Prints and plots the spectrum of a saved run or of a freshly drawn network."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from flossing._arguments import check_integer
from flossing._views import MIN_BLOCKS_FOR_ERROR
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import experiment_module
from flossing_lab.runs.plotting import draw_spectrum, save_figure
from flossing_lab.runs.run import configure_dtype, load_model


def show_spectrum(
    config: RunConfig, source: Path | None, first: int | None, plot: Path, console: Console
) -> np.ndarray:
    """Measure, print and plot the `first` exponents of the run in `source`, or of a network drawn from `config`."""
    config = config if source is None else RunDirectory(source).config
    units = config.network.units
    first = units if first is None else first
    check_integer("first", first, least=1, most=units, note=f" (the network has {units} units)")
    configure_dtype(config.dtype)
    module = experiment_module(config)
    model = module.build(config).model if source is None else load_model(RunDirectory(source))
    spectrum = module.measure_spectrum(model, config, first)
    exponents = np.asarray(spectrum.exponents)
    title = "freshly drawn network" if source is None else str(source)
    averaged, steps = len(spectrum.log_growth), len(spectrum.log_growth) + len(spectrum.transient_log_growth)
    has_errors = averaged >= MIN_BLOCKS_FOR_ERROR
    console.print(f"Lyapunov exponents, {title}", style="italic", highlight=False, markup=False)
    console.print(spectrum.table(), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(exponents)} of {config.network.units}, per step, natural logarithm"
        f"{', ± standard error by batch means' if has_errors else ''}; driven by {config.driven_by}, "
        f"averaged over {averaged} of {steps} steps, {config.dtype}",
        highlight=False,
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    draw_spectrum(axes, exponents, color="#2563b0")
    axes.set_title(f"Lyapunov spectrum, {title}", loc="left", fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    plot.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, plot)
    console.print(f"plot      {plot}", highlight=False)
    return exponents
