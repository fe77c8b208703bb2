"""The Euclidean norm where squares would overflow or vanish: feedback through many steps takes all sizes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree


def norm_of(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all floating arrays of `tree` together, in float32 at least; finite where it can be.

    Entries are divided by a power of two near the largest, which rounds nothing: where no square overflows or vanishes
    the result is that of the plain formula, to the bit.
    """
    sizes = [jnp.abs(jnp.ravel(leaf)) for leaf in jax.tree_util.tree_leaves(tree) if jnp.size(leaf)]
    if not sizes:
        return jnp.zeros(())
    dtype = max([size.dtype for size in sizes] + [jnp.dtype("float32")], key=lambda dtype: jnp.finfo(dtype).bits)
    sizes = [size.astype(dtype) for size in sizes]
    scale = _power_of_two(jnp.max(jnp.stack([jnp.max(size) for size in sizes])))
    return scale * jnp.sqrt(sum(jnp.sum(jnp.square(size / scale)) for size in sizes))


def _power_of_two(largest: Float[Array, ""]) -> Float[Array, ""]:
    largest = lax.stop_gradient(largest)
    mantissa, _ = jnp.frexp(largest)  # largest = mantissa * 2**exponent, thus the quotient below is exact
    plain = (largest == 0) | ~jnp.isfinite(largest)
    return jnp.where(plain, 1, largest / jnp.where(plain, 1, 2 * mantissa))


def clipped(tree: PyTree, limit: float) -> PyTree:
    """`tree`, scaled to a norm of at most `limit`, all arrays together."""
    norm = norm_of(tree)
    shrink = jnp.minimum(1, limit / jnp.where(norm > 0, norm, limit))
    return jax.tree_util.tree_map(lambda leaf: leaf * shrink.astype(leaf.dtype), tree)
