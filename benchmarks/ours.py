"""Our contenders, called as a user would call the library, and the gradients along a flossing phase."""

import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flossing as fl
from benchmarks.starts import FLOSSED, Numbers, flossing_start, training_start
from benchmarks.turns import Turn
from flossing._runtime.epochs import compiler_options, run_chunk
from flossing._training.chunk import FlossingEpoch, run_flossing
from flossing._training.train import TrainingEpoch
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from flossing_lab.reference.network import ReferenceNetwork

CHUNK = 100
"""Largest number of epochs in a compiled loop, as in a run."""


def cell_of(numbers: Numbers) -> fl.cells.VanillaRNN:
    """Our cell with these weights."""
    shapes = eqx.filter_eval_shape(fl.cells.VanillaRNN, len(numbers["J"]), key=jax.random.key(0))
    return eqx.tree_at(
        lambda cell: (cell.J, cell.ws, cell.b), shapes, [jnp.asarray(numbers[n]) for n in ("J", "ws", "b")]
    )


def model_of(numbers: Numbers) -> reference.ReferenceModel:
    """The reference experiment's model with these weights and initial states."""
    names = ("J", "ws", "wr", "b", "offset", "x0")
    *weights, x0 = (jnp.asarray(numbers[name]) for name in names)
    return reference.ReferenceModel(ReferenceNetwork(*weights), x0)


def flossed_leaves(cell: fl.cells.VanillaRNN):
    """The arrays that flossing trains, in the order of `FLOSSED`."""
    return tuple(getattr(cell, name) for name in FLOSSED)


def random_bits(steps: int) -> reference.FlossingInputs:
    """Draws the inputs of an epoch."""
    return reference.FlossingInputs(steps, 1, 1.0)


def flossing_phase(
    turn: Turn, *, units: int, steps: int, k: int, blocks: int, chunk: int, interval: Any = "auto"
) -> dict[str, Any]:
    """A contender: one call of `fl.floss`, whose callback ends each block.

    Returns `interval` and `largest_exponent` of each epoch, and `samples` from the first epoch of each block: the
    weights before it, its input bits and its interval.
    """
    numbers = flossing_start(units, k)
    cell, bits, key = cell_of(numbers), random_bits(steps), jax.random.key(1)
    options = {"state": jnp.asarray(numbers["h"]), "basis": numbers["basis"], "where": flossed_leaves}
    options |= {"interval": interval, "chunk": chunk, "key": key}
    options |= {"loss": fl.losses.exponents, "optimiser": optax.adam(1e-3)}  # as all contenders
    fl.floss(cell, bits, epochs=blocks * chunk, **options)  # a first pass compiles all intervals
    seen = [weights_of(cell)]

    def callback(done, model, record):
        seen.append(weights_of(model))
        turn(chunk)

    turn()
    _, history = fl.floss(cell, bits, epochs=blocks * chunk, callback=callback, **options)
    input_key = jax.random.split(key)[1]  # as `floss` does
    samples = [
        {
            "weights": seen[block],
            "bits": np.asarray(bits(jax.random.fold_in(input_key, block * chunk))),
            "interval": int(history.interval[block * chunk]),
        }
        for block in range(blocks)
    ]
    return {"interval": history.interval, "largest_exponent": history.exponents[:, 0], "samples": samples}


def weights_of(cell: fl.cells.VanillaRNN) -> Numbers:
    """The flossed arrays as NumPy arrays."""
    return {name: np.array(leaf) for name, leaf in zip(FLOSSED, flossed_leaves(cell), strict=True)}


def keep_gradient() -> optax.GradientTransformation:
    """An "optimiser" that changes nothing; its state is the last gradient it received."""

    def update(gradient, state, parameters=None):
        return jax.tree.map(jnp.zeros_like, gradient), gradient

    return optax.GradientTransformation(lambda parameters: jax.tree.map(jnp.zeros_like, parameters), update)


@functools.cache
def update_once() -> Any:
    """`Flossing.update`, compiled with the options of `floss`; call it with flossing, model, state and key."""
    return eqx.filter_jit(_update, compiler_options=compiler_options())


def _update(flossing: fl.Flossing, model, state, key):
    return flossing.update(model, state, key)


