"""Lines over all runs: the median of a group and, if it has several runs, the band between its quartiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from flossing_lab.report.runs import Group, Run, is_numeric, label_of, numbers, quartiles
from flossing_lab.runs.plotting import COLOURS, evenly_spaced, running_mean

MOST_LINES = 10
"""The most lines that a reader can tell apart in one plot."""
MOST_POINTS = 400
MOST_BLOCKS = 60
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's, colour-blind safe
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Axes = dict[str, list[Any]]


def learning_curves(axes: Axes, groups: Sequence[Group]) -> dict[str, Any] | str:
    """Accuracy and loss against the training epoch, one line per group; or a sentence that says why there are none."""
    begun = [group for group in groups if any(len(run.epoch) for run in group.runs)]
    if not begun:
        return "No training epoch has been completed yet."
    plots = _arrange(axes, begun, list(axes))
    return {
        "plots": [
            {"label": label, "lines": [style | _learning_curve(group) for style, (group,) in lines]}
            for label, lines in plots
        ]
    }


def final_accuracy(axes: Axes, groups: Sequence[Group]) -> dict[str, Any] | None:
    """Final accuracy against the numeric axis with most values, one line per combination of the others; else None."""
    numeric = [name for name, values in axes.items() if is_numeric(values)]
    if not numeric:
        return None
    axis = max(numeric, key=lambda name: len(axes[name]))
    plots = _arrange(axes, groups, [name for name in axes if name != axis])
    return {
        "axis": axis,
        "log": _is_geometric(axes[axis]),
        "plots": [
            {"label": label, "lines": [style | _accuracy_against(axis, members) for style, members in lines]}
            for label, lines in plots
        ],
    }


def _learning_curve(group: Group) -> dict[str, Any]:
    longest = max(group.runs, key=lambda run: len(run.epoch))
    points = evenly_spaced(len(longest.epoch), MOST_POINTS)
    blocks = np.unique(np.concatenate([run.blocks for run in group.runs]))
    return {
        "x": longest.epoch[points].tolist(),
        "accuracy": _band([_smooth(run, run.accuracy, points) for run in group.runs]),
        "loss": _band([_smooth(run, run.loss, points) for run in group.runs]),
        "blocks": blocks[evenly_spaced(len(blocks), MOST_BLOCKS)].tolist(),
    }


def _is_geometric(values: Sequence[int | float]) -> bool:
    # Whether the median of positive values is closer to the geometric than to the arithmetic mean of the extremes.
    low, middle, high = min(values), np.median(values), max(values)
    return bool(low > 0 and len(values) > 2 and middle < (np.sqrt(low * high) + (low + high) / 2) / 2)


def _accuracy_against(axis: str, groups: Sequence[Group]) -> dict[str, Any]:
    bands = [_band([np.array([run.final_accuracy]) for run in group.runs]) for group in groups]
    joined = {name: [value for band in bands for value in band.get(name, band["y"])] for name in ("y", "low", "high")}
    return {"x": [group.values[axis] for group in groups], "accuracy": joined}


def _band(rows: Sequence[np.ndarray]) -> dict[str, list[float | None]]:
    if len(rows) == 1:
        return {"y": numbers(rows[0])}
    lower, median, upper = quartiles(np.array(rows))
    return {"y": numbers(median), "low": numbers(lower), "high": numbers(upper)}


def _smooth(run: Run, values: np.ndarray, points: np.ndarray) -> np.ndarray:
    # A run that has not got that far yet has no value there.
    _, smooth = running_mean(run.epoch, values)
    present = points < len(smooth)
    return np.where(present, np.append(smooth, np.nan)[np.where(present, points, -1)], np.nan)


def _arrange(axes: Axes, groups: Sequence[Group], names: list[str]) -> list[tuple[str, list[tuple[dict, list[Group]]]]]:
    # One plot if its lines can be told apart; else one for each combination of all axes but one. A plot has a
    # label and lines; a line has a style and the groups it shows.
    together = names
    if len(_split(groups, names)) > MOST_LINES and len(names) > 1:
        together = ["condition"] if "condition" in names else [min(names, key=lambda name: len(axes[name]))]
    apart = [name for name in names if name not in together]
    styles = _line_styles(groups, together)
    return [
        (label_of(choice), [(styles[tuple(values.values())], members) for values, members in _split(chosen, together)])
        for choice, chosen in _split(groups, apart)
    ]


def _line_styles(groups: Sequence[Group], names: list[str]) -> dict[tuple, dict[str, str]]:
    # Name, colour and dash by the values of the named axes. Conditions have their own colours; then the
    # dash shows all other differences.
    others = [name for name in names if name != "condition"]
    kinds = [tuple(values.values()) for values, _ in _split(groups, others)]
    graded = len(others) == 1 and len(kinds) > len(_PALETTE) and is_numeric([value for (value,) in kinds])
    styles = {}
    for values, members in _split(groups, names):
        kind = kinds.index(tuple(values[name] for name in others))
        condition = members[0].config.condition
        colour, dash = _PALETTE[kind % len(_PALETTE)], _DASHES[kind // len(_PALETTE) % len(_DASHES)]
        if "condition" in names or not names:
            colour, dash = COLOURS[condition], _DASHES[kind % len(_DASHES)]
        elif graded:
            colour, dash = to_hex(colormaps["viridis"](0.9 * kind / (len(kinds) - 1))), "solid"
        name = label_of(values) or label_of({"condition": condition})
        styles[tuple(values.values())] = {"name": name, "colour": colour, "dash": dash}
    return styles


def _split(groups: Sequence[Group], names: Sequence[str]) -> list[tuple[dict[str, Any], list[Group]]]:
    # Groups by their values of the named axes.
    found: dict[tuple, list[Group]] = {}
    for group in groups:
        found.setdefault(tuple(group.values[name] for name in names), []).append(group)
    return [(dict(zip(names, values, strict=True)), members) for values, members in found.items()]
