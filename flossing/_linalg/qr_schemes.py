"""Ways to decompose A = Q R with a positive diagonal: by Householder's reflections, or by the Gram matrix.

LAPACK does it by reflections, one matrix after another; GPUs do so column by column, for many matrices hardly better
than for one. With G = A^T A = R^T R the columns of A R^-1 are orthonormal, but for an error that grows with the
square of the condition number; done again, only rounding is left. That is matrix products and triangles of k rows.

On a GPU many matrices are done so, in three rounds of which the first has a shift, G + s I, that keeps G positive in
spite of rounding (Fukaya, Kannan, Nakatsukasa, Yamamoto & Yanagisawa 2020). On an NVIDIA H100, float32:

    256 matrices of        64 x 16       80 x 75       256 x 64
    Householder             0.3 ms        3.0 ms        18.3 ms
    three rounds            0.3 ms        0.7 ms         0.8 ms

On a CPU large and tall ones are, in two rounds. On two cores, one LAPACK thread, float32 and, in brackets, float64:

    one matrix of         256 x 64       512 x 128        1000 x 100
    Householder         130 (230) us    960 (1800) us   1090 (2110) us
    two rounds           80 (180) us    640 (1110) us    510  (950) us

LAPACK's second thread, which a user's own `jit` wakes, costs more than it does: it stands in the way of XLA's.

Two rounds do up to a condition of some 1 / sqrt(rounding), 1e3 in float32. Beyond it Householder's follow, for all of a
batch, since it is asked of all at once; that takes both times.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Float

from flossing._linalg.precision import in_full_precision

SHIFT = 10
"""s in units of rounding of tr G: well above the rounding errors of G, and so small that two more rounds are enough."""

TALL, LARGE = 4, 8192
"""On a CPU: rows for each column, and entries, from which on two rounds are faster than Householder's reflections."""


def householder_qr(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """`A = Q R` with `R_ii >= 0`, for each of a batch, by reflections, whatever the matrices."""
    q, r = jnp.linalg.qr(a)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(r.dtype)
    return q * sign[..., None, :], r * sign[..., :, None]


def qr_on_cpu(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """The same; by their Gram matrices where they are large and tall, unless that fails for one of them."""
    n, k = a.shape[-2:]
    return _by_gram(a, two_rounds) if n >= TALL * k and n * k >= LARGE else householder_qr(a)


def qr_on_gpu(a: Float[Array, "*B N k"]) -> tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]:
    """The same; by their Gram matrices where they are many, unless that fails for one of them."""
    return _by_gram(a, three_rounds) if a.size > a.shape[-2] * a.shape[-1] else householder_qr(a)


def _by_gram(a: Float[Array, "*B N k"], rounds: Callable):
    many = a.reshape(-1, *a.shape[-2:])
    q, r, good = jax.vmap(rounds)(many)
    q, r = lax.cond(jnp.all(good), lambda: (q, r), lambda: householder_qr(many))
    return q.reshape(a.shape), r.reshape(*a.shape[:-2], *r.shape[1:])


@in_full_precision
def _rounds(a: Float[Array, "N k"], *, count: int, shift: int, divide: Callable):
    """Q, R, and whether it went well: whether Q was so near to orthonormal that a last round makes it so."""
    identity = jnp.eye(a.shape[1], dtype=a.dtype)
    q, gram, r = a, a.T @ a, identity
    gram = gram + shift * jnp.finfo(a.dtype).eps * jnp.trace(gram) * identity
    for _ in range(count - 1):
        q, r = _round(q, gram, r, divide)
        gram = q.T @ q
    good = jnp.linalg.norm(gram - identity) < 0.5  # NaN, of a decomposition that failed, is not
    return *_round(q, gram, r, divide), good


def _round(q: Float[Array, "N k"], gram: Float[Array, "k k"], r: Float[Array, "k k"], divide: Callable):
    """With Q^T Q = L L^T: Q L^-T, and L^T R."""
    lower = cholesky(gram, symmetrize_input=False)
    return divide(q, lower), lower.T @ r


def _by_solving(q: Float[Array, "N k"], lower: Float[Array, "k k"]) -> Float[Array, "N k"]:
    return triangular_solve(lower, q, left_side=False, lower=True, transpose_a=True)


def _by_inverse(q: Float[Array, "N k"], lower: Float[Array, "k k"]) -> Float[Array, "N k"]:
    # LAPACK then has k rows to solve for, not N, and the product is XLA's.
    inverse = triangular_solve(lower, jnp.eye(len(lower), dtype=q.dtype), left_side=True, lower=True)
    return q @ inverse.T


two_rounds = functools.partial(_rounds, count=2, shift=0, divide=_by_inverse)
three_rounds = functools.partial(_rounds, count=3, shift=SHIFT, divide=_by_solving)
