"""Runs as labelled arrays: one run as an xarray dataset, many runs as one dataset over the axes that differ.

    epoch              training epoch: loss, accuracy, gradient_norm (of each `array`)
    probe_epoch        only the training epochs in which singular values were recorded
    flossing_epoch     flossing epoch: flossing_loss, flossing_exponents; `training_epoch` counts the training before it
    test_epoch         after each test, if the experiment has tests: test_error, balance, coupling, ..., clusters
    measurement        after each chunk: measured_exponents; `measured_epoch` and `measured_flossing_epoch` say when
    stage              start, after_preflossing, end: spectrum, long_term_log_singular_values (against `horizon`)
    index              rank of an exponent, from 1 for the largest; `singular_index` likewise for singular values

xarray is imported only when needed; it comes with the extra [lab].
"""

import json
import math
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flossing_lab.runs.directory import RunDirectory, joined
from flossing_lab.sweeps.attributes import ATTRIBUTES
from flossing_lab.sweeps.collection import (
    ABSENT,
    OPTIONS,
    axes_of,
    find_runs,
    labels_of,
    labels_of_all,
    options_of,
    read_sweep,
)

if TYPE_CHECKING:
    import xarray

STAGES = ("start", "after_preflossing", "end")

_MARK = "flossing_dataset"
_ROOM = 4
"""The runs of a folder form a grid if the grid has at most this many cells per run."""
_TEST_DIMS = {
    "outliers": ("signal",),
    "outliers_sd": ("signal",),
    "weight_correlations": ("output", "signal"),
    "clusters": ("neuron",),
}
_COORDINATES = ("training_epoch", "measured_epoch", "measured_flossing_epoch")

_Variables = dict[str, tuple[str | tuple[str, ...], Any]]


def run_dataset(directory: RunDirectory) -> "xarray.Dataset":
    """All numbers of a run as labelled arrays; for a run in progress, up to its newest chunk."""
    xarray = _require_xarray()
    info, config, horizons = directory.info, directory.config, directory.horizons
    training, flossing, test = (_read_metrics(directory, kind) for kind in ("training", "flossing", "test"))
    units = config.network.units or 0  # a run from a notebook need not know it
    variables: _Variables = {
        "index": ("index", np.arange(1, config.k + 1)),
        "singular_index": ("singular_index", np.arange(1, units + 1)),
        "stage": ("stage", list(STAGES)),
    }
    if info["spectra"]:
        variables["spectrum"] = (("stage", "index"), _by_stage(info["spectra"], config.dtype))
    if horizons:
        variables["horizon"] = ("horizon", horizons.pop("horizon"))
        variables["long_term_log_singular_values"] = (
            ("stage", "horizon", "singular_index"),
            _by_stage(horizons, config.dtype),
        )
    if flossing:
        variables |= _flossing_variables(flossing)
    if training:
        variables |= _training_variables(training, units)
    if "measured_epoch" in training or flossing:
        variables |= _measurements(training, flossing)
    if test:
        variables |= _test_variables(test)
    dataset = xarray.Dataset(variables).set_coords([name for name in _COORDINATES if name in variables])
    dataset.attrs = {
        "configuration": json.dumps(config.model_dump()),
        "versions": json.dumps(info["versions"]),
        "status": info["status"],
        "seconds": info.get("seconds", 0.0),
    }
    return _described(dataset)


