"""Adaptive reorthonormalisation interval: the longest that a tolerance on the gradient allows. Needs no JAX.

Between two QR decompositions the columns of D_m ... D_1 Q turn towards the fastest-growing direction. Rounding errors
of size eps in that direction become errors of size exp(s) eps in the slowest one, where

    s = max_i log R_ii - min_i log R_ii

is the spread of a block. The gradient is a sum over blocks. Relative to its 2-norm, it differs from the gradient with
QR after every step by at most about `ERROR_FACTOR` eps <exp(s)>, the mean over blocks. A tolerance therefore limits
the spread of blocks. A run shows the spread of its own blocks and also of longer ones, since the growth of joined
blocks adds up. `spread.py` measures the spread as a ratio to the limit.
"""

import math

import numpy as np

ERROR_FACTOR = 100
"""Gradient error divided by eps <exp(s)>, with a margin. For networks of 20 to 80 units, random with gains from 0.1 to
3 or flossed, the median was 2 to 5, and one value was 800 (float32, intervals of 2 to 16). With a value of 20, at the
intervals that the rule allowed, the error stayed below the tolerance of 1e-3, except in two of about 430 cases, at
1.5e-3. (A third case, at 6e-3, was an error of the gradient with QR after every step: at an interval of 2 the gradient
was within 1.5e-4 of that in float64.) In flossing phases over 300 and 512 steps a value of 20 then gave 1.9e-3 and
3.1e-3; a value of 50, with intervals between powers of two, gave 1.1e-3."""

MULTIPLES = (1, 2, 4, 8, 16, 32)
"""Numbers of blocks to join, to predict the spread at longer intervals."""

MARGIN = 0.8
"""The spread ratio of a longer interval must stay below this: spreads differ a little from epoch to epoch."""

QR_COST = 3
"""Cost of a QR decomposition with its derivative, relative to a tangent step with its own (N = 80, k = 75, a CPU)."""

MIN_SPEEDUP = 0.1
"""A longer interval must make epochs cheaper by at least this fraction. An interval that proves too long costs a rerun
of its epochs, and intervals near the limit more often prove too long."""

ADAPT_EVERY = 10
"""Flossing epochs between two adaptations of the interval. Flossing brings the exponents together within tens of
epochs, and until the interval adapts each of them costs more than it must."""

PROBE_STEPS = 64
"""Steps at the start of a run from which a measurement with `interval="auto"` estimates the spread of the exponents."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Default tolerance by dtype: the relative 2-norm distance of the gradient from that with QR after every step."""


def largest_spread(dtype: str, tolerance: float | None = None) -> float:
    """The largest spread of blocks, in nats, that keeps the gradient within `tolerance`; 0 or below means one step."""
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    return math.log(tolerance / (ERROR_FACTOR * float(np.finfo(dtype).eps)))


def limits(dtype: str, tolerance: float | None = None) -> tuple[float, float]:
    """The largest spread of a block, and the largest |log R_ii|, beyond which squares of tangents might overflow."""
    return max(largest_spread(dtype, tolerance), 1e-3), 0.25 * math.log(float(np.finfo(dtype).max))


def shorter_interval(interval: int, spread_ratio: np.ndarray) -> int:
    """The interval at which to rerun epochs whose spread ratios (epochs, factors) exceed the limit, else the same."""
    worst = float(np.max(spread_ratio[:, 0]))
    return interval if worst <= 1 else min(_admissible(interval, worst), max(1, interval - 1))


def longer_interval(interval: int, spread_ratio: np.ndarray, window: int) -> int:
    """The interval for the next epochs, from the spread ratios of the last `ADAPT_EVERY`.

    Fewer epochs would suffice while the exponents come together. Later the spread varies from epoch to epoch, and most
    intervals that two epochs allow would have to be undone. The interval stays the same if a longer one gains little.
    """
    worst = np.max(spread_ratio[-ADAPT_EVERY:], axis=0)
    admissible = [(interval * f, float(w)) for f, w in zip(MULTIPLES, worst, strict=True) if w <= MARGIN]
    if not admissible:
        return interval
    longest, ratio = max(admissible)
    # Twice as long is known to be too long. In between, spreads are unknown but grow at most in proportion.
    longer = min(window, max(longest, min(_admissible(longest, ratio), 2 * longest - 1)))
    return longer if _cost(longer) <= (1 - MIN_SPEEDUP) * _cost(interval) else interval


def adapted_interval(interval: int, spread_ratio: np.ndarray, window: int) -> int:
    """The interval for the next epochs, shorter or longer, from the last spread ratios (epochs, factors)."""
    shorter = shorter_interval(interval, spread_ratio)
    return shorter if shorter != interval else longer_interval(interval, spread_ratio, window)


RESOLVED = {"float32": 10.0, "float64": 30.0}
"""The spread of a block, in nats, up to which rounding leaves all directions apart."""


def loses_directions(growth: np.ndarray) -> np.ndarray:
    """Where log R_ii of a block is not finite, or where R_ii is too small for its dtype to hold all digits."""
    least = math.log(float(np.finfo(growth.dtype).tiny))
    return ~(np.isfinite(growth) & (growth > least))


def interval_message(growth: np.ndarray, growth_at_one: np.ndarray, transient: int, interval: int) -> str | None:
    """The message for an interval that loses directions which an interval of 1 keeps; None if it loses none.

    `growth` (..., blocks, k) is log R_ii of the blocks after the transient; `growth_at_one` (..., T, k) that of all
    steps.
    """
    lost = loses_directions(growth)
    kept = np.isfinite(growth_at_one[..., transient:, :]).all(-2, keepdims=True)
    if not (lost & kept).any():
        return None
    *_, block, direction = np.argwhere(lost & kept)[0]
    legal = _resolved_interval(growth_at_one, interval)
    allowed = f"from 1 to {legal}" if legal > 1 else "1"
    return (
        f"interval must be {allowed} for this run in {growth.dtype.name}, got interval={interval}: rounding destroys "
        f"direction {direction} within block {block}, and an interval of 1 keeps it"
    )


def _resolved_interval(growth: np.ndarray, interval: int) -> int:
    """The largest power of two below `interval` whose blocks keep directions apart, from log R_ii of each step."""
    _, reach = limits(growth.dtype.name)
    for size in (2**power for power in range(power_of_two(interval).bit_length() - 1, 0, -1)):
        whole = growth[..., : growth.shape[-2] // size * size, :]
        joined = whole.reshape(*growth.shape[:-2], -1, size, growth.shape[-1]).sum(-2)
        spread = joined.max(-1, initial=-np.inf) - joined.min(-1, initial=np.inf)
        if size < interval and (spread < RESOLVED[growth.dtype.name]).all() and (np.abs(joined) < reach).all():
            return size
    return 1


def power_of_two(interval: int) -> int:
    """The largest power of 2 up to `interval`: it keeps intervals few, since each compiles its own program."""
    return 2 ** (interval.bit_length() - 1)


def _cost(interval: int) -> float:
    return 1 + QR_COST / interval


def _admissible(interval: int, ratio: float) -> int:
    # A spread grows at most in proportion to the length of its block.
    return max(1, math.floor(MARGIN * interval / ratio)) if ratio > 0 else 2 * interval
