"""Re-orthonormalise as seldom as the precision bears: a flow whose interval is a traced number, and the rule for it.

Between two QR decompositions the columns of D_m ... D_1 Q lean towards the fastest direction, and rounding errors
there, of size eps, count for exp(s) eps in the slowest, where

    s = max_i log R_ii - min_i log R_ii

is the spread of a block. The gradient then differs from that with QR after every step by at most about
`AMPLIFICATION` eps exp(s) of its norm (2-norm), so that a tolerance says how far blocks may spread. How far they do is
known once they were run: a window with a block beyond the limit is run again at half the interval. Joined blocks spread
at most as far as both together, so the interval is doubled when twice the largest spread would still do.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flossing._coordinates import Coordinates
from flossing._lyapunov import average, push_tangents
from flossing._orthonormal import orthonormalise
from flossing._segments import scan
from flossing._types import Input, State, Step

AMPLIFICATION = 50
"""Error of the gradient over eps exp(s). Networks of 10 to 80 units with gains from 0.1 to 3 gave up to 41."""

MARGIN = 0.9
"""The interval is doubled if twice the strain is below this: spreads differ a little from epoch to epoch."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""How far the gradient may be from that with QR after every step, by dtype: relative, in the 2-norm."""


def largest_spread(dtype: Any, tolerance: float | None = None) -> float:
    """How far a block may spread, in nats, for the gradient to keep to `tolerance`; at 0 or below, one step."""
    tolerance = TOLERANCE.get(jnp.dtype(dtype).name, 1e-3) if tolerance is None else tolerance
    return math.log(tolerance / (AMPLIFICATION * float(jnp.finfo(dtype).eps)))


class Strained(NamedTuple):
    """The exponents (k,) of a window, and the largest strain of its blocks: 1 is what the precision bears."""

    exponents: Float[Array, " k"]
    strain: Float[Array, ""]


def strained_flow(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    interval: Int[Array, ""],
    *,
    length: int,
    transient: int,
    tolerance: float | None = None,
    rematerialise: bool = False,
) -> Strained:
    """The exponents of `tangent_flow` at a traced interval, one compilation for all; and how much it strained.

    A block ends after each multiple of `interval`, at `transient` and at `length`. Checks nothing.
    """
    coordinates = Coordinates(state)
    limit = largest_spread(basis.dtype, tolerance)
    reach = 0.25 * math.log(float(jnp.finfo(basis.dtype).max))  # beyond it, squares of growing tangents may overflow

    def close(a):
        q, log_r = orthonormalise(a)
        most, least = jnp.max(log_r), jnp.min(log_r)
        strain = jnp.maximum((most - least) / max(limit, 1e-3), jnp.maximum(most, -least) / reach)
        return q, log_r, lax.stop_gradient(strain)

    def leave(a):
        return a, jnp.zeros(a.shape[1], a.dtype), jnp.zeros((), a.dtype)

    def body(carry, x):
        (point, rest, a), (number, input) = carry, x
        point, rest, a = push_tangents(step, coordinates, point, rest, a, _one(input), 1)
        due = (number % interval == 0) | (number == transient) | (number == length)
        a, log_r, strain = lax.cond(due, close, leave, a)
        return (point, rest, a), (log_r, strain)

    start = (*coordinates.split(state), basis)
    _, (growth, strains) = scan(body, start, (jnp.arange(1, length + 1), inputs), length, segmented=rematerialise)
    exponents, _ = average(growth[transient:], float(length - transient))
    return Strained(exponents, jnp.max(strains))


def next_interval(interval: Int[Array, ""], strain: Float[Array, ""], window: int) -> Int[Array, ""]:
    """The interval of the next epoch, after one that strained so much: the same, or twice as long."""
    longer = (2 * strain <= MARGIN) & (2 * interval <= window)
    return jnp.where(longer, 2 * interval, interval)


def at_bearable_interval(measure: Callable, interval: Int[Array, ""]) -> tuple[Any, Int[Array, ""]]:
    """`measure(interval) -> (result, strain)` at `interval`, or at the first half of it that the precision bears.

    Returns the result and the interval used. An interval of 1 always counts.
    """
    result, strain = jax.eval_shape(measure, interval)
    nothing = jax.tree_util.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), result)

    def unbearable(loop):
        tried, _, strain = loop
        return ~(strain <= 1) & (tried > 1)

    def halve(loop):
        tried = loop[0] // 2
        return tried, *measure(tried)

    # Written as a loop that begins at twice the interval, so that the measurement is compiled once.
    tried, result, _ = lax.while_loop(unbearable, halve, (2 * interval, nothing, jnp.full((), jnp.inf, strain.dtype)))
    return result, tried


def _one(input: Input) -> Input:
    return jax.tree_util.tree_map(lambda s: s[None], input)