def collect(directory: Path | str, out: Path | str) -> "xarray.Dataset":
    """Collect the finished runs of a sweep into one dataset over its axes, and save it at `out` as a Zarr store.

    Each axis of the specification is a dimension, named after its first field; its other fields are coordinates along
    it. Missing and unfinished runs are NaN, and `status` marks them; shorter runs are padded with NaN. Any other folder
    with runs works as well: its axes are the fields in which the configurations differ.

    **Raises:** `ValueError` if there is no run, or if `out` holds anything but such a store.
    """
    xarray = _require_xarray()
    directory, out = Path(directory), Path(out)
    _check_replaceable(out)
    grid = _sweep_grid(directory) if (directory / "sweep.json").is_file() else _folder_grid(directory)
    status = np.full(grid.shape, "missing", dtype="<U11")
    digests, seconds = np.full(grid.shape, "", dtype="<U12"), np.full(grid.shape, np.nan)
    configs, versions, runs = [], {}, {}
    for place, run in grid.runs.items():
        if not run.exists:
            continue
        info, config = run.info, run.config
        status[place], digests[place], seconds[place] = info["status"], config.digest, info.get("seconds", np.nan)
        if info["status"] == "finished":
            runs[place] = run_dataset(run)
            configs.append(labels_of(config))
            versions[json.dumps(info["versions"])] = info["versions"]
    taken = {str(name) for dataset in runs.values() for name in (*dataset.variables, *dataset.dims)}
    grid = grid.renamed(taken | {"status", "seconds", "digest"})
    dims = list(grid.axes)
    coordinates = {name: (dim, _labels(values)) for dim, axis in grid.axes.items() for name, values in axis.items()}
    dataset = xarray.Dataset(
        {**_stacked(runs, grid.shape, dims), "status": (dims, status), "seconds": (dims, seconds)},
        {**coordinates, "digest": (dims, digests)},
    )
    dataset = dataset.set_coords([name for name in _COORDINATES if name in dataset])
    shared = {name: value for name, value in (configs or [{}])[0].items() if all(c.get(name) == value for c in configs)}
    dataset.attrs = {
        _MARK: 1,
        "name": grid.name,
        "configuration": json.dumps(shared),
        "versions": json.dumps(list(versions.values())),
    }
    dataset = _described(dataset)
    _save(dataset, out)
    return dataset


def _read_metrics(directory: RunDirectory, kind: str) -> dict[str, np.ndarray]:
    # Like RunDirectory.metrics, plus the last epoch of each chunk.
    return joined([chunk | {"chunk_end": chunk["epoch"][-1:]} for chunk in directory.chunks(kind)])


def _training_variables(training: Mapping[str, np.ndarray], units: int) -> _Variables:
    norms = {name.removeprefix("gradient_norm/"): name for name in training if name.startswith("gradient_norm/")}
    variables: _Variables = {
        "epoch": ("epoch", training["epoch"]),
        "array": ("array", list(norms)),
        **{name: ("epoch", training[name]) for name in training if _is_metric(name, training)},
        "gradient_norm": (("epoch", "array"), np.stack([training[name] for name in norms.values()], axis=1)),
    }
    # Probes are NaN in most epochs, and with `singular_values_every=0` in all of them.
    recorded = ~np.isnan(training.get("effective_rank/network.J", np.full(len(training["epoch"]), np.nan)))
    variables["probe_epoch"] = ("probe_epoch", training["epoch"][recorded])
    for name in training:
        kind, _, array = name.partition("/")
        if kind not in ("singular_values", "effective_rank"):
            continue
        values = training[name][recorded]
        dims = ("probe_epoch", "singular_index")[: values.ndim]
        if values.ndim == 2:
            # dL/dx0 has min(batch, units) singular values.
            values = np.pad(values, ((0, 0), (0, units - values.shape[1])), constant_values=np.nan)
        variables[f"{kind}_{array.removeprefix('network.')}"] = (dims, values)
    return variables


def _is_metric(name: str, training: Mapping[str, np.ndarray]) -> bool:
    """Whether this is one number for each epoch, such as the loss."""
    return "/" not in name and name != "epoch" and training[name].shape == training["epoch"].shape


def _flossing_variables(flossing: Mapping[str, np.ndarray]) -> _Variables:
    return {
        "flossing_epoch": ("flossing_epoch", flossing["epoch"]),
        "training_epoch": ("flossing_epoch", flossing["training_epoch"]),
        "flossing_loss": ("flossing_epoch", flossing["flossing_loss"]),
        "flossing_gradient_norm": ("flossing_epoch", flossing["flossing_gradient_norm"]),
        "flossing_exponents": (("flossing_epoch", "index"), flossing["exponents"]),
    }


