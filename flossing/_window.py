"""Exponents over the window of a flossing epoch, re-orthonormalised at an interval that is data.

The interval follows the network through flossing. If compiled code depended on it, each new value would cost more to
compile than the epochs it saves. Here a step turns its basis or leaves it alone, and one program serves all intervals.
It takes up to a third more time than the engine with a fixed interval: what a turn must remember for the reverse pass
has a place in every step.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flossing._coordinates import Coordinates
from flossing._interval import strains_of
from flossing._lyapunov import average, push_once, tangent_flow
from flossing._orthonormal import orthonormalise
from flossing._segments import scan
from flossing._types import Input, State, Step

ONE_PROGRAM = 2**19
"""Up to so many entries of the basis times steps of the window one program serves all intervals. Its epochs take a
third longer than those of one compiled for its interval (at 256 x 64, two thirds): with 80 x 75 entries and 55 steps
that is less in 500 epochs than one more compilation, with 300 steps it is more."""


def measure_window(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    interval: int | Int[Array, ""],
    tolerance: float | None = None,
    *,
    length: int,
    transient: int,
    rematerialise: bool = False,
) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
    """The exponents over a window, and how blocks strain the precision; where `interval` is an array, as data."""
    options = {"length": length, "transient": transient, "rematerialise": rematerialise}
    if isinstance(interval, int):
        spectrum = tangent_flow(step, state, inputs, basis, interval=interval, **options)
        return spectrum.exponents, strains_of(spectrum.all_growth(), tolerance)
    exponents, growth = window_flow(step, state, inputs, basis, interval, **options)
    return exponents, strains_of(growth, tolerance, transient=transient, interval=interval)


def window_flow(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    interval: Int[Array, ""],
    *,
    length: int,
    transient: int,
    rematerialise: bool,
) -> tuple[Float[Array, " k"], Float[Array, "T k"]]:
    """The exponents over a window, and log R_ii of each of its `length` steps, 0 where the basis was not turned.

    Blocks of `interval` steps end exactly at `transient` and at `length`, as those of `tangent_flow` do.
    """
    coordinates = Coordinates(state)

    def turn(a):
        q, log_r = orthonormalise(a.T)
        return q.T, log_r

    def leave(a):
        return a, jnp.zeros_like(a[:, 0])

    def body(carry, now):
        (x, rest, a), (input, ends) = carry, now
        x, rest, a = push_once(step, coordinates, x, rest, a, input)
        a, log_r = lax.cond(ends, turn, leave, a)
        return (x, rest, a), log_r

    steps = jnp.arange(1, length + 1, dtype=interval.dtype)
    ends = ((steps - transient) % interval == 0) | (steps == length)
    x, rest = coordinates.split(state)
    growth = scan(body, (x, rest, basis.T), (inputs, ends), length, segmented=rematerialise)[1]
    return average(growth[transient:], float(length - transient))[0], growth
