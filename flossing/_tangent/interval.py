"""Adaptive re-orthonormalisation interval: as long as a tolerance of the gradient allows. Needs no JAX.

Between two QR decompositions the columns of D_m ... D_1 Q turn towards the fastest direction, and rounding errors
there, of size eps, count for exp(s) eps in the slowest, where

    s = max_i log R_ii - min_i log R_ii

is the spread of a block. The gradient is a sum over blocks: it differs from the gradient with QR after every step by at
most about `AMPLIFICATION` eps <exp(s)> of its norm (2-norm), the mean being over blocks. A tolerance therefore limits
the spread of blocks. A run shows the spread of its own blocks, and that of longer ones too, since the growth of joined
blocks adds. `spread.py` measures it, as a ratio to the limit.
"""

import math

import numpy as np

AMPLIFICATION = 100
"""Error of the gradient over eps <exp(s)>, with a margin. Networks of 20 to 80 units, random ones with gains from 0.1
to 3 and flossed ones, gave 2 to 5 in the median and once 800 (float32, intervals of 2 to 16). With a value of 20 the
error stayed below the tolerance of 1e-3 where the rule allowed the interval, except in two of some 430 cases, with
1.5e-3. (A third case, of 6e-3, was the error of the gradient with QR after every step: at an interval of 2 it was
1.5e-4 from that in float64.) In flossing phases over 300 and 512 steps a value of 20 then gave 1.9e-3 and 3.1e-3; a
value of 50, and intervals between the powers of two, gave 1.1e-3."""

FACTORS = (1, 2, 4, 8, 16, 32)
"""How many blocks are joined, to see what a longer interval would do."""

MARGIN = 0.8
"""The spread ratio of a longer interval must stay below this: spreads differ a little from epoch to epoch."""

DECOMPOSITION = 3
"""Cost of a QR decomposition and its derivative, in steps of the tangent flow and theirs (N = 80, k = 75, a CPU)."""

GAIN = 0.1
"""A longer interval must make epochs cheaper by this share. An interval that turns out too long costs a second run of
its epochs, and the nearer to the limit, the more often."""

ADAPT_EVERY = 10
"""Flossing epochs between two choices of the interval. Flossing draws the exponents together within tens of epochs,
each of which costs twice as much at an interval of 1."""

PROBE_STEPS = 64
"""Steps at the start of a run by which a measurement with `interval="auto"` judges the spread of the exponents."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Tolerated distance of the gradient from that with QR after every step, by dtype: relative, in the 2-norm."""


def largest_spread(dtype: str, tolerance: float | None = None) -> float:
    """The largest spread of blocks, in nats, at which the gradient keeps to `tolerance`; at 0 or below, one step."""
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    return math.log(tolerance / (AMPLIFICATION * float(np.finfo(dtype).eps)))


def limits(dtype: str, tolerance: float | None = None) -> tuple[float, float]:
    """The largest spread of a block, and the largest |log R_ii|: beyond it, squares of tangents might overflow."""
    return max(largest_spread(dtype, tolerance), 1e-3), 0.25 * math.log(float(np.finfo(dtype).max))


def shorter_interval(interval: int, spread_ratio: np.ndarray) -> int:
    """The interval at which epochs (epochs, factors) that exceeded the limit must be run again; or the same."""
    worst = float(np.max(spread_ratio[:, 0]))
    return interval if worst <= 1 else min(_admissible(interval, worst), max(1, interval - 1))


def longer_interval(interval: int, spread_ratio: np.ndarray, window: int) -> int:
    """The interval for the epochs that follow these; the last `ADAPT_EVERY` of them count.

    Fewer would do while exponents come together, but later spreads differ from epoch to epoch, and most intervals that
    two epochs allow would have to be taken back. The interval stays as it is where a longer one would gain little.
    """
    worst = np.max(spread_ratio[-ADAPT_EVERY:], axis=0)
    admissible = [(interval * f, float(w)) for f, w in zip(FACTORS, worst, strict=True) if w <= MARGIN]
    if not admissible:
        return interval
    longest, ratio = max(admissible)
    # Twice as long is known to be too much; what lies between is not known. There growth adds at most.
    longer = min(window, max(longest, min(_admissible(longest, ratio), 2 * longest - 1)))
    return longer if _cost(longer) <= (1 - GAIN) * _cost(interval) else interval


def adapted_interval(interval: int, spread_ratio: np.ndarray, window: int) -> int:
    """The interval for the next epochs, shorter or longer, by the spread ratios (epochs, factors) of the last."""
    shorter = shorter_interval(interval, spread_ratio)
    return shorter if shorter != interval else longer_interval(interval, spread_ratio, window)


def power_of_two(interval: int) -> int:
    """The largest power of 2 that is no longer: few intervals, where each is a program of its own to compile."""
    return 2 ** (interval.bit_length() - 1)


def _cost(interval: int) -> float:
    return 1 + DECOMPOSITION / interval


def _admissible(interval: int, ratio: float) -> int:
    # Spreads grow no faster than blocks.
    return max(1, math.floor(MARGIN * interval / ratio)) if ratio > 0 else 2 * interval
