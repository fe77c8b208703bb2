"""Steps for flows: turn an ordinary differential equation into `step(state, input) -> state` with a fixed time step.

The exponents of the step are those of the integrator's map. Pass `time_step=dt` to `lyapunov_spectrum` to get them per
unit of time. They differ from the flow's by the integrator's error, which falls with dt at the integrator's order.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import PyTree

from flossing._checks import check_positive
from flossing._types import Input, State, Step

VectorField: TypeAlias = Callable[[State, Input], PyTree]
"""The right-hand side, `field(state, input) -> d state / dt`; the input is constant over a step."""


def rk4(field: VectorField, dt: float) -> Step:
    """The classical fourth-order Runge-Kutta step; its error over a fixed time falls as dt^4.

    State and derivative are pytrees of the same structure. Raises ValueError unless `dt` is a positive number.
    """
    check_positive("dt", dt)

    def advance(state: State, slope: PyTree, time: float) -> State:
        return jax.tree_util.tree_map(lambda x, v: x + time * v, state, slope)

    def step(state: State, input: Input) -> State:
        k1 = field(state, input)
        k2 = field(advance(state, k1, dt / 2), input)
        k3 = field(advance(state, k2, dt / 2), input)
        k4 = field(advance(state, k3, dt), input)
        slope = jax.tree_util.tree_map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return advance(state, slope, dt)

    return step


def diffrax_step(field: VectorField, dt: float, solver: Any = None) -> Step:
    """One fixed step of a diffrax solver, Tsit5 by default; needs the extra `flossing[flows]`.

    The solver must be explicit and support forward-mode differentiation: pass `scan_kind="bounded"` to diffrax's
    Runge-Kutta solvers.
    Raises ValueError unless `dt` is a positive number.
    """
    import diffrax

    check_positive("dt", dt)
    solver = diffrax.Tsit5(scan_kind="bounded") if solver is None else solver

    def step(state: State, input: Input) -> State:
        term = diffrax.ODETerm(lambda t, y, args: field(y, args))
        start = solver.init(term, 0.0, dt, state, input)
        state, _, _, _, _ = solver.step(term, 0.0, dt, state, input, start, made_jump=False)
        return state

    return step
