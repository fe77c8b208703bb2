"""The linear memory of a network, from its states and inputs: what a readout recovers; NumPy alone.

A regression on p numbers with n samples finds something in noise: its error on the samples it was fitted to is too
small, and on others too large. For independent Gaussian samples the error on others is, on average, the error of the
best readout times

    (1 + 1/n) (n - 2) / (n - p - 2)

(Stein 1960; Darlington 1968). We measure the error on blocks of samples that were left out, and divide by this factor.
Samples along an orbit are correlated. Then the factor is right to first order in p / n only.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from flossing._arguments import check_integer, default_transient
from flossing._estimate import Estimate
from flossing._messages import warn

NONSTATIONARY = -1.0
"""A readout that misses by twice the variance of its target was fitted to other states than it is tested on."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MemoryFunction:
    """The linear memory function of a network; NumPy arrays.

    - `values` (d, S): the share of the variance of each of S input channels that a linear readout recovers a = 0 ...
      d - 1 steps later; 1 for all, near 0 for nothing. It is corrected for the size of the readout, and may therefore
      be slightly negative.
    - `folds` (folds, d, S): the same on each block of the cross-validation.
    """

    values: Float[np.ndarray, "d S"]
    folds: Float[np.ndarray, "folds d S"]

    def __repr__(self) -> str:
        delays, channels = self.values.shape
        value, error = self.capacity()
        return f"MemoryFunction({delays} delays, {channels} channels: capacity {value:.2f} ± {error:.2f})"

    def standard_error(self) -> Float[np.ndarray, "d S"]:
        """The standard error of `values`, from the folds."""
        return self.folds.std(axis=0, ddof=1) / np.sqrt(len(self.folds))

    def capacity(self) -> Estimate:
        """The memory capacity, the sum of the memory function, with its standard error; at most N."""
        each = self.folds.sum(axis=(1, 2))
        return Estimate(float(self.values.sum()), float(each.std(ddof=1) / np.sqrt(len(each))))


def memory_of(
    states: Float[np.ndarray, "B T N"],
    inputs: Float[np.ndarray, "B T S"],
    *,
    delays: int | None,
    transient: int | None,
    folds: int,
) -> MemoryFunction:
    """The memory function from the states after each step and the inputs; arguments as of `memory_function`."""
    check_integer("folds", folds, least=2)
    sequences, length, size = states.shape
    channels = inputs.shape[-1]
    if not channels:
        raise ValueError("inputs must hold floating numbers to remember, got none")
    depth = min(max(size // channels, 1), max(length // 2, 1)) if delays is None else delays
    check_integer("delays", depth, least=1, most=length, note=f" (the run has {length} steps)")
    if transient is not None:
        check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    first = max(default_transient(length) if transient is None else transient, depth - 1)
    needed = samples_needed(size, folds)
    if sequences * (length - first) < needed:
        least = first + -(-needed // sequences)
        raise ValueError(
            f"inputs must have at least {least} steps to fit a readout of {size} numbers after {first} steps of "
            f"transient, got {length}: pass more steps or sequences, or fewer delays"
        )
    lagged = np.stack([inputs[:, first - d : length - d] for d in range(depth)], axis=2).astype(float)
    targets = lagged.reshape(-1, depth * channels)
    varies = np.ptp(targets, axis=0) > 0
    if not varies.all():
        column = int(np.argmin(varies)) % channels
        raise ValueError(f"inputs must vary to be remembered, got the same number at all steps in channel {column}")
    _check_white(inputs)
    found, each = recovered(states[:, first:].reshape(-1, size).astype(float), targets, folds)
    if (found < NONSTATIONARY).any():
        raise ValueError(
            "state must be stationary, but a readout fitted to some stretches of time fails on the others: pass more "
            f"steps than {sequences * (length - first)} for {size} coordinates, or, for a slow network, many shorter "
            "sequences, inputs of shape (B, T, S); an unstable network has no memory function"
        )
    return MemoryFunction(found.reshape(depth, channels), each.reshape(folds, depth, channels))


def _check_white(inputs: Float[np.ndarray, "B T S"]):
    """Warn of inputs that can be guessed from those before them: what they tell of the past counts as memory."""
    centred = inputs - inputs.mean(axis=(0, 1))
    products = (centred[:, 1:] * centred[:, :-1]).mean(axis=(0, 1)) / np.square(centred).mean(axis=(0, 1))
    channel = int(np.argmax(np.abs(products)))
    if abs(products[channel]) > 0.2 + 5 / np.sqrt(inputs.shape[0] * inputs.shape[1]):
        warn(
            "memory_function is defined for white inputs, where the capacity is at most the number of coordinates, got "
            f"a correlation of {products[channel]:.2g} between successive inputs of channel {channel}: what the "
            "present tells of the past counts as memory",
        )


def recovered(
    states: Float[np.ndarray, "n p"], targets: Float[np.ndarray, "n m"], folds: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "folds m"]]:
    """The share of the variance of each target that a readout of the states recovers, and that of each fold.

    1 for a perfect readout; around 0, and also below, for none. Folds are contiguous blocks of samples.
    """
    variance = targets.var(axis=0, ddof=1)
    errors = np.stack(
        [_error_on(states, targets, block) for block in np.array_split(np.arange(len(states)), folds)]
    )  # (folds, m)
    sizes = np.array([len(block) for block in np.array_split(np.arange(len(states)), folds)])
    total = (errors * sizes[:, None]).sum(0) / sizes.sum()
    return 1 - total / variance, 1 - errors / variance


def _error_on(
    states: Float[np.ndarray, "n p"], targets: Float[np.ndarray, "n m"], block: np.ndarray
) -> Float[np.ndarray, " m"]:
    """The mean squared error on `block` of the readout fitted to all other samples, corrected for its size."""
    others = np.ones(len(states), bool)
    others[block] = False
    x, y = states[others], targets[others]
    centre, mean = x.mean(0), y.mean(0)
    readout, _, rank, _ = np.linalg.lstsq(x - centre, y - mean, rcond=None)
    errors = np.mean((targets[block] - mean - (states[block] - centre) @ readout) ** 2, axis=0)
    n = others.sum()
    return errors / ((1 + 1 / n) * (n - 2) / (n - rank - 2))


def samples_needed(size: int, folds: int) -> int:
    """The fewest samples of `size` numbers for which every fit has a finite expected error, with some margin."""
    return -(-(2 * size + 10) * folds // (folds - 1))
