"""Measures that figures take from runs: each network's results, and training curves as quartiles over networks."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from flossing_lab.paper.analysis.merge import RUN
from flossing_lab.paper.contract import Results, Scale
from flossing_lab.paper.scales import SIZES
from flossing_lab.reference.config import Config, TaskName
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import evenly_spaced, running_mean, running_median
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


def by_task(results: Results, specs: Sequence[Spec], scale: Scale) -> dict[str, Any]:
    """For the task of each of the `specs`: `groups` of each network's results, `curves` at this scale's hard delay, and
    its longest lag `d`."""
    found = {}
    for spec in specs:
        task: TaskName = spec.base["task"]
        hard = SIZES[scale].hard[task]
        lag = hard * (2 if task == "temporal_xor" else 1)
        found[task] = {"d": lag, "groups": groups(results, spec), "curves": curves(results, spec, delay=hard)}
    return found


def are_timed(tasks: Mapping[str, Any]) -> bool:
    """Whether all curves of `by_task` have their times; those of version 0.1 do not."""
    curves = [curve for task in tasks.values() for curve in task["curves"]]
    return bool(curves) and all("seconds" in curve["accuracy"] for curve in curves)


def longest_lag(run: RunDirectory) -> int:
    """d as in the paper's text, in steps."""
    return _config(run).longest_lag


def _config(run: RunDirectory) -> Config:
    assert isinstance(run.config, Config)
    return run.config


def epochs_to_solve(epochs: np.ndarray, accuracy: np.ndarray) -> float:
    """The first epoch at which the running mean of the accuracy reaches 0.95; infinite if none does."""
    at, smooth = running_mean(epochs, accuracy, SMOOTH)
    reached = np.flatnonzero((smooth >= SOLVED) & (np.arange(len(at)) >= min(SMOOTH, len(at)) - 1))
    return float(at[reached[0]]) if len(reached) else float("inf")


def curves(results: Results, spec: Spec, **where: Any) -> list[dict[str, Any]]:
    """Accuracy and |dL/dx0| against the epoch, for each condition of the runs of `spec` that match `where`.

    Each curve is a dict with `condition`, `n`, `accuracy` and `gradient`. The last two are dicts of `epoch` and the
    quartiles `low`, `middle`, `high` over networks; `accuracy` also has `seconds`, the time at each epoch, see
    [`seconds_at`][]. The gradient norm is that of the raw gradient, before clipping.
    """
    chosen: dict[str, list[RunDirectory]] = {}
    for values, run in results.runs(spec):
        if all(values[name] == value for name, value in where.items()):
            chosen.setdefault(values["condition"], []).append(run)
    found = []
    for condition, runs in chosen.items():
        each = [run.metrics("training", _METRICS) for run in runs]
        accuracy = [running_mean(one["epoch"], one["accuracy"], SMOOTH) for one in each]
        gradient = [running_median(one["epoch"], one["gradient_norm/x0"], SMOOTH) for one in each]
        curve = {"accuracy": quartiles(accuracy), "gradient": quartiles(gradient)}
        times = [seconds_at(run, numbers(curve["accuracy"]["epoch"])) for run in runs]
        known = [time for time in times if time is not None]
        if len(known) == len(runs):
            curve["accuracy"]["seconds"] = shorten(np.median(known, axis=0))
        found.append({"condition": condition, "n": len(runs), **curve})
    return found


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


def quartiles(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Median and quartiles over curves, thinned. The abscissae agree as far as a curve goes; one that ends early, since
    its network was given up, keeps its last value."""
    longest = max((epochs for epochs, _ in lines), key=len)
    values = np.stack([np.pad(line, (0, len(longest) - len(line)), mode="edge") for _, line in lines])
    indices = evenly_spaced(values.shape[1], POINTS)
    low, middle, high = np.quantile(values[:, indices], (0.25, 0.5, 0.75), axis=0)
    return {
        "epoch": shorten(longest[indices]),
        "low": shorten(low),
        "middle": shorten(middle),
        "high": shorten(high),
    }


def shorten(values: Any) -> list[float]:
    """Numbers rounded to five digits."""
    return [short(value) for value in values]


def short(value: Any) -> float:
    """A number rounded to five digits."""
    return float(f"{float(value):.5g}")


def numbers(values: Sequence[Any]) -> np.ndarray:
    """Numbers read from JSON, where NaN is null and infinities are strings."""
    return np.asarray([np.nan if value is None else float(value) for value in values], dtype=float)
