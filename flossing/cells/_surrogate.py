"""Spikes, and the derivative that stands in for the one they do not have."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def spike(v: Float[Array, "..."], beta: float) -> Float[Array, "..."]:
    """1 where v > 0, else 0, with the derivative `1 / (beta |v| + 1)^2`; shape and dtype as v.

    The stand-in is at most 1, and the narrower the larger its sharpness `beta`. It has derivatives of its own, which
    flossing needs: its gradient differentiates the tangents.

    **Source:** Zenke & Ganguli (Neural Computation 2018).
    """
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _spike_jvp(beta, primals, tangents):
    (v,), (dv,) = primals, tangents
    return spike(v, beta), dv / jnp.square(beta * jnp.abs(v) + 1)
