"""What a flossing epoch measures: the exponents over its window, and how blocks strain the precision.

The interval follows the network through flossing. Where it is data one compiled program serves all its values, by the
adjoint of our own, which is for reverse mode alone; where it is a number, and nothing is rematerialised, the engine
is compiled for it, and may be differentiated in any way.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flossing._tangent.adjoint import window_growth
from flossing._tangent.flow import average, tangent_flow
from flossing._tangent.interval import strains_of
from flossing._types import Input, State, Step


def measure_window(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    interval: int | Int[Array, ""],
    tolerance: float | None = None,
    *,
    length: int,
    transient: int,
    rematerialise: bool = False,
) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
    """The exponents and the strains of the precision; `rematerialise` is for reverse mode alone."""
    options = {"length": length, "transient": transient}
    if isinstance(interval, int) and not rematerialise:
        spectrum = tangent_flow(step, state, inputs, basis, interval=interval, **options)
        return spectrum.exponents, strains_of(spectrum.all_growth(), tolerance)
    interval = jnp.asarray(interval)
    segment = math.isqrt(length) if rematerialise else length
    growth = window_growth(step, state, inputs, basis, interval, segment=segment, **options)
    exponents = average(growth[transient:], float(length - transient))[0]
    return exponents, strains_of(growth, tolerance, transient=transient, interval=interval)
