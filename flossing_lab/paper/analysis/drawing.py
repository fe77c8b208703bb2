"""Shared drawing code of the figures: colours of conditions, medians, quartiles, single networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.measures import SOLVED, Group, numbers, quartiles
from flossing_lab.runs.plotting import COLOURS, DARK, LABELS, LIGHT_GREY, remove_spines

GREY = "#888888"
_LEFT: dict[str, Any] = {"loc": "left", "fontsize": 10, "color": DARK}


def new_figure(title: str, rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure with a title and a grid of axes (rows, columns)."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12, color=DARK)
    return figure, figure.subplots(rows, columns, squeeze=False)


def panel(axes: Axes, title: str, **settings: Any):
    """Set the title and labels of one panel."""
    axes.set_title(title, **_LEFT)
    axes.set(**settings)
    remove_spines(axes)
    axes.tick_params(which="minor", labelsize=8)


def band(axes: Axes, row: Group, y: str, *, x: str = "epoch"):
    """The median over a row's curves with its interquartile band, against the epoch, or the seconds until then where a
    network was timed."""
    known = [each for each in row["curve"] if x in each]
    if not known:
        return
    curve, colour = quartiles(known, x, y), COLOURS[row["condition"]]
    axes.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.18, lw=0)
    axes.plot(curve["x"], curve["middle"], color=colour, lw=1.7, label=LABELS[row["condition"]])


def draw_learning(panels: Sequence[Axes], rows: Sequence[Group], title: str):
    """Accuracy against the training epoch, and in a second panel against time; `rows` have curves."""
    for row in rows:
        band(panels[0], row, "accuracy")
        band(panels[1], row, "accuracy", x="seconds")
    accuracy_axes(
        panels[0], title + "".join(f", d = {d}" for d in sorted({row["d"] for row in rows})), "training epoch"
    )
    accuracy_axes(panels[1], "Against time", "seconds, flossing included")


def medians(axes: Axes, rows: Sequence[Group], x: str, y: str, *, colour: str, label: str, shift: float = 0.0, **style):
    """The median over networks against `x`, with a dot for each network, shifted right by `shift` points."""
    rows = sorted(rows, key=lambda row: row[x])
    where = numbers([row[x] for row in rows])
    middle = [np.median(numbers(row[y])) for row in rows]
    # Infinite medians are not drawn; the panel's text says where they occur.
    axes.plot(where, np.where(np.isfinite(middle), middle, np.nan), color=colour, lw=1.7, label=label, **style)
    each = [(at, value) for at, row in zip(where, rows, strict=True) for value in numbers(row[y])]
    if each:
        at, values = np.transpose(each)
        beside = axes.transData + _points(axes, shift)
        axes.scatter(at, values, s=16, color=colour, alpha=0.65, lw=0, transform=beside, zorder=3)
        # A scatter with a shifted transform does not update the data limits.
        axes.update_datalim(np.column_stack([at, values])[np.isfinite(values)])
        axes.autoscale_view()


def accuracy_axes(axes: Axes, title: str, xlabel: str):
    """A panel with accuracy on the y axis; chance and the solved threshold are marked."""
    panel(axes, title, xlabel=xlabel, ylabel="accuracy", ylim=(0.45, 1.02))
    for height, word in ((0.5, "chance"), (SOLVED, "solved")):
        axes.axhline(height, color=LIGHT_GREY, lw=0.8, ls="-" if height == 0.5 else ":", zorder=0)
        # Outside the axes, clear of all curves.
        place: Any = (1.01, height), ("axes fraction", "data")
        axes.annotate(word, place[0], xycoords=place[1], fontsize=7.5, color=GREY, va="center", annotation_clip=False)


def draw_final(axes: Axes, rows: Sequence[Group], conditions: Sequence[str], title: str):
    """Final accuracy against the longest lag, one line per condition."""
    for index, condition in enumerate(conditions):
        matching = [row for row in rows if row["condition"] == condition]
        shift = 4.0 * (index - (len(conditions) - 1) / 2)
        medians(axes, matching, "d", "final_accuracy", colour=COLOURS[condition], label=LABELS[condition], shift=shift)
    accuracy_axes(axes, title, "longest lag d (steps)")
    lags = sorted({row["d"] for row in rows})
    if 0 < len(lags) <= 10:
        axes.set_xticks(lags)


def legend_below(figure: Figure, axes: Axes, columns: int | None = None):
    """One legend below the whole figure, in a single row or in `columns` columns."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, frameon=False, loc="outside lower center", ncols=columns or len(handles), fontsize=10
        )


def count(rows: Sequence[Group]) -> str:
    """The number of networks behind each point, in words."""
    sizes = sorted({len(row["seed"]) for row in rows})
    if not sizes:
        return "no networks yet"
    return f"n = {sizes[0]} networks" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]} networks"


def _points(axes: Axes, right: float):
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    return ScaledTranslation(right / 72, 0, figure.dpi_scale_trans)
