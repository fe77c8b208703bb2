"""What a flossing epoch measures: the exponents over its window, and how far blocks spread.

The interval follows the network through flossing. Where it is data, one compiled program serves all its values, by our
own adjoint, which is for reverse mode only. Where it is a number, and nothing is rematerialised, the engine is compiled
for it and may be differentiated in any way.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flossing._tangent.adjoint import window_growth
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
) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
    """The exponents, and the spread of blocks over the limit; `rematerialise` is for reverse mode only."""
    if isinstance(interval, int) and not rematerialise:
        flow = tangent_flow(problem, basis, transient=transient, interval=interval)
        return flow.exponents, block_spread_ratio(flow.all_growth(), tolerance)
    interval = jnp.asarray(interval)
    segment = math.isqrt(problem.length) if rematerialise else problem.length
    growth = window_growth(problem, basis, interval, transient=transient, segment=segment)
    exponents = average(growth[transient:], float(problem.length - transient))[0]
    return exponents, step_spread_ratio(growth, tolerance, transient=transient, interval=interval)
