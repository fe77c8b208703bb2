"""Steps for flows: turn an ordinary differential equation into `step(state, input) -> state` with a fixed time step.

The exponents of the step are those of the integrator's map. Pass `time_step=dt` to `lyapunov_spectrum` to get them per
unit of time. They differ from the flow's by the integrator's error. For an autonomous field, and for a field that
depends on time, it falls with dt at the integrator's order. An input that is held over each step is a staircase: where
it stands for a smooth function of time, the error falls only as dt, or as dt^2 where it is sampled mid-step.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from flossing._checks import check_integer, check_positive
from flossing._types import Input, State, Step

VectorField: TypeAlias = Callable[..., PyTree]
"""The right-hand side, `field(state, input) -> d state / dt`, where the input is held over a step; or
`field(state, input, t)`, where t is the time, also within a step."""


def clock(steps: int, dt: float, inputs: Input = None, *, start: float = 0.0) -> tuple[Any, Input]:
    """The inputs of a step whose field depends on time: `(times, inputs)`, with the time at the start of each step.

    `inputs`: those held over each step, with a leading time axis of `steps`; None without any. Times have the default
    float dtype; in float32 they are exact to 1e-7 of their size. Raises ValueError unless `steps` is at least 1 and
    `dt` positive.

        step = fl.flows.rk4(lambda x, _, t: jnp.cos(t) - x, 0.01)
        print(fl.lyapunov_spectrum(step, fl.flows.clock(1000, 0.01), state=jnp.zeros(1), time_step=0.01).exponents)
    """
    check_integer("steps", steps, least=1)
    check_positive("dt", dt)
    return start + jnp.arange(steps, dtype=float) * dt, inputs


def rk4(field: VectorField, dt: float) -> Step:
    """The classical fourth-order Runge-Kutta step; its error over a fixed time falls as dt^4.

    State and derivative are pytrees of the same structure. With `field(state, input)` the input is held over the step.
    With `field(state, input, t)` the step takes `(t, input)`, as [`clock`][flossing.flows.clock] makes them, and the
    field sees the time of each of its four evaluations: write an input that is a known function of time inside the
    field. Raises ValueError unless `dt` is a positive number.

        lorenz = lambda x, s: jnp.array([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])
        print(fl.lyapunov_spectrum(fl.flows.rk4(lorenz, 0.01), None, state=jnp.ones(3), steps=20_000, time_step=0.01))
    """
    check_positive("dt", dt)
    in_time = _in_time(field)

    def advance(state: State, slope: PyTree, time: float) -> State:
        return jax.tree_util.tree_map(lambda x, v: x + time * v, state, slope)

    def step(state: State, input: Input) -> State:
        k1 = in_time(state, input, 0.0)
        k2 = in_time(advance(state, k1, dt / 2), input, dt / 2)
        k3 = in_time(advance(state, k2, dt / 2), input, dt / 2)
        k4 = in_time(advance(state, k3, dt), input, dt)
        slope = jax.tree_util.tree_map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return advance(state, slope, dt)

    return step


def diffrax_step(field: VectorField, dt: float, solver: Any = None) -> Step:
    """One fixed step of a diffrax solver, Tsit5 by default; needs the extra `flossing[flows]`.

    `field` is that of [`rk4`][flossing.flows.rk4]. An explicit Runge-Kutta solver is fastest with
    `scan_kind="bounded"`, which has a forward derivative; others are differentiated in reverse mode, row by row. An
    implicit solver needs a root finder with tolerances of its own. Raises ValueError unless `dt` is a positive number,
    and for such a solver without them.

        step = fl.flows.diffrax_step(lambda x, s: -x, 0.1)
        print(fl.lyapunov_spectrum(step, None, state=jnp.ones(2), steps=100, time_step=0.1))  # -1, -1
    """
    import diffrax

    check_positive("dt", dt)
    solver = diffrax.Tsit5(scan_kind="bounded") if solver is None else solver
    if not isinstance(getattr(getattr(solver, "root_finder", None), "rtol", 0.0), (int, float)):
        name = type(solver).__name__
        raise ValueError(
            f"solver must have a root finder with tolerances of its own, got {name}(): pass "
            f"{name}(root_finder=diffrax.VeryChord(rtol=1e-8, atol=1e-8))"
        )
    in_time = _in_time(field)

    def step(state: State, input: Input) -> State:
        term = diffrax.ODETerm(lambda t, y, args: in_time(y, args, t))
        start = solver.init(term, 0.0, dt, state, input)
        state, _, _, _, _ = solver.step(term, 0.0, dt, state, input, start, made_jump=False)
        return state

    return step


def _in_time(field: VectorField) -> Callable[[State, Input, Any], PyTree]:
    """The field as a function of state, input and the time since the start of the step."""
    if _arguments(field) < 3:
        return lambda state, input, _: field(state, input)

    def in_time(state: State, at: tuple[Any, Input], since: Any) -> PyTree:
        start, input = at
        return field(state, input, start + since)

    return in_time


def _arguments(field: VectorField) -> int:
    """The number of arguments that a field must be given."""
    try:
        parameters = inspect.signature(field).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is inspect.Parameter.empty for each in parameters)
