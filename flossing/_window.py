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
from flossing._lyapunov import average, push_once
from flossing._orthonormal import orthonormalise
from flossing._segments import scan
from flossing._types import Input, State, Step


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
