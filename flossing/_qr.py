"""QR with a positive diagonal as an operation of JAX: of one matrix, or under `vmap` of many, and its derivative.

LAPACK does it by Householder's reflections, on a CPU one matrix after another. GPUs do that column by column, for many
matrices hardly better than for one. There many are decomposed by way of their Gram matrices. With G = A^T A = R^T R the
columns of A R^-1 are orthonormal, but for an error that grows with the square of the condition number. So it is done
three times, the first time with a shift, G + s I, that keeps G positive in spite of rounding (Fukaya, Kannan,
Nakatsukasa, Yamamoto & Yanagisawa 2020): products and triangular solves, all at once. On an NVIDIA H100, float32:

    256 matrices of        64 x 16       80 x 75       256 x 64
    Householder             0.3 ms        3.0 ms        18.3 ms
    this                    0.3 ms        0.7 ms         0.8 ms

One matrix alone gains nothing. Columns that depend on each other need Householder's, and then all matrices get it:
whether they do is asked of all at once, for which `vmap` of a condition has no way, hence an operation of our own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Bool, Float

from flossing._precision import in_full_precision

SHIFT = 10
"""s in units of rounding of tr G: well above the rounding errors of G, and so small that two more rounds are enough."""


ROUNDING = 10
"""|R_ii| up to this many units of rounding of the largest column of A counts as zero.

A null direction of D comes out of the product D Q not as 0 but as the rounding of its terms. On random singular
matrices of 2 to 400 rows the first such |R_ii| had a median below 3 units, with a tail up to 1e3 where D is far larger
than D Q; a constant singular step is caught within a few steps, a single one now and then is not.
"""


def positive_qr(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """`A = Q R` with `R_ii >= 0`, for each of a batch."""
    q, r = _positive_qr.bind(a)
    return q, r


def householder_qr(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """The same, by reflections, whatever the matrices."""
    q, r = jnp.linalg.qr(a)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(r.dtype)
    return q * sign[..., None, :], r * sign[..., :, None]


def cholesky_qr(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """The same, for many by Cholesky decompositions, unless these fail for one of them."""
    many = a.reshape(-1, *a.shape[-2:])
    if len(many) == 1:
        return householder_qr(a)
    q, r, good = jax.vmap(_three_rounds)(many)
    q, r = lax.cond(jnp.all(good), lambda: (q, r), lambda: householder_qr(many))
    return q.reshape(a.shape), r.reshape(*a.shape[:-2], *r.shape[1:])


@in_full_precision
def _three_rounds(a: Float[Array, "N k"]):
    """Q, R, and whether it went well: whether Q was so near to orthonormal that a last round makes it so."""
    k, eps = a.shape[1], jnp.finfo(a.dtype).eps
    identity = jnp.eye(k, dtype=a.dtype)
    q, gram, r = a, a.T @ a, identity
    gram = gram + SHIFT * eps * jnp.trace(gram) * identity
    for _ in range(2):
        q, r = _round(q, gram, r)
        gram = q.T @ q
    good = jnp.linalg.norm(gram - identity) < 0.5  # NaN, of a decomposition that failed, is not
    return *_round(q, gram, r), good


def _round(q: Float[Array, "N k"], gram: Float[Array, "k k"], r: Float[Array, "k k"]):
    """With Q^T Q = L L^T: Q L^-T, and L^T R."""
    lower = cholesky(gram, symmetrize_input=False)
    return triangular_solve(lower, q, left_side=False, lower=True, transpose_a=True), lower.T @ r


@in_full_precision
def turn_and_stretch(
    q: Float[Array, "N k"], r: Float[Array, "k k"], da: Float[Array, "N k"]
) -> tuple[Float[Array, "N k"], Float[Array, "k k"]]:
    """How a perturbation dA turns Q and stretches R: dQ, and U = dR R^-1, both linear in dA.

    With X = dA R^-1 and C = Q^T X, Q^T dQ = tril(C, -1) - tril(C, -1)^T is antisymmetric, U = C - Q^T dQ is upper
    triangular, and (Walter, Lehmann & Lamour 2012)

        d log R_ii = U_ii = C_ii,        dQ = X - Q U.
    """
    # Dependent columns are taken out of the solve: no derivative enters or leaves by them.
    independent = independent_columns(r)
    columns = independent[None, :]
    identity = jnp.eye(r.shape[0], dtype=r.dtype)
    x = triangular_solve(jnp.where(columns, r, identity), jnp.where(columns, da, 0), left_side=False)
    c = q.T @ x
    lower = jnp.tril(c, -1)
    u = c - lower + lower.T
    return x - q @ u, jnp.where(columns, u, 0)


def independent_columns(r: Float[Array, "k k"]) -> Bool[Array, " k"]:
    """Which columns of A come before the first that depends on the ones before it."""
    entry = jnp.max(jnp.abs(r))
    scaled = r / jnp.where(entry > 0, entry, 1)  # or the squares might overflow
    largest = entry * jnp.sqrt(jnp.max(jnp.sum(jnp.square(scaled), axis=0)))
    # Written so that NaN is not "dependent": it must stay visible.
    dependent = jnp.diagonal(r) <= ROUNDING * jnp.finfo(r.dtype).eps * largest
    return jnp.cumsum(dependent) == 0


def _derivative(primals, tangents):
    # However Q and R were found, what they are is differentiated.
    q, r = positive_qr(*primals)
    along = turn_and_stretch
    for _ in range(q.ndim - 2):
        along = jax.vmap(along)
    dq, u = along(q, r, *map(ad.instantiate_zeros, tangents))
    return (q, r), (dq, u @ r)


def _shapes(a):
    return a, a.update(shape=(*a.shape[:-2], a.shape[-1], a.shape[-1]))


_positive_qr = Primitive("positive_qr")
_positive_qr.multiple_results = True
_positive_qr.def_impl(jax.jit(_positive_qr.bind))
_positive_qr.def_abstract_eval(_shapes)
ad.primitive_jvps[_positive_qr] = in_full_precision(_derivative)
batching.primitive_batchers[_positive_qr] = lambda operands, axes: (
    _positive_qr.bind(jnp.moveaxis(operands[0], axes[0], 0)),
    (0, 0),
)
mlir.register_lowering(_positive_qr, mlir.lower_fun(cholesky_qr))
mlir.register_lowering(_positive_qr, mlir.lower_fun(householder_qr), platform="cpu")
