"""The measurement of a flossing epoch: the exponents over its window, and the spread of blocks.

The interval adapts to the network during flossing. If it is a traced value, one compiled program serves all intervals;
its custom adjoint supports reverse mode only. If it is a Python integer and nothing is rematerialised, the engine
compiles for this interval and supports every mode of differentiation.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flossing._tangent.adjoint import window_flow
from flossing._tangent.flow import average, tangent_flow
from flossing._tangent.problem import Problem
from flossing._tangent.spread import block_spread_ratio, step_spread_ratio


def measure_window(
    problem: Problem,
    basis: Float[Array, "N k"],
    interval: int | Int[Array, ""],
    tolerance: float | None = None,
    *,
    transient: int,
    rematerialise: bool = False,
    count: Int[Array, ""] | None = None,
) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
    """The exponents, and the spread ratios of blocks; `rematerialise` supports reverse mode only.

    `count`: the steps after the transient, if the sequence ends before the window and its step then returns its state;
    without any, the exponents are NaN.
    """
    averaged = problem.length - transient
    if isinstance(interval, int) and not rematerialise:
        flow = tangent_flow(problem, basis, transient=transient, interval=interval)
        exponents, ratios = flow.exponents, block_spread_ratio(flow.all_log_growth(), tolerance)
    else:
        interval = jnp.asarray(interval)
        segment = math.isqrt(problem.length) if rematerialise else problem.length
        growth, _ = window_flow(problem, basis, interval, transient=transient, segment=segment)
        exponents = average(growth[transient:], float(averaged))[0]
        ratios = step_spread_ratio(growth, tolerance, transient=transient, interval=interval)
    if count is not None:
        exponents = jnp.where(count > 0, exponents * (averaged / count.astype(exponents.dtype)), jnp.nan)
    return exponents, ratios
