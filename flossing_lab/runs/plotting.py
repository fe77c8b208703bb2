"""The plots of single runs and of the demo. Drawing reads run directories; nothing here trains."""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flossing_lab.runs.files import write_atomically

LABELS = {
    "none": "no flossing",
    "good_start": "good initialisation, no flossing",
    "before": "flossing before",
    "during": "flossing during",
    "before_and_during": "flossing before and during",
    "adaptive": "adaptive flossing",
}
COLOURS = {
    "none": "#6b6b6b",
    "good_start": "#2f9e6e",
    "before": "#d9822b",
    "during": "#2f9e6e",
    "before_and_during": "#2563b0",
    "adaptive": "#8a3fa0",
}
DARK, LIGHT_GREY = "#222222", "#c9c9c9"


def check_plot(path: Path) -> str:
    """The format of a figure by the ending of its file; ValueError for others."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"plot must end in .png, .pdf or .svg, got {str(path)!r}")
    return path.suffix[1:].lower()


def save_figure(figure: Figure, path: Path):
    """Write a figure, atomically, in the format of its ending."""
    plot = io.BytesIO()
    figure.savefig(plot, format=check_plot(path), dpi=150)
    write_atomically(path, plot.getvalue())


def draw_spectrum(axes: Axes, exponents: np.ndarray, **style):
    """Exponents against their index, with zero marked."""
    axes.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    axes.plot(np.arange(1, len(exponents) + 1), exponents, lw=1.8, marker="." if len(exponents) < 40 else None, **style)
    axes.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (per step)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def as_exponents(values: list) -> np.ndarray:
    """Exponents from run.json, which stores `-inf` as text, as an array."""
    return np.asarray([np.nan if value is None else float(value) for value in values])


def running_mean(epochs: np.ndarray, values: np.ndarray, width: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last `width` epochs, fewer at the start, without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total, count = (np.concatenate([[0.0], np.cumsum(x, dtype=float)]) for x in (np.where(known, values, 0), known))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    number = count[stop] - count[start]
    return epochs, np.where(number > 0, (total[stop] - total[start]) / np.maximum(number, 1), np.nan)


def first_reaching(epochs: np.ndarray, values: np.ndarray, level: float, width: int = 25) -> float | None:
    """The first epoch at which the mean over the last `width` epochs is at least `level`; None if there is none.

    A shorter run has its mean over all epochs at the end.
    """
    at, smooth = running_mean(epochs, values, width)
    reached = np.flatnonzero((smooth >= level) & (np.arange(len(at)) >= min(width, len(at)) - 1))
    return float(at[reached[0]]) if len(reached) else None


def running_median(epochs: np.ndarray, values: np.ndarray, width: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Median over consecutive windows of `width` epochs."""
    count = len(values) // width
    if count == 0:
        return epochs, values
    cut = slice(0, count * width)
    return epochs[cut].reshape(count, width).mean(1), np.median(values[cut].reshape(count, width), axis=1)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices below `count`, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def remove_spines(axes: Axes):
    """Remove the top and right spines and shrink the tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
