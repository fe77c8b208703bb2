"""Runs as labelled arrays, against the numbers in the run directories."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import xarray as xr

from flossing_lab.reference.config import Config
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.run import run
from flossing_lab.sweeps.collection import write_sweep
from flossing_lab.sweeps.dataset import collect, run_dataset

SMALL = Config().with_values(
    units=10, k=4, batch=3, steps=20, delay=2, window=12, flossing_steps=20, preflossing=5, interflossing=4,
    every=6, blocks=1, epochs=12, chunk=4, singular_values_every=6, snapshots_every=0,
)  # fmt: skip
AXES = [{"epochs": [12, 14, 16], "k": [4, 3, 4]}, {"condition": ["none", "before_and_during"]}]
PLACES = {
    (row, column): SMALL.with_values(epochs=AXES[0]["epochs"][row], k=AXES[0]["k"][row], condition=condition)
    for row in range(3)
    for column, condition in enumerate(AXES[1]["condition"])
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of six runs: two finished, one interrupted, three not started."""
    out, directories = tmp_path_factory.mktemp("sweep") / "mine", {}
    for place, config in PLACES.items():
        directories[place] = RunDirectory(out / "runs" / config.digest)
    with jax.numpy_dtype_promotion("standard"):
        real = run(PLACES[0, 1], directories[0, 1].path)
    jax.config.update("jax_enable_x64", True)  # which a run in float32 has switched off
    # A longer one with fewer exponents, without flossing and all that was written in the course of it.
    rows = {name: np.resize(rows, (14, *rows.shape[1:])) for name, rows in real.metrics("training").items()}
    rows |= {"epoch": np.arange(1, 15), "measured_epoch": [14], "measured_exponents": np.float32([[0.5, -0.5, -1]])}
    (directories[1, 0].path / "metrics").mkdir(parents=True)
    directories[1, 0].write_metrics("training", 1, rows)
    spectra = {"start": [-0.5, -1, "-inf"], "end": [0, -0.5, None]}
    directories[1, 0].write_info(real.info | {"config": PLACES[1, 0].model_dump(), "spectra": spectra})
    shutil.copytree(directories[0, 1].path, directories[1, 1].path)
    directories[1, 1].write_info(
        directories[0, 1].info | {"status": "interrupted", "config": PLACES[1, 1].model_dump()}
    )
    runs = [
        {
            "digest": config.digest,
            "values": {
                "epochs": config.training.epochs,
                "k": config.k,
                "condition": config.flossing.condition,
            },
        }
        for config in PLACES.values()
    ]
    write_sweep(out, {"name": "mine", "base": {}, "axes": AXES, "runs": runs})
    return out, directories


def test_a_run_with_labels(sweep):
    directory = sweep[1][0, 1]
    dataset, info = run_dataset(directory), directory.info
    training, flossing = directory.metrics("training"), directory.metrics("flossing")
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(dataset[name].sel(epoch=range(1, 13)), training[name])
    for array in ("network.J", "network.b", "x0"):
        np.testing.assert_array_equal(dataset.gradient_norm.sel(array=array), training[f"gradient_norm/{array}"])
    assert dataset.probe_epoch.values.tolist() == [1, 6, 12]
    recorded = [0, 5, 11]
    np.testing.assert_array_equal(dataset.singular_values_J, training["singular_values/network.J"][recorded])
    np.testing.assert_array_equal(dataset.singular_values_x0[:, :3], training["singular_values/x0"][recorded])
    assert dataset.singular_values_x0[:, 3:].isnull().all()
    assert dataset.singular_index.values.tolist() == list(range(1, 11))
    np.testing.assert_array_equal(dataset.effective_rank_J, training["effective_rank/network.J"][recorded])
    for name in ("flossing_loss", "flossing_gradient_norm"):
        np.testing.assert_array_equal(dataset[name].sel(flossing_epoch=range(1, 10)), flossing[name])
    np.testing.assert_array_equal(dataset.flossing_exponents.sel(index=[1, 2, 3, 4]), flossing["exponents"])
    np.testing.assert_array_equal(dataset.training_epoch, [0] * 5 + [5] * 4)
    assert dataset.stage.values.tolist() == ["start", "after_preflossing", "end"]
    for stage in dataset.stage.values:
        np.testing.assert_array_equal(dataset.spectrum.sel(stage=stage), np.float32(info["spectra"][stage]))
        long_term = dataset.long_term_log_singular_values.sel(stage=stage)
        np.testing.assert_array_equal(long_term, directory.horizons[stage])
    assert dataset.attrs["status"] == "finished"
    assert dataset.attrs["seconds"] == info["seconds"]
    assert Config.model_validate(json.loads(dataset.attrs["configuration"])) == PLACES[0, 1]
    assert json.loads(dataset.attrs["versions"]) == info["versions"]
    assert dataset.spectrum.attrs["units"] == "per step, natural logarithm"
    assert all(dataset[name].attrs["long_name"] for name in dataset.data_vars)
    assert all(variable.dtype == np.float32 for variable in dataset.data_vars.values())


