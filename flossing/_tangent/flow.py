"""The tangent flow: an orthonormal basis, pushed along an orbit and reorthonormalised.

A perturbation of the state h of h' = f(h, s) is multiplied by the Jacobian D = df/dh of each step. An orthonormal basis
Q (N x k), pushed along the orbit and reorthonormalised, grows by the diagonal of R (Benettin et al. 1980):

    D Q = Q' R,        lambda_i = < log R_ii >,

natural logarithms, averaged over the steps after a transient. With a reorthonormalisation interval of m steps, D is the
product of m Jacobians and log R_ii the growth over all m.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import orthonormalise
from flossing._tangent.problem import Problem
from flossing._types import State


class Flow(NamedTuple):
    """The result of the tangent flow; fields as in [`Spectrum`][]."""

    exponents: Float[Array, "*B k"]
    log_growth: Float[Array, "*B blocks k"]
    transient_log_growth: Float[Array, "*B before k"]
    basis: Float[Array, "*B N k"]
    state: State

    def all_log_growth(self) -> Float[Array, "*B blocks k"]:
        """log R_ii of each block, those of the transient first."""
        return jnp.concatenate([self.transient_log_growth, self.log_growth], axis=-2)

    def up_to(self, count: Int[Array, ""], interval: int, time_step: float = 1.0) -> "Flow":
        """The flow of one sequence that ends `count` steps after the transient, where its step returns its state."""
        starts = jnp.arange(len(self.log_growth), dtype=count.dtype) * interval
        is_real = (starts < count)[:, None]
        growth = jnp.where(is_real, self.log_growth, 0)  # later blocks hold rounding errors
        exponents, growth = average(growth, count.astype(growth.dtype) * time_step)
        return self._replace(exponents=exponents, log_growth=jnp.where(is_real, growth, 0))


@in_full_precision
def tangent_flow(
    problem: Problem,
    basis: Float[Array, "N k"],
    *,
    transient: int = 0,
    interval: int = 1,
    time_step: float = 1.0,
) -> Flow:
    """The engine: push `basis` along the orbit, one scan over blocks of `interval` steps. Checks nothing.

    Blocks end exactly at `transient` and at the end, so the first and the last may be shorter.
    """
    length = problem.length

    def block(carry, inputs, size):
        point, q = carry
        point, a = problem.push_many(point, q, inputs, size)
        q, log_r = orthonormalise(a.T)
        return (point, q.T), log_r

    def blocks(carry, start, stop, size):
        count = (stop - start) // size
        inputs = problem.inputs_between(start, stop)
        inputs = jax.tree_util.tree_map(lambda s: s.reshape(count, size, *s.shape[1:]), inputs)
        return lax.scan(lambda carry, inputs: block(carry, inputs, size), carry, inputs, length=count)

    first = transient % interval
    last = (length - transient) % interval
    carry, growth = (problem.start, varying(basis.T, problem.start)), []
    for start, stop, size in ((0, first, first), (first, length - last, interval), (length - last, length, last)):
        if stop > start:
            carry, log_r = blocks(carry, start, stop, size)
            growth.append(log_r)
    before, growth = jnp.split(jnp.concatenate(growth), [-(-transient // interval)])
    exponents, growth = average(growth, (length - transient) * time_step)
    point, q = carry
    return Flow(exponents, growth, before, problem.project(q).T, problem.state(point))


def average(
    growth: Float[Array, "blocks k"], time: float | Float[Array, ""]
) -> tuple[Float[Array, " k"], Float[Array, "blocks k"]]:
    """The exponents, and the growth, set to -inf for a direction from the block that loses it onwards."""
    # A direction lost to a singular Jacobian is lost for the whole product. The column that replaces it in Q is
    # arbitrary and must not count, and no block of a lost direction may contribute a gradient.
    dead = jnp.cumsum(jnp.isneginf(growth), axis=0) > 0
    lost = dead[-1]
    total = jnp.where(lost[None, :], 0, growth).sum(0)
    return jnp.where(lost, -jnp.inf, total / time), jnp.where(dead, -jnp.inf, growth)
