"""Covariant Lyapunov vectors: the directions that the flow maps onto themselves, one for each exponent.

The forward pass pushes an orthonormal basis along the orbit, as for the exponents; the backward pass pulls an
upper triangular C back:

    D_t Q_{t-1} = Q_t R_t,        C_{t-1} = R_t^-1 C_t / |columns|,        V_t = Q_t C_t,

so that D_t V_{t-1} = V_t diag(exp growth). Any initial C converges to the right one backwards, as any Q does forwards
(Ginelli et al. 2007). The forward pass stores the basis only at the start of each block of steps; the backward pass
recomputes each block and takes C back through it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import triangular_solve
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from flossing._arguments import default_transient
from flossing._checks import check_integer, check_leaves, check_positive, is_concrete
from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import independent_columns, positive_qr
from flossing._messages import escape_message
from flossing._runtime.compiled import compiled
from flossing._tangent.problem import Point, Problem, initial_basis, set_up
from flossing._tangent.subspace import restrict
from flossing._tangent.traced import TracedStep, trace_step
from flossing._types import AnyArray, Input, RandomKey, State
from flossing._views import describe_covariant


class CovariantVectors(eqx.Module):
    """Covariant Lyapunov vectors of one network along one sequence.

    They belong to n states: those between the transient at the start and the backward transient at the end.

    Entry i belongs to the state that enters the step with `inputs[transient + i]`, and to the Jacobian D of that step:
    D vectors[i] = vectors[i + 1] diag(exp log_growth[i]), signs included.

    - `exponents` (k,): the mean of `log_growth` per step (or per unit of time, if a `time_step` was given), natural
      logarithm. Those of [`lyapunov_spectrum`][] along the same steps differ by a boundary term O(1/n).
    - `log_growth` (n, k): the log growth of each vector in the next step.
    - `vectors` (n, N, k): unit columns in the coordinates of the state; None if a `measure` was given.
    - `states`: the n states, structured as the one given, with a leading axis of n; None if a `measure` was given.
    - `measured`: what `measure` returned, with a leading axis of n on every leaf; None without a `measure`.

    Arrays of JAX; of NumPy from `flossing.pytorch`.
    """

    exponents: Float[AnyArray, " k"]
    log_growth: Float[AnyArray, "n k"]
    vectors: Float[AnyArray, "n N k"] | None
    states: State
    measured: PyTree

    def __repr__(self) -> str:
        # Not traced, nor a tree of shapes, nor many by vmap.
        is_measured = eqx.is_array_like(self.exponents) and is_concrete(self) and jnp.ndim(self.exponents) == 1
        return describe_covariant(self) if is_measured else eqx.tree_pformat(self)


def covariant_vectors(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    step: Callable | None = None,
    transient: int | None = None,
    backward_transient: int | None = None,
    steps: int | None = None,
    block: int | None = None,
    measure: Callable[[Any], PyTree] | None = None,
    time_step: float = 1.0,
) -> CovariantVectors:
    """Compute the first `k` covariant Lyapunov vectors of `model` along `inputs`.

    **Arguments:**

    - `model`, `inputs`, `state`, `k`, `key`, `basis`, `step`, `steps`, `transient`: as in [`lyapunov_spectrum`][].
    - `backward_transient`: steps at the end that are not returned, 0 to T - 1 - `transient`, while C converges
      backwards. The default is that of `transient`, applied to the remaining steps. At either end, m steps leave an
      error of order exp(-m gap), where gap is the distance between neighbouring exponents.
    - `block`: steps between two stored bases, at least 1. T / `block` + `block` bases are stored, fewest for the
      default of about sqrt(T). The result does not depend on it.
    - `measure`: `measure(vectors (N, k)) -> pytree`, such as [`angles_between`][], applied at each state; only its
      result is stored, instead of vectors and states.
    - `time_step`: the duration of one step, for exponents per unit of time, such as those of a flow.

    **Returns:** [`CovariantVectors`][]: unit vectors in the coordinates of the state; growth in nats of each step;
    exponents per step (or unit of time).

    A vector is defined up to its sign, which the basis sets and the flow propagates. Vectors of equal exponents (such
    as a complex pair) are covariant but not individually defined. dtype: that of the state.

    Where a Jacobian is singular (|R_ii| at rounding level) after the transient, vector i and the later ones are lost;
    the earlier ones are not affected. Outside `jit` this is an error. Inside `jit`, growth and exponents of the lost
    vectors are -inf and the vectors themselves NaN.

    **Raises:** `ValueError`, in one line, as [`lyapunov_spectrum`][] does; for a lost vector; and if a recomputed block
    differs from the first pass (different rounding, amplified by a chaotic orbit). The last two are raised only outside
    `jit`.

    **Source:** Ginelli, Poggi, Turchi, Chaté, Livi & Politi, Phys. Rev. Lett. 99, 130601 (2007).

        vectors = fl.covariant_vectors(cell, inputs, k=4, measure=fl.angles_between)
        print(vectors.measured.min(0))
    """
    check_positive("time_step", time_step)
    problem = set_up(model, inputs, state=state, step=step, steps=steps)
    length = problem.length
    if transient is None:
        transient = default_transient(length) if basis is None else 0
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    backward_transient = default_transient(length - transient) if backward_transient is None else backward_transient
    note = f" (the run has {length} steps, transient={transient})"
    check_integer("backward_transient", backward_transient, least=0, most=length - 1 - transient, note=note)
    block = math.isqrt(length - transient) if block is None else block
    check_integer("block", block, least=1)
    block = min(block, length - transient)
    if measure is not None and not callable(measure):
        raise ValueError(f"measure must be a function of the vectors (N, k), or None, got measure={measure!r}")
    given, basis = basis, varying(initial_basis(problem.coordinates, k=k, key=key, basis=basis), problem.start)
    problem = problem if given is None else restrict(problem, given, transient)

    traced, arrays = None, None
    if measure is not None:
        traced, arrays, _ = trace_step(lambda measure, vectors, _: measure(vectors), measure, basis, None)
    flow = compiled(covariant_flow, problem)
    result, trace = flow(basis, traced, arrays, stops=(transient, length - backward_transient, length), block=block)
    _check_trace(trace, transient, block)
    return eqx.tree_at(lambda found: found.exponents, result, result.exponents / time_step)


class Trace(NamedTuple):
    """Diagnostics of a run: diag R (0 where lost), the last x, the largest change of a recomputed basis."""

    diagonal: Float[Array, "steps k"]
    x: Float[Array, " N"]
    gap: Float[Array, ""]


class Frame(NamedTuple):
    """A point of the orbit and the basis there."""

    point: Point
    q: Float[Array, "N k"]


class Pushed(NamedTuple):
    """One step of the forward pass: its start, R, and which columns are independent."""

    start: Frame
    r: Float[Array, "k k"]
    independent: Bool[Array, " k"]


class Back(NamedTuple):
    """The backward pass at the end of a block: C, the basis of the first pass there, the largest change of a basis."""

    c: Float[Array, "k k"]
    q: Float[Array, "N k"]
    gap: Float[Array, ""]


class Steps(NamedTuple):
    """Inputs of steps, and which of the steps are real: the last block is padded with steps that do nothing."""

    inputs: Input
    real: Bool[Array, "..."]


@in_full_precision
def covariant_flow(
    problem: Problem,
    basis: Float[Array, "N k"],
    measure: TracedStep | None,
    arrays: Any,
    *,
    stops: tuple[int, int, int],
    block: int,
) -> tuple[CovariantVectors, Trace]:
    """The engine: forward over all steps, back to the end of the transient. Checks nothing.

    `stops`: where the transient, the returned steps and the backward transient end. Blocks are counted from the end of
    the transient.
    """
    transient, returned, length = stops[0], stops[1] - stops[0], stops[2] - stops[0]
    count = -(-length // block)
    start = Frame(problem.start, basis)
    if transient:
        start, _ = lax.scan(partial(_diagonal, problem), start, _cut(problem, stops, 0, transient))
    blocks = _cut(problem, stops, transient, count, block)

    def forward_block(start, steps):
        end, diagonal = lax.scan(partial(_diagonal, problem), start, steps)
        return end, (start, diagonal)

    end, (starts, diagonal) = lax.scan(forward_block, start, blocks)
    diagonal = diagonal.reshape(-1, diagonal.shape[2])
    found = (diagonal != 0).all(0)

    def show(frame, c, growth):
        vectors, growth = jnp.where(found[None, :], frame.q @ c, jnp.nan), jnp.where(found, growth, -jnp.inf)
        if measure is None:
            return growth, vectors, problem.state(frame.point), None
        return growth, None, None, measure(arrays, vectors, None)

    # The last block with returned steps is computed in full and cut afterwards.
    shown = -(-returned // block)
    early = jax.tree_util.tree_map(lambda s: s[:shown], (starts, blocks))
    late = jax.tree_util.tree_map(lambda s: s[shown:], (starts, blocks))
    back = Back(varying(jnp.eye(basis.shape[1], dtype=basis.dtype), end), end.q, jnp.zeros_like(end.q[0, 0]))
    if shown < count:
        back, _ = lax.scan(partial(_backward_block, problem, lambda *_: None), back, late, reverse=True)
    back, results = lax.scan(partial(_backward_block, problem, show), back, early, reverse=True)
    growth, *others = jax.tree_util.tree_map(lambda s: s.reshape(-1, *s.shape[2:])[:returned], results)
    return CovariantVectors(growth.mean(0), growth, *others), Trace(diagonal, end.point.x, back.gap)


def _forward(problem: Problem, start: Frame, step: Steps) -> tuple[Frame, Pushed]:
    """D_t Q_{t-1} = Q_t R_t; a step that is not real leaves everything as it is."""
    point, a = problem.push(start.point, start.q.T, step.inputs)
    q, r = positive_qr(a.T)
    independent = independent_columns(r)
    identity = jnp.eye(len(r), dtype=r.dtype)
    end, r = jax.tree_util.tree_map(partial(jnp.where, step.real), (Frame(point, q), r), (start, identity))
    return end, Pushed(start, r, independent | ~step.real)


def _diagonal(problem: Problem, start: Frame, step: Steps) -> tuple[Frame, Float[Array, " k"]]:
    end, pushed = _forward(problem, start, step)
    return end, jnp.where(pushed.independent, jnp.diagonal(pushed.r), 0)


def _backward(show: Callable, c: Float[Array, "k k"], pushed: Pushed) -> tuple[Float[Array, "k k"], Any]:
    """C_{t-1} = R_t^-1 C_t / |columns|, and the result of `show` there."""
    # Exclude lost columns from the solve: they would divide the zeros of the earlier ones by zero.
    identity = jnp.eye(len(c), dtype=c.dtype)
    c = triangular_solve(jnp.where(pushed.independent[None, :], pushed.r, identity), c, left_side=True)
    largest = jnp.max(jnp.abs(c), axis=0)
    c = c / largest[None, :]  # or its squares might overflow
    norms = jnp.linalg.norm(c, axis=0)
    c = c / norms[None, :]
    return c, show(pushed.start, c, -jnp.log(largest) - jnp.log(norms))


def _backward_block(problem: Problem, show: Callable, back: Back, block: tuple[Frame, Steps]) -> tuple[Back, Any]:
    """Recompute a block from its start, take C back through it, and record how far its end is from the first pass."""
    start, steps = block
    end, pushed = lax.scan(partial(_forward, problem), start, steps)
    gap = jnp.maximum(back.gap, jnp.max(jnp.abs(end.q - back.q)))
    c, results = lax.scan(partial(_backward, show), back.c, pushed, reverse=True)
    return Back(c, start.q, gap), results


def _cut(problem: Problem, stops: tuple[int, int, int], start: int, *shape: int) -> Steps:
    """The steps from `start` on, in an array of this shape; beyond the last one they are not real."""
    at = start + jnp.arange(math.prod(shape)).reshape(shape)
    real = at < stops[2]
    inputs = jax.tree_util.tree_map(lambda s: s[jnp.where(real, at, stops[2] - 1)], problem.inputs)
    return Steps(inputs, real)


def _check_trace(trace: Trace, transient: int, block: int):
    if not is_concrete(trace):
        return
    escaped, lost = ~jnp.isfinite(trace.diagonal), trace.diagonal == 0
    if escaped.any():
        raise ValueError(escape_message(f"at step {transient + int(escaped.any(1).argmax())}"))
    check_leaves("the last state", trace.x)
    if lost.any():
        vector = int(lost.any(0).argmax())
        raise ValueError(
            f"step must have Jacobians of rank k or more, got one of rank {vector} up to rounding at step "
            f"{transient + int(lost[:, vector].argmax())}, in which vector {vector} and the later ones are lost"
        )
    if trace.gap > jnp.sqrt(jnp.finfo(trace.gap.dtype).eps):
        raise ValueError(
            f"block must be so short that recomputing a block gives the same basis, got block={block} and "
            f"bases {float(trace.gap):.1e} apart: use a smaller one"
        )


def angles_between(vectors: ArrayLike) -> Float[Array, "k k"]:
    """The angles in radians, 0 to pi / 2, between all columns of `vectors` (N, k), nonzero, up to their signs.

    A symmetric matrix with zeros on the diagonal, in the dtype of `vectors`; small angles are accurate. Use
    `jax.vmap` over a time axis. Raises `ValueError` if `vectors` does not have two axes.

        vectors = fl.covariant_vectors(cell, inputs, k=4).vectors
        print(jax.vmap(fl.angles_between)(vectors).min(0))
    """
    v = _columns(vectors)
    v = v / jnp.linalg.norm(v, axis=0)[None, :]
    u, v = v[:, :, None], v[:, None, :]
    # The arc cosine of u.v would lose half the digits of a small angle.
    apart, together = jnp.linalg.norm(u - v, axis=0), jnp.linalg.norm(u + v, axis=0)
    return 2 * jnp.arctan2(jnp.minimum(apart, together), jnp.maximum(apart, together))


def angle_between_subspaces(vectors: ArrayLike, split: int) -> Float[Array, ""]:
    """The smallest principal angle between the span of the first `split` columns of `vectors` and that of the rest.

    In radians, 0 to pi / 2, in the dtype of `vectors`, (N, k) with independent columns; small angles are accurate.
    With the number of expanding covariant vectors as `split`, it shows how close an orbit comes to a tangency. Raises
    `ValueError` unless `split` is from 1 to k - 1. Source: Björck & Golub, Math. Comp. 27, 579 (1973).

        angle = lambda vectors: fl.angle_between_subspaces(vectors, split=2)
        print(fl.covariant_vectors(cell, inputs, k=6, measure=angle).measured.min())
    """
    v = _columns(vectors, least=2)
    check_integer("split", split, least=1, most=v.shape[1] - 1, note=f" (there are {v.shape[1]} vectors)")
    (a, _), (b, _) = jnp.linalg.qr(v[:, :split]), jnp.linalg.qr(v[:, split:])
    overlap = a.T @ b
    cosine, sine = jnp.linalg.svd(overlap, compute_uv=False), jnp.linalg.svd(b - a @ overlap, compute_uv=False)
    return jnp.arctan2(sine[-1], cosine[0])


def _columns(vectors: ArrayLike, least: int = 1) -> Array:
    v = jnp.asarray(vectors)
    if v.ndim != 2 or v.shape[1] < least:
        raise ValueError(f"vectors must have shape (N, k) with k of at least {least}, got shape {v.shape}")
    return v
