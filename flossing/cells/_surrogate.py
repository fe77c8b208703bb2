"""Spikes with a surrogate derivative."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def spike(v: Float[Array, "..."], beta: float) -> Float[Array, "..."]:
    """1 where v > 0, else 0, with the derivative `1 / (beta |v| + 1)^2`; shape and dtype as v.

    The surrogate is at most 1, and narrower for a larger sharpness `beta`. It is itself differentiable, as flossing
    requires: the flossing gradient differentiates the tangents.

    **Source:** Zenke & Ganguli (Neural Computation 2018).
    """
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _spike_jvp(beta, primals, tangents):
    (v,), (dv,) = primals, tangents
    return spike(v, beta), dv / jnp.square(beta * jnp.abs(v) + 1)
