"""The reference experiment: a vanilla RNN and its trained initial states, learning a binary task."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from flossing import losses, schedules, tasks
from flossing._runtime.epochs import compiler_options
from flossing._spectra.jacobian import long_term_jacobian
from flossing._spectra.lyapunov import Spectrum, lyapunov_spectrum
from flossing._spectra.statistics import effective_rank
from flossing._term import FlossingTerm
from flossing._training.epoch import Flossing
from flossing._training.train import clip_by_array_norm
from flossing._types import RandomKey
from flossing.schedules import Schedule
from flossing_lab.reference.config import Config, NetworkConfig, StoppingConfig, TrainingConfig
from flossing_lab.reference.figures import draw_run
from flossing_lab.reference.network import ReferenceNetwork, draw_network
from flossing_lab.reference.task import FlossingInputs, make_task
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Experiment, Measurements
from flossing_lab.runs.process import check_fits
from flossing_lab.runs.trials import Batch

RELAXATION = 100
"""Number of input-free steps that relax the initial states."""

RECENT = 100
"""Number of epochs in the mean accuracy that decides early stopping."""

HORIZONS = 16
"""Number of horizons at which the long-term Jacobian is measured, geometrically spaced."""


class ReferenceModel(eqx.Module):
    """The trained model: the network, and an initial x for each sequence of the batch (B, N)."""

    network: ReferenceNetwork
    x0: Float[Array, "B N"]

    def logits(self, inputs: Float[Array, "B T S"]) -> Float[Array, "B T"]:
        """The readout along each sequence of the batch, each from its own initial state."""
        return jax.vmap(self.network.outputs)(inputs, self.x0)[..., 0]


def task_loss(model: ReferenceModel, batch: tasks.Trial):
    """Mean binary cross-entropy over batch and scored steps, and the accuracy of `logits >= 0` over the same."""
    logits = model.logits(batch.inputs)
    scored = batch.mask.astype(logits.dtype)
    loss = optax.sigmoid_binary_cross_entropy(logits, batch.targets)
    correct = ((logits >= 0) == (batch.targets > 0.5)).astype(logits.dtype)
    return (loss * scored).sum() / scored.sum(), {"accuracy": (correct * scored).sum() / scored.sum()}


def step(model: ReferenceModel, state: Float[Array, " N"], input: Float[Array, " S"]) -> Float[Array, " N"]:
    """One step of h = tanh(x), the state in which the reference measures exponents."""
    return model.network(input, state)


def first_state(model: ReferenceModel) -> Float[Array, " N"]:
    """Where the flossing window starts: the first of the trained initial states."""
    return jnp.tanh(model.x0[0])


def flossed_leaves(model: ReferenceModel):
    """The parameters that flossing trains: input weights, recurrent weights, bias."""
    return model.network.ws, model.network.J, model.network.b


def singular_values(model: ReferenceModel, gradient: ReferenceModel) -> dict[str, Array]:
    """Singular values of the raw gradients dL/dJ and dL/dx0, and the effective rank of dL/dJ."""
    del model
    values = jnp.linalg.svdvals(gradient.network.J)
    return {
        "singular_values/network.J": values,
        "singular_values/x0": jnp.linalg.svdvals(gradient.x0),
        "effective_rank/network.J": effective_rank(values),
    }


def check(config: Config, *, here: bool = True):
    """Raise ValueError if the delay leaves no scored step, or if the run needs more memory than this machine has."""
    make_task(config)
    if here:
        check_memory(config)


def build(config: Config, step_scale: float = 1.0) -> Experiment:
    """Draw the network and set up the experiment that `config` describes, its learning rates times `step_scale`.

    Raises ValueError if the delay leaves no scored step, or if the run needs more memory than this machine has.
    """
    check_memory(config)
    _, _, input_key, basis_key = _streams(config)
    task, model = make_task(config), draw_model(config)
    training, settings, plan = config.training, config.flossing, config.plan
    betas = (training.beta1, training.beta2)
    flossing = Flossing(
        model,
        FlossingInputs(max(settings.flossing_steps, plan.window), task.channels, config.task.amplitude),
        state=first_state,
        key=basis_key,
        k=plan.k,
        window=plan.window,
        transient=settings.transient,
        interval=settings.interval,
        tolerance=settings.tolerance,
        target=settings.target,
        loss=losses.exponents,
        step=step,
        where=flossed_leaves,
        optimiser=optax.adam(plan.flossing_rate * step_scale, *betas),
        clip=settings.flossing_clip,
    )
    return Experiment(
        model,
        Batch(task, training.batch),
        _clipped_adam(training.clip, training.learning_rate * step_scale, *betas, *_falling(training)),
        flossing,
        make_schedule(config),
        input_key,
        task_loss,
        shown={"loss": ".3f", "accuracy": ".3f"},
        term=FlossingTerm(config.term.term_weight, config.term.term_every) if config.term.term_weight else None,
        probe=singular_values,
        probe_every=training.singular_values_every,
        stop=make_stop(config.stopping),
    )


def draw_model(config: Config) -> ReferenceModel:
    """The network of `config` before training, and its relaxed initial states."""
    network_key, initial_key, _, _ = _streams(config)
    return _jitted_draw()(config.network, make_task(config).channels, config.training.batch, network_key, initial_key)


@functools.cache
def _jitted_draw() -> Any:
    # One compilation instead of some fifty small ones; quicker ones draw the same digits here.
    return jax.jit(_draw, static_argnums=(0, 1, 2), compiler_options=compiler_options(quicker=True))


def _draw(config: NetworkConfig, channels: int, batch: int, network_key: RandomKey, initial_key: RandomKey):
    network = draw_network(config, channels, 1, network_key)
    x0 = jax.random.normal(initial_key, (batch, config.units))
    return ReferenceModel(network, jax.vmap(lambda x: network.relax(x, RELAXATION))(x0))


def _clipped_adam(limit: float, learning_rate: float, beta1: float, beta2: float, begin: int = 0, decay: int = 0):
    # A schedule stores an update count in the optimiser's state. Without one, the state is that of the first version.
    rate = optax.linear_schedule(learning_rate, 0.0, decay, transition_begin=begin) if decay else learning_rate
    return optax.chain(clip_by_array_norm(limit), optax.adam(rate, beta1, beta2))


def _falling(training: TrainingConfig) -> tuple[int, ...]:
    # The number of updates before the learning rate begins to fall, and the number over which it falls; or nothing.
    return (training.epochs - training.decay, training.decay) if training.decay else ()


def check_memory(config: Config):
    """Raise ValueError, naming the largest, if the arrays of a run exceed this machine's memory."""
    units, batch, k = config.network.units, config.training.batch, config.k
    steps, window, chunk = config.task.steps, config.window, config.training.chunk
    # Weights, gradient and four moments; states and their cotangents; tangents likewise; the records of a chunk.
    needs = {
        f"units={units}": 8 * units**2,
        f"batch={batch}, steps={steps}, units={units}": 4 * batch * steps * units,
        f"window={window}, units={units}, k={k}": 4 * window * units * k,
        f"chunk={chunk}, units={units}": 2 * chunk * (units + k),
        f"flossing_steps={config.flossing.flossing_steps}": 4 * config.flossing.flossing_steps,
    }
    check_fits(needs, config.dtype)


