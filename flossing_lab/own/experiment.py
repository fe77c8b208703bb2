"""The own experiment: a cell with a readout learns a task."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure

from flossing import Spectrum, cells, losses, lyapunov_spectrum, schedules
from flossing._arguments import check_integer
from flossing._tangent.coordinates import Coordinates
from flossing._training.epoch import Flossing
from flossing._types import RandomKey
from flossing_lab.own.config import OwnConfig
from flossing_lab.runs import named
from flossing_lab.runs.catalogue import CELLS
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Experiment, Measurements
from flossing_lab.runs.figure import draw_run
from flossing_lab.runs.reach import Reach, blocks_below, sequence_of
from flossing_lab.runs.trials import Batch, Inputs, Loss


def check(config: OwnConfig, *, here: bool = True):
    """Raise ValueError for a task or a cell that cannot be loaded, lacks a member of its protocol, or does not fit."""
    task = make_task(config)
    model = draw_model(config, task)
    steps = named.check_fit(task, model, config.task.task, config.network.cell)
    if config.flossing.window is not None:
        check_integer("window", config.flossing.window, least=2, most=steps, note=f" (the task has {steps} steps)")
    size = _coordinates_of(model)
    if config.k > size:
        raise ValueError(f"k must be at most the {size} coordinates of the state, got k={config.k}")


def state_size(config: OwnConfig) -> int:
    """The number of coordinates of the state, which may be more than one for each unit."""
    return _coordinates_of(draw_model(config))


def _coordinates_of(model: cells.Network) -> int:
    return Coordinates(model.zeros()).size


def make_task(config: OwnConfig) -> Any:
    """The task that `config` names."""
    return named.make_task(config.task.task, config.task_arguments, config.safety.folder)


def draw_model(config: OwnConfig, task: Any = None) -> cells.Network:
    """The network before training."""
    return named.make_network(
        config.network.cell,
        config.cell_arguments,
        config.safety.folder,
        units=config.network.units,
        task=make_task(config) if task is None else task,
        key=jax.random.key(config.seeds.seed_network),
        known=CELLS,
    )


def build(config: OwnConfig, step_scale: float = 1.0) -> Experiment:
    """Draw the network and set up the experiment, its learning rates times `step_scale`."""
    task, model, settings = make_task(config), draw_model(config), config.flossing
    data_key = jax.random.key(config.seeds.seed_data)
    flossing = Flossing(
        model,
        Inputs(task),
        key=jax.random.key(config.seeds.seed_basis),
        k=config.k,
        window=settings.window,
        interval=settings.interval,
        target=settings.target,
        loss=None if settings.loss == "default" else losses.exponents,
        optimiser=optax.adam(settings.flossing_rate * step_scale),
        clip=settings.flossing_clip,
    )
    is_adaptive = settings.condition == "adaptive"
    return Experiment(
        model,
        Batch(task, config.training.batch),
        optax.chain(
            optax.clip_by_global_norm(config.training.clip), optax.adam(config.training.learning_rate * step_scale)
        ),
        flossing,
        make_schedule(config),
        data_key,
        Loss(task),
        shown={"loss": ".3f", "accuracy": ".3f"},
        probe=Reach(task, config.seeds.seed_data, flossing.window) if is_adaptive else None,
        probe_every=settings.every if is_adaptive else 0,
    )


def make_schedule(config: OwnConfig) -> schedules.Schedule:
    """The flossing schedule of this configuration."""
    settings = config.flossing
    if settings.condition == "none":
        return schedules.never()
    if settings.condition == "before":
        return schedules.preflossing(settings.preflossing)
    if settings.condition in ("during", "before_and_during"):
        # After every EVERY epochs, so that training has the last word.
        start = settings.every + 1
        later = schedules.interflossing(settings.interflossing, every=settings.every, blocks=None, start=start)
        first = schedules.preflossing(settings.preflossing)
        return later if settings.condition == "during" else schedules.sum_schedules(first, later)
    is_lost = blocks_below(settings.threshold, settings.interflossing)
    return schedules.rule(is_lost, every=settings.every, preflossing=settings.preflossing)


def longest_lag(config: OwnConfig) -> int | None:
    """The longest lag of the task, in steps; None if the task does not name one."""
    return getattr(make_task(config), "longest_lag", None)


def driven_system(model: cells.Network, config: OwnConfig, trials: int = 1) -> dict[str, Any]:
    """The arguments that describe the network, along trials of the task, one after another."""
    task = make_task(config)
    sequences = [sequence_of(task, config.seeds.seed_data + number) for number in range(trials)]
    return {"model": model, "inputs": jnp.concatenate(sequences)}


def measure_spectrum(model: cells.Network, config: OwnConfig, k: int | None = None) -> Spectrum:
    """The first `k` exponents over a whole sequence of the task."""
    inputs = sequence_of(make_task(config), config.seeds.seed_data)
    return _measure(model, inputs, jax.random.key(config.seeds.seed_basis), k or config.k)


def measure(model: cells.Network, config: OwnConfig) -> Measurements:
    """The spectrum over a whole sequence."""
    return Measurements({"spectra": np.asarray(measure_spectrum(model, config).exponents)})


def draw(run: RunDirectory) -> Figure:
    """The plot of a run."""
    return draw_run(run)


@eqx.filter_jit
def _measure(model: cells.Network, inputs: Array, key: RandomKey, k: int) -> Spectrum:
    return lyapunov_spectrum(model, inputs, k=k, key=key)
