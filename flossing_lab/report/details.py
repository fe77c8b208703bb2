"""One run in detail: exponents, gradient norms, condition numbers, eigenvalues and weights.

Each panel is its data, or a sentence that says why there is none.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flossing_lab.report.runs import UNREADABLE, Group, Run, explain, numbers
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.files import read_arrays
from flossing_lab.runs.plotting import COLOURS, evenly_spaced, running_median

MOST_RUNS = 12
MOST_SNAPSHOTS = 60
MOST_WEIGHTS = 3_000_000
"""The most weights on the page, each matrix with its eigenvalues; more would make the page large and slow."""
MOST_UNITS = 128
"""The most rows and columns of a weight matrix to show; a screen cannot resolve more."""
NOT_KEPT = (
    "This run holds no condition numbers of the long-term Jacobian.",
    "This run holds no snapshots of its weights.",
    "This run holds no recurrent weights J that the page could show.",
)
"""What is said of a panel that some experiments do not have; if no run has it, the page leaves it out."""
_RECURRENT = ("network.J", "cell.J")
"""Names of recurrent weights."""
_COLUMNS = 160
_INDICES = 100
_POINTS = 400

Metrics = dict[str, np.ndarray]
Panel = dict[str, Any] | str


def choose_runs(groups: Sequence[Group]) -> list[Run]:
    """The runs to show in detail: all if there are few, else one per group, from evenly spaced groups if necessary."""
    runs = [run for group in groups for run in group.runs]
    if len(runs) <= MOST_RUNS:
        return runs
    return [groups[index].representative for index in evenly_spaced(len(groups), MOST_RUNS)]


def show_in_detail(run: Run, among: int) -> dict[str, Panel]:
    """All panels of one run; `among` runs share the space for weights on the page."""
    training, flossing = run.directory.metrics("training"), run.directory.metrics("flossing")
    panels: dict[str, Callable[[], Panel]] = {
        "exponents": lambda: _exponents(training, flossing),
        "squares": lambda: _squares(flossing, run.config),
        "spectra": lambda: _spectra(run),
        "gradients": lambda: _gradients(training, run.config.clip),
        "horizons": lambda: _horizons(run),
        "network": lambda: _network(run, MOST_WEIGHTS // among),
    }
    return {"colour": COLOURS[run.config.condition], **{name: _try(read) for name, read in panels.items()}}


def _try(read: Callable[[], Panel]) -> Panel:
    try:
        return read()
    except UNREADABLE as error:
        return f"This cannot be shown: {explain(error)}"


def _exponents(training: Metrics, flossing: Metrics) -> Panel:
    # Time counts epochs of both kinds: a flossing epoch comes after the training epochs done before it, and a row of
    # `measured_exponents` after the flossing epochs done by then.
    rows = []
    if "measured_epoch" in training:
        done = training["measured_epoch"]
        flossed = np.searchsorted(flossing["training_epoch"], done) if flossing else np.zeros_like(done)
        rows.append((done, flossed, training["measured_exponents"], np.zeros(len(done), bool)))
    if flossing:
        some = evenly_spaced(len(flossing["epoch"]), _COLUMNS)
        done, flossed = flossing["training_epoch"][some], flossing["epoch"][some]
        rows.append((done, flossed, flossing["exponents"][some], np.ones(len(done), bool)))
    if not rows:
        return "No exponents have been measured."
    done, flossed, exponents, by_flossing = (np.concatenate(column) for column in zip(*rows, strict=True))
    order = np.argsort(done + flossed, kind="stable")
    lines = _quartile_indices(exponents.shape[1])
    indices = np.union1d(evenly_spaced(exponents.shape[1], _INDICES), lines)
    return {
        "training": done[order].tolist(),
        "flossing": flossed[order].tolist(),
        "flossed": by_flossing[order].tolist(),
        "index": (indices + 1).tolist(),
        "exponents": [numbers(exponents[order, index]) for index in indices],
        "lines": np.searchsorted(indices, lines).tolist(),
    }


def _squares(flossing: Metrics, config: RunConfig) -> Panel:
    if not flossing:
        never = config.condition == "none"
        return "This network is not flossed." if never else "No flossing epoch has been completed yet."
    target = getattr(getattr(config, "flossing", None), "target", None)
    if target is None:
        return "This run does not say what its target is."
    points = evenly_spaced(len(flossing["epoch"]), _POINTS)
    squares = (flossing["exponents"][points] - target) ** 2
    starts = np.flatnonzero(np.diff(flossing["training_epoch"])) + 1
    return {
        "x": flossing["epoch"][points].tolist(),
        "mean": numbers(squares.mean(axis=1)),
        "lines": {int(index + 1): numbers(squares[:, index]) for index in _quartile_indices(squares.shape[1])},
        "starts": flossing["epoch"][starts].tolist(),
    }


def _spectra(run: Run) -> Panel:
    spectra = {stage: numbers(exponents) for stage, exponents in run.spectra.items()}
    return spectra or "No spectrum has been measured."


def _gradients(training: Metrics, clip: float | None) -> Panel:
    prefix = "gradient_norm/"
    lines = {}
    for name in training:
        if name.startswith(prefix):
            epochs, norm = running_median(training["epoch"], training[name])
            points = evenly_spaced(len(epochs), _POINTS)
            label = name.removeprefix(prefix).removeprefix("network.")
            lines[label] = {"x": epochs[points].tolist(), "y": numbers(norm[points])}
    return {"lines": lines, "clip": clip} if lines else "No gradient has been computed yet."


def _horizons(run: Run) -> Panel:
    stored = run.directory.horizons
    if not stored:
        return NOT_KEPT[0]
    k, horizon = run.config.k, stored.pop("horizon")
    lines = {}
    # A singular Jacobian has an infinite condition number and exponents of -inf, which leave gaps in the lines.
    with np.errstate(invalid="ignore"):
        for stage, logs in stored.items():
            exponents = run.spectra.get(stage, np.full(1, np.nan))
            lines[stage] = {
                "y": numbers((logs[:, 0] - logs[:, k - 1]) / np.log(10)),
                "theory": numbers((exponents[0] - exponents[-1]) * horizon / np.log(10)),
            }
    return {
        "k": k,
        "x": horizon.tolist(),
        "lines": lines,
        "singular": any(None in line["y"] for line in lines.values()),
    }


def _network(run: Run, budget: int) -> Panel:
    snapshots = list(run.directory.snapshots.items())
    if not snapshots:
        return NOT_KEPT[1]
    names = read_arrays(snapshots[0][1])
    found = [name for name in _RECURRENT if name in names]
    if not found:
        return NOT_KEPT[2]
    units = len(names[found[0]])
    chosen = evenly_spaced(len(snapshots), max(2, min(MOST_SNAPSHOTS, budget // units**2)))
    epochs = [snapshots[index][0] for index in chosen]
    weights = np.array([read_arrays(snapshots[index][1])[found[0]] for index in chosen], np.float64)
    eigenvalues = np.linalg.eigvals(weights)
    # If the run has clusters of neurons, sort the neurons by cluster.
    clusters = run.directory.metrics("test", ("clusters",)).get("clusters", np.zeros((1, units)))[-1]
    shown = np.argsort(clusters, kind="stable")[evenly_spaced(units, MOST_UNITS)]
    seen = weights[:, shown][:, :, shown]
    # One byte a weight, on a scale common to all snapshots.
    scale = float(np.abs(seen).max()) / 127 or 1.0
    return {
        "epochs": epochs,
        "of": len(snapshots),
        "units": units,
        "size": seen.shape[1],
        "scale": scale,
        "limit": float(np.quantile(np.abs(seen), 0.99)) or 1.0,
        "weights": [base64.b64encode(np.rint(each / scale).astype(np.int8).tobytes()).decode() for each in seen],
        "real": [numbers(each.real, 5) for each in eigenvalues],
        "imaginary": [numbers(each.imag, 5) for each in eigenvalues],
    }


def _quartile_indices(k: int) -> list[int]:
    return sorted({0, k // 4, k // 2, 3 * k // 4, k - 1})