def make_schedule(config: Config) -> Schedule:
    """The flossing schedule of this configuration."""
    settings, plan = config.flossing, config.plan
    if settings.condition == "adaptive":
        return schedules.adaptive(
            distant="gradient_norm/x0",
            local="gradient_norm/network.J",
            threshold=plan.threshold,
            preflossing=plan.preflossing,
            epochs=plan.interflossing,
            every=plan.every,
        )
    before = plan.preflossing if "before" in settings.condition else 0
    during = plan.interflossing if "during" in settings.condition else 0
    # As in the released code, no block precedes the first epoch.
    start, blocks = max(plan.every, 2), settings.blocks
    return schedules.sum_schedules(
        schedules.preflossing(before), schedules.interflossing(during, every=plan.every, blocks=blocks, start=start)
    )


def make_stop(stopping: StoppingConfig) -> Callable[[Mapping[str, np.ndarray]], str | None] | None:
    """A function of the metrics so far that returns why to stop early, or None; None if training never stops early."""
    stop_at, after, below = stopping.stop_at, stopping.give_up_after, stopping.give_up_below
    if stop_at is None and after is None:
        return None

    def stop(metrics: Mapping[str, np.ndarray]) -> str | None:
        epoch = int(metrics["epoch"][-1])
        if epoch < RECENT:
            return None
        means = np.convolve(metrics["accuracy"], np.full(RECENT, 1 / RECENT), mode="valid")
        if stop_at is not None and means[-1] >= stop_at:
            return f"accuracy {means[-1]:.4f} has reached stop_at={stop_at}"
        # A block of flossing can set back a network that had learned, so its best accuracy counts.
        if after is not None and epoch >= after and means.max() < below:
            return f"accuracy has been {means.max():.4f} at most, below give_up_below={below}"
        return None

    return stop