def _test_variables(test: Mapping[str, np.ndarray]) -> _Variables:
    variables: _Variables = {"test_epoch": ("test_epoch", test["epoch"])}
    for name in test.keys() - {"epoch", "chunk_end"}:
        dims = _TEST_DIMS.get(name, tuple(f"{name}_{axis}" for axis in range(1, test[name].ndim)))
        variables |= {dim: (dim, np.arange(1, size + 1)) for dim, size in zip(dims, test[name].shape[1:], strict=True)}
        variables[name] = (("test_epoch", *dims), test[name])
    return variables


def _measurements(training: Mapping[str, np.ndarray], flossing: Mapping[str, np.ndarray]) -> _Variables:
    # One row per chunk of either kind, in chronological order.
    epochs, flossing_epochs, exponents = [], [], []
    if training:
        epochs.append(training["measured_epoch"])
        before = flossing["training_epoch"] if flossing else np.zeros(0)
        flossing_epochs.append(np.searchsorted(before, training["measured_epoch"]))
        exponents.append(training["measured_exponents"])
    if flossing:
        epochs.append(flossing["measured_epoch"])
        flossing_epochs.append(flossing["chunk_end"])
        exponents.append(flossing["measured_exponents"])
    done, flossed = np.concatenate(epochs), np.concatenate(flossing_epochs)
    order = np.argsort(done + flossed)
    return {
        "measurement": ("measurement", np.arange(1, len(order) + 1)),
        "measured_epoch": ("measurement", done[order]),
        "measured_flossing_epoch": ("measurement", flossed[order]),
        "measured_exponents": (("measurement", "index"), np.concatenate(exponents)[order]),
    }


def _by_stage(values: Mapping[str, Any], dtype: str) -> np.ndarray:
    blank = np.full(np.shape(next(iter(values.values()))), np.nan)
    return np.stack([np.asarray(values.get(stage, blank), dtype) for stage in STAGES])


class _Grid(NamedTuple):
    """Runs on a grid: the axes by dimension, each a table of fields; the runs by their position on the axes."""

    name: str
    axes: dict[str, dict[str, list[Any]]]
    runs: dict[tuple[int, ...], RunDirectory]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis[dim]) for dim, axis in self.axes.items())

    def renamed(self, taken: Collection[str]) -> "_Grid":
        """The grid with fields that are also the name of a variable, such as `loss`, called `loss_setting`."""

        def name(field: str) -> str:
            return f"{field}_setting" if field in taken else field

        axes = {name(d): {name(field): values for field, values in axis.items()} for d, axis in self.axes.items()}
        return self._replace(axes=axes)


def _sweep_grid(directory: Path) -> _Grid:
    content = read_sweep(directory)
    try:
        axes = [_with_options(axis) for axis in content["axes"]]
        grid = _Grid(content["name"], {next(iter(axis)): axis for axis in axes}, {})
        places = np.ndindex(grid.shape)  # in the order of the runs: the last axis varies fastest
        runs = (RunDirectory(directory / "runs" / run["digest"]) for run in content["runs"])
        return grid._replace(runs=dict(zip(places, runs, strict=True)))
    except (KeyError, TypeError, ValueError, StopIteration):
        raise ValueError(f"{directory / 'sweep.json'} must hold the axes of its runs") from None


