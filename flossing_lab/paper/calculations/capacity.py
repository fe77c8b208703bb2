"""Linear memory: how well a linear readout of the state recovers past inputs, in drawn and flossed networks."""

import numpy as np
from jaxtyping import Float

from flossing_lab.paper.calculations.flossed import WARMUP_STEPS, drawn_or_flossed


def memory_function(
    weights: tuple[np.ndarray, np.ndarray, np.ndarray], bits: Float[np.ndarray, " L"], lags: int
) -> Float[np.ndarray, " lags"]:
    """R² of the best linear readout of the bit 0, 1, ... steps ago, from x_{t+1} = J tanh(x_t) + b + ws s_t.

    `weights` are J (N, N), ws (N, 1) and b (N,). The readout is fitted by least squares on the first half of the steps
    and evaluated on the second half, so that chance gives 0 rather than N / L. Negative values count as 0. The first
    `lags` + 100 steps are discarded.
    """
    first = lags + WARMUP_STEPS
    return _readable(_states(weights, bits)[first:], _delayed(bits, lags, first))


def parity_function(
    weights: tuple[np.ndarray, np.ndarray, np.ndarray], bits: Float[np.ndarray, " L"], lags: int, apart: int
) -> Float[np.ndarray, " lags"]:
    """The same for parities: R² of the best linear readout of the XOR of the bits t and t + `apart` steps ago.

    A network whose task is such a parity may store it instead of the two bits.
    """
    first = lags + apart + WARMUP_STEPS
    delayed = _delayed(bits, lags + apart, first)
    return _readable(_states(weights, bits)[first:], np.abs(delayed[:, :lags] - delayed[:, apart:]))


def _delayed(bits: Float[np.ndarray, " L"], lags: int, first: int) -> Float[np.ndarray, "steps lags"]:
    # The bits 0, 1, ... steps ago, from step `first` on.
    return np.stack([bits[first - lag : len(bits) - lag] for lag in range(lags)], axis=1)


def _states(
    weights: tuple[np.ndarray, np.ndarray, np.ndarray], bits: Float[np.ndarray, " L"]
) -> Float[np.ndarray, "L N"]:
    J, ws, b = (np.asarray(array, float) for array in weights)
    states, x = np.empty((len(bits), len(b))), np.zeros(len(b))
    for t, drive in enumerate(bits[:, None] * ws[:, 0] + b):
        x = J @ np.tanh(x) + drive
        states[t] = x
    return states


def _readable(
    states: Float[np.ndarray, "steps N"], wanted: Float[np.ndarray, "steps functions"]
) -> Float[np.ndarray, " functions"]:
    # R² of the best linear readout of each function.
    design = np.hstack([np.ones((len(states), 1)), states])
    half = len(design) // 2
    readout = np.linalg.lstsq(design[:half], wanted[:half])[0]
    missed = wanted[half:] - design[half:] @ readout
    return np.maximum(0, 1 - missed.var(0) / wanted[half:].var(0))


def memory_of_flossed(
    networks: int, units: int, k: int, epochs: int, window: int, learning_rate: float, steps: int, lags: int
) -> dict[str, np.ndarray]:
    """`memory` (networks, lags) of networks with seeds 1, 2, ...; `k` = 0: without flossing."""
    found = []
    for seed in range(1, networks + 1):
        cell = drawn_or_flossed(seed, units, k, epochs, window, learning_rate)
        weights = np.asarray(cell.J), np.asarray(cell.ws), np.asarray(cell.b)
        found.append(memory_function(weights, random_bits(seed, steps, lags), lags))
    return {"memory": np.stack(found)}


def random_bits(seed: int, steps: int, lags: int) -> Float[np.ndarray, " L"]:
    return np.random.default_rng(seed).integers(0, 2, 2 * steps + lags + WARMUP_STEPS).astype(float)
