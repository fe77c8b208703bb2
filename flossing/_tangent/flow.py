"""The tangent flow of a driven system."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import orthonormalise
from flossing._tangent.coordinates import Coordinates
from flossing._types import Input, State, Step


class Flow(NamedTuple):
    """What the tangent flow gives; fields as in [`Spectrum`][]."""

    exponents: Float[Array, " k"]
    growth: Float[Array, "blocks k"]
    transient_growth: Float[Array, "before k"]
    state: State
    basis: Float[Array, "N k"]

    def all_growth(self) -> Float[Array, "blocks k"]:
        """log R_ii of each block, those of the transient first."""
        return jnp.concatenate([self.transient_growth, self.growth])


@in_full_precision
def tangent_flow(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    *,
    length: int,
    transient: int = 0,
    interval: int = 1,
    time_step: float = 1.0,
) -> Flow:
    """The engine: push `basis` along the orbit, one scan over blocks of `interval` steps. Checks nothing.

    Blocks end exactly at `transient` and at `length`, so the first and the last may be shorter.
    """
    coordinates = Coordinates(state)

    def block(carry, inputs, size):
        x, rest, q = carry
        x, rest, a = push_tangents(step, coordinates, x, rest, q, inputs, size)
        q, log_r = orthonormalise(a.T)
        return (x, rest, q.T), log_r

    def blocks(carry, start, stop, size):
        count = (stop - start) // size
        cut = jax.tree_util.tree_map(lambda s: s[start:stop].reshape(count, size, *s.shape[1:]), inputs)
        return lax.scan(lambda c, s: block(c, s, size), carry, cut, length=count)

    first = transient % interval
    last = (length - transient) % interval
    x, rest = coordinates.split(state)
    carry, growth = (x, rest, basis.T), []
    for start, stop, size in ((0, first, first), (first, length - last, interval), (length - last, length, last)):
        if stop > start:
            carry, log_r = blocks(carry, start, stop, size)
            growth.append(log_r)
    kept = length - transient
    before, growth = jnp.split(jnp.concatenate(growth), [-(-transient // interval)])
    exponents, growth = average(growth, kept * time_step)
    x, rest, q = carry
    state = coordinates.join(x, rest)
    return Flow(exponents, growth, before, state, q.T)


def push_tangents(
    step: Step,
    coordinates: Coordinates,
    x: Float[Array, " N"],
    rest: list[Any],
    tangents: Float[Array, "k N"],
    inputs: Input,
    size: int,
) -> tuple[Float[Array, " N"], list[Any], Float[Array, "k N"]]:
    """Push a point and its tangents, one a row, through `size` steps: x_t, and D_t ... D_1 times each tangent.

    As rows they lie in memory as LAPACK wants the columns of A, and no product with a Jacobian or its transpose has to
    copy: at N = 256, k = 64 that halves the time of the products.
    """

    def push(carry, input):
        x, rest, a = carry
        return push_once(step, coordinates, x, rest, a, input), None

    return lax.scan(push, (x, rest, tangents), inputs, length=size, unroll=size == 1)[0]


def push_once(
    step: Step,
    coordinates: Coordinates,
    x: Float[Array, " N"],
    rest: list[Any],
    tangents: Float[Array, "k N"],
    input: Input,
) -> tuple[Float[Array, " N"], list[Any], Float[Array, "k N"]]:
    """The next point, and the Jacobian there times each tangent."""

    def flow(x):
        return coordinates.split(step(coordinates.join(x, rest), input))

    def along(v):
        return jax.jvp(flow, (x,), (v,), has_aux=True)

    x, tangents, rest = jax.vmap(along, out_axes=(None, 0, None))(tangents)
    return x, rest, tangents


def average(growth: Float[Array, "blocks k"], time: float) -> tuple[Float[Array, " k"], Float[Array, "blocks k"]]:
    """The exponents, and the growth with -inf from the first block on in which a direction is lost."""
    # A direction lost to a singular Jacobian is lost for the product of all. What Q is completed with afterwards is
    # arbitrary and must not be counted; and no block of a lost direction may send a gradient.
    dead = jnp.cumsum(jnp.isneginf(growth), axis=0) > 0
    lost = dead[-1]
    total = jnp.where(lost[None, :], 0, growth).sum(0)
    return jnp.where(lost, -jnp.inf, total / time), jnp.where(dead, -jnp.inf, growth)