def _with_options(axis: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    # Arguments of own tasks and cells, tables in a specification, are coordinates of their own.
    fields: dict[str, list[Any]] = {}
    for name, values in axis.items():
        if name not in OPTIONS:
            fields[name] = values
            continue
        each = [options_of(name, json.loads(value) if isinstance(value, str) else value) for value in values]
        if not any(each):
            fields[name] = values  # the one value without arguments
        fields |= {key: [labels.get(key, ABSENT) for labels in each] for key in {k: None for one in each for k in one}}
    return fields


def _folder_grid(directory: Path) -> _Grid:
    runs = find_runs([directory])
    labels = labels_of_all([run.config for run in runs])
    differing = axes_of([run.config for run in runs])
    if math.prod(len(values) for values in differing.values()) <= _ROOM * len(runs):
        axes = {field: {field: values} for field, values in differing.items()}
        places = [
            tuple(values.index(label.get(field, ABSENT)) for field, values in differing.items()) for label in labels
        ]
    else:
        # If fields vary together, most cells of the grid would be empty.
        names = [str(run.path.relative_to(directory)) for run in runs]
        axes = {"run": {"run": names, **{field: [label.get(field, ABSENT) for label in labels] for field in differing}}}
        places = [(number,) for number in range(len(runs))]
    found: dict[tuple[int, ...], RunDirectory] = {}
    for place, run in zip(places, runs, strict=True):
        if (other := found.setdefault(place, run)) is not run:
            raise ValueError(f"runs must differ in their configuration, got {str(other.path)!r} and {str(run.path)!r}")
    return _Grid(directory.resolve().name, axes, found)


def _labels(values: list[Any]) -> np.ndarray:
    labels = np.asarray(values)
    return labels if labels.dtype.kind in "iuf" else np.asarray([str(value) for value in values])


def _stacked(runs: Mapping[tuple[int, ...], "xarray.Dataset"], shape: tuple[int, ...], dims: list[str]) -> _Variables:
    # Each variable of all runs in one array, NaN where a run has no value, and the labels along its dimensions.
    labels: dict[str, list[Any]] = {}
    for dataset in runs.values():
        for dim in map(str, dataset.dims):
            labels[dim] = list(dict.fromkeys([*labels.get(dim, []), *dataset[dim].values.tolist()]))
    for dim in labels.keys() - {"array", "stage"}:
        labels[dim].sort()  # numbers; names stay in the order of their first appearance
    variables: _Variables = {dim: (dim, found) for dim, found in labels.items()}
    for place, dataset in runs.items():
        filled = dataset.reindex({dim: labels[str(dim)] for dim in dataset.dims})
        for name, variable in filled.variables.items():
            if name in labels:
                continue
            if name not in variables:
                dtypes = [other.variables[name].dtype for other in runs.values() if name in other.variables]
                full = np.full(shape + variable.shape, np.nan, np.result_type(np.float16, *dtypes))
                variables[str(name)] = ((*dims, *map(str, variable.dims)), full)
            variables[str(name)][1][place] = variable
    return variables


def _described(dataset: "xarray.Dataset") -> "xarray.Dataset":
    for name, attributes in ATTRIBUTES.items():
        if name in dataset.variables:
            dataset[name].attrs = attributes
    return dataset


def _check_replaceable(out: Path):
    # A crash between the two renames of `_save` leaves the old store under its temporary name.
    if not out.exists() and _old(out).is_dir():
        _old(out).rename(out)
    try:
        ours = _MARK in json.loads((out / ".zattrs").read_text("utf-8"))
    except (OSError, ValueError):
        ours = False
    if out.exists() and not ours:
        raise ValueError(f"out must be new or a store of flossing collect, got {str(out)!r}, which is something else")


def _save(dataset: "xarray.Dataset", out: Path):
    # Every version of Zarr reads format 2, and it supports fixed-length strings.
    new = out.with_name(f".{out.name}.new")
    for left in (new, _old(out)):
        shutil.rmtree(left, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_zarr(new, mode="w", zarr_format=2, consolidated=True)
    if out.exists():
        out.rename(_old(out))
    new.rename(out)
    shutil.rmtree(_old(out), ignore_errors=True)


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _require_xarray() -> ModuleType:
    try:
        import xarray
        import zarr  # noqa: F401
    except ImportError:
        raise ValueError("flossing collect needs the extra [lab]: pip install 'flossing[lab]'") from None
    return xarray
