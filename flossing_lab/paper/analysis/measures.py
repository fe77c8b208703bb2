"""Measures that figures take from runs: each network's results, and training curves as quartiles over networks."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from flossing_lab.paper.analysis.merge import RUN
from flossing_lab.paper.contract import Results
from flossing_lab.reference.config import Config, TaskName
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import evenly_spaced, first_reaching, running_mean, running_median
from flossing_lab.sweeps.spec import Spec

SOLVED = 0.95
"""A network with at least this final accuracy has solved its task."""
LAST = 100
"""Epochs at the end over which final accuracy is averaged, each on a fresh batch before the update."""
SMOOTH = 25
"""Epochs of the running mean for accuracy curves and for the epoch at which a task is solved."""
POINTS = 120
"""Largest number of points stored for a curve."""

Group: TypeAlias = dict[str, Any]
"""The networks of one condition: their shared values, and lists of `seed`, `run` and results in the same order."""

_EACH = ("seed", RUN, "final_accuracy", "epochs_to_solve", "flossed_steps", "seconds")
_METRICS = ("epoch", "accuracy", "gradient_norm/x0")


def groups(results: Results, *specs: Spec) -> list[Group]:
    """Results of the finished runs of `specs`, in groups of runs that differ only in their seeds.

    `d` is the longest lag in steps; `run` the digest of each configuration; `final_accuracy` the mean over the last
    100 epochs; `epochs_to_solve` the first epoch at which the running mean over 25 epochs reaches 0.95, infinite if
    none does; `flossed_steps` the number of flossing epochs times the window; `seconds` the total time of a run,
    including flossing and compilation, on its worker's threads.
    """
    found: dict[tuple, Group] = {}
    for values, run in (pair for spec in specs for pair in results.runs(spec)):
        training = run.metrics("training", _METRICS)
        shared = {"d": longest_lag(run), **{name: value for name, value in values.items() if name != "seed"}}
        group = found.setdefault(tuple(shared.items()), {**shared, **{name: [] for name in _EACH}})
        group["seed"].append(values["seed"])
        group[RUN].append(run.config.digest)
        group["final_accuracy"].append(short(training["accuracy"][-LAST:].mean()))
        group["epochs_to_solve"].append(epochs_to_solve(training["epoch"], training["accuracy"]))
        flossing_epochs = len(run.metrics("flossing", ("epoch",)).get("epoch", ()))
        group["flossed_steps"].append(flossing_epochs * _config(run).window)
        group["seconds"].append(short(run.info["seconds"]))
    return list(found.values())


def by_task(results: Results, specs: Sequence[Spec], hard: Mapping[TaskName, int]) -> list[Group]:
    """The `groups` of each of the `specs`, with their `task`. At the task's `hard` delay they also have, for each
    network, `curve` (see [`curve`][]) and `first_gradient`, the median of |dL/dx0| over the first 25 epochs."""
    found = []
    for spec in specs:
        task: TaskName = spec.base["task"]
        runs = {run.config.digest: run for _, run in results.runs(spec)}
        for group in groups(results, spec):
            row = {"task": task, **group}
            if row["delay"] == hard[task]:
                each = [runs[digest] for digest in group[RUN]]
                row |= {"curve": [*map(curve, each)], "first_gradient": [*map(first_gradient, each)]}
            found.append(row)
    return found


def of_task(rows: Sequence[Group], task: TaskName) -> tuple[list[Group], list[Group]]:
    """The rows of `by_task` for one task: all, and those with curves."""
    chosen = [row for row in rows if row["task"] == task]
    return chosen, [row for row in chosen if "curve" in row]


def longest_lag(run: RunDirectory) -> int:
    """d as in the paper's text, in steps."""
    return _config(run).longest_lag


def _config(run: RunDirectory) -> Config:
    assert isinstance(run.config, Config)
    return run.config


