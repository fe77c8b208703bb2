"""A scan whose reverse pass keeps the carry of every sqrt(T)-th step and computes the rest again.

Reverse mode stores what each step of a scan leaves behind: memory of order T. In sqrt(T) segments of sqrt(T) steps,
each computed again when the reverse pass reaches it, it is of order sqrt(T), for one more forward pass (Chen et al.
2016).
"""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

PER_STEP = 6
"""Arrays of the size of the tangents that a step leaves behind, about."""


def scan(body: Callable, carry: PyTree, xs: PyTree, length: int, *, segmented: bool) -> tuple[PyTree, PyTree]:
    """`lax.scan(body, carry, xs, length)`, in segments or not."""
    if not segmented or length < 4:
        return lax.scan(body, carry, xs, length=length)
    size = math.isqrt(length)
    count, rest = divmod(length, size)

    def segment(carry, xs, size):
        return lax.scan(body, carry, xs, length=size)

    segment = jax.checkpoint(segment, static_argnums=2)
    cut = jax.tree_util.tree_map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), xs)
    carry, ys = lax.scan(lambda c, x: segment(c, x, size), carry, cut, length=count)
    ys = jax.tree_util.tree_map(lambda y: y.reshape(count * size, *y.shape[2:]), ys)
    if not rest:
        return carry, ys
    carry, last = segment(carry, jax.tree_util.tree_map(lambda x: x[count * size :], xs), rest)
    return carry, jax.tree_util.tree_map(lambda y, z: jnp.concatenate([y, z]), ys, last)


def too_large(length: int, tangents: jax.ShapeDtypeStruct | jax.Array) -> bool:
    """Whether the reverse pass over so many steps would take more than half of the memory there is."""
    return PER_STEP * length * tangents.size * tangents.dtype.itemsize > _memory() / 2


def _memory() -> float:
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not to be had on this system
        return math.inf