def gradients(turn: Turn, *, units: int, k: int, samples: list[dict], dtype: str, every_step: bool) -> dict[str, Any]:
    """A contender: the gradients at `samples`, flattened (samples, P), with the largest exponent and the interval.

    At the interval of each sample, or with QR after every step.
    """
    jax.config.update("jax_enable_x64", dtype == "float64")
    numbers = flossing_start(units, k, dtype=dtype)
    cell, optimiser, rows = cell_of(numbers), keep_gradient(), {"gradient": [], "largest_exponent": [], "interval": []}
    for sample in samples:
        weights = tuple(jnp.asarray(sample["weights"][name], dtype) for name in FLOSSED)
        model = eqx.tree_at(flossed_leaves, cell, weights)
        flossing = fl.Flossing(
            model,
            sample["bits"].astype(dtype),
            state=numbers["h"],
            basis=numbers["basis"],
            where=flossed_leaves,
            optimiser=optimiser,
            loss=fl.losses.exponents,
            clip=None,
            interval=1 if every_step else sample["interval"],
        )
        _, state, record = update_once()(flossing, model, flossing.init(model), jax.random.key(0))
        gradient = [np.asarray(leaf).ravel() for leaf in flossed_leaves(state.opt_state)]
        rows["gradient"].append(np.concatenate(gradient))
        rows["largest_exponent"].append(float(record.exponents[0]))
        rows["interval"].append(int(record.interval))
    return {name: np.asarray(values) for name, values in rows.items()}


def flossing(*, units: int, steps: int, k: int, interval: Any = "auto"):
    """`advance(epochs)` for a flossing phase."""
    numbers = flossing_start(units, k)
    options = {"state": jnp.asarray(numbers["h"]), "basis": numbers["basis"], "where": flossed_leaves}
    options |= {"loss": fl.losses.exponents, "optimiser": optax.adam(1e-3)}
    cell = cell_of(numbers)
    flossing = fl.Flossing(cell, random_bits(steps), interval=interval, **options)
    epoch = FlossingEpoch(flossing, jax.random.key(1))

    def run(carry, first, count):
        return run_flossing(epoch, *carry, first, count, capacity=CHUNK)[:2]

    return _advance(run, (cell, flossing.init(cell)))


def training(*, units: int, batch: int, steps: int, delay: int):
    """`advance(epochs)` for training on a temporal XOR, chunk by chunk as in a run."""
    config = Config().with_values(units=units, k=units, batch=batch, steps=steps, delay=delay)
    experiment, numbers = reference.build(config), training_start(units, batch)
    model = model_of(numbers)
    optimiser = experiment.optimiser
    epoch = TrainingEpoch(experiment.key, reference.task_loss, experiment.batch, optimiser, None, 0, None)

    def run(carry, first, count):
        return run_chunk(epoch, carry, first, count, capacity=CHUNK)[0]

    return _advance(run, (model, optimiser.init(eqx.filter(model, eqx.is_inexact_array))))


def _advance(run, carry):
    done = 0

    def advance(epochs):
        nonlocal carry, done
        for first in range(0, epochs, CHUNK):
            count = min(CHUNK, epochs - first)
            carry = run(carry, done, count)
            done += count

    return advance


def spectrum(*, units: int, k: int, steps: int, transient: int):
    """`advance(calls)` for our spectrum in float64, inside `jax.jit` like the peers', at the interval chosen by "auto".

    `result` holds the exponents, the interval, and the seconds of a call outside `jit`, which reuses the compiled
    program but checks its arguments each time.
    """
    jax.config.update("jax_enable_x64", True)
    numbers = {name: jnp.asarray(array) for name, array in flossing_start(units, k, dtype="float64").items()}

    def measure(J, b, h, basis, interval):
        options = {"steps": steps, "basis": basis, "transient": transient, "interval": interval}
        return fl.lyapunov_spectrum(lambda h, _: jnp.tanh(J @ h + b), None, state=h, **options)

    arguments = [numbers[name] for name in ("J", "b", "h", "basis")]
    interval = measure(*arguments, "auto").interval
    jitted = jax.jit(lambda *arguments: measure(*arguments, interval).exponents)

    def advance(calls):
        for _ in range(calls):
            advance.result["exponents"] = np.asarray(jitted(*arguments))

    measure(*arguments, interval).exponents.block_until_ready()
    begin = time.perf_counter()
    measure(*arguments, interval).exponents.block_until_ready()
    advance.result = {"outside_jit": time.perf_counter() - begin, "interval": interval}
    return advance