def longest_lag(config: Config) -> int:
    """The longest lag of the task, in steps."""
    return config.longest_lag


def driven_system(model: ReferenceModel, config: Config, trials: int = 1) -> dict[str, Any]:
    """The arguments that describe the network, along sequences of the task, one after another."""
    _, _, input_key, _ = _streams(config)
    inputs = FlossingInputs(trials * config.task.steps, make_task(config).channels, config.task.amplitude)(input_key)
    return {"model": model, "inputs": inputs, "state": first_state(model), "step": step}


def state_size(config: Config) -> int:
    """The number of coordinates of the state."""
    return config.network.units


def measure_spectrum(model: ReferenceModel, config: Config, k: int | None = None) -> Spectrum:
    """The first `k` exponents over a whole sequence of the task, after a transient of 10 steps plus a tenth of it."""
    _, _, input_key, basis_key = _streams(config)
    inputs = FlossingInputs(config.task.steps, make_task(config).channels, config.task.amplitude)(input_key)
    return _measure(model, inputs, basis_key, k or config.k)


def measure_horizons(model: ReferenceModel, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Horizons up to a whole sequence (H,), and log singular values of the long-term Jacobian at each (H, N)."""
    _, _, input_key, basis_key = _streams(config)
    inputs = FlossingInputs(config.task.steps, make_task(config).channels, config.task.amplitude)(input_key)
    horizons = np.unique(np.geomspace(1, config.task.steps, HORIZONS).round().astype(int))
    jacobian = long_term_jacobian(model, inputs, state=first_state(model), step=step, horizons=horizons, key=basis_key)
    return horizons, np.asarray(jacobian.log_singular_values)


def measure(model: ReferenceModel, config: Config) -> Measurements:
    """The spectrum over a whole sequence, and the singular values of the long-term Jacobian at each horizon."""
    exponents = np.asarray(measure_spectrum(model, config).exponents)
    return Measurements({"spectra": exponents}, measure_horizons(model, config))


def draw(run: RunDirectory) -> Figure:
    """The plot of a run."""
    return draw_run(run)


@eqx.filter_jit
def _measure(model: ReferenceModel, inputs: Array, key: RandomKey, k: int) -> Spectrum:
    return lyapunov_spectrum(model, inputs, state=first_state(model), step=step, k=k, key=key)


def _streams(config: Config) -> list[RandomKey]:
    # Fold in the number of each stream: in the reference, all four seeds are 1, but a network and its initial states
    # must not share random numbers.
    seeds = config.seeds
    order = (seeds.seed_network, seeds.seed_initial, seeds.seed_input, seeds.seed_basis)
    return [jax.random.fold_in(jax.random.key(seed), number) for number, seed in enumerate(order)]
