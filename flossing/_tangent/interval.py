"""How seldom to re-orthonormalise: a rule that follows the network, within a tolerance of the gradient.

Between two QR decompositions the columns of D_m ... D_1 Q lean towards the fastest direction, and rounding errors
there, of size eps, count for exp(s) eps in the slowest, where

    s = max_i log R_ii - min_i log R_ii

is the spread of a block. The gradient is a sum over blocks: it then differs from that with QR after every step by at
most about `AMPLIFICATION` eps <exp(s)> of its norm (2-norm), the mean being over blocks, so that a tolerance says how
far blocks may spread. How far they did is known once they were run; how far longer ones would have is known too, since
the growth of joined blocks adds.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

AMPLIFICATION = 100
"""Error of the gradient over eps <exp(s)>, a value that the margin makes safe. Networks of 20 to 80 units, random ones
with gains from 0.1 to 3 and flossed ones, gave 2 to 5 in the median and once 800 (float32, intervals of 2 to 16). With
20 in this place the error was below the tolerance of 1e-3, where the rule allowed the interval, but in two of some 430
cases, with 1.5e-3. (A third, of 6e-3, was the error of the gradient with QR after every step: with an interval of 2 it
was 1.5e-4 from that in float64.) In flossing phases over 300 and 512 steps it then came to 1.9e-3 and 3.1e-3; with
50, and intervals between the powers of two, to 1.1e-3."""

FACTORS = (1, 2, 4, 8, 16, 32)
"""How many blocks are thought joined, to see what a longer interval would do."""

MARGIN = 0.8
"""A longer interval must have strained no more than this: spreads differ a little from epoch to epoch."""

DECOMPOSITION = 3
"""What a QR decomposition and its derivative cost, in steps of the tangent flow and theirs (N = 80, k = 75, a CPU)."""

GAIN = 0.1
"""An interval is left for a longer one only where that makes epochs cheaper by this share. What strains too much has to
be run again, and the nearer to the limit, the more often."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""How far the gradient may be from that with QR after every step, by dtype: relative, in the 2-norm."""


def largest_spread(dtype: Any, tolerance: float | None = None) -> float:
    """How far blocks may spread, in nats, for the gradient to keep to `tolerance`; at 0 or below, one step."""
    tolerance = TOLERANCE.get(jnp.dtype(dtype).name, 1e-3) if tolerance is None else tolerance
    return math.log(tolerance / (AMPLIFICATION * float(jnp.finfo(dtype).eps)))


def strains_of(
    growth: Float[Array, "rows k"],
    tolerance: float | None = None,
    *,
    transient: int = 0,
    interval: int | Int[Array, ""] = 1,
) -> Float[Array, " factors"]:
    """How much blocks of `FACTORS` times the interval strain the precision, by log R_ii of all: 1 is borne.

    Each row of `growth` is a block; or a step, where blocks of `interval` steps are counted from `transient` on. Those
    at the ends may be shorter. Tangents must not over- or underflow either. Infinite where a direction is lost.
    """
    reach = 0.25 * math.log(float(jnp.finfo(growth.dtype).max))  # beyond it, squares of tangents may overflow
    limit = max(largest_spread(growth.dtype, tolerance), 1e-3)
    rows = len(growth)
    summed = jnp.concatenate([jnp.zeros_like(growth[:1]), jnp.cumsum(growth, axis=0)])

    def strain(factor):
        size = factor * interval
        ends = jnp.clip(transient % size + jnp.arange(-1, rows + 1) * size, 0, rows)
        joined, there = jnp.diff(summed[ends], axis=0), jnp.diff(ends) > 0
        most, least = jnp.max(joined, axis=1), jnp.min(joined, axis=1)
        spread = logsumexp(jnp.where(there, most - least, -jnp.inf)) - jnp.log(there.sum().astype(growth.dtype))
        return jnp.maximum(spread / limit, jnp.max(jnp.maximum(most, -least)) / reach)

    strains = jax.vmap(strain)(jnp.asarray(FACTORS))
    return lax.stop_gradient(jnp.where(jnp.isfinite(strains), strains, jnp.inf))


def shorter_interval(interval: int, strains: np.ndarray) -> int:
    """The interval at which epochs (epochs, factors) that strained must be run again; or the same."""
    worst = float(np.max(strains[:, 0]))
    return interval if worst <= 1 else min(_bearable(interval, worst), max(1, interval - 1))


def longer_interval(interval: int, strains: np.ndarray, window: int) -> int:
    """The interval for the epochs that follow these; the last ten of them count.

    Fewer would do while exponents come together, but later on spreads differ from epoch to epoch, and most intervals
    that two epochs allow would have to be taken back. It stays as it is where a longer one would gain little.
    """
    worst = np.max(strains[-10:], axis=0)
    borne = [(interval * f, float(w)) for f, w in zip(FACTORS, worst, strict=True) if w <= MARGIN]
    if not borne:
        return interval
    longest, strain = max(borne)
    # Twice as long is known to be too much, what lies between is not: there growth at most adds.
    longer = min(window, max(longest, min(_bearable(longest, strain), 2 * longest - 1)))
    return longer if _cost(longer) <= (1 - GAIN) * _cost(interval) else interval


def power_of_two(interval: int) -> int:
    """The largest power of 2 that is no longer: few intervals, where each is a program of its own to compile."""
    return 2 ** (interval.bit_length() - 1)


def _cost(interval: int) -> float:
    return 1 + DECOMPOSITION / interval


def _bearable(interval: int, strain: float) -> int:
    # Spreads grow no faster than blocks.
    return max(1, math.floor(MARGIN * interval / strain)) if strain > 0 else 2 * interval