def test_measurements_are_in_order_of_time(sweep):
    # Chunks of at most 4: flossing 4 + 1, training 4 + 1, flossing 4, training 4 + 3.
    directory = sweep[1][0, 1]
    dataset, training = run_dataset(directory), directory.metrics("training")
    assert dataset.measured_epoch.values.tolist() == [0, 0, 4, 5, 5, 9, 12]
    assert dataset.measured_flossing_epoch.values.tolist() == [4, 5, 5, 5, 9, 9, 9]
    np.testing.assert_array_equal(dataset.measured_exponents[[2, 3, 5, 6]], training["measured_exponents"])
    np.testing.assert_array_equal(
        dataset.measured_exponents[[0, 1, 4]], directory.metrics("flossing")["measured_exponents"]
    )


def test_a_run_that_has_just_begun(sweep, tmp_path):
    directory = RunDirectory(tmp_path)
    info = {"status": "running", "config": PLACES[0, 1].model_dump(), "versions": {}, "spectra": {}}
    directory.write_info(info)
    assert dict(run_dataset(directory).data_vars) == {}
    (tmp_path / "metrics").mkdir()
    first = sorted((sweep[1][0, 1].path / "metrics").glob("flossing-*"))[0]
    shutil.copy(first, tmp_path / "metrics")
    directory.write_info(info | {"spectra": {"start": ["-inf", None, 0.5, 1]}})
    dataset = run_dataset(directory)
    assert dict(dataset.sizes) == {"index": 4, "singular_index": 10, "stage": 3, "flossing_epoch": 4, "measurement": 1}
    np.testing.assert_array_equal(dataset.spectrum.sel(stage="start"), np.float32([-np.inf, np.nan, 0.5, 1]))
    assert dataset.spectrum.sel(stage="end").isnull().all()


def test_a_sweep_becomes_one_dataset(sweep, tmp_path):
    collected = collect(sweep[0], tmp_path / "all.zarr")
    dataset = xr.open_zarr(tmp_path / "all.zarr").load()
    xr.testing.assert_identical(dataset, collected)
    assert dataset.loss.dims == ("epochs", "condition", "epoch")
    assert dataset.loss.shape == (3, 2, 14)
    assert dataset.epochs.values.tolist() == [12, 14, 16]
    assert dataset.k.values.tolist() == [4, 3, 4]
    assert dataset.k.dims == ("epochs",)
    assert dataset.condition.values.tolist() == ["none", "before_and_during"]
    assert dataset.status.values.tolist() == [["missing", "finished"], ["finished", "interrupted"], ["missing"] * 2]
    for place in ((0, 1), (1, 0)):
        expected = run_dataset(sweep[1][place])
        found = dataset.isel(epochs=place[0], condition=place[1])
        assert found.digest == PLACES[place].digest
        assert found.seconds == expected.attrs["seconds"]
        for name in {*expected.data_vars, "measured_epoch", "training_epoch"} & {*expected.variables}:
            own = {dim: expected[dim] for dim in expected[name].dims}
            np.testing.assert_array_equal(found[name].sel(own), expected[name])
            # All that is not of this run is NaN.
            assert found[name].count() == expected[name].count()
    for place in ((0, 0), (1, 1), (2, 0), (2, 1)):
        found = dataset.isel(epochs=place[0], condition=place[1])
        assert all(found[name].isnull().all() for name in dataset.data_vars if name not in ("status", "seconds"))
    numbers = {name: variable.dtype for name, variable in dataset.data_vars.items() if "epoch" in variable.dims}
    assert numbers
    assert set(numbers.values()) == {np.dtype("float32")}
    assert dataset.attrs["name"] == "mine"
    common = json.loads(dataset.attrs["configuration"])
    assert common["delay"] == 2
    assert common["seed"] == 1
    assert not {"epochs", "k", "condition"} & common.keys()
    assert json.loads(dataset.attrs["versions"]) == [sweep[1][0, 1].info["versions"]]


