"""The flossing loss, and what exponents that are not finite mean."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import is_concrete


def flossing_loss(exponents: Float[Array, " k"], target: ArrayLike = 0.0) -> Float[Array, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step (natural logarithm); `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and, outside `jit`, if an exponent
    is infinite; inside `jit` the loss is then infinite, and the gradient of the finite exponents stays as it is.

    **Source:** Engelken (NeurIPS 2023), section 3.
    """
    exponents = jnp.asarray(exponents)
    target = jnp.asarray(target, exponents.dtype)
    if target.shape not in ((), exponents.shape):
        raise ValueError(
            f"target must be a scalar or have shape {exponents.shape} like exponents, got shape {target.shape}"
        )
    if is_concrete(exponents) and not np.isfinite(exponents).all():
        raise ValueError(explain_infinite(np.asarray(exponents)))
    return jnp.mean(jnp.square(exponents - target))


def explain_infinite(exponents: np.ndarray) -> str:
    """What a vector of exponents that is not finite means, and what to do, in one line."""
    index = int(np.argmin(np.isfinite(exponents)))
    if np.isneginf(exponents[index]):
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the Jacobian is singular along that direction "
            f"(or the interval too long for this dtype); use k <= {index}, a shorter interval or float64"
            if index
            else "exponents must be finite, got exponents[0]=-inf: the step forgets its state"
        )
    return f"exponents must be finite, got exponents[{index}]={exponents[index]}: the orbit or its tangents overflow"
