"""How the state depends on each of the last inputs: the matrix [T_0 B, T_1 B, ..., T_{d-1} B] and its singular values.

T_a B is the response of the state after the last step to the input a steps before it: the derivative B of that step
with respect to its input, times the Jacobians D of the a steps after it. Its singular values say how many independent
perturbations of the inputs have arrived, and how strongly; for a linear network they are the square roots of the
eigenvalues of the controllability Gramian.

Old responses may be smaller than new ones by any factor, so the matrix is never formed. If the responses up to a step
are Q P, with Q orthogonal, those up to the next are

    [B, D Q P] = [B, D Q] diag(1, P) = Q' R' diag(1, P),        [B, D Q] = Q' R',

and P' = R' diag(1, P). The newest come first, so the rows of P, each of which has its own exponent, are sorted by age.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from flossing._checks import check_integer, check_leaves, check_share, is_concrete
from flossing._linalg.graded import ZERO, Graded, factor, log_singular_values, multiply
from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._messages import escape_message
from flossing._runtime.compiled import compiled
from flossing._tangent.coordinates import real_coordinates, shape_of_one
from flossing._tangent.problem import Problem, set_up
from flossing._types import Input, State


class Reachability(eqx.Module):
    """How the state after the last step depends on the inputs of the last d steps; natural logarithms.

    - `log_norms` (d, S): the norm of the response to each of S real input channels, the newest input first; -inf
      where the state does not depend on it.
    - `log_singular_values` (m,): those of all responses together, (N, d S), descending; m = min(N, d S).
    """

    log_norms: Float[Array, "d S"]
    log_singular_values: Float[Array, " m"]

    def dimension(self, threshold: float = 1e-3) -> int | Int[np.ndarray, "..."]:
        """The number of nonzero singular values of at least `threshold` times the largest; of each row of a batch.

        Raises ValueError for a `threshold` that is not above 0 and at most 1.
        """
        check_share("threshold", threshold)
        values = np.asarray(self.log_singular_values)
        counts = ((values >= values[..., :1] + np.log(threshold)) & ~np.isneginf(values)).sum(-1)
        return counts if counts.ndim else int(counts)


def reachability(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    delays: int | None = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> Reachability:
    """Measure how the state after the last step depends on the last inputs, along `inputs` from `state`.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`: as in [`lyapunov_spectrum`][]. Every floating number of an input is a
      channel; there must be at least one.
    - `delays`: d, the number of last inputs, 1 to T; by default the fewest that hold N numbers, at most T.

    **Returns:** [`Reachability`][], of the dtype of the state. Singular values are right at any condition number, as
    those of [`long_term_jacobian`][] are, with the same limits for single steps. For a batch use `jax.vmap`.
    Reverse-mode differentiation is not supported.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for inputs without numbers and for illegal `delays`.

    **Source:** for linear networks, Kalman's controllability; along orbits, its linearisation.

        found = fl.reachability(cell, inputs, delays=40)
        print(found.log_norms[:, 0], found.dimension())
    """
    problem = set_up(model, inputs, state=state, step=step, steps=steps)
    channels = jax.eval_shape(real_coordinates, shape_of_one(problem.inputs)).size
    if not channels:
        raise ValueError("inputs must hold floating numbers that the state can depend on, got none")
    size, length = problem.coordinates.size, problem.length
    depth = min(-(-size // channels), length) if delays is None else delays
    check_integer("delays", depth, least=1, most=length, note=f" (the run has {length} steps)")
    norms, values, last = compiled(reachable_flow, problem)(delays=depth)
    if is_concrete(values):
        if jnp.isnan(values).any() or jnp.isposinf(values).any():
            raise ValueError(escape_message("in the responses to the inputs"))
        check_leaves("the last state", last)
    return Reachability(norms, values)


@in_full_precision
def reachable_flow(problem: Problem, *, delays: int) -> tuple[Float[Array, "d S"], Float[Array, " m"], State]:
    """The engine of `reachability`: log norms, log singular values, and the last state. Checks nothing."""
    first = problem.length - delays

    def advance(point, input):
        return problem.advance(point, input), None

    start, _ = lax.scan(advance, problem.start, problem.inputs_between(0, first), length=first)
    channels = jax.eval_shape(problem.response, start, shape_of_one(problem.inputs)).shape[1]

    def extend(carry, at):
        point, (q, p) = carry
        index, input = at
        after, dq = problem.push(point, q.T, input)
        return (after, _extended(p, index, problem.response(point, input), dq.T)), None

    none = _none_yet(problem.coordinates.size, delays, channels, problem.coordinates.dtype)
    carry = start, varying(none, problem.start)
    along = jnp.arange(delays), problem.inputs_between(first, problem.length)
    (end, (_, p)), _ = lax.scan(extend, carry, along)
    return *_measures(p, delays, channels), problem.state(end)


def responses(d: Float[Array, "d N N"], b: Float[Array, "d N S"]) -> tuple[Float[Array, "d S"], Float[Array, " m"]]:
    """From the Jacobians of each step, by the state and by the input: log norms and log singular values."""
    delays, size, channels = b.shape

    def extend(carry, at):
        q, p = carry
        index, d, b = at
        return _extended(p, index, b, d @ q), None

    (_, p), _ = lax.scan(extend, _none_yet(size, delays, channels, b.dtype), (jnp.arange(delays), d, b))
    return _measures(p, delays, channels)


def _none_yet(size: int, delays: int, channels: int, dtype: Any) -> tuple[Float[Array, "N N"], Graded]:
    """Q and P before the first response."""
    rows = jnp.zeros((size, delays * channels), dtype)
    return jnp.eye(size, dtype=dtype), Graded(jnp.full(size, ZERO, jnp.int32), rows)


def _extended(
    p: Graded, index: Int[Array, ""], b: Float[Array, "N S"], dq: Float[Array, "N N"]
) -> tuple[Float[Array, "N N"], Graded]:
    """Q' and P' after the step `index` of the last ones, from P, its derivative B by the input, and D Q."""
    (size, channels), width = b.shape, p.rows.shape[1]
    columns = jnp.concatenate([b, dq], axis=1)  # (N, S + N)
    q, r = factor(columns[:, :size])
    r = jnp.concatenate([r, q.T @ columns[:, size:]], axis=1)
    # The newest response has the columns before those of the responses so far.
    at = (jnp.zeros_like(index), width - (index + 1) * channels)
    newest = lax.dynamic_update_slice(jnp.zeros((channels, width), b.dtype), jnp.eye(channels, dtype=b.dtype) / 2, at)
    rows = Graded(jnp.concatenate([jnp.ones(channels, jnp.int32), p.exponents]), jnp.concatenate([newest, p.rows]))
    return q, multiply(r, rows)


def _measures(p: Graded, delays: int, channels: int) -> tuple[Float[Array, "d S"], Float[Array, " m"]]:
    rank = min(len(p.rows), delays * channels)  # later rows are zero
    return _column_norms(p).reshape(delays, channels), log_singular_values(Graded(p.exponents[:rank], p.rows[:rank]))


def _column_norms(p: Graded) -> Float[Array, " columns"]:
    """The logarithms of the norms of the columns."""
    magnitude = jnp.abs(p.rows)
    logs = jnp.where(magnitude > 0, jnp.log(jnp.where(magnitude > 0, magnitude, 1)), -jnp.inf)
    logs = logs + p.exponents.astype(logs.dtype)[:, None] * math.log(2)
    largest = jnp.max(logs, axis=0, keepdims=True)
    scaled = jnp.exp(2 * (logs - jnp.where(jnp.isneginf(largest), 0, largest)))
    return largest[0] + jnp.log(jnp.sum(scaled, axis=0)) / 2
