"""One run: a configuration in, a run directory out."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flossing._train import Progress, array_name, measure_exponents, start_training, train
from flossing.experiment import reference
from flossing.experiment.config import Config
from flossing.experiment.console import Status
from flossing.experiment.directory import RunDirectory
from flossing.experiment.figures import draw_run, save_figure

OnProgress = Callable[[Status], Any]


def run(
    config: Config, out: Path | str, *, overwrite: bool = False, on_progress: OnProgress = lambda status: None
) -> RunDirectory:
    """Run the reference experiment that `config` describes and write it to the directory `out`.

    Metrics and parameters are written after each chunk of epochs, so a run that is interrupted leaves a directory
    that can be read; its status then says `interrupted` or `failed`.

    **Raises:** `ValueError` if `out` holds something already, or a value of `config` is not legal;
    `FloatingPointError` if training diverges, after the status has been written.
    """
    configure_dtype(config.dtype)
    experiment = reference.build(config)
    directory = RunDirectory(out)
    directory.create(overwrite=overwrite)
    info: dict[str, Any] = {"status": "running", "config": config.model_dump(), **_circumstances()}
    info["spectra"] = {"start": _exponents(experiment.model, config)}
    directory.write_info(info)
    start = time.monotonic()
    try:
        _train(experiment, config, directory, info, on_progress)
        info["status"] = "finished"
    except BaseException as error:
        info["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        info["error"] = str(error) or type(error).__name__
        raise
    finally:
        info["seconds"] = round(time.monotonic() - start, 3)
        directory.write_info(info)
        if directory.metrics("training"):
            save_figure(draw_run(directory), directory.path / "run.png")
    return directory


def configure_dtype(dtype: str):
    """Switch JAX to 64 bits if asked for float64. The library never does this; a program of its own may."""
    jax.config.update("jax_enable_x64", dtype == "float64")


def load_model(directory: RunDirectory) -> reference.ReferenceModel:
    """The model of a run, with the parameters of its last chunk."""
    model, parameters = reference.build(directory.config).model, directory.parameters

    def stored(path, leaf):
        array = parameters.get(array_name(path))
        if array is None or array.shape != leaf.shape:
            found = "nothing" if array is None else f"shape {array.shape}"
            raise ValueError(f"parameters.npz must hold {array_name(path)} of shape {leaf.shape}, got {found}")
        return jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(stored, model)


def _train(
    experiment: reference.Experiment, config: Config, directory: RunDirectory, info: dict, on_progress: OnProgress
):
    epochs, schedule = config.training.epochs, experiment.schedule
    state = start_training(experiment.model, experiment.optimiser, experiment.flossing)
    status = Status(
        epoch=0,
        epochs=epochs,
        flossing_epoch=0,
        flossing_epochs=sum(schedule(epoch, {}) for epoch in range(1, epochs + 1)),
        exponents=np.asarray(measure_exponents(experiment.flossing, experiment.model, experiment.key)),
    )
    on_progress(status)
    chunks = train(
        state,
        loss=reference.task_loss,
        batch=experiment.batch,
        optimiser=experiment.optimiser,
        key=experiment.key,
        epochs=epochs,
        flossing=experiment.flossing,
        schedule=schedule,
        probe=reference.singular_values,
        probe_every=config.training.singular_values_every,
    )
    for progress in chunks:
        _write_chunk(directory, progress)
        _follow(status, progress)
        on_progress(status)
        state = progress.state
        if progress.kind == "flossing" and state.epoch == 0 and state.due == 0:
            info["spectra"]["after_preflossing"] = _exponents(state.model, config)
            directory.write_info(info)
    info["spectra"]["end"] = _exponents(state.model, config)


def _write_chunk(directory: RunDirectory, progress: Progress):
    state, first = progress.state, progress.epochs[0]
    # The exponents measured after the chunk, one row a chunk: networks that are not flossed have no others.
    measured = {"measured_epoch": [state.epoch], "measured_exponents": [state.measures["exponents"]]}
    counts = {"epoch": np.asarray(progress.epochs)}
    if progress.kind == "flossing":
        counts["training_epoch"] = np.full(len(progress.epochs), state.epoch)
    directory.write_metrics(progress.kind, first, counts | progress.metrics | measured)
    directory.write_parameters(parameters_of(state.model))


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a model by name."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {array_name(path): np.asarray(leaf) for path, leaf in leaves}


def _follow(status: Status, progress: Progress):
    status.epoch, status.flossing_epoch = progress.state.epoch, progress.state.flossing_epoch
    status.exponents = progress.state.measures["exponents"]
    if progress.kind == "flossing":
        status.flossing_loss = float(progress.metrics["flossing_loss"][-1])
    else:
        # One batch is a noisy look; the mean over the chunk is what a person wants to read.
        status.loss = float(progress.metrics["loss"].mean())
        status.accuracy = float(progress.metrics["accuracy"].mean())


def _exponents(model: reference.ReferenceModel, config: Config) -> np.ndarray:
    return np.asarray(reference.measure_spectrum(model, config).exponents)


def _circumstances() -> dict[str, Any]:
    packages = ("flossing", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": str(jax.devices()[0]),
        "platform": platform.platform(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
