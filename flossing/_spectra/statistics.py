"""Errors of time averages by batch means, and numbers derived from a spectrum: dimension, entropy, effective ranks.

The growth of successive blocks is correlated, so its standard deviation over sqrt(T) is not the error of its mean.
Averages over long batches are nearly independent, so their scatter is (batch means; Schmeiser 1982, Flegal & Jones
2010):

    s.e. = std(batch averages) / sqrt(batches),        (estimate - truth) / s.e. ~ Student t with batches - 1 d.o.f.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import special

from flossing._checks import check_integer, is_concrete
from flossing._estimate import BATCHES, SPLIT
from flossing._programs import one_program
from flossing._types import AnyArray
from flossing._views import describe_uncertainty


class Uncertainty(NamedTuple):
    """The uncertainty of exponents, in their unit.

    - `standard_error` (k,), by batch means; NaN for an infinite exponent. (B, k) for B sequences.
    - `degrees_of_freedom`: batches - 1, of the Student t distribution that intervals follow.
    - `is_upper_bound` (k,): true where the average converges like 1/T rather than 1/sqrt(T), as it does where growth
      is constant along the orbit up to a coboundary (a zero exponent of a flow, the logistic map at r = 4, any constant
      Jacobian). Then there is no asymptotic variance, and the standard error is only an upper bound.

    Arrays of JAX; of NumPy from `flossing.pytorch`.
    """

    standard_error: Float[AnyArray, "*B k"]
    degrees_of_freedom: int
    is_upper_bound: Bool[AnyArray, "*B k"]

    def __repr__(self) -> str:
        is_measured = hasattr(self.standard_error, "shape") and is_concrete(self)  # not traced
        return describe_uncertainty(self) if is_measured else f"Uncertainty{tuple(self)}"

    def half_width(self, level: float = 0.95) -> Float[AnyArray, "*B k"]:
        """Half the width of the two-sided confidence interval at `level`."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got level={level!r}")
        return float(special.stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error


def batch_means(growth: Float[Array, "*B blocks k"], duration: float, batches: int = BATCHES) -> Uncertainty:
    """The uncertainty of `growth.mean(-2) / duration`, from equally long blocks of `duration`, for each sequence.

    Needs `batches * 8` blocks; surplus blocks at the start are left out. `is_upper_bound` compares the variance of
    batches with that of their eighths. The variance falls like 1/length if an asymptotic variance exists, like
    1/length^2 otherwise; the threshold lies half-way between, at a factor of sqrt(8).
    """
    check_integer("batches", batches, least=2)
    least = batches * SPLIT
    blocks = growth.shape[-2]
    if blocks < least:
        raise ValueError(
            f"batches must leave {SPLIT} blocks for each batch, got batches={batches} of {blocks} blocks: average over "
            f"at least {least} blocks (steps, if interval=1), or pass fewer batches"
        )
    error, bound = _batch_means(growth, duration, batches)
    return Uncertainty(error, batches - 1, bound)


@functools.partial(one_program, static_argnums=2)
def _batch_means(
    growth: Float[Array, "*B blocks k"], duration: float | Float[Array, ""], batches: int
) -> tuple[Float[Array, "*B k"], Bool[Array, "*B k"]]:
    *several, blocks, k = growth.shape
    least = batches * SPLIT
    size = blocks // least
    short = growth[..., blocks - size * least :, :].reshape(*several, least, size, k).mean(-2) / duration
    long = short.reshape(*several, batches, SPLIT, k).mean(-2)
    variance = jnp.var(long, axis=-2, ddof=1)
    scaling = SPLIT * variance / jnp.var(short, axis=-2, ddof=1)
    # With a constant Jacobian only rounding remains, and its scaling is meaningless.
    rounding = 100 * jnp.finfo(growth.dtype).eps * jnp.max(jnp.abs(long), axis=-2)
    bound = ~(scaling > 1 / np.sqrt(SPLIT)) | (jnp.sqrt(variance) <= rounding)
    return jnp.sqrt(variance / batches), bound


def kaplan_yorke_dimension(exponents: Any, *, standard_error: Any = None, complete: bool = False) -> Float[Array, "*B"]:
    """The Kaplan-Yorke dimension of an attractor, from its exponents in descending order (k,), or (B, k).

        D = j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|

    with j the largest index whose partial sum is not negative; 0 if `lambda_1 < 0`. Units do not matter. Lists and
    tensors are taken as well. A partial sum above -sqrt(eps) |lambda|_max counts as 0, since rounding decides its sign:
    a limit cycle, whose largest exponent is 0, has dimension 1. If `standard_error` is given, one for each
    exponent, a partial sum above minus twice the largest of these errors also counts as 0. Both rules apply only where
    the last exponent of the sum is itself within that margin of 0; elsewhere the formula is continuous, and sums are
    taken as they are.

    If no partial sum is negative, the exponents given do not determine the dimension. With `complete=True` they are all
    exponents of the system, and the dimension is k. Otherwise this raises ValueError (NaN inside `jit`).

    **Source:** Kaplan & Yorke (1979); Frederickson et al. (1983).

        print(fl.kaplan_yorke_dimension([0.906, 0.0, -14.572]))
    """
    values = _values(exponents)
    errors = None if standard_error is None else _values(standard_error)
    dimension, crosses = _dimension(values, _margin(values, errors))
    if is_concrete(values) and not complete and not (np.asarray(crosses).all() or np.isnan(values).any()):
        raise ValueError(
            f"exponents must go on until their sum turns negative, got {values.shape[-1]} whose sums do not: the "
            f"dimension is at least {values.shape[-1]}; measure more, or pass complete=True if these are all"
        )
    return jnp.where(crosses | complete, dimension, jnp.nan)


@one_program
def _margin(exponents: Float[Array, "*B k"], errors: Float[Array, "*B k"] | None) -> Float[Array, "*B"]:
    """How far below 0 a partial sum may lie and still count as 0."""
    rounding = jnp.sqrt(jnp.finfo(exponents.dtype).eps) * _largest(exponents)
    return rounding if errors is None else jnp.maximum(rounding, 2 * _largest(errors))


@one_program
def _dimension(exponents: Float[Array, "*B k"], rounding: Float[Array, "*B"]) -> tuple[Array, Bool[Array, "*B"]]:
    """The dimension, and whether the partial sums turn negative."""
    k = exponents.shape[-1]
    partial = jnp.cumsum(exponents, axis=-1)
    # A sum that dips below zero and rises again cannot come from a descending spectrum; the first dip counts.
    margin = rounding[..., None]
    is_negative = (partial < -margin) | ((partial < 0) & (exponents < -margin))
    below = jnp.cumsum(is_negative, axis=-1) > 0
    j = jnp.sum(~below, axis=-1)
    between = (j > 0) & (j < k)
    next_one = jnp.where(between, _entry(exponents, jnp.minimum(j, k - 1)), -1)
    rest = jnp.maximum(_entry(partial, jnp.maximum(j - 1, 0)), 0)
    dimension = j.astype(partial.dtype) + jnp.where(between, rest / -next_one, 0)
    # NaN is not below zero, but must stay visible.
    return jnp.where(jnp.isnan(partial[..., -1]), jnp.nan, dimension), below[..., -1]


@one_program
def dimension_weights(exponents: Float[Array, "*B k"], standard_error: Float[Array, "*B k"]) -> Float[Array, "*B k"]:
    """The derivative of the dimension with respect to each exponent, where a sum within its error counts as 0."""
    rounding = 2 * _largest(standard_error)
    return jax.grad(lambda e: _dimension(e, rounding)[0].sum())(exponents)


def _largest(errors: Float[Array, "*B k"]) -> Float[Array, "*B"]:
    return jnp.max(jnp.where(jnp.isfinite(errors), jnp.abs(errors), 0), axis=-1)


def _entry(values: Float[Array, "*B k"], index: Int[Array, "*B"]) -> Float[Array, "*B"]:
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _as_array(values: Any) -> Array:
    """The values of a list, of NumPy, of torch."""
    return jnp.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def _values(exponents: Any) -> Float[Array, "*B k"]:
    values = _as_array(exponents)
    if not values.ndim or not values.shape[-1] or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"exponents must be floating numbers of shape (k,) or (B, k), got {values.dtype} of shape {values.shape}"
        )
    return values


