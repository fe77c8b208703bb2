"""The number of Newton's iterations that evaluate a network in parallel over time, before and after flossing."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flossing._spectra.lyapunov import lyapunov_spectrum
from flossing._spectra.newton import newton_iterations
from flossing_lab.paper.calculations.flossed import WARMUP_STEPS, draw_and_floss, measuring_bits, settled, to_float64
from flossing_lab.paper.calculations.training import along_training
from flossing_lab.reference import experiment as reference


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
                cell, _ = draw_and_floss(
                    "vanilla", first + n, units, gain, number, target, epochs, window, learning_rate
                )
                with jax.enable_x64(True):
                    cell, bits = to_float64(cell), measuring_bits(first + n, max(lengths))
                    state, bits = settled(cell, bits), bits[WARMUP_STEPS:]
                    found = lyapunov_spectrum(cell, bits, state=state, k=1, transient=WARMUP_STEPS)
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
    see `along_training`. `exponent`, of the same shape: the largest; `accuracy` (conditions, networks): the mean of the
    last 100 epochs.
    """
    shape = len(conditions), networks, len(epochs)
    count, exponent, accuracy = (np.full(each, np.nan) for each in (shape, shape, shape[:2]))
    for c, condition in enumerate(conditions):
        for n in range(networks):
            for e, model, accuracies in along_training(values, condition, n + 1, epochs):
                count[c, n, e], exponent[c, n, e] = _measure(model, n + 1, length)
                accuracy[c, n] = np.mean(accuracies[-100:])
    return {"count": count, "exponent": exponent, "accuracy": accuracy}


def _measure(model: reference.ReferenceModel, seed: int, length: int) -> tuple[int, float]:
    with jax.enable_x64(True):
        model = to_float64(model)
        bits, state = measuring_bits(seed, length), reference.first_state(model)
        options = {"state": state, "step": reference.step}
        found = lyapunov_spectrum(model, bits, k=1, transient=WARMUP_STEPS, **options)
        counted = newton_iterations(model, bits[:length], **options)
        return int(counted.count), float(found.exponents[0])
