"""QR with a positive diagonal, of which the tangent flow needs two things: Q and log diag R.

The rule of its derivative (`turn_and_stretch`) is linear in dA, so that JAX transposes it for reverse mode; forward
mode and higher derivatives work too. Two things make it ours rather than JAX's: R itself carries no derivative, and a
column that depends on the ones before it (a singular Jacobian) gets log R_ii = -inf and no derivative, where
the general rule divides by zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._qr import independent_columns, positive_qr, turn_and_stretch


@jax.custom_jvp
def orthonormalise(a: Float[Array, "N k"]) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """`A = Q R` with `R_ii > 0` -> `Q` (N, k), `log diag R` (k,); needs `k <= N`.

    From the first linearly dependent column on, `log R_ii` is -inf with zero gradient; `Q` stays orthonormal. Raises
    `ValueError` for a matrix that is not of float32 or float64, or wider than high.
    """
    q, r = positive_qr(jnp.asarray(a))
    return q, log_diagonal(r)


@orthonormalise.defjvp
def _orthonormalise_jvp(primals, tangents):
    q, r = positive_qr(*primals)
    return (q, log_diagonal(r)), qr_tangent(q, r, *tangents)


def qr_tangent(
    q: Float[Array, "N k"], r: Float[Array, "k k"], da: Float[Array, "N k"]
) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """The derivative of `Q` and `log diag R` along `dA`: linear in `dA`."""
    dq, u = turn_and_stretch(q, r, da)
    return dq, jnp.diagonal(u)


def log_diagonal(r: Float[Array, "k k"]) -> Float[Array, " k"]:
    """log R_ii, -inf from the first column of A on that depends on the ones before it."""
    return jnp.where(independent_columns(r), jnp.log(jnp.diagonal(r)), -jnp.inf)
