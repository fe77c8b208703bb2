"""Newton's iterations on a whole trajectory, which evaluate a recurrent network in parallel over time.

The T states of a sequence solve h_t - f(h_{t-1}, s_t) = 0 for all t at once. Newton's method linearises f around the
last guess g and solves a linear recurrence,

    h_t = f(g_{t-1}, s_t) + D_t (h_{t-1} - g_{t-1}),        D_t = df/dh at g_{t-1},

which a machine with many cores can do in time log T (DEER; Lim et al. 2024). Whether that pays depends on the number of
iterations. After i of them the first i states are exact, so T suffice. If the largest Lyapunov exponent is below 0,
errors fade along the trajectory and few are needed, above 0 they grow (Gonzalez et al. 2025). The number does not
depend on how the recurrence is solved. Here it is solved step by step, with one product D v per step.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flossing._checks import check_integer, check_positive, is_concrete
from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._messages import escape_message
from flossing._runtime.compiled import compiled
from flossing._tangent.problem import Point, Problem, set_up
from flossing._types import Input, State


class NewtonIterations(eqx.Module):
    """How Newton's iterations on a trajectory went.

    - `count`: the iterations until no coordinate changed by more than the tolerance; `most` if that never happened.
    - `converged`: whether it happened.
    - `changes` (most,): the largest change of a coordinate in each iteration, relative to the largest coordinate or 1;
      NaN for iterations that were not needed.
    - `state`: the state after the last step.
    """

    count: Int[Array, ""]
    converged: Bool[Array, ""]
    changes: Float[Array, " most"]
    state: State

    def __repr__(self) -> str:
        if not is_concrete(self.count):
            return "NewtonIterations(traced)"
        if self.count.ndim:
            return f"NewtonIterations({int(self.converged.sum())} of {self.count.size} sequences converged)"
        found = "converged" if self.converged else "not converged"
        return f"NewtonIterations({int(self.count)} iterations, {found})"


def newton_iterations(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    step: Callable | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    most: int | None = None,
) -> NewtonIterations:
    """Count the Newton iterations that evaluate a network in parallel over a sequence of T steps.

    They start from zeros after the first state. Iterations that leave the range of the dtype, as along chaotic orbits,
    restart from zeros there.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`: as for [`lyapunov_spectrum`][]; every leaf of the state must be real
      or complex.
    - `tolerance`: the largest change of a coordinate that counts as none, relative to the largest coordinate or 1; by
      default the square root of the dtype's precision, 1.5e-8 in float64 and 3.5e-4 in float32.
    - `most`: the largest number of iterations; T + 1 by default, the last of which confirms that nothing changes.

    **Returns:** [`NewtonIterations`][].

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for states with integers or random keys, and, if `most` allows
    all iterations, for an orbit that does not stay finite.

    **Source:** Lim, Zhu, Selfridge & Kasim (ICLR 2024); Gonzalez et al. (2025).

        print(fl.newton_iterations(cell, inputs))
        print(fl.newton_iterations(flossed, inputs))
    """
    problem = set_up(model, inputs, state=state, step=step, steps=steps)
    if problem.start.nondiff:
        raise ValueError("state must hold real or complex numbers alone, got integers, booleans or random keys")
    most = problem.length + 1 if most is None else most
    check_integer("most", most, least=1)
    dtype = problem.coordinates.dtype
    tolerance = math.sqrt(float(jnp.finfo(dtype).eps)) if tolerance is None else tolerance
    if is_concrete(tolerance):
        check_positive("tolerance", tolerance)
    found, has_left = compiled(_iterate, problem)(jnp.asarray(tolerance, dtype), int(most))
    if is_concrete(has_left) and has_left and most > problem.length:
        raise ValueError(escape_message("in the last iteration"))
    return found


@in_full_precision
def _iterate(problem: Problem, tolerance: Float[Array, ""], most: int) -> tuple[NewtonIterations, Bool[Array, ""]]:
    start = problem.start.x

    def sweep(guess: Float[Array, "T N"]) -> tuple[Float[Array, "T N"], Bool[Array, ""]]:
        before = jnp.concatenate([start[None], guess[:-1]])

        def along(change, at):
            g, after, input = at
            f = lambda x: problem.advance(Point(x, []), input).x  # noqa: E731
            value, moved = jax.jvp(f, (g,), (change,))
            x = value + moved
            is_finite = jnp.isfinite(x)
            x = jnp.where(is_finite, x, 0)
            return x - after, (x, is_finite.all())

        along_guess = before, guess, problem.inputs
        still = varying(jnp.zeros_like(start), problem.start)
        _, (found, is_finite) = lax.scan(along, still, along_guess, length=problem.length)
        return found, ~is_finite.all()

    def iterate(carry):
        i, guess, changes, _, _ = carry
        found, has_left = sweep(guess)
        scale = jnp.maximum(jnp.max(jnp.abs(found)), 1)
        change = jnp.max(jnp.abs(found - guess)) / scale
        return i + 1, found, changes.at[i].set(change), (change <= tolerance) & ~has_left, has_left

    def unfinished(carry):
        i, _, _, converged, _ = carry
        return ~converged & (i < most)

    zeros = jnp.zeros((problem.length, len(start)), start.dtype)
    no = jnp.asarray(False)
    first = varying((jnp.asarray(0), zeros, jnp.full(most, jnp.nan, start.dtype), no, no), problem.start)
    count, states, changes, converged, has_left = lax.while_loop(unfinished, iterate, first)
    return NewtonIterations(count, converged, changes, problem.state(Point(states[-1], []))), has_left
