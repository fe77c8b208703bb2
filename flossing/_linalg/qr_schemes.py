"""Schemes for A = Q R with a positive diagonal: one class each, with its cost and where it is used.

Householder reflections treat one matrix after another; GPUs run them column by column and gain little from a batch. The
other schemes use the Gram matrix: with G = A^T A = R^T R the columns of A R^-1 are orthonormal, up to an error that
grows with the square of the condition number. A second round leaves only rounding errors. These schemes need only
matrix products and triangular matrices of k rows. Where the condition number is too large, they fall back to
reflections.

To add a scheme, write its class and put it into `SCHEMES`.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Bool, Float

from flossing._linalg.mesh import spec_of, with_automatic_axes
from flossing._linalg.precision import in_full_precision

Decomposition = tuple[Float[Array, "*B N k"], Float[Array, "*B k k"]]


class Scheme(Protocol):
    """A scheme to decompose each matrix of a batch, whatever the matrices."""

    def is_fastest(self, platform: str, batch: int, n: int, k: int) -> bool:
        """Whether it suits a batch of n x k matrices on "cpu" or "gpu"; the first of `SCHEMES` that does is used."""
        ...

    def __call__(self, a: Float[Array, "*B N k"]) -> Decomposition:
        """`A = Q R` with `R_ii >= 0`."""
        ...


class CholeskyQR2:
    """Two rounds, for one large and tall matrix on a CPU.

    On two cores, one LAPACK thread, float32 and, in brackets, float64:

        one matrix of         256 x 64       512 x 128        1000 x 100
        Householder         130 (230) us    960 (1800) us   1090 (2110) us
        CholeskyQR2          80 (180) us    640 (1110) us    510  (950) us

    It works up to a condition number of about 1 / sqrt(eps), 1e3 in float32. Beyond that, the whole batch is decomposed
    again by reflections, at the cost of both. A second LAPACK thread, which a user's own `jit` starts, costs more than
    it gains: it competes with the threads of XLA.
    """

    TALL, LARGE = 4, 8192
    """Rows per column, and number of entries, from which it is faster."""

    def is_fastest(self, platform: str, batch: int, n: int, k: int) -> bool:
        return platform == "cpu" and n >= self.TALL * k and n * k >= self.LARGE

    def __call__(self, a: Float[Array, "*B N k"]) -> Decomposition:
        return _or_householder(a, cholesky_qr2)


class ShiftedCholeskyQR3:
    """Three rounds, for many matrices on a GPU; the first uses G + s I, which stays positive definite despite rounding
    (Fukaya, Kannan, Nakatsukasa, Yamamoto & Yanagisawa 2020).

    On an NVIDIA H100, float32:

        256 matrices of         64 x 16       80 x 75       256 x 64
        Householder              0.3 ms        3.0 ms        18.3 ms
        ShiftedCholeskyQR3       0.3 ms        0.7 ms         0.8 ms
    """

    def is_fastest(self, platform: str, batch: int, n: int, k: int) -> bool:
        return platform != "cpu" and batch > 1

    def __call__(self, a: Float[Array, "*B N k"]) -> Decomposition:
        return _or_householder(a, shifted_cholesky_qr3)


class Householder:
    """Reflections, by LAPACK or cuSOLVER: for any matrix."""

    def is_fastest(self, platform: str, batch: int, n: int, k: int) -> bool:
        return True

    def __call__(self, a: Float[Array, "*B N k"]) -> Decomposition:
        q, r = jnp.linalg.qr(a)
        sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(r.dtype)
        return q * sign[..., None, :], r * sign[..., :, None]


SCHEMES: tuple[Scheme, ...] = (CholeskyQR2(), ShiftedCholeskyQR3(), Householder())


def decompose(a: Float[Array, "*B N k"], platform: str) -> Decomposition:
    """`A = Q R` with `R_ii >= 0`, for each matrix of a batch, by the fastest scheme on "cpu" or "gpu"."""
    n, k = a.shape[-2:]
    batch = a.size // (n * k)
    scheme = next(scheme for scheme in SCHEMES if scheme.is_fastest(platform, batch, n, k))
    return with_automatic_axes(scheme, spec_of(a))(a)


def _or_householder(a: Float[Array, "*B N k"], rounds: Callable) -> Decomposition:
    batch = a.reshape(-1, *a.shape[-2:])
    q, r, succeeded = jax.vmap(rounds)(batch)
    q, r = lax.cond(jnp.all(succeeded), lambda: (q, r), lambda: Householder()(batch))
    return q.reshape(a.shape), r.reshape(*a.shape[:-2], *r.shape[1:])


SHIFT = 10
"""s in units of rounding of tr G: well above the rounding errors of G, but so small that two more rounds suffice."""


@in_full_precision
def _rounds(
    a: Float[Array, "N k"], *, count: int, shift: int, divide: Callable
) -> tuple[Float[Array, "N k"], Float[Array, "k k"], Bool[Array, ""]]:
    """Q, R, and whether Q was close enough to orthonormal for the last round to make it orthonormal."""
    identity = jnp.eye(a.shape[1], dtype=a.dtype)
    q, gram, r = a, a.T @ a, identity
    gram = gram + shift * jnp.finfo(a.dtype).eps * jnp.trace(gram) * identity
    for _ in range(count - 1):
        q, r = _round(q, gram, r, divide)
        gram = q.T @ q
    succeeded = jnp.linalg.norm(gram - identity) < 0.5  # false for NaN, the result of a decomposition that failed
    return *_round(q, gram, r, divide), succeeded


def _round(q: Float[Array, "N k"], gram: Float[Array, "k k"], r: Float[Array, "k k"], divide: Callable):
    """With Q^T Q = L L^T: Q L^-T, and L^T R."""
    lower = cholesky(gram, symmetrize_input=False)
    return divide(q, lower), lower.T @ r


def _by_solving(q: Float[Array, "N k"], lower: Float[Array, "k k"]) -> Float[Array, "N k"]:
    return triangular_solve(lower, q, left_side=False, lower=True, transpose_a=True)


def _by_inverse(q: Float[Array, "N k"], lower: Float[Array, "k k"]) -> Float[Array, "N k"]:
    # LAPACK then solves for k rows instead of N, and XLA computes the product.
    inverse = triangular_solve(lower, jnp.eye(len(lower), dtype=q.dtype), left_side=True, lower=True)
    return q @ inverse.T


cholesky_qr2 = functools.partial(_rounds, count=2, shift=0, divide=_by_inverse)
shifted_cholesky_qr3 = functools.partial(_rounds, count=3, shift=SHIFT, divide=_by_solving)