def entropy_rate(exponents: Any, *, complete: bool = False) -> Float[Array, "*B"]:
    """The sum of the positive exponents (k,), or (B, k), in nats per unit of the exponents' time.

    An upper bound on the Kolmogorov-Sinai entropy rate (Ruelle 1978), and equal to it for a measure that is smooth
    along unstable directions (Pesin 1977). If all given exponents are positive, further positive ones may be missing:
    this raises ValueError (NaN inside `jit`), unless `complete=True` says that none are.

        print(fl.entropy_rate([0.906, 0.0, -14.572]))
    """
    values = _values(exponents)
    rate, ends = _rate(values)
    if is_concrete(values) and not complete and not np.asarray(ends).all():
        raise ValueError(
            f"exponents must include one that is not positive, got {values.shape[-1]} positive ones: measure more, or "
            "pass complete=True if these are all"
        )
    return rate if complete else jnp.where(ends, rate, jnp.nan)


@one_program
def _rate(exponents: Float[Array, "*B k"]) -> tuple[Float[Array, "*B"], Bool[Array, "*B"]]:
    """The sum of the positive exponents, and whether one is not positive."""
    return jnp.sum(jnp.maximum(exponents, 0), axis=-1), ~(exponents > 0).all(-1)


def participation_ratio(variances: Any) -> Float[Array, "*B"]:
    """The effective number of n non-negative weights: `(sum v)^2 / sum v^2`, from 1 (a single one) to n (all equal).

    For the eigenvalues of a covariance matrix it is a linear dimension of activity; for squared singular values, an
    effective rank. `variances` has shape (n,), or (B, n); NaN where all are 0. Raises ValueError for other shapes and
    for a negative number.

        print(fl.participation_ratio([1.0, 1.0, 0.0]))
    """
    return _participation_ratio(_weights("variances", variances))


