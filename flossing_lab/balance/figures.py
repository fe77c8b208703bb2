"""The plots of networks that balance themselves: eight panels of one run, and its film. Nothing here trains."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import write_atomically
from flossing_lab.runs.plotting import DARK, LIGHT_GREY, remove_spines

PURPLE, RED, BLUE = "#9b30b0", "#c8372d", "#2563b0"
EXAMPLES = 5
"""Number of example neurons to show."""
FRAME, LEAST_FILM, LAST_FRAME = 80, 4000, 1500
"""In milliseconds: a frame, the shortest film, and the extra time of the last frame."""


class View(NamedTuple):
    """A network at one epoch: J (N, N), ws (N, S), wr (S, N); along one sequence, the time (T,) in time
    constants, targets and outputs (T, S) and x (T, N); and the eigenvalues of J diag(phi'(x)) at its end (N,)."""

    J: np.ndarray
    ws: np.ndarray
    wr: np.ndarray
    time: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    x: np.ndarray
    eigenvalues: NDArray[np.complex128]


def draw_run(run: RunDirectory, start: View, end: View) -> Figure:
    """Eight panels: learning, weights and dynamics of one run."""
    config, test = run.config, run.metrics("test")
    figure = Figure(figsize=(15, 7), layout="constrained")
    (error, tracking, spectrum, weights), (states, matrix, couplings, balance) = figure.subplots(2, 4)
    figure.suptitle(f"{config.title}: {config.network.units} {config.units_are} units", fontsize=12, color=DARK)

    error.semilogy(test["epoch"], test["test_error"], color=DARK, lw=1.5)
    error.set(xlabel="training epoch", ylabel="loss")
    error.set_title("Test loss", loc="left", fontsize=10)
    _draw_tracking(tracking, end)
    _draw_eigenvalues(spectrum, start.eigenvalues, end.eigenvalues, "after training")
    _draw_weights(weights, end)
    states.plot(end.time, end.x[:, :EXAMPLES], lw=1)
    states.set(xlabel="time (time constants)", ylabel="x")
    states.set_title(f"{min(EXAMPLES, end.x.shape[1])} neurons, after training", loc="left", fontsize=10)

    clusters = test["clusters"][-1]
    image = _draw_matrix(matrix, end.J, clusters, float(np.abs(end.J).max()))
    figure.colorbar(image, ax=matrix, shrink=0.8)
    matrix.set_title("J after training, sorted by cluster", loc="left", fontsize=10)
    curves = {"within": RED, "between": BLUE} if len(set(clusters.tolist())) > 1 else {}
    for name, colour in curves.items():
        couplings.plot(test["epoch"], test[f"coupling_{name}"], color=colour, lw=1.5, label=f"{name} clusters")
    couplings.plot(test["epoch"], test["coupling"], color=DARK, lw=1.5, label="all")
    couplings.set(xlabel="training epoch", ylabel="mean coupling")
    _legend(couplings, ncols=3)
    couplings.set_title("Mean coupling", loc="left", fontsize=10)
    balance.plot(test["epoch"], test["balance"], color=DARK, lw=1.5)
    balance.set(xlabel="training epoch", ylabel="mean coupling / its initial value")
    balance.set_title("Tightness of balance", loc="left", fontsize=10)
    for axes in (error, tracking, spectrum, weights, states, couplings, balance):
        remove_spines(axes)
    return figure


def write_film(run: RunDirectory, frames: Mapping[int, View]) -> Path:
    """Write `film.gif`, which shows J sorted by final cluster and the eigenvalues over the epochs; return its path."""
    clusters, views = run.metrics("test", ("clusters",))["clusters"][-1], list(frames.values())
    limit = float(max(np.abs(view.J).max() for view in views))
    values = np.concatenate([view.eigenvalues for view in views])
    figure = Figure(figsize=(8, 3.6), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    matrix, spectrum = figure.subplots(1, 2)
    image = _draw_matrix(matrix, views[0].J, clusters, limit)
    figure.colorbar(image, ax=matrix, shrink=0.8)
    matrix.set_title("J, sorted by final cluster", loc="left", fontsize=10)
    dots = _draw_eigenvalues(spectrum, views[0].eigenvalues, views[0].eigenvalues, "at this epoch")
    margin = 0.3
    spectrum.set_xlim(min(values.real.min(), -1) - margin, max(values.real.max(), 1) + margin)
    spectrum.set_ylim(min(values.imag.min(), -1) - margin, max(values.imag.max(), 1) + margin)
    spectrum.set_aspect("equal", adjustable="box")
    # These axes are lower than others, so a legend placed relative to their height would cover the label.
    spectrum.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=2)
    remove_spines(spectrum)
    order = np.argsort(clusters, kind="stable")

    plots = []
    for epoch, view in frames.items():
        figure.suptitle(f"epoch {epoch:,}", fontsize=11, color=DARK)
        image.set_data(view.J[np.ix_(order, order)])
        dots.set_data(view.eigenvalues.real, view.eigenvalues.imag)
        canvas.draw()
        plots.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    durations = [max(FRAME, LEAST_FILM // len(plots))] * len(plots)
    durations[-1] += LAST_FRAME
    content = io.BytesIO()
    plots[0].save(content, "gif", save_all=True, append_images=plots[1:], duration=durations, loop=0)
    write_atomically(run.path / "film.gif", content.getvalue())
    return run.path / "film.gif"


def _legend(axes: Axes, **options):
    # Below the axes, where no curve can be.
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), **options)


def _draw_tracking(axes: Axes, view: View):
    # Targets are broad and pale, below the outputs. Outputs are dashed from the second signal on, so that each is
    # visible where they agree.
    for signal in range(view.targets.shape[1]):
        colour, name = f"C{signal}", f" {signal + 1}" if view.targets.shape[1] > 1 else ""
        axes.plot(view.time, view.targets[:, signal], color=colour, lw=4, alpha=0.3, label=f"target{name}")
        dashes = "--" if signal else "-"
        axes.plot(view.time, view.outputs[:, signal], color=colour, lw=1.2, ls=dashes, label=f"output{name}")
    axes.set(xlabel="time (time constants)", ylabel="output")
    _legend(axes, ncols=min(max(2, view.targets.shape[1]), 3))
    axes.set_title("A test sequence, after training", loc="left", fontsize=10)


def _draw_eigenvalues(axes: Axes, start: NDArray[np.complex128], end: NDArray[np.complex128], name: str):
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color=LIGHT_GREY, lw=0.8, zorder=0)
    axes.axvline(1, color=LIGHT_GREY, lw=0.8, ls=":", zorder=0)
    axes.plot(start.real, start.imag, "o", color=LIGHT_GREY, ms=4, label="at the start")
    (dots,) = axes.plot(end.real, end.imag, "o", color=PURPLE, ms=5, mew=0, label=name)
    axes.set(xlabel="real part", ylabel="imaginary part")
    _legend(axes, ncols=2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Eigenvalues of J diag(φ′(x))", loc="left", fontsize=10)
    return dots


def _draw_weights(axes: Axes, view: View):
    signals = range(view.ws.shape[1])
    crossed = [(view.ws[:, i], view.wr[o]) for o in signals for i in signals if o != i]
    for pairs, colour, label in (
        (crossed, LIGHT_GREY, "of another signal"),
        ([(view.ws[:, i], view.wr[i]) for i in signals], RED, "of the same signal"),
    ):
        if pairs:
            axes.plot(*np.concatenate(pairs, axis=1), ".", ms=4, color=colour, label=label)
    axes.set(xlabel="input weight", ylabel="readout weight")
    _legend(axes, ncols=2)
    axes.set_title("Weights of each neuron, after training", loc="left", fontsize=10)


def _draw_matrix(axes: Axes, J: np.ndarray, clusters: np.ndarray, limit: float):
    order = np.argsort(clusters, kind="stable")
    image = axes.imshow(J[np.ix_(order, order)], cmap="RdBu", vmin=-limit, vmax=limit, interpolation="none")
    axes.set(xlabel="from neuron", ylabel="to neuron")
    axes.tick_params(labelsize=8)
    return image
