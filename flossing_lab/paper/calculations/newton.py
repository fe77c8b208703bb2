"""The number of Newton's iterations that evaluate a network in parallel over time, before and after flossing."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flossing._spectra.lyapunov import lyapunov_spectrum
from flossing._spectra.newton import newton_iterations
from flossing._training.train import Chunk, init_training, train
from flossing_lab.paper.calculations.flossed import _double, _flossed, _measuring_bits, _settled
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config

WARMUP = 100
"""Steps of the transient of the exponents."""


def newton_of_flossed(
    first: int,
    networks: int,
    units: int,
    gains: Sequence[float],
    targets: Sequence[float],
    k: int,
    epochs: int,
    window: int,
    learning_rate: float,
    lengths: Sequence[int],
) -> dict[str, np.ndarray]:
    """Draw networks with seeds `first`, ... for each gain, and floss the first `k` exponents of each to each target.

    In float64, along the same random bits: `exponent` (1 + targets, gains, networks), the largest, of the network as
    drawn and flossed to each target, and `count` (1 + targets, gains, networks, lengths), Newton's iterations over so
    many steps.
    """
    kinds = [(0, 0.0), *((k, target) for target in targets)]
    exponent = np.zeros((len(kinds), len(gains), networks))
    count = np.zeros((len(kinds), len(gains), networks, len(lengths)))
    for g, gain in enumerate(gains):
        for n in range(networks):
            for after, (number, target) in enumerate(kinds):
                cell, _ = _flossed("vanilla", first + n, units, gain, number, target, epochs, window, learning_rate)
                with jax.enable_x64(True):
                    cell, bits = _double(cell), _measuring_bits(first + n, max(lengths))
                    state, bits = _settled(cell, bits), bits[WARMUP:]
                    found = lyapunov_spectrum(cell, bits, state=state, k=1, transient=WARMUP)
                    exponent[after, g, n] = float(found.exponents[0])
                    for t, length in enumerate(lengths):
                        counted = newton_iterations(cell, bits[:length], state=state)
                        count[after, g, n, t] = int(counted.count)
    return {"exponent": exponent, "count": count}


def newton_through_training(
    networks: int, values: dict[str, Any], epochs: Sequence[int], conditions: Sequence[str], length: int
) -> dict[str, np.ndarray]:
    """Train the reference experiment with seeds 1, 2, ..., `values` being further fields of its configuration.

    `count` (conditions, networks, epochs): Newton's iterations over `length` random bits after so many training epochs,
    multiples of 100, the first of them 0: before training, and after preflossing. `exponent`, of the same shape: the
    largest; `accuracy` (conditions, networks): the mean of the last 100 epochs.
    """
    shape = len(conditions), networks, len(epochs)
    count, exponent, accuracy = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
    for c, condition in enumerate(conditions):
        for n in range(networks):
            config = Config().with_values(**values, condition=condition, seed=n + 1, epochs=max(epochs))
            experiment, accuracies = reference.build(config), []
            count[c, n, 0], exponent[c, n, 0] = _measure(experiment.model, n + 1, length)
            for done in _training(experiment, max(epochs)):
                accuracies += [] if done.kind == "flossing" else done.metrics["accuracy"].tolist()
                if (epoch := done.state.epoch) in epochs:  # after preflossing it is still 0
                    at = c, n, list(epochs).index(epoch)
                    count[at], exponent[at] = _measure(done.state.model, n + 1, length)
            accuracy[c, n] = np.mean(accuracies[-100:])
    return {"count": count, "exponent": exponent, "accuracy": accuracy}


def _training(experiment: Any, epochs: int) -> Iterator[Chunk]:
    return train(
        init_training(experiment.model, experiment.optimiser, experiment.flossing),
        loss=experiment.loss,
        batch=experiment.batch,
        optimiser=experiment.optimiser,
        key=experiment.key,
        epochs=epochs,
        flossing=experiment.flossing,
        schedule=experiment.schedule,
    )


def _measure(model: reference.ReferenceModel, seed: int, length: int) -> tuple[int, float]:
    with jax.enable_x64(True):
        model = jax.tree_util.tree_map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), model)
        bits, state = _measuring_bits(seed, length), reference.first_state(model)
        options = {"state": state, "step": reference.step}
        found = lyapunov_spectrum(model, bits, k=1, transient=WARMUP, **options)
        counted = newton_iterations(model, bits[:length], **options)
        return int(counted.count), float(found.exponents[0])