def test_a_dataset_is_replaced_whole_or_not_at_all(sweep, tmp_path, monkeypatch):
    out = tmp_path / "all.zarr"
    collect(sweep[0], out)
    (out / "old").touch()
    collect(sweep[0], out)
    assert not (out / "old").exists()
    (out / "old").touch()

    def crash(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_zarr", crash)
    with pytest.raises(OSError, match="disk full"):
        collect(sweep[0], out)
    assert (out / "old").exists()
    out.rename(tmp_path / ".all.zarr.old")  # a crash in the middle of the exchange
    with pytest.raises(OSError, match="disk full"):
        collect(sweep[0], out)
    assert (out / "old").exists()
    monkeypatch.undo()
    collect(sweep[0], out)
    assert [path.name for path in tmp_path.iterdir()] == ["all.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder", "store"])
def test_what_is_not_ours_is_not_replaced(sweep, tmp_path, kind):
    out = tmp_path / "thesis"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "chapter.tex").write_text("mine")
    else:
        xr.Dataset({"mine": 1}).to_zarr(out, zarr_format=2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="out must be new or a store of flossing collect, got .*thesis"):
        collect(sweep[0], out)
    assert sorted(tmp_path.rglob("*")) == before


def fabricate(folder, *values):
    """Finished runs without numbers, one for each table of values."""
    for number, table in enumerate(values):
        directory = RunDirectory(folder / f"run{number}")
        directory.path.mkdir(parents=True)
        directory.write_info(
            {"status": "finished", "config": SMALL.with_values(**table).model_dump(), "versions": {}, "spectra": {}}
        )
    return folder


def test_a_folder_of_runs_has_the_axes_in_which_they_differ(tmp_path):
    tables = [{"delay": delay, "interval": interval} for delay in (3, 2) for interval in ("auto", 5)]
    dataset = collect(fabricate(tmp_path / "runs", *tables[:3]), tmp_path / "x.zarr")
    assert dataset.status.dims == ("delay", "interval")
    assert dataset.delay.values.tolist() == [3, 2]
    assert dataset.interval.values.tolist() == ["auto", "5"]
    assert dataset.status.values.tolist() == [["finished", "finished"], ["finished", "missing"]]
    assert dataset.attrs["name"] == "runs"


def test_fields_that_vary_together_make_no_grid(tmp_path):
    tables = [{"delay": n, "seed": n, "gain": n / 2} for n in range(1, 5)]
    dataset = collect(fabricate(tmp_path / "runs", *tables), tmp_path / "x.zarr")
    assert dataset.status.dims == ("run",)
    assert dataset.run.values.tolist() == ["run0", "run1", "run2", "run3"]
    assert dataset.delay.values.tolist() == [1, 2, 3, 4]
    assert dataset.gain.dims == ("run",)


def test_runs_that_do_not_differ_are_named(tmp_path):
    fabricate(tmp_path / "runs", {"delay": 2}, {"delay": 3}, {"delay": 2})
    with pytest.raises(ValueError, match="runs must differ in their configuration, got .*run0' and .*run2'"):
        collect(tmp_path / "runs", tmp_path / "x.zarr")
    with pytest.raises(ValueError, match="directory must hold a run"):
        collect(tmp_path / "nothing", tmp_path / "x.zarr")


@pytest.mark.parametrize("axes", [None, 3, [{}], [{"delay": [1, 2]}]])
def test_a_damaged_sweep_is_named(tmp_path, axes):
    write_sweep(tmp_path, {"name": "x", "axes": axes, "runs": [{"digest": "0" * 12, "values": {}}]})
    with pytest.raises(ValueError, match="sweep.json must hold the axes of its runs"):
        collect(tmp_path, tmp_path / "x.zarr")


def test_runs_of_two_precisions_keep_the_finer(tmp_path):
    fabricate(tmp_path / "runs", {"seed": 1}, {"seed": 2, "dtype": "float64"})
    for number in range(2):
        directory = RunDirectory(tmp_path / "runs" / f"run{number}")
        directory.write_info(directory.info | {"spectra": {"end": [1 / 3] * 4}})
    dataset = collect(tmp_path / "runs", tmp_path / "x.zarr").sel(stage="end")
    assert dataset.spectrum.sel(seed=2, dtype="float64")[0] == 1 / 3
    assert dataset.spectrum.sel(seed=1, dtype="float32")[0] == np.float32(1 / 3)


def test_one_run_is_a_dataset_without_axes(tmp_path):
    dataset = collect(fabricate(tmp_path / "runs", {}), tmp_path / "x.zarr")
    assert dataset.status.dims == ()
    assert dataset.status == "finished"


def test_the_extra_is_named_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"flossing collect needs the extra \[lab\]: pip install 'flossing\[lab\]'"):
        collect(tmp_path, tmp_path / "x.zarr")
