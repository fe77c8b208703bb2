"""Runs as the report uses them: read once, and grouped. The runs of a group differ only in their seeds."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import LABELS, as_exponents, first_reaching
from flossing_lab.sweeps.collection import ABSENT, axes_of, find_runs, labels_of_all

LAST = 100
"""Number of final epochs whose mean is a final value."""
SOLVED = 0.95
"""A task counts as solved once the running mean of its accuracy reaches this value."""
UNREADABLE = (ValueError, KeyError, OSError)
"""The errors that reading a damaged directory may raise."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The part of a run that the report holds in memory; the rest is read only if the run is shown in detail."""

    directory: RunDirectory
    info: dict[str, Any]
    config: RunConfig
    epoch: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    blocks: np.ndarray
    """Training epochs after which the network was flossed."""
    spectra: dict[str, np.ndarray]
    """Exponents by stage, `start`, `after_preflossing` and `end`, as far as the run has got."""

    @property
    def status(self) -> str:
        return str(self.info.get("status"))

    @property
    def final_accuracy(self) -> float:
        return _final(self.accuracy)

    @property
    def final_loss(self) -> float:
        return _final(self.loss)

    @property
    def solved(self) -> float:
        """The first training epoch at which the running mean of the accuracy reached SOLVED; NaN if it never did."""
        first = first_reaching(self.epoch, self.accuracy, SOLVED)
        return np.nan if first is None else first

    @property
    def seconds(self) -> float:
        return float(self.info.get("seconds") or np.nan)

    @property
    def compile_seconds(self) -> float:
        """NaN for runs that did not record it."""
        value = self.info.get("compile_seconds")
        return np.nan if value is None else float(value)

    def exponent(self, index: int) -> float:
        """One exponent after training; NaN if the run is not finished."""
        end = self.spectra.get("end", np.empty(0))
        return float(end[index]) if len(end) else np.nan


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds, and the values that they share on the axes."""

    values: dict[str, Any]
    runs: list[Run]

    @property
    def config(self) -> RunConfig:
        """The configuration of its first run."""
        return self.runs[0].config

    @property
    def representative(self) -> Run:
        """The run whose final accuracy is nearest to the median."""
        final = np.array([run.final_accuracy for run in self.runs])
        distance = np.abs(final - quartiles(final)[1])
        return self.runs[int(np.nanargmin(distance))] if np.isfinite(distance).any() else self.runs[0]


def read_runs(paths: Sequence[Path | str]) -> tuple[list[Run], list[tuple[str, str]]]:
    """The runs in `paths`, and the path and reason of each that cannot be read. ValueError if none can be read."""
    runs, damaged = [], []
    for directory in find_runs(paths):
        try:
            runs.append(_read(directory))
        except UNREADABLE as error:
            damaged.append((str(directory.path), explain(error)))
    if not runs:
        place, why = damaged[0]
        raise ValueError(f"report must be of runs that can be read, got {place!r}: {why}")
    return runs, damaged


def group_runs(runs: Sequence[Run]) -> tuple[dict[str, list[Any]], list[Group]]:
    """The axes except seeds, each with its values in order, and the groups in the order of the axes."""
    axes = {name: _in_order(values) for name, values in axes_of([run.config for run in runs]).items()}
    axes = {name: values for name, values in axes.items() if not name.startswith("seed")}
    found: dict[tuple, Group] = {}
    for run, labels in zip(runs, labels_of_all([run.config for run in runs]), strict=True):
        values = {name: labels.get(name, ABSENT) for name in axes}
        place = tuple(axes[name].index(value) for name, value in values.items())
        found.setdefault(place, Group(values, [])).runs.append(run)
    return axes, [found[place] for place in sorted(found)]


def name_runs(runs: Sequence[Run]) -> list[str]:
    """A name for each run: the values in which it differs from the others, and its directory."""
    axes = axes_of([run.config for run in runs]) or {"condition": []}
    names = []
    for run, labels in zip(runs, labels_of_all([run.config for run in runs]), strict=True):
        words = label_of({name: labels[name] for name in axes if name in labels})
        names.append(f"{words} ({run.directory.path.resolve().name})")
    return names


def label_of(values: dict[str, Any]) -> str:
    """Values of axes in words; empty if there are none."""
    present = {name: value for name, value in values.items() if value != ABSENT}
    return ", ".join(
        LABELS[value] if name == "condition" else f"{name} {shown(value)}" for name, value in present.items()
    )


def shown(value: Any) -> str:
    """A value of the configuration as text."""
    return "default" if value is None else str(value)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values of an axis are numbers."""
    return all(isinstance(value, int | float) for value in values)


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def quartiles(values: np.ndarray) -> np.ndarray:
    """Lower quartile, median and upper quartile along the first axis, ignoring NaN; NaN where all values are NaN."""
    ordered = np.sort(values, axis=0)  # NaN comes last
    last = np.maximum((~np.isnan(values)).sum(axis=0) - 1, 0)
    rows = []
    for share in (0.25, 0.5, 0.75):
        place = share * last
        below, above = (
            np.take_along_axis(ordered, np.asarray(index)[None].astype(int), axis=0)[0]
            for index in (np.floor(place), np.ceil(place))
        )
        part = place % 1
        # Exponents can be -inf, and inf - inf is NaN.
        with np.errstate(invalid="ignore"):
            rows.append(np.where(below == above, below, (1 - part) * below + part * above))
    return np.array(rows)


def numbers(values: Iterable, digits: int = 4) -> list[float | None]:
    """Numbers for the page, rounded to `digits` significant digits; None, shown as a gap, for non-finite ones."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]


def _read(directory: RunDirectory) -> Run:
    training, info = directory.metrics("training", ("epoch", "accuracy", "loss")), directory.info
    if training:
        training.setdefault("accuracy", np.full(len(training["epoch"]), np.nan))  # a regression has none
    flossing = directory.metrics("flossing", ("training_epoch",))
    empty = np.empty(0)
    return Run(
        directory,
        info,
        directory.config,
        *(training[name] if training else empty for name in ("epoch", "accuracy", "loss")),
        blocks=np.unique(flossing["training_epoch"]) if flossing else empty,
        spectra={stage: as_exponents(values) for stage, values in (info.get("spectra") or {}).items()},
    )


def _final(values: np.ndarray) -> float:
    return float(values[-LAST:].mean()) if len(values) else np.nan


def _in_order(values: list[Any]) -> list[Any]:
    # Numbers in ascending order, conditions from none to all, other values in order of appearance.
    if is_numeric(values):
        return sorted(values)
    return sorted(values, key=lambda value: list(LABELS).index(value) if value in LABELS else 0)
