"""The Euclidean norm, safe from over- and underflow: gradients backpropagated through many steps take any size."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree


def norm_of(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all floating arrays of `tree` together, in at least float32; finite if representable.

    Entries are divided by a power of two near the largest, which is exact: where no square over- or underflows, the
    result equals that of the plain formula bit for bit.
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
    """`tree`, scaled so that the norm of all its arrays together is at most `limit`."""
    norm = norm_of(tree)
    shrink = jnp.minimum(1, limit / jnp.where(norm > 0, norm, limit))
    return jax.tree_util.tree_map(lambda leaf: leaf * shrink.astype(leaf.dtype), tree)
