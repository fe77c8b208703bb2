"""The spread of blocks between reorthonormalisations, as a ratio to the limit of a tolerance; see `interval.py`."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from flossing._tangent.interval import MULTIPLES, limits


def block_spread_ratio(growth: Float[Array, "blocks k"], tolerance: float | None = None) -> Float[Array, " factors"]:
    """The ratio of the spread of `MULTIPLES` joined blocks to the limit, from log R_ii of each block.

    Infinite where a direction is lost; also above 1 where tangents might over- or underflow.
    """

    def bounds(factor):
        return jnp.clip(jnp.arange(0, len(growth) + 1) * factor, 0, len(growth))

    return _spread_ratio(growth, bounds, tolerance)


def step_spread_ratio(
    growth: Float[Array, "T k"],
    tolerance: float | None = None,
    *,
    transient: int,
    interval: int | Int[Array, ""],
) -> Float[Array, " factors"]:
    """The same from log R_ii of each step, 0 where no block ends, with blocks of `interval` steps and multiples of it.

    Blocks end at `transient` and at the end; the first and the last may be shorter.
    """
    steps = len(growth)

    def bounds(factor):
        size = factor * interval
        return jnp.clip(transient % size + jnp.arange(-1, steps + 1) * size, 0, steps)

    return _spread_ratio(growth, bounds, tolerance)


def _spread_ratio(growth, bounds, tolerance):
    limit, reach = limits(growth.dtype.name, tolerance)
    summed = jnp.concatenate([jnp.zeros_like(growth[:1]), jnp.cumsum(growth, axis=0)])

    def ratio(factor):
        ends = bounds(factor)
        joined, exists = jnp.diff(summed[ends], axis=0), jnp.diff(ends) > 0
        most, least = jnp.max(joined, axis=1), jnp.min(joined, axis=1)
        # The log of the mean of exp(spread) over blocks.
        spread = logsumexp(jnp.where(exists, most - least, -jnp.inf)) - jnp.log(exists.sum().astype(growth.dtype))
        return jnp.maximum(spread / limit, jnp.max(jnp.maximum(most, -least)) / reach)

    ratios = jax.vmap(ratio)(jnp.asarray(MULTIPLES))
    return lax.stop_gradient(jnp.where(jnp.isfinite(ratios), ratios, jnp.inf))
