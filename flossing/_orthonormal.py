"""QR with a positive diagonal, of which the tangent flow needs two things: Q and log diag R.

With A = Q R and a perturbation dA, put X = dA R^-1 and C = Q^T X. Then Q^T dQ = tril(C, -1) - tril(C, -1)^T is
antisymmetric, dR R^-1 = U = C - Q^T dQ is upper triangular, and (Walter, Lehmann & Lamour 2012)

    d log R_ii = C_ii,        dQ = X - Q U.

The rule is linear in dA, so that JAX transposes it for reverse mode; forward mode and higher derivatives work too.
Two things make it ours rather than JAX's: R itself never carries a derivative, and a column that depends on the
ones before it (a singular Jacobian) gets log R_ii = -inf and no derivative, where the general rule divides by zero.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import triangular_solve
from jaxtyping import Array, Bool, Float

from flossing._cholesky import cholesky_qr
from flossing._precision import in_full_precision

ROUNDING = 10
"""|R_ii| up to this many units of rounding of the largest column of A counts as zero.

A null direction of D comes out of the product D Q not as 0 but as the rounding of its terms. On random singular
matrices of 2 to 400 rows the first such |R_ii| had a median below 3 units, with a tail up to 1e3 where D is far larger
than D Q; a constant singular step is caught within a few steps, a single one now and then is not.
"""


@jax.custom_jvp
def orthonormalise(a: Float[Array, "N k"]) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """`A = Q R` with `R_ii > 0` -> `Q` (N, k), `log diag R` (k,); needs `k <= N`.

    From the first linearly dependent column on, `log R_ii` is -inf with zero gradient; `Q` stays orthonormal.
    """
    q, r = positive_qr(a)
    return q, log_diagonal(r)


@orthonormalise.defjvp
@in_full_precision
def _orthonormalise_jvp(primals, tangents):
    q, r = positive_qr(*primals)
    return (q, log_diagonal(r)), qr_tangent(q, r, *tangents)


def positive_qr(a: Float[Array, "N k"]) -> tuple[Float[Array, "N k"], Float[Array, "k k"]]:
    """`A = Q R` with `R_ii >= 0`."""
    return lax.platform_dependent(a, cpu=householder_qr, default=functools.partial(cholesky_qr, householder_qr))


def householder_qr(a: Float[Array, "N k"]) -> tuple[Float[Array, "N k"], Float[Array, "k k"]]:
    """The same, by reflections, whatever the matrix."""
    q, r = jnp.linalg.qr(a)
    sign = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * sign[None, :], r * sign[:, None]


@in_full_precision
def qr_tangent(
    q: Float[Array, "N k"], r: Float[Array, "k k"], da: Float[Array, "N k"]
) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """The derivative of `Q` and `log diag R` along `dA`: linear in `dA`."""
    # Dependent columns are taken out of the solve: no derivative enters or leaves by them.
    independent = independent_columns(r)
    columns = independent[None, :]
    identity = jnp.eye(r.shape[0], dtype=r.dtype)
    x = triangular_solve(jnp.where(columns, r, identity), jnp.where(columns, da, 0), left_side=False)
    c = q.T @ x
    lower = jnp.tril(c, -1)
    u = c - lower + lower.T
    return x - q @ u, jnp.where(independent, jnp.diagonal(c), 0)


def log_diagonal(r: Float[Array, "k k"]) -> Float[Array, " k"]:
    """log R_ii, -inf from the first column of A on that depends on the ones before it."""
    return jnp.where(independent_columns(r), jnp.log(jnp.diagonal(r)), -jnp.inf)


def independent_columns(r: Float[Array, "k k"]) -> Bool[Array, " k"]:
    """Which columns of A come before the first that depends on the ones before it."""
    entry = jnp.max(jnp.abs(r))
    scaled = r / jnp.where(entry > 0, entry, 1)  # or the squares might overflow
    largest = entry * jnp.sqrt(jnp.max(jnp.sum(jnp.square(scaled), axis=0)))
    # Written so that NaN is not "dependent": it must stay visible.
    dependent = jnp.diagonal(r) <= ROUNDING * jnp.finfo(r.dtype).eps * largest
    return jnp.cumsum(dependent) == 0