@one_program
def _participation_ratio(variances: Float[Array, "*B n"]) -> Float[Array, "*B"]:
    scaled = variances / jnp.max(variances, axis=-1, keepdims=True)
    return jnp.square(scaled.sum(-1)) / jnp.square(scaled).sum(-1)


def effective_rank(singular_values: Any) -> Float[Array, "*B"]:
    """`exp(entropy)` of n singular values normalised to sum 1, from 1 to n; NaN if all are 0.

    `singular_values` has shape (n,), or (B, n). Raises ValueError for other shapes and for a negative number.

    **Source:** Roy & Vetterli (2007).

        print(fl.effective_rank([1.0, 1.0, 0.0]))
    """
    return _effective_rank(_weights("singular_values", singular_values))


@one_program
def _effective_rank(singular_values: Float[Array, "*B n"]) -> Float[Array, "*B"]:
    weights = singular_values / jnp.sum(singular_values, axis=-1, keepdims=True)
    return jnp.exp(-jnp.sum(jnp.where(weights > 0, weights * jnp.log(jnp.where(weights > 0, weights, 1)), 0), axis=-1))


def _weights(name: str, values: Any) -> Float[Array, "*B n"]:
    values = _as_array(values)
    values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)
    if not values.ndim or not values.shape[-1]:
        raise ValueError(f"{name} must have shape (n,) or (B, n), got shape {values.shape}")
    if is_concrete(values) and (np.asarray(values) < 0).any():
        raise ValueError(f"{name} must not be negative, got {float(values.min())}")
    return values
