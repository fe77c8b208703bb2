"""Random keys in a state."""

from typing import Any

import jax
import jax.numpy as jnp

from flossing._types import RandomKey, State


def with_fresh_keys(state: State, key: RandomKey) -> State:
    """`state` with `key` folded into each random key in it, so that every epoch has noise of its own.

    Raises ValueError for what looks like a raw key, which cannot be told from two counters.
    """

    def fold(leaf: Any) -> Any:
        if leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,):
            raise ValueError(
                f"state must hold typed random keys, got uint32{list(leaf.shape)}, which looks like raw ones and would "
                "repeat its noise in every epoch: use jax.random.key or jax.random.wrap_key_data, or int32 for counters"
            )
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        number = jax.random.bits(key, dtype=jnp.uint32)
        return jax.vmap(lambda each: jax.random.fold_in(each, number))(leaf.ravel()).reshape(leaf.shape)

    return jax.tree_util.tree_map(fold, state)