def epochs_to_solve(epochs: np.ndarray, accuracy: np.ndarray) -> float:
    """The first epoch at which the running mean of the accuracy reaches 0.95; infinite if none does."""
    first = first_reaching(epochs, accuracy, SOLVED, SMOOTH)
    return float("inf") if first is None else first


def curve(run: RunDirectory) -> dict[str, list[float]]:
    """`accuracy` and `gradient`, |dL/dx0| before clipping, against `epoch`: a running mean and a running median over 25
    epochs, thinned; and `seconds`, see [`seconds_at`][], if the run was timed."""
    training = run.metrics("training", _METRICS)
    epoch, accuracy = running_mean(training["epoch"], training["accuracy"], SMOOTH)
    gradient = running_median(training["epoch"], training["gradient_norm/x0"], SMOOTH)
    thin = evenly_spaced(len(epoch), POINTS)
    found = {"epoch": epoch, "accuracy": accuracy, "gradient": np.interp(epoch, *gradient)}
    if (seconds := seconds_at(run, epoch)) is not None:
        found["seconds"] = seconds
    return {name: shorten(values[thin]) for name, values in found.items()}


def first_gradient(run: RunDirectory) -> float:
    """The median of |dL/dx0| over the first 25 epochs."""
    return short(np.median(run.metrics("training", ("gradient_norm/x0",))["gradient_norm/x0"][:SMOOTH]))


def seconds_at(run: RunDirectory, epochs: np.ndarray) -> np.ndarray | None:
    """Seconds that training to each of the `epochs` took, all flossing before it included.

    From the median time of an epoch of each kind, so without compilation and files. None if a run has no
    such times, or took several sessions, which may have been on other machines.
    """
    pace = run.info.get("seconds_per_epoch", {})
    if "training" not in pace or "resumed" in run.info:
        return None
    flossed = run.metrics("flossing", ("training_epoch",)).get("training_epoch", np.zeros(0))
    before = np.searchsorted(np.sort(flossed), epochs, side="left")  # a block that ends at an epoch comes after it
    return epochs * pace["training"] + before * pace.get("flossing", 0.0)


def accuracy_curves(results: Results, spec: Spec) -> list[dict[str, Any]]:
    """Accuracy against the epoch for each network of `spec`, as a running mean over 100 epochs."""
    found = []
    for values, run in results.runs(spec):
        training = run.metrics("training", ("epoch", "accuracy"))
        epoch, accuracy = running_mean(training["epoch"], training["accuracy"], LAST)
        indices = evenly_spaced(len(epoch), POINTS)
        curve = {"epoch": shorten(epoch[indices]), "accuracy": shorten(accuracy[indices])}
        found.append({"d": longest_lag(run), "seed": values["seed"], RUN: run.config.digest, **curve})
    return found


def quartiles(curves: Sequence[Mapping[str, Any]], x: str, y: str) -> dict[str, np.ndarray]:
    """Median and quartiles over networks of `y` against `x`: a dict of `x`, `low`, `middle` and `high`.

    Curves are interpolated linearly. One that ends early, since its network was given up or has solved its task, keeps
    its last value.
    """
    at = np.unique(np.concatenate([numbers(each[x]) for each in curves]))
    lines = np.stack([np.interp(at, numbers(each[x]), numbers(each[y])) for each in curves])
    low, middle, high = np.quantile(lines, (0.25, 0.5, 0.75), axis=0)
    return {"x": at, "low": low, "middle": middle, "high": high}


def shorten(values: Any) -> list[float]:
    """Numbers rounded to five digits."""
    return [short(value) for value in values]


def short(value: Any) -> float:
    """A number rounded to five digits."""
    return float(f"{float(value):.5g}")


def numbers(values: Sequence[Any]) -> np.ndarray:
    """Numbers read from JSON, where NaN is null and infinities are strings."""
    return np.asarray([np.nan if value is None else float(value) for value in values], dtype=float)
