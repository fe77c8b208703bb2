"""What a flossing epoch draws: inputs, lengths and random states, fresh in each epoch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from flossing._checks import check_leaves
from flossing._runtime.interning import interned
from flossing._tangent.traced import is_traced_equally
from flossing._types import RandomKey

POOL = "draw a pool of them first, and pass lambda key: pool[jax.random.randint(key, (), 0, len(pool))]"


def read_draw(name: str, value: Any) -> Any:
    """`value` as arrays, or a checked function of a key."""
    if callable(value):
        check_draw(name, value)
        return interned(value)
    return as_arrays(name, value)


def as_arrays(name: str, tree: PyTree) -> PyTree:
    """`tree` with checked arrays as leaves."""
    check_leaves(name, tree)
    return jax.tree_util.tree_map(jnp.asarray, tree)


def check_draw(name: str, draw: Callable[[RandomKey], PyTree]):
    """Raise ValueError unless `draw(key)` is a function of its key alone, which JAX can trace.

    The loop of epochs is compiled, so what NumPy or a loader draws would be drawn once, and repeated in every epoch.
    """
    try:
        pure = is_traced_equally(lambda key: jax.tree_util.tree_map(jnp.asarray, draw(key)), jax.random.key(0))
    except jax.errors.JAXTypeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} must be a function of a key that JAX can trace, got {reason}: {POOL}") from error
    if not pure:
        raise ValueError(
            f"{name} must be drawn with its key alone, got a function that draws otherwise, whose result would be the "
            f"same in every epoch: {POOL}"
        )
