"""Matrices whose rows may differ arbitrarily in scale, and their singular values.

A matrix diag(2^e) W stores an integer exponent for each row, so scaling is exact and no row under- or overflows.
One-sided Jacobi rotates pairs of rows until all are orthogonal, and uses only differences of exponents. The row norms
are then the singular values, each to high relative accuracy (Demmel & Veselic 1992; Drmac & Veselic 2008).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from flossing._linalg.mesh import varying
from flossing._linalg.qr import positive_qr

SWEEPS = 30
"""Limit on Jacobi sweeps; networks of 20 to 80 units took 2 to 8."""

NOISE = 4
"""Entries up to this many times the rounding bound count as zero. On singular matrices of 2 to 200 random rows the
remainders were mostly below 1 bound, and at most 8 (5 rows equal up to scale); on regular matrices they were at least
1e10, and 15 in float32."""

ZERO = -(2**30)
"""The exponent of a row of zeros: below any other, and differences of two exponents still fit in 32 bits."""


class Graded(NamedTuple):
    """The matrix diag(2^exponents) rows. The largest entry of each row is in [1/2, 1), or 0 with exponent ZERO."""

    exponents: Int[Array, " n"]
    rows: Float[Array, "n N"]


def log_singular_values(a: Graded) -> Float[Array, " n"]:
    """The natural logarithms of the singular values of `diag(2^e) W`, descending, by one-sided Jacobi on its rows."""
    size, dtype = a.rows.shape[0], a.rows.dtype
    # Triangularising from both sides makes a graded matrix nearly diagonal (Drmac & Veselic 2008), and turns a
    # dependent row into a row of zeros.
    a = _triangularise(_triangularise(_triangularise(a)))
    if size % 2:
        a = Graded(jnp.append(a.exponents, ZERO), jnp.concatenate([a.rows, jnp.zeros_like(a.rows[:1])]))
    half = (size + 1) // 2
    # Round-robin tournament, half against half: the first row stays, the others rotate, until every pair has met.
    seats = np.arange(2 * half)
    moved = np.concatenate([seats[:1], seats[half : half + 1], seats[1 : half - 1], seats[half + 1 :], [half - 1]])
    moved = moved if half > 1 else seats

    def meet(a, _):
        x, y, cosines = _rotate(_take(a, seats[:half]), _take(a, seats[half:]))
        a = jax.tree_util.tree_map(lambda *halves: jnp.concatenate(halves), x, y)
        return _take(a, moved), cosines.max()

    def sweep(carry):
        count, _, a = carry
        a, worst = lax.scan(meet, _sort(a), length=2 * half - 1)
        return count + 1, worst.max(), a

    tolerance = max(size, 16) * jnp.finfo(dtype).eps
    start = (*varying((jnp.array(0), jnp.array(jnp.inf, dtype)), a), a)
    _, _, a = lax.while_loop(lambda carry: (carry[0] < SWEEPS) & (carry[1] > tolerance), sweep, start)
    return jnp.sort(log_norms(a), descending=True)[:size]


def factor(a: Float[Array, "M N"]) -> tuple[Float[Array, "M N"], Float[Array, "N N"]]:
    """`A = Q R` with `R_ii >= 0`, accurate even where row sizes differ by many orders, as for saturated units.

    Householder reflections on rows sorted by size, largest first, are row-wise stable (Cox & Higham 1998). Their error
    in R_ij is at most |q_i| . s (1 + |y_j|_1) units of rounding, where s holds the row sizes and y_j the coefficients
    of column j in terms of the earlier ones. Where R_ii is below this bound, it and all other entries of its row below
    the bound are rounding noise and are set to zero.
    """
    sizes = jnp.max(jnp.abs(a), axis=1)
    order = jnp.argsort(sizes, descending=True)
    q, r = positive_qr(a[order])
    q = q[jnp.argsort(order)]
    diagonal = jnp.diagonal(r)
    rounding = NOISE * jnp.finfo(r.dtype).eps * jnp.sum(jnp.abs(q) * sizes[:, None], axis=0)
    # A lost column has no usable pivot; the largest row size replaces it.
    pivots = jnp.where(diagonal <= rounding, jnp.where(sizes.max() == 0, 1, sizes.max()), diagonal)
    coefficients = solve_triangular(r + jnp.diag(pivots - diagonal), jnp.diag(pivots))
    is_noise = jnp.abs(r) <= rounding[:, None] * jnp.sum(jnp.abs(coefficients), axis=0)[None, :]
    return q, jnp.where(is_noise & jnp.diagonal(is_noise)[:, None], 0, r)


def multiply(r: Float[Array, "m n"], a: Graded) -> Graded:
    # Row i of the product is sum_j r_ij 2^e_j w_j, summed in units of the largest 2^e_j among its terms.
    live = (r != 0) & (a.exponents > ZERO)[None, :]
    top = jnp.max(jnp.where(live, a.exponents[None, :], ZERO), axis=1)
    scaled = jnp.where(live, jnp.ldexp(r, a.exponents[None, :] - top[:, None]), 0)
    return normalise(top, jnp.matmul(scaled, a.rows, precision="highest"))


def _triangularise(a: Graded) -> Graded:
    # With rows in descending order and W^T = Q R, the transpose of diag(2^e) W is Q R diag(2^e); Q is dropped.
    a = _sort(a)
    _, r = factor(a.rows.T)
    return multiply(r, Graded(a.exponents, jnp.eye(r.shape[0], dtype=r.dtype)))


def _rotate(x: Graded, y: Graded) -> tuple[Graded, Graded, Float[Array, " n"]]:
    """Rotate each row of `x` against that of `y` until they are orthogonal; also |cos| of the angle before.

    With r = 2^(e_y - e_x) and x the longer, tan(theta) / r = 2 x.y / (|x|^2 - r^2 |y|^2 + sqrt(...)): only the ratio of
    the scales enters, and where it underflows the rotation becomes a Gram-Schmidt step.
    """
    swap = log_norms(x) < log_norms(y)
    x, y = _swap(swap, x, y)
    xx, yy, xy = dot(x.rows, x.rows), dot(y.rows, y.rows), dot(x.rows, y.rows)
    r = jnp.ldexp(jnp.ones_like(xx), y.exponents - x.exponents)
    gap = jnp.maximum(xx - r * r * yy, 0)
    below = gap + jnp.sqrt(gap * gap + 4 * r * r * xy * xy)
    tau = 2 * xy / jnp.where(below == 0, 1, below)
    cos = lax.rsqrt(1 + (tau * r) ** 2)[:, None]
    x_rows = cos * (x.rows + (tau * r * r)[:, None] * y.rows)
    y_rows = cos * (y.rows - tau[:, None] * x.rows)
    x, y = _swap(swap, normalise(x.exponents, x_rows), normalise(y.exponents, y_rows))
    return x, y, jnp.abs(xy) / jnp.sqrt(jnp.where(yy == 0, 1, xx * yy))


def normalise(exponents: Int[Array, " n"], rows: Float[Array, "n N"]) -> Graded:
    largest = jnp.max(jnp.abs(rows), axis=1)
    _, shift = jnp.frexp(largest)
    return Graded(jnp.where(largest == 0, ZERO, exponents + shift), jnp.ldexp(rows, -shift[:, None]))


def _swap(where: Bool[Array, " n"], x: Graded, y: Graded) -> tuple[Graded, Graded]:
    exponents = jnp.where(where, y.exponents, x.exponents), jnp.where(where, x.exponents, y.exponents)
    rows = jnp.where(where[:, None], y.rows, x.rows), jnp.where(where[:, None], x.rows, y.rows)
    return Graded(exponents[0], rows[0]), Graded(exponents[1], rows[1])


def _sort(a: Graded) -> Graded:
    return _take(a, jnp.argsort(log_norms(a), descending=True))


def _take(a: Graded, index) -> Graded:
    return Graded(a.exponents[index], a.rows[index])


def log_norms(a: Graded) -> Float[Array, " n"]:
    squares = dot(a.rows, a.rows)
    logs = a.exponents.astype(squares.dtype) * math.log(2) + jnp.log(jnp.where(squares == 0, 1, squares)) / 2
    return jnp.where(squares == 0, -jnp.inf, logs)


def dot(x: Float[Array, "n N"], y: Float[Array, "n N"]) -> Float[Array, " n"]:
    return jnp.sum(x * y, axis=1)
