"""How far a time average can be trusted: batch means, and what to say where they say nothing.

The growth of successive blocks is correlated, so its variance over sqrt(T) is not the error of its mean. Averages over
long batches are nearly independent, and their scatter is (batch means; Schmeiser 1982, Flegal & Jones 2010):

    s.e. = std(batch averages) / sqrt(batches),        (estimate - truth) / s.e. ~ Student t with batches - 1 degrees.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import special

from flossing._checks import check_integer

SPLIT = 8
"""Each batch is cut into so many, to see how its scatter scales with its length."""


class Uncertainty(NamedTuple):
    """The uncertainty of exponents, in their unit.

    - `standard_error` (k,), by batch means; NaN for an infinite exponent. (B, k) if B sequences were measured at once.
    - `degrees_of_freedom`: batches - 1, of the Student t distribution that intervals follow.
    - `upper_bound` (k,): true where the average converges like 1/T rather than 1/sqrt(T), as it does where growth is
      constant along the orbit up to a coboundary (a zero exponent of a flow, the logistic map at r = 4, any constant
      Jacobian). There is no asymptotic variance then, and the standard error is only a bound from above.
    """

    standard_error: Float[Array, " k"]
    degrees_of_freedom: int
    upper_bound: Bool[Array, " k"]

    def half_width(self, level: float = 0.95) -> Float[Array, " k"]:
        """Half the width of the two-sided confidence interval at `level`."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got level={level!r}")
        return float(special.stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error


def batch_means(growth: Float[Array, "*B blocks k"], duration: float, batches: int = 20) -> Uncertainty:
    """The uncertainty of `growth.mean(-2) / duration`, from equally long blocks of `duration`; each of a batch alone.

    Needs `batches * 8` blocks; what does not fill the batches is left out at the start. `upper_bound` compares the
    variance of batches with that of their eighths: it falls like 1/length where there is an asymptotic variance, like
    1/length^2 where there is none; the line is drawn half-way between, at a factor of sqrt(8).
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
    # A constant Jacobian leaves nothing but rounding, whose scaling means nothing.
    rounding = 100 * jnp.finfo(growth.dtype).eps * jnp.max(jnp.abs(long), axis=-2)
    bound = ~(scaling > 1 / np.sqrt(SPLIT)) | (jnp.sqrt(variance) <= rounding)
    return Uncertainty(jnp.sqrt(variance / batches), batches - 1, bound)
