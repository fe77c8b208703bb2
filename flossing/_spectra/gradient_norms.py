"""Norms of the backpropagated gradient: dL/dh_t at each time, over any horizon.

With e_t = dL/dh_t as if h_t were free, the chain rule runs backwards in time,

    a_T = e_T,        a_t = e_t + D_{t+1}^T a_{t+1},

and a_t trains every parameter that acts at time t. Along a chaotic orbit a_t grows like exp(lambda_1 (T - t)) and
eventually overflows in any floating-point format. Here each a_t is stored as a direction and the logarithm of its
length. Nothing overflows, and the horizon at which a plain reverse pass would overflow is known.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_share, is_concrete, namespace
from flossing._linalg.norm import norm_of
from flossing._linalg.precision import in_full_precision
from flossing._runtime.compiled import compiled
from flossing._tangent.problem import Point, Problem, set_up
from flossing._tangent.traced import TracedStep, trace_step
from flossing._types import AnyArray, Input, State


class GradientNorms(eqx.Module):
    """The norm of dL/dh_t for every t, as logarithms.

    - `log_norm` (T + 1,): natural logarithm of |dL/dh_t|, t = 0 ... T; -inf where no gradient arrives.
    - `log_largest`: the logarithm of the largest number of the state's dtype.

    Under `jax.vmap` arrays have a leading axis B of sequences, and so do the results of the methods. Arrays of JAX; of
    NumPy from `flossing.pytorch`.
    """

    log_norm: Float[AnyArray, "*B times"]
    log_largest: float = eqx.field(static=True)

    @property
    def overflows(self) -> bool:
        """Whether a plain reverse pass over this sequence gives infinities."""
        return bool((self.log_norm >= self.log_largest).any())

    @property
    def finite_steps(self) -> int | np.ndarray:
        """The number of steps back from the end over which a plain reverse pass stays finite; at most T."""
        return _steps_back(np.asarray(self.log_norm < self.log_largest))

    def norm(self) -> Float[AnyArray, "*B times"]:
        """|dL/dh_t| itself. On overflow, raises FloatingPointError, naming the longest sequence that stays finite."""
        if self.overflows:
            steps = self.log_norm.shape[-1] - 1
            raise FloatingPointError(
                f"the reverse pass over {steps} steps overflows: gradients exceed exp({self.log_largest:.0f}); "
                f"sequences of at most {np.min(self.finite_steps)} steps stay finite"
            )
        return namespace(self.log_norm).exp(self.log_norm)

    def horizon(self, threshold: float) -> int | np.ndarray:
        """The number of steps back from the end over which the gradient stays above `threshold` times its last norm.

        T if it never falls below. Intended for a loss on the last step alone, whose gradient has a single source.
        Raises ValueError for a `threshold` that is not above 0 and at most 1, and if no gradient arrives at the end.
        """
        check_share("threshold", threshold)
        log_norm = np.asarray(self.log_norm)
        last = log_norm[..., -1:]
        if np.isneginf(last).any():
            raise ValueError("loss must depend on the last state, got one whose gradient there is zero")
        return _steps_back(log_norm >= last + np.log(threshold))


def _steps_back(kept: np.ndarray) -> int | np.ndarray:
    """The number of steps from the end back to the earliest time up to which `kept` (..., times) holds throughout."""
    backwards = kept[..., ::-1]
    count = np.where(backwards.all(-1), kept.shape[-1], backwards.argmin(-1)) - 1
    return count if count.ndim else int(count)


def backpropagated_norms(
    model: Any,
    inputs: Input,
    loss: Callable[[State], Float[Array, ""]],
    *,
    state: State = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> GradientNorms:
    """How strongly a loss at later times depends on the state at earlier ones.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`: as for [`lyapunov_spectrum`][].
    - `loss`: `loss(states) -> scalar`, where `states` is the orbit h_0 ... h_T stacked on a leading axis of T + 1, each
      leaf structured as `state`. For the last step alone: `lambda h: (h[-1] ** 2).sum()`.

    **Returns:** [`GradientNorms`][]: Euclidean norms over all real coordinates of the state, of total derivatives
    (through all later states). Any dtype; nothing overflows.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, and for a loss that is not a scalar; outside `jit`, for
    derivatives of the loss or of the step that are not finite.

    **Source:** Engelken (NeurIPS 2023), section 2; Pascanu, Mikolov & Bengio (2013).

        norms = fl.backpropagated_norms(cell, inputs, lambda h: (h[-1] ** 2).sum())
        print(norms.horizon(1e-3))
    """
    problem = set_up(model, inputs, state=state, step=step, steps=steps)
    # Traced, as the step is, so that an equal loss reuses the compiled program.
    states = jax.eval_shape(_all_states, problem)
    traced, arrays, value = trace_step(lambda loss, states, _: loss(states), loss, states, None)
    if jnp.shape(value) != ():
        raise ValueError(f"loss must return a scalar, got shape {jnp.shape(value)}")
    log_norm, xs, local = compiled(norms_flow, problem)(traced, arrays)
    _check_finite(xs, local, log_norm)
    return GradientNorms(log_norm, float(np.log(float(jnp.finfo(xs.dtype).max))))


@in_full_precision
def norms_flow(problem: Problem, loss: TracedStep, arrays: Any) -> tuple[Array, Array, Array]:
    """The engine -> log |dL/dh_t| (T + 1,), and the states and their local gradients (T + 1, N). Checks nothing."""
    before, end = problem.orbit()
    points = _joined(before, end)
    states = jax.vmap(problem.coordinates.join)
    local = jax.grad(lambda x: loss(arrays, states(x, points.nondiff), None))(points.x)

    def backward(carry, at):
        direction, log_norm = carry
        point, input, e = at
        pulled = problem.pull(point, input)(direction)
        # e + exp(log_norm) * pulled, relative to the larger of the two.
        e, log_e = _polar(e, jnp.zeros_like(log_norm))
        scale = jnp.maximum(log_e, log_norm)
        scale = jnp.where(jnp.isneginf(scale), 0, scale)
        total = e * jnp.exp(log_e - scale) + pulled * jnp.exp(log_norm - scale)
        carry = _polar(total, scale)
        return carry, carry[1]

    last = _polar(local[-1], jnp.zeros((), points.x.dtype))
    along = before, problem.inputs, local[:-1]
    _, log_norm = lax.scan(backward, last, along, length=problem.length, reverse=True)
    return jnp.concatenate([log_norm, last[1][None]]), points.x, local


def _all_states(problem: Problem) -> State:
    """The states h_0 ... h_T, on a leading axis."""
    return jax.vmap(problem.coordinates.join)(*_joined(*problem.orbit()))


def _joined(before: Point, end: Point) -> Point:
    return jax.tree_util.tree_map(lambda s, last: jnp.concatenate([s, last[None]]), before, end)


def _check_finite(xs: Float[Array, "times N"], local: Float[Array, "times N"], log_norm: Float[Array, " times"]):
    if not is_concrete((xs, log_norm)):
        return
    arrives = np.asarray(log_norm < np.inf)
    for requirement, good, first in (
        ("step must keep the state finite", np.isfinite(xs).all(1), True),
        ("loss must have finite gradients", np.isfinite(local).all(1), False),
        ("step must have finite derivatives", arrives, False),
    ):
        if not good.all():
            bad = np.flatnonzero(~good)
            time = int(bad[0] if first else bad[-1])  # the orbit runs forwards, gradients run backwards
            raise ValueError(f"{requirement}, got NaN or infinity at time {time} of {len(xs) - 1}")


def _polar(vector: Float[Array, " N"], log_scale: Float[Array, ""]) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    norm = norm_of(vector)
    return vector / jnp.where(norm > 0, norm, 1), jnp.log(norm) + log_scale
