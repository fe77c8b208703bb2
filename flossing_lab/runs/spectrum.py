"""Prints and plots the spectrum of a saved run, of a freshly drawn network, or of weights in a file."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.console import Console

import flossing as fl
from flossing._arguments import check_integer
from flossing._estimate import MIN_BLOCKS_FOR_ERROR
from flossing._views import mean_and_error
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import experiment_module
from flossing_lab.runs.plotting import check_plot, draw_spectrum, save_figure
from flossing_lab.runs.run import configure_dtype, drawn, load_model

_FLAGS = {"source": "weights", "name": "module", "kind": "cell"}
"""The flags of the arguments of `from_weights`."""


def show_spectrum(
    config: RunConfig, source: Path | None, first: int | None, plot: Path, console: Console
) -> np.ndarray:
    """Measure, print and plot the `first` exponents of the run in `source`, or of a network drawn from `config`."""
    check_plot(plot)
    config = config if source is None else RunDirectory(source).config
    configure_dtype(config.dtype)
    module = experiment_module(config)
    model = drawn(config) if source is None else load_model(RunDirectory(source))
    size = module.state_size(config)
    first = size if first is None else first
    check_integer("first", first, least=1, most=size, note=f" (the state has {size} coordinates)")
    spectrum = module.measure_spectrum(model, config, first)
    exponents = np.asarray(spectrum.exponents)
    title = "freshly drawn network" if source is None else str(source)
    averaged, steps = len(spectrum.log_growth), len(spectrum.log_growth) + len(spectrum.transient_log_growth)
    console.print(f"Lyapunov exponents, {title}", style="italic", highlight=False, markup=False)
    console.print(spectrum.table(), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(exponents)} of {size}, per step, natural logarithm, {_errors(averaged)}; driven by {config.driven_by}, "
        f"averaged over {averaged} of {steps} steps, {config.dtype}",
        highlight=False,
    )
    _remark_lost(exponents, config.dtype, "try --dtype float64" if source is None else "", console)
    _draw({title: exponents}, plot, console)
    return exponents


def show_weights(
    files: Sequence[Path],
    inputs: Path,
    *,
    kind: str | None,
    name: str | None,
    first: int | None,
    plot: Path,
    console: Console,
):
    """Measure, print and plot the exponents of trained networks from files of weights, along the same inputs."""
    check_plot(plot)
    jax.config.update("jax_enable_x64", True)  # arrays keep the dtype of their file
    sequences, spectra = read_inputs(inputs), {}
    for file in files:
        cell = load_cell(file, kind, name)
        check_channels(cell, sequences, inputs)
        dtype, size = cell.layers[0][1].dtype, sum(leaf.size for leaf in jax.tree_util.tree_leaves(cell.zeros()))
        if first is not None:
            check_integer("first", first, least=1, most=size, note=f" (the state has {size} coordinates)")
        spectra[str(file)] = fl.lyapunov_spectrum(cell, jnp.asarray(sequences, dtype), k=first)
    for file, spectrum in spectra.items():
        console.print(f"Lyapunov exponents, {file}", style="italic", highlight=False, markup=False)
        shown = spectrum.table() if len(files) == 1 else repr(spectrum)
        console.print(shown, highlight=False, markup=False, soft_wrap=True)
        exponents, dtype = mean_and_error(spectrum)[0], str(spectrum.exponents.dtype)
        _remark_lost(exponents, dtype, "save the weights as float64", console)
    spectrum = next(iter(spectra.values()))
    several = sequences.ndim == 3
    sequence = f"{len(sequences)} sequences, mean" if several else "one sequence"
    errors = "± standard error over sequences" if several else _errors(spectrum.steps)
    console.print(
        f"{spectrum.exponents.shape[-1]} of {spectrum.basis.shape[-2]}, per step, natural logarithm, {errors}; along "
        f"{inputs}, {sequence}, averaged over {spectrum.steps} of {sequences.shape[-2]} steps",
        highlight=False,
    )
    _draw({file: mean_and_error(spectrum)[0] for file, spectrum in spectra.items()}, plot, console)


def _errors(averaged: int) -> str:
    """What a table says about its errors."""
    if averaged < MIN_BLOCKS_FOR_ERROR:
        return f"no standard errors from fewer than {MIN_BLOCKS_FOR_ERROR} steps"
    return "± standard error by batch means, < an upper bound"


def _remark_lost(exponents: np.ndarray, dtype: str, advice: str, console: Console):
    if lost := int(np.isneginf(exponents).sum()):
        directions, them = ("1 direction is", "it") if lost == 1 else (f"{lost} directions are", "them")
        why = f"a Jacobian maps {them} to 0"
        if dtype == "float32":
            why += ", or to less than float32 resolves"
            why += f": {advice}" if advice else ""
        console.print(f"{directions} lost, with an exponent of -inf: {why}", highlight=False, soft_wrap=True)


def load_cell(file: Path, kind: str | None, name: str | None) -> fl.cells.TorchRNN:
    """A trained network from a file of weights."""
    try:
        return fl.cells.from_weights(file, name=name, kind=kind)
    except ModuleNotFoundError as error:
        raise ValueError(f"{file}: {error}") from error
    except ValueError as error:
        argument, _, rest = str(error).partition(" ")
        raise ValueError(f"{_FLAGS.get(argument, argument)} {rest}") from error


def check_channels(cell: fl.cells.TorchRNN, sequences: np.ndarray, file: Path):
    """Raise ValueError unless the inputs from `file` have the channels of the network."""
    channels = cell.layers[0][0].shape[1]
    if sequences.shape[-1] != channels:
        raise ValueError(
            f"inputs must have the {channels} channels of the network, got {sequences.shape[-1]} in {file}; pass what "
            "the recurrent layer receives, after any embedding"
        )


def read_inputs(file: Path) -> np.ndarray:
    """Inputs (T, S), or (B, T, S), from a file of NumPy."""
    try:
        inputs = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:  # its message advises options that we do not have
        raise ValueError(f"inputs must be a .npy file of numbers, got {file}, which is none or is damaged") from error
    if not isinstance(inputs, np.ndarray) or inputs.ndim not in (2, 3) or inputs.dtype.kind not in "fiub":
        raise ValueError(f"inputs must be a .npy file with one array (T, S) or (B, T, S) of numbers, got {file}")
    return inputs[0] if len(inputs) == 1 and inputs.ndim == 3 else inputs


def _draw(spectra: dict[str, np.ndarray], plot: Path, console: Console):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (title, exponents) in enumerate(spectra.items()):
        colour = "#2563b0" if len(spectra) == 1 else colormaps["viridis"](0.9 * index / (len(spectra) - 1))
        draw_spectrum(axes, exponents, color=colour, label=title.replace("$", r"\$"))
    if len(spectra) == 1:
        axes.set_title(f"Lyapunov spectrum, {next(iter(spectra))}", loc="left", fontsize=10, parse_math=False)
    else:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    plot.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, plot)
    console.print(f"plot      {plot}", highlight=False)
