"""A film of the recurrent weights and their eigenvalues, from the snapshots of a run."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from flossing_lab.runs.files import write_atomically
from flossing_lab.runs.plotting import DARK, LIGHT_GREY, remove_spines

PURPLE = "#9b30b0"
MOST_FRAMES = 101
FRAME, LEAST_FILM, LAST_FRAME = 80, 4000, 1500
"""In milliseconds: a frame, the shortest film, and the extra time of the last frame."""


class Frame(NamedTuple):
    """One moment: its title, the weights, the eigenvalues."""

    title: str
    J: Float[np.ndarray, "N N"]
    eigenvalues: NDArray[np.complex128]


def write_film(
    path: Path, frames: Sequence[Frame], *, order: Int[np.ndarray, " N"], titles: tuple[str, str], unit: str
) -> Path:
    """Write a GIF with J, its rows and columns in this order, beside the eigenvalues; return its path.

    `titles` are those of the two panels; `unit` is what a row of J is.
    """
    limit = float(max(np.abs(frame.J).max() for frame in frames))
    values = np.concatenate([frame.eigenvalues for frame in frames])
    figure = Figure(figsize=(8, 3.6), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    matrix, spectrum = figure.subplots(1, 2)
    image = draw_matrix(matrix, frames[0].J, order, limit, unit)
    figure.colorbar(image, ax=matrix, shrink=0.8)
    start = frames[0].eigenvalues
    dots = draw_eigenvalues(spectrum, start, start, "at this epoch")
    margin = 0.3
    spectrum.set_xlim(min(values.real.min(), -1) - margin, max(values.real.max(), 1) + margin)
    spectrum.set_ylim(min(values.imag.min(), -1) - margin, max(values.imag.max(), 1) + margin)
    spectrum.set_aspect("equal", adjustable="box")
    # These axes are lower than others, so a legend placed relative to their height would cover the label.
    spectrum.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=2)
    for axes, title in zip((matrix, spectrum), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
    remove_spines(spectrum)

    plots = []
    for frame in frames:
        figure.suptitle(frame.title, fontsize=11, color=DARK)
        image.set_data(frame.J[np.ix_(order, order)])
        dots.set_data(frame.eigenvalues.real, frame.eigenvalues.imag)
        canvas.draw()
        plots.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    durations = [max(FRAME, LEAST_FILM // len(plots))] * len(plots)
    durations[-1] += LAST_FRAME
    content = io.BytesIO()
    plots[0].save(content, "gif", save_all=True, append_images=plots[1:], duration=durations, loop=0)
    write_atomically(path, content.getvalue())
    return path


def draw_matrix(axes: Axes, J: np.ndarray, order: np.ndarray, limit: float, unit: str):
    """J in colours, and the image to change it later."""
    image = axes.imshow(J[np.ix_(order, order)], cmap="RdBu", vmin=-limit, vmax=limit, interpolation="none")
    axes.set(xlabel=f"from {unit}", ylabel=f"to {unit}")
    axes.tick_params(labelsize=8)
    return image


def draw_eigenvalues(axes: Axes, start: NDArray[np.complex128], end: NDArray[np.complex128], name: str):
    """Two sets of eigenvalues beside the unit circle, and the dots of the second to move them later."""
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color=LIGHT_GREY, lw=0.8, zorder=0)
    axes.axvline(1, color=LIGHT_GREY, lw=0.8, ls=":", zorder=0)
    axes.plot(start.real, start.imag, "o", color=LIGHT_GREY, ms=4, label="at the start")
    (dots,) = axes.plot(end.real, end.imag, "o", color=PURPLE, ms=5, mew=0, label=name)
    axes.set(xlabel="real part", ylabel="imaginary part")
    axes.set_aspect("equal", adjustable="datalim")
    return dots
