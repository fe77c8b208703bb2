"""The balance experiment: a network of noisy rectified units that learns to track signals, and balances itself."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from flossing._spectra.lyapunov import Spectrum, lyapunov_spectrum
from flossing._types import RandomKey
from flossing.cells import BalancedRNN
from flossing.tasks import OrnsteinUhlenbeck, Trial
from flossing_lab.balance import figures as balance_figures
from flossing_lab.balance.config import BalanceConfig, BalanceNetworkConfig
from flossing_lab.balance.figures import View
from flossing_lab.balance.measures import (
    eigenvalues,
    find_clusters,
    mean_couplings,
    outliers,
    require_clustering,
    tightness,
    weight_correlations,
)
from flossing_lab.runs.checkpoint import with_parameters
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Experiment, Measurements
from flossing_lab.runs.files import read_arrays
from flossing_lab.runs.film import MOST_FRAMES
from flossing_lab.runs.plotting import evenly_spaced
from flossing_lab.runs.process import check_fits, configure_dtype

RELAXATION = 100
"""Duration of the relaxation of the initial state, in time constants of the network."""

TRANSIENT = 100
"""Steps before the average of the spectrum begins."""


class BalanceModel(eqx.Module):
    """The model of a run: the network, and the initial state of all sequences (N,), which is relaxed, not trained."""

    network: BalancedRNN
    x0: Float[Array, " N"]


class DrivenBatch(NamedTuple):
    """`tracking`, signals and targets of B sequences, and the `noise` of each step (B, T, N)."""

    tracking: Trial
    noise: Float[Array, "B T N"]


class Batch(eqx.Module):
    """Draws a batch of sequences with their noise, `batch(key)`."""

    task: OrnsteinUhlenbeck = eqx.field(static=True)
    size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)

    def __call__(self, key: RandomKey) -> DrivenBatch:
        signals_key, noise_key = jax.random.split(key)
        tracking = jax.vmap(self.task)(jax.random.split(signals_key, self.size))
        return DrivenBatch(tracking, jax.random.normal(noise_key, (self.size, self.task.steps, self.units)))


class TrackingLoss(eqx.Module):
    """The squared error of the readouts plus a cost of activity, `cost` times the summed square of x.

    Both are summed over scored steps, and divided by the batch size, the number of signals, and *all* steps T. The
    bias and the initial state get no gradient, so that Adam leaves them as they are.
    """

    cost: float = eqx.field(static=True)

    def __call__(self, model: BalanceModel, batch: DrivenBatch):
        _, targets, mask = batch.tracking
        model = eqx.tree_at(lambda m: (m.network.b, m.x0), model, replace_fn=lax.stop_gradient)
        x = orbits(model, batch)
        scored = mask[..., None].astype(x.dtype)
        error = (jnp.square(jax.vmap(model.network.readout)(x) - targets) * scored).sum() / targets.size
        activity = (jnp.square(x) * scored).sum() / targets.size
        return error + self.cost * activity, {"squared_error": error}


def orbits(model: BalanceModel, batch: DrivenBatch) -> Float[Array, "B T N"]:
    """The states x along each sequence."""
    return jax.vmap(model.network.orbit, (0, 0, None))(batch.tracking.inputs, batch.noise, model.x0)


class Relax(eqx.Module):
    """Relaxes the initial state with the current weights, under a constant signal and without noise."""

    signal: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(self, model: BalanceModel) -> BalanceModel:
        signal = jnp.full(model.network.ws.shape[1], self.signal, model.x0.dtype)
        return BalanceModel(model.network, model.network.relax(model.x0, signal, self.steps))


def check(config: BalanceConfig, *, here: bool = True):
    """Raise ValueError if scikit-learn is needed but missing, or if the run needs more memory than this machine has."""
    if config.clusters > 1:
        require_clustering()
    units, batch, steps = config.network.units, config.training.batch, config.task.steps
    needs = {
        f"units={units}": 4 * units**2,
        f"batch={batch}, steps={steps}, units={units}": 4 * batch * steps * units,
        f"chunk={config.training.chunk}": 8 * config.training.chunk,
        f"spectrum_steps={config.measuring.spectrum_steps}, units={units}": 4 * config.measuring.spectrum_steps * units,
    }
    if here:
        check_fits(needs, config.dtype)


def build(config: BalanceConfig, step_scale: float = 1.0) -> Experiment:
    """Draw the network and set up the experiment that `config` describes, its learning rate times `step_scale`.

    Raises ValueError if the run needs more memory than this machine has, or if the network has no resting state.
    """
    check(config)
    model = draw_model(config)
    training = config.training
    return Experiment(
        model,
        _make_batch(config),
        optax.adam(training.learning_rate * step_scale, training.beta1, training.beta2),
        flossing=None,
        schedule=None,
        key=_streams(config).input,
        loss=TrackingLoss(training.activity_cost),
        shown={"loss": ".4f", "test_error": ".4f", "balance": ".2f"},
        renew=_make_relax(config),
        renew_every=training.relax_every,
        test=functools.partial(test_model, start=model, config=config),
        test_every=config.measuring.test_every,
    )


def make_task(config: BalanceConfig) -> OrnsteinUhlenbeck:
    """The task that `config` names."""
    task = config.task
    return OrnsteinUhlenbeck(
        signals=task.signals,
        steps=task.steps,
        dt=config.network.dt,
        tau=task.tau,
        amplitude=task.amplitude,
        mean=task.mean_signal,
        target_gain=-1 / config.network.mean_coupling,
        first_scored=task.first_scored,
    )


def draw_model(config: BalanceConfig) -> BalanceModel:
    """The network of `config` before training, in its relaxed state; ValueError if it has none."""
    network = config.network
    model = _draw(network, config.task.signals, _make_relax(config), _streams(config).network)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree_util.tree_leaves(model)):
        given = f"gain={network.gain}, mean_coupling={network.mean_coupling}, dt={network.dt}"
        raise ValueError(f"the initial state must stay finite as it relaxes, which it does not with {given}")
    return model


def test_model(model: BalanceModel, start: BalanceModel, config: BalanceConfig) -> dict[str, np.ndarray | float]:
    """The results of a test: the loss on fixed sequences, including the activity term, and measures of the weights.

    `start` is the model before training. `outliers` and `outliers_sd` are means and standard deviations over the final
    states of the test sequences.
    """
    model = _make_relax(config)(model)
    (error, metrics), x = _evaluate(TrackingLoss(config.training.activity_cost), model, test_batch(config))
    J = np.asarray(model.network.J)
    leftmost = outliers(eigenvalues(J, np.asarray(x)[:, -1]), config.task.signals)
    clusters = find_clusters(J, config.clusters)
    within, between = mean_couplings(J, clusters)
    return {
        "test_error": float(error),
        "test_squared_error": float(metrics["squared_error"]),
        "balance": tightness(J, np.asarray(start.network.J)),
        "coupling": float(J.mean()),
        "coupling_within": within,
        "coupling_between": between,
        "outliers": leftmost.mean(axis=0),
        "outliers_sd": leftmost.std(axis=0),
        "weight_correlations": weight_correlations(np.asarray(model.network.ws), np.asarray(model.network.wr)),
        "clusters": clusters,
    }


def test_batch(config: BalanceConfig) -> DrivenBatch:
    """The sequences of all tests of a run, with their noise."""
    return _draw_batch(_make_batch(config), _streams(config).test)


def state_size(config: BalanceConfig) -> int:
    """The number of coordinates of the state."""
    return config.network.units


def measure_spectrum(model: BalanceModel, config: BalanceConfig, k: int | None = None) -> Spectrum:
    """The first `k` exponents per step, by default all, along fresh signals and frozen noise."""
    keys, steps = _streams(config), TRANSIENT + config.measuring.spectrum_steps
    task = dataclasses.replace(make_task(config), steps=steps, first_scored=None)
    inputs = _draw_batch(Batch(task, 1, config.network.units), keys.spectrum)
    return _measure_spectrum(model, (inputs.tracking.inputs[0], inputs.noise[0]), keys.basis, k or config.k)


def measure(model: BalanceModel, config: BalanceConfig) -> Measurements:
    """The Lyapunov spectrum."""
    return Measurements({"spectra": np.asarray(measure_spectrum(model, config).exponents)})


def draw(run: RunDirectory) -> Figure:
    """The plot of a run: eight panels."""
    config = _config_of(run)
    start = draw_model(config)
    return balance_figures.draw_run(run, view(start, config), view(with_parameters(start, run.parameters), config))


def film(run: RunDirectory) -> Path:
    """Write the film of a run, which shows J sorted by final cluster and the eigenvalues; return its path.

    Raises ValueError if the run has no snapshots.
    """
    config, snapshots = _config_of(run), list(run.snapshots.items())
    if not snapshots:
        raise ValueError(f"run must hold snapshots for a film, got {str(run.path)!r}, which has none")
    configure_dtype(config.dtype)
    start = draw_model(config)
    chosen = [snapshots[index] for index in evenly_spaced(len(snapshots), MOST_FRAMES)]
    frames = {epoch: view(with_parameters(start, read_arrays(path)), config) for (epoch, _), path in chosen}
    return balance_figures.write_film(run, frames)


def view(model: BalanceModel, config: BalanceConfig) -> View:
    """The data for a plot of a network: its weights, and the first test sequence."""
    model = _make_relax(config)(model)
    batch = jax.tree_util.tree_map(lambda leaf: leaf[:1], test_batch(config))
    x = _orbits(model, batch)[0]
    network = jax.tree_util.tree_map(np.asarray, model.network)
    outputs = np.maximum(x, 0) @ network.wr.T / len(network.J)
    return View(
        network.J,
        network.ws,
        network.wr,
        time=config.network.dt * np.arange(1, config.task.steps + 1),
        targets=np.asarray(batch.tracking.targets[0]),
        outputs=outputs,
        x=np.asarray(x),
        eigenvalues=eigenvalues(network.J, np.asarray(x[-1])),
    )


def _config_of(run: RunDirectory) -> BalanceConfig:
    config = run.config
    assert isinstance(config, BalanceConfig)
    return config


class _Streams(NamedTuple):
    network: RandomKey
    input: RandomKey
    basis: RandomKey
    test: RandomKey
    spectrum: RandomKey


def _streams(config: BalanceConfig) -> _Streams:
    # Fold in the number of each stream, so that equal seeds do not give equal numbers.
    seeds = config.seeds
    order = (seeds.seed_network, seeds.seed_input, seeds.seed_basis, seeds.seed_input, seeds.seed_input)
    return _Streams(*(jax.random.fold_in(jax.random.key(seed), number) for number, seed in enumerate(order)))


def _make_batch(config: BalanceConfig) -> Batch:
    return Batch(make_task(config), config.training.batch, config.network.units)


def _make_relax(config: BalanceConfig) -> Relax:
    return Relax(config.task.mean_signal, round(RELAXATION / config.network.dt))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(config: BalanceNetworkConfig, signals: int, relax: Relax, key: RandomKey) -> BalanceModel:
    network = BalancedRNN(inputs=signals, outputs=signals, key=key, **config.model_dump())
    return relax(BalanceModel(network, network.zeros()))


@eqx.filter_jit
def _draw_batch(batch: Batch, key: RandomKey) -> DrivenBatch:
    return batch(key)


_orbits = eqx.filter_jit(orbits)


@eqx.filter_jit
def _evaluate(loss: TrackingLoss, model: BalanceModel, batch: DrivenBatch):
    return loss(model, batch), orbits(model, batch)


@eqx.filter_jit
def _measure_spectrum(model: BalanceModel, inputs: tuple[Array, Array], key: RandomKey, k: int) -> Spectrum:
    return lyapunov_spectrum(model.network, inputs, state=model.x0, k=k, key=key, transient=TRANSIENT)
