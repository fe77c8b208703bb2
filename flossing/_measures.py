"""Numbers made of a spectrum: dimension, entropy rate, participation ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kaplan_yorke_dimension(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """The Kaplan-Yorke dimension of an attractor, from its exponents in descending order (k,).

        D = j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|

    with j the largest index whose partial sum is not negative; 0 if `lambda_1 < 0`. If no partial sum is negative the
    result is k: the dimension is N if all N exponents were given, at least k otherwise. Units do not matter. Source:
    Kaplan & Yorke (1979); Frederickson et al. (1983).
    """
    partial = jnp.cumsum(exponents)
    # A sum that dips below zero and rises again cannot come from a descending spectrum; the first dip counts.
    below = jnp.cumsum(partial < 0) > 0
    j = jnp.sum(~below)
    between = (j > 0) & (j < exponents.size)
    next_one = jnp.where(between, exponents[jnp.minimum(j, exponents.size - 1)], -1)
    fraction = jnp.where(between, partial[jnp.maximum(j - 1, 0)] / -next_one, 0)
    dimension = j.astype(partial.dtype) + fraction
    return jnp.where(jnp.isnan(partial[-1]), jnp.nan, dimension)  # NaN is not below zero, and must be seen


def entropy_rate(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """The sum of the positive exponents, in nats per unit of the exponents' time.

    An upper bound on the Kolmogorov-Sinai entropy rate (Ruelle 1978), and equal to it for a measure that is smooth
    along unstable directions (Pesin 1977). The k exponents given must include all positive ones.
    """
    return jnp.sum(jnp.maximum(exponents, 0))


def participation_ratio(variances: Float[Array, " n"]) -> Float[Array, ""]:
    """How many of n non-negative weights take part: `(sum v)^2 / sum v^2`, from 1 (one alone) to n (all equal).

    Of the eigenvalues of a covariance matrix it is a linear dimension of activity; of squared singular values, an
    effective rank.
    """
    scaled = variances / jnp.max(variances)
    return jnp.square(scaled.sum()) / jnp.square(scaled).sum()


def effective_rank(singular_values: Float[Array, " n"]) -> Float[Array, ""]:
    """`exp(entropy)` of the singular values normalised to sum 1, from 1 to n. Source: Roy & Vetterli (2007)."""
    weights = singular_values / jnp.sum(singular_values)
    return jnp.exp(-jnp.sum(jnp.where(weights > 0, weights * jnp.log(jnp.where(weights > 0, weights, 1)), 0)))
