"""Random recurrent weights."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._types import RandomKey

Recurrent: TypeAlias = Literal["gaussian", "orthogonal"]


def recurrent_weights(
    key: RandomKey, units: int, recurrent: str, gain: float, mean_coupling: float = 0.0
) -> Float[Array, "N N"]:
    """`gain N(0,1) / sqrt(N) + mean_coupling / N`, or `gain` times an orthogonal matrix."""
    if recurrent == "gaussian":
        return gain * jax.random.normal(key, (units, units)) / jnp.sqrt(units) + mean_coupling / units
    if recurrent == "orthogonal":
        return orthogonal(key, units, gain)
    raise ValueError(f"recurrent must be 'gaussian' or 'orthogonal', got recurrent={recurrent!r}")


def orthogonal(key: RandomKey, units: int, gain: float = 1.0) -> Float[Array, "N N"]:
    """`gain` times the Q factor of a Gaussian matrix, its signs chosen so that Q is uniformly distributed."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (units, units)))
    return gain * q * jnp.sign(jnp.diagonal(r))[None, :]
