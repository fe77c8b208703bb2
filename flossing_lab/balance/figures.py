"""The plots of networks that balance themselves: eight panels of one run, and its film. Nothing here trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flossing_lab.runs import film
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.film import Frame
from flossing_lab.runs.plotting import DARK, LIGHT_GREY, remove_spines

RED, BLUE = "#c8372d", "#2563b0"
EXAMPLES = 5
"""Number of example neurons to show."""
EIGENVALUES = "Eigenvalues of J diag(φ′(x))"


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
    film.draw_eigenvalues(spectrum, start.eigenvalues, end.eigenvalues, "after training")
    _legend(spectrum, ncols=2)
    spectrum.set_title(EIGENVALUES, loc="left", fontsize=10)
    _draw_weights(weights, end)
    states.plot(end.time, end.x[:, :EXAMPLES], lw=1)
    states.set(xlabel="time (time constants)", ylabel="x")
    states.set_title(f"{min(EXAMPLES, end.x.shape[1])} neurons, after training", loc="left", fontsize=10)

    clusters = test["clusters"][-1]
    order = np.argsort(clusters, kind="stable")
    image = film.draw_matrix(matrix, end.J, order, float(np.abs(end.J).max()), "neuron")
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
    order = np.argsort(run.metrics("test", ("clusters",))["clusters"][-1], kind="stable")
    shown = [Frame(f"epoch {epoch:,}", view.J, view.eigenvalues) for epoch, view in frames.items()]
    titles = ("J, sorted by final cluster", EIGENVALUES)
    return film.write_film(run.path / "film.gif", shown, order=order, titles=titles, unit="neuron")


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
