"""QR with a positive diagonal, and the two results that the tangent flow needs: Q and log diag R.

`positive_qr` is a custom primitive: each platform has its own schemes (`qr_schemes.py`), and some decide for all
matrices of a batch together, whereas a condition under `vmap` sees each matrix alone. `orthonormalise` has a custom
derivative for two reasons: R itself carries none, and a column that depends on earlier ones (a singular Jacobian) gets
log R_ii = -inf and no derivative, where the general rule divides by zero.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.lax.linalg import triangular_solve
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from flossing._checks import check_leaves
from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr_schemes import decompose
from flossing._programs import one_program

ROUNDING = 10
"""|R_ii| up to this many units of rounding of its own column of A counts as zero: the column depends on earlier ones.

A null direction of D appears in D Q not as 0 but as the rounding errors of the terms of the product. On random singular
matrices of 2 to 400 rows the first such |R_ii| had a median of 1 to 15 units, with a tail up to 1e3 where D is far
larger than D Q. A constant singular Jacobian is detected within a few steps; a single one is sometimes missed.
"""

NULL = 3
"""|R_ii| up to this many units of rounding of the largest column of A counts as zero as well: the column itself is the
image of a null direction. A small column may also be right to all its digits, as that of a step which contracts one
direction a million times more than another, so this limit is lower."""


def orthonormalise(a: ArrayLike) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """`A = Q R` with `R_ii > 0` -> `Q` (N, k), `log diag R` (k,); needs `k <= N`.

    From the first linearly dependent column on, `log R_ii` is -inf with zero gradient; `Q` stays orthonormal. Raises
    `ValueError` for a matrix that is not finite, not float32 or float64, or has more columns than rows.

        q, log_r = fl.orthonormalise(jax.random.normal(jax.random.key(0), (5, 2)))
    """
    check_leaves("a", a)
    return _as_one_program(jnp.asarray(a))


@jax.custom_jvp
def _orthonormalise(a: Float[Array, "N k"]) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    q, r = positive_qr(a)
    return q, log_diagonal(r)


@_orthonormalise.defjvp
def _orthonormalise_jvp(primals, tangents):
    q, r = positive_qr(*primals)
    return (q, log_diagonal(r)), qr_tangent(q, r, *tangents)


_as_one_program = one_program(_orthonormalise)


def qr_tangent(
    q: Float[Array, "N k"], r: Float[Array, "k k"], da: Float[Array, "N k"]
) -> tuple[Float[Array, "N k"], Float[Array, " k"]]:
    """The derivative of `Q` and `log diag R` along `dA`: linear in `dA`."""
    dq, u = qr_differential(q, r, da)
    return dq, jnp.diagonal(u)


def log_diagonal(r: Float[Array, "k k"]) -> Float[Array, " k"]:
    """log R_ii; -inf from the first column of A onwards that depends on earlier ones."""
    return jnp.where(independent_columns(r), jnp.log(jnp.diagonal(r)), -jnp.inf)


def positive_qr(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """`A = Q R` with `R_ii >= 0`, for each matrix of a batch."""
    if a.ndim < 2 or not 1 <= a.shape[-1] <= a.shape[-2] or a.dtype not in (jnp.float32, jnp.float64):
        legal = "a matrix (N, k) of float32 or float64 with 1 <= k <= N"
        raise ValueError(f"a must be {legal}, got {a.dtype}[{','.join(map(str, a.shape))}]")
    q, r = _positive_qr.bind(a)
    return q, r


@in_full_precision
def qr_differential(
    q: Float[Array, "N k"], r: Float[Array, "k k"], da: Float[Array, "N k"]
) -> tuple[Float[Array, "N k"], Float[Array, "k k"]]:
    """How a perturbation dA rotates Q and stretches R: dQ, and U = dR R^-1, both linear in dA.

    With X = dA R^-1 and C = Q^T X, Q^T dQ = tril(C, -1) - tril(C, -1)^T is antisymmetric, U = C - Q^T dQ is upper
    triangular, and (Walter, Lehmann & Lamour 2012)

        d log R_ii = U_ii = C_ii,        dQ = X - Q U.
    """
    # Exclude dependent columns from the solve: no derivative enters or leaves through them.
    independent = independent_columns(r)
    columns = independent[None, :]
    identity = jnp.eye(r.shape[0], dtype=r.dtype)
    x = triangular_solve(jnp.where(columns, r, identity), jnp.where(columns, da, 0), left_side=False)
    c = q.T @ x
    lower = jnp.tril(c, -1)
    u = c - lower + lower.T
    return x - q @ u, jnp.where(columns, u, 0)


def independent_columns(r: Float[Array, "k k"]) -> Bool[Array, " k"]:
    """Which columns of A come before the first that depends on earlier ones."""
    max_entry = jnp.max(jnp.abs(r))
    scaled = r / jnp.where(max_entry > 0, max_entry, 1)  # or the squares might overflow
    norms = max_entry * jnp.sqrt(jnp.sum(jnp.square(scaled), axis=0))
    rounding = jnp.finfo(r.dtype).eps * jnp.maximum(ROUNDING * norms, NULL * jnp.max(norms))
    # Written so that NaN is not "dependent": it must stay visible.
    dependent = jnp.diagonal(r) <= rounding
    return jnp.cumsum(dependent) == 0


def _derivative(primals, tangents):
    # The derivative does not depend on the scheme that computed Q and R.
    q, r = positive_qr(*primals)
    differential = qr_differential
    for _ in range(q.ndim - 2):
        differential = jax.vmap(differential)
    dq, u = differential(q, r, *map(ad.instantiate_zeros, tangents))
    return (q, r), (dq, u @ r)


def _shapes(a):
    return a, a.update(shape=(*a.shape[:-2], a.shape[-1], a.shape[-1]))


_positive_qr = Primitive("positive_qr")
_positive_qr.multiple_results = True
_compiled_qr = jax.jit(_positive_qr.bind)


def _run_compiled(a):
    # Like JAX's own primitives, this one is compiled even under `jax.disable_jit()`, where it would only call itself.
    with jax.disable_jit(False):
        return _compiled_qr(a)


_positive_qr.def_impl(_run_compiled)
_positive_qr.def_abstract_eval(_shapes)
ad.primitive_jvps[_positive_qr] = in_full_precision(_derivative)
batching.primitive_batchers[_positive_qr] = lambda operands, axes: (
    _positive_qr.bind(jnp.moveaxis(operands[0], axes[0], 0)),
    (0, 0),
)
mlir.register_lowering(_positive_qr, mlir.lower_fun(functools.partial(decompose, platform="gpu")))
mlir.register_lowering(_positive_qr, mlir.lower_fun(functools.partial(decompose, platform="cpu")), platform="cpu")
