"""The flossing loss."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import is_concrete
from flossing._messages import infinite_exponent_message


def flossing_loss(exponents: Float[Array, "*B k"], target: ArrayLike = 0.0) -> Float[Array, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step (natural logarithm), or (B, k) for B sequences, averaged as well;
    `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and, outside `jit`, if an exponent
    is infinite. Inside `jit` the loss is then infinite, and the gradient of the finite exponents is not affected.

    **Source:** Engelken (NeurIPS 2023), section 3.

        loss = fl.flossing_loss(fl.lyapunov_spectrum(cell, inputs, k=8).exponents)
    """
    exponents = jnp.asarray(exponents)
    target = jnp.asarray(target, exponents.dtype)
    if target.shape not in ((), exponents.shape[-1:]):
        raise ValueError(
            f"target must be a scalar or have shape {exponents.shape[-1:]} like exponents, got shape {target.shape}"
        )
    if is_concrete(exponents) and not np.isfinite(exponents).all():
        raise ValueError(infinite_exponent_message(np.asarray(exponents)))
    return jnp.mean(jnp.square(exponents - jnp.broadcast_to(target, exponents.shape)))
