"""Curves from calculations: medians and quartiles over networks, coloured by the number of flossed exponents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from flossing_lab.paper.analysis.measures import POINTS, numbers, short, shorten
from flossing_lab.runs.plotting import COLOURS, evenly_spaced

LN10 = float(np.log(10))


def summary(x: Any, values: np.ndarray) -> dict[str, list[float]]:
    """Median and quartiles over networks of `values` (networks, points) against `x`, thinned."""
    indices = evenly_spaced(values.shape[1], POINTS)
    low, middle, high = quartiles_of(values[:, indices])
    return {"x": shorten(np.asarray(x)[indices]), "low": shorten(low), "middle": shorten(middle), "high": shorten(high)}


def quartiles_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quartiles and median along the first axis, rounded outwards so that infinities stay infinite."""
    low = np.quantile(values, 0.25, axis=0, method="lower")
    middle = np.quantile(values, 0.5, axis=0, method="averaged_inverted_cdf")
    high = np.quantile(values, 0.75, axis=0, method="higher")
    return low, middle, high


def median(values: Sequence[Any]) -> float:
    """The median of numbers read from JSON."""
    return short(np.median(numbers(values)))


def draw_summary(axes: Axes, curve: Mapping[str, Any], *, colour: str, label: str | None = None, **style: Any):
    """A median line with its interquartile band; infinite values are left out."""
    x, low, middle, high = (_finite(numbers(curve[name])) for name in ("x", "low", "middle", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(x, middle, color=colour, label=label, **{"lw": 1.7, **style})


def k_colours(ks: Sequence[int]) -> dict[int, str]:
    """A colour for each number of flossed exponents, in ascending order; grey for none."""
    flossed = sorted(k for k in ks if k)
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, 5))
    return {0: COLOURS["none"], **{k: to_hex(shades[min(i, 4)]) for i, k in enumerate(flossed)}}


def log10_condition_number(logs: np.ndarray, m: int) -> np.ndarray:
    """log10 of the ratio of the first to the m-th singular value, whose logarithms lie along the last axis.

    It is infinite for a lost direction, whose logarithm is -inf."""
    return (logs[..., 0] - logs[..., m - 1]) / LN10


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
