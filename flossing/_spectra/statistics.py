"""Errors of time averages by batch means, and numbers derived from a spectrum: dimension, entropy, effective ranks.

The growth of successive blocks is correlated, so its standard deviation over sqrt(T) is not the error of its mean.
Averages over long batches are nearly independent, so their scatter is (batch means; Schmeiser 1982, Flegal & Jones
2010):

    s.e. = std(batch averages) / sqrt(batches),        (estimate - truth) / s.e. ~ Student t with batches - 1 d.o.f.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import special

from flossing._checks import check_integer

SPLIT = 8
"""The number of parts of each batch, which show how scatter scales with length."""


class Uncertainty(NamedTuple):
    """The uncertainty of exponents, in their unit.

    - `standard_error` (k,), by batch means; NaN for an infinite exponent. (B, k) for B sequences.
    - `degrees_of_freedom`: batches - 1, of the Student t distribution that intervals follow.
    - `is_upper_bound` (k,): true where the average converges like 1/T rather than 1/sqrt(T), as it does where growth
      is constant along the orbit up to a coboundary (a zero exponent of a flow, the logistic map at r = 4, any constant
      Jacobian). Then there is no asymptotic variance, and the standard error is only an upper bound.
    """

    standard_error: Float[Array, " k"]
    degrees_of_freedom: int
    is_upper_bound: Bool[Array, " k"]

    def half_width(self, level: float = 0.95) -> Float[Array, " k"]:
        """Half the width of the two-sided confidence interval at `level`."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got level={level!r}")
        return float(special.stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error


def batch_means(growth: Float[Array, "*B blocks k"], duration: float, batches: int = 20) -> Uncertainty:
    """The uncertainty of `growth.mean(-2) / duration`, from equally long blocks of `duration`, for each sequence.

    Needs `batches * 8` blocks; surplus blocks at the start are left out. `is_upper_bound` compares the variance of
    batches with that of their eighths. The variance falls like 1/length if an asymptotic variance exists, like
    1/length^2 otherwise; the threshold lies half-way between, at a factor of sqrt(8).
    """
    check_integer("batches", batches, least=2)
    least = batches * SPLIT
    *several, blocks, k = growth.shape
    if blocks < least:
        raise ValueError(f"batches must leave {SPLIT} blocks for each batch, got batches={batches} of {blocks} blocks")
    size = blocks // least
    short = growth[..., blocks - size * least :, :].reshape(*several, least, size, k).mean(-2) / duration
    long = short.reshape(*several, batches, SPLIT, k).mean(-2)
    variance = jnp.var(long, axis=-2, ddof=1)
    scaling = SPLIT * variance / jnp.var(short, axis=-2, ddof=1)
    # With a constant Jacobian only rounding remains, and its scaling is meaningless.
    rounding = 100 * jnp.finfo(growth.dtype).eps * jnp.max(jnp.abs(long), axis=-2)
    bound = ~(scaling > 1 / np.sqrt(SPLIT)) | (jnp.sqrt(variance) <= rounding)
    return Uncertainty(jnp.sqrt(variance / batches), batches - 1, bound)


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
    return jnp.where(jnp.isnan(partial[-1]), jnp.nan, dimension)  # NaN is not below zero, but must stay visible


def entropy_rate(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """The sum of the positive exponents, in nats per unit of the exponents' time.

    An upper bound on the Kolmogorov-Sinai entropy rate (Ruelle 1978), and equal to it for a measure that is smooth
    along unstable directions (Pesin 1977). The k exponents given must include all positive ones.
    """
    return jnp.sum(jnp.maximum(exponents, 0))


def participation_ratio(variances: Float[Array, " n"]) -> Float[Array, ""]:
    """The effective number of n non-negative weights: `(sum v)^2 / sum v^2`, from 1 (a single one) to n (all equal).

    For the eigenvalues of a covariance matrix it is a linear dimension of activity; for squared singular values, an
    effective rank.
    """
    scaled = variances / jnp.max(variances)
    return jnp.square(scaled.sum()) / jnp.square(scaled).sum()


def effective_rank(singular_values: Float[Array, " n"]) -> Float[Array, ""]:
    """`exp(entropy)` of the singular values normalised to sum 1, from 1 to n. Source: Roy & Vetterli (2007)."""
    weights = singular_values / jnp.sum(singular_values)
    return jnp.exp(-jnp.sum(jnp.where(weights > 0, weights * jnp.log(jnp.where(weights > 0, weights, 1)), 0)))
