"""An initialisation by measurement: the gain and the input scale at which the exponents of a cell suit a horizon."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_positive
from flossing._spectra.lyapunov import lyapunov_spectrum
from flossing._tangent.step import is_known_cell
from flossing._types import Input, RandomKey

ROUNDS = 3
"""Rounds of refinement; each halves the distance between neighbouring gains and scales."""


class Calibration(NamedTuple):
    """The result of `calibrate`: the cell, its two numbers, and its first k exponents, per step."""

    cell: Any
    gain: float
    input_scale: float
    exponents: Float[Array, " k"]


def calibrate(
    make: Callable[[float, float], Any],
    inputs: Input,
    *,
    horizon: float | int,
    k: int | None = None,
    gains: tuple[float, float] = (0.25, 4.0),
    input_scales: tuple[float, float] = (0.03, 3.0),
    transient: int | None = None,
    key: RandomKey | None = None,
) -> Calibration:
    """Find the gain and the input scale at which a random cell forgets slowly and is not chaotic.

    Among cells with lambda_1 at most 0, take the one whose first k exponents have a mean nearest to -1 / `horizon`, by
    a grid of 7 x 7 spectra and three refinements of 3 x 3 around the best.

    **Arguments:**

    - `make`: `make(gain, input_scale) -> cell`, the same random numbers for all, such as
      `lambda g, s: fl.cells.GRU(64, key=key, recurrent="orthogonal", gain=g, input_scale=s)`.
    - `inputs`: a sequence (T, ...), as in [`lyapunov_spectrum`][], along which the exponents are measured.
    - `horizon`: the steps over which the network should remember.
    - `k`: the number of exponents, all by default; `transient`, `key`: as in `lyapunov_spectrum`.
    - `gains`, `input_scales`: the ranges of the grid, whose points are log-spaced.

    **Returns:** a [`Calibration`][].

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for illegal ranges, and if no cell of the grid has lambda_1 at
    most 0.

        found = fl.calibrate(lambda g, s: fl.cells.VanillaRNN(64, key=key, gain=g, input_scale=s), bits, horizon=50)
        print(found.gain, found.input_scale, found.exponents)
    """
    check_positive("horizon", horizon)
    for name, between in {"gains": gains, "input_scales": input_scales}.items():
        if not _is_range(between):
            raise ValueError(f"{name} must be two positive numbers in ascending order, got {name}={between!r}")
    if k is not None:
        check_integer("k", k, least=1)
    if is_known_cell(make):
        raise ValueError(f"make must be a function make(gain, input_scale) of a cell, got a {type(make).__name__}")
    if inputs is None:
        raise ValueError("inputs must be a sequence (T, ...), got inputs=None")
    found: dict[tuple[float, float], tuple[float, Calibration | None]] = {}

    def measure(log_gain: float, log_scale: float):
        at = round(log_gain, 9), round(log_scale, 9)
        if at in found:
            return
        gain, scale = float(np.exp(log_gain)), float(np.exp(log_scale))
        cell = make(gain, scale)
        if not callable(cell):
            got = f"one that returns a {type(cell).__name__}"
            raise ValueError(f"make must be a function make(gain, input_scale) of a cell, got {got}")
        try:
            exponents = lyapunov_spectrum(cell, inputs, k=k, key=key, transient=transient).exponents
        except ValueError as error:
            if not str(error).startswith(("step must keep the state", "the last state")):
                raise
            found[at] = np.inf, None  # the orbit escapes: this gain is too large
            return
        if exponents.ndim != 1:
            raise ValueError(f"inputs must be a single sequence (T, ...), got a batch of {len(exponents)}")
        distance = abs(float(jnp.mean(exponents)) + 1 / horizon)
        allowed = float(exponents.max()) <= 0 and np.isfinite(distance)
        found[at] = (distance if allowed else np.inf), Calibration(cell, gain, scale, exponents)

    axes = [np.linspace(np.log(low), np.log(high), 7) for low, high in (gains, input_scales)]
    for log_gain, log_scale in itertools.product(*axes):
        measure(log_gain, log_scale)
    steps = [axis[1] - axis[0] for axis in axes]
    for _ in range(ROUNDS):
        (log_gain, log_scale), (distance, _) = min(found.items(), key=lambda item: item[1][0])
        if not np.isfinite(distance):
            raise ValueError(
                f"gains must include one at which the exponents are finite and the largest is at most 0, got "
                f"none in {gains} with input_scales={input_scales}"
            )
        steps = [step / 2 for step in steps]
        for a, b in itertools.product((-1, 0, 1), repeat=2):
            at = log_gain + a * steps[0], log_scale + b * steps[1]
            measure(*(min(max(value, axis[0]), axis[-1]) for value, axis in zip(at, axes, strict=True)))
    best = min(found.values(), key=lambda pair: pair[0])[1]
    assert best is not None
    return best


def _is_range(between: Any) -> bool:
    try:
        low, high = map(float, between)
    except (TypeError, ValueError):
        return False
    return 0 < low < high < np.inf
