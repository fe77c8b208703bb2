"""The tangent flow over a window, and its adjoint, with the reorthonormalisation interval as a traced value.

A flossing epoch differentiates this flow with a custom reverse pass. Let D = df/dx be the Jacobian of a step x' = f(x),
A = D Q, and A = Q' R where a block ends. Cotangents then run backwards in time,

    (x', A)  ->  (x, Q)        by the transpose of the derivative of the step at (x, Q),
    (Q', log diag R)  ->  A    by the transpose of the derivative of the QR decomposition.

The loops run over blocks, and the number of blocks is a traced value, so one program serves all intervals, and all
lengths up to that of its arrays. JAX cannot differentiate such loops in reverse mode itself: it would need the number
of iterations at compile time.

The reverse pass needs the residuals of each step. The forward pass stores them for the last segment of the window only.
For each earlier segment it stores a checkpoint at the start, and the reverse pass recomputes the segment (Chen et al.
2016). With sqrt(T) segments of sqrt(T) steps, memory is of order sqrt(T), at the cost of one more forward pass. A
window of one segment recomputes nothing.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import log_diagonal, positive_qr, qr_tangent
from flossing._tangent.blocks import Blocks, Index, Segment
from flossing._tangent.linearised import LinearisedStep
from flossing._tangent.problem import Point, Problem


class Checkpoint(NamedTuple):
    """The start of a segment: the point of the orbit, and the basis as rows."""

    point: Point
    q: Float[Array, "k N"]


class Residuals(NamedTuple):
    """The stored data of a segment for the reverse pass: residuals of each step, and Q and R of each block."""

    steps: list[Array]
    decompositions: tuple[Array, Array]


class Cotangents(NamedTuple):
    """Cotangents of the model, and of x and Q at one time step."""

    model: PyTree
    x: Float[Array, " N"]
    q: Float[Array, "k N"]


@in_full_precision
def window_flow(
    problem: Problem,
    basis: Float[Array, "N k"],
    interval: Int[Array, ""],
    *,
    transient: Index,
    length: Index | None = None,
    segment: int | None = None,
) -> tuple[Float[Array, "T k"], Checkpoint]:
    """log R_ii of each step, 0 where no block ends, and the point and basis at the end; reverse mode only.

    Blocks of `interval` steps end exactly at `transient` and at the end, as in `tangent_flow`. The end is `length`, at
    most that of the problem: later steps take no time, so one program serves sequences of many lengths. `segment` is
    the number of steps whose residuals are stored at a time, all by default, and always for a traced `length`.
    """
    problem = problem.closed()
    blocks = Blocks(interval, problem.length if length is None else length, transient)
    differentiable = problem.model, problem.start.x, problem.inputs, varying(basis.T, problem.start)
    return _flow(differentiable, _static_part(problem), blocks, segment or problem.length)


@eqx.filter_custom_vjp
@in_full_precision
def _flow(differentiable, problem, blocks, size):
    problem, q = _combine(problem, differentiable)
    return _push_alone(problem, Checkpoint(problem.start, q), blocks)


@_flow.def_fwd
def _flow_and_residuals(perturbed, differentiable, problem, blocks, size):
    return _forward(differentiable, problem, blocks, size)


@in_full_precision
def _forward(differentiable, problem, blocks, size):
    problem, q = _combine(problem, differentiable)
    linearised = _linearise(problem, q)
    push = functools.partial(_push, problem, linearised)
    earlier, last = blocks.segments(size, problem.length)

    def advance(checkpoint, start):
        end, growth, _ = push(checkpoint, earlier(start))
        return end, (growth, checkpoint)

    start = Checkpoint(problem.start, q)
    if not last.start:  # skip the empty scan, which would trace the step twice
        end, growth, residuals = push(start, last)
        return (growth, end), (None, residuals)
    end, (before, checkpoints) = lax.scan(advance, start, _starts(blocks, last, size))
    end, growth, residuals = push(end, last)
    return (_joined(before, growth), end), (checkpoints, residuals)


@_flow.def_bwd
@in_full_precision
def _backward(stored, cotangents, perturbed, differentiable, problem, blocks, size):
    problem, q = _combine(problem, differentiable)
    checkpoints, residuals = stored
    linearised = _linearise(problem, q)
    dgrowth, (point, dq) = cotangents
    dgrowth = jnp.zeros((problem.length, len(q)), q.dtype) if dgrowth is None else dgrowth
    pull = functools.partial(_pull, linearised, problem.inputs, dgrowth)
    earlier, last = blocks.segments(size, problem.length)

    def retreat(cotangents, start_and_checkpoint):
        start, checkpoint = start_and_checkpoint
        _, _, residuals = _push(problem, linearised, checkpoint, earlier(start))
        return pull(cotangents, residuals, earlier(start))

    dmodel, *zeros = jax.tree_util.tree_map(
        jnp.zeros_like, eqx.filter((problem.model, problem.start.x, q), eqx.is_inexact_array)
    )
    ends = (zero if given is None else given for zero, given in zip(zeros, (point.x, dq), strict=True))
    cotangents, dinputs = pull(Cotangents(dmodel, *ends), residuals, last)
    if last.start:
        starts = _starts(blocks, last, size)
        cotangents, before = lax.scan(retreat, cotangents, (starts, checkpoints), reverse=True)
        dinputs = jax.tree_util.tree_map(_joined, before, dinputs)
    return cotangents.model, cotangents.x, dinputs, cotangents.q


def _static_part(problem: Problem) -> Problem:
    """`problem` without the differentiated arrays, which are passed separately."""
    start = Point(None, problem.start.nondiff)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(problem, model=None, start=start, inputs=None)


def _combine(problem: Problem, differentiable: Any) -> tuple[Problem, Float[Array, "k N"]]:
    """`problem` with these arrays put back, and the basis as rows."""
    model, x, inputs, q = differentiable
    return dataclasses.replace(problem, model=model, start=problem.start._replace(x=x), inputs=inputs), q


def _linearise(problem: Problem, q: Float[Array, "k N"]) -> LinearisedStep:
    # Fresh arrays as an example: an array that is both start and weight would count once here but twice in a loop.
    start = Point(jnp.zeros_like(problem.start.x), problem.start.nondiff)
    return LinearisedStep(problem, start, _at(problem.inputs, 0), jnp.zeros_like(q))


def _push(
    problem: Problem, linearised: LinearisedStep, start: Checkpoint, segment: Segment
) -> tuple[Checkpoint, Float[Array, "T k"], Residuals]:
    """Push through a segment -> the checkpoint at its end, log R_ii of its steps, and its residuals."""
    inputs = segment.slice(problem.inputs)
    k, first = len(start.q), segment.start

    end, orbit = _orbit(problem, start.point, inputs, segment)

    def push_step(t, carry):
        q, steps = carry
        a, residuals = linearised(*_at((orbit, inputs), t - first), q)
        return a, _put(steps, t - first, residuals)

    def push_block(b, carry):
        q, steps, decompositions, growth = carry
        begin, stop = segment.bounds(b)
        a, steps = lax.fori_loop(begin, stop, push_step, (q, steps))
        q, r = positive_qr(a.T)
        growth = growth.at[stop - 1 - first].set(log_diagonal(r))
        return q.T, steps, _put(decompositions, b - segment.first, (q, r)), growth

    def buffer(shape, dtype=start.q.dtype):
        return varying(jnp.zeros((segment.size, *shape), dtype), start.q)

    steps = [buffer(leaf.shape, leaf.dtype) for leaf in linearised.shapes]
    carry = start.q, steps, (buffer(start.q.T.shape), buffer((k, k))), buffer((k,))
    q, steps, decompositions, growth = lax.fori_loop(segment.first, segment.end, push_block, carry)
    if segment.is_open:
        q, steps = lax.fori_loop(segment.open_start, segment.stop, push_step, (q, steps))
    return Checkpoint(end, q), growth, Residuals(steps, decompositions)


def _push_alone(problem: Problem, start: Checkpoint, blocks: Blocks) -> tuple[Float[Array, "T k"], Checkpoint]:
    """The same through the window, where no gradient is taken: nothing is stored but the growth."""

    def push_step(t, carry):
        point, q = carry
        return problem.push(point, q, _at(problem.inputs, t))

    def push_block(b, carry):
        point, q, growth = carry
        begin, stop = blocks.bounds(b)
        point, a = lax.fori_loop(begin, stop, push_step, (point, q))
        q, r = positive_qr(a.T)
        return point, q.T, growth.at[stop - 1].set(log_diagonal(r))

    growth = varying(jnp.zeros((problem.length, len(start.q)), start.q.dtype), start.q)
    point, q, growth = lax.fori_loop(0, blocks.count, push_block, (*start, growth))
    return growth, Checkpoint(point, q)


def _orbit(problem: Problem, start: Point, inputs: PyTree, segment: Segment) -> tuple[Point, Point]:
    """The point at the end of a segment, or of the window, and the points before its steps."""
    if isinstance(segment.blocks.length, int):
        return lax.scan(lambda p, input: (problem.advance(p, input), p), start, inputs, length=segment.size)

    def advance(t, carry):
        point, orbit = carry
        return problem.advance(point, _at(inputs, t)), _put(orbit, t, point)

    orbit = jax.tree_util.tree_map(lambda x: jnp.broadcast_to(x, (segment.size, *x.shape)), start)
    return lax.fori_loop(0, segment.blocks.length, advance, (start, orbit))


def _pull(
    linearised: LinearisedStep,
    inputs: PyTree,
    dgrowth: Float[Array, "T k"],
    cotangents: Cotangents,
    residuals: Residuals,
    segment: Segment,
) -> tuple[Cotangents, PyTree]:
    """Pull back through a segment -> the cotangents at its start, and those of its inputs."""
    first = segment.start

    def pull_step(t, carry):
        dmodel, dinputs, dx, da = carry
        (more, dinput), dx, dq = linearised.pullback(_at(residuals.steps, t - first))((dx, da))
        return jax.tree_util.tree_map(jnp.add, dmodel, more), _put(dinputs, t - first, dinput), dx, dq

    def pull_block(b, carry):
        begin, stop = segment.bounds(b)
        dmodel, dinputs, dx, dq = carry
        q, r = _at(residuals.decompositions, b - segment.first)
        da = _pull_qr(q, r, dq.T, dgrowth[stop - 1]).T
        return _reversed_loop(begin, stop, pull_step, (dmodel, dinputs, dx, da))

    dinputs = jax.tree_util.tree_map(jnp.zeros_like, eqx.filter(segment.slice(inputs), eqx.is_inexact_array))
    carry = cotangents.model, dinputs, cotangents.x, cotangents.q
    if segment.is_open:
        carry = _reversed_loop(segment.open_start, segment.stop, pull_step, carry)
    dmodel, dinputs, dx, dq = _reversed_loop(segment.first, segment.end, pull_block, carry)
    return Cotangents(dmodel, dx, dq), dinputs


def _starts(blocks: Blocks, last: Segment, size: int) -> Int[Array, " segments"]:
    """The first steps of all segments but the last."""
    # Of the dtype of the interval: under `jax.disable_jit()` no loop promotes its bounds to one dtype.
    return jnp.arange(0, last.start, size, dtype=blocks.interval.dtype)


def _reversed_loop(begin: Int[Array, ""] | int, stop: Int[Array, ""] | int, body: Callable, carry: Any) -> Any:
    """`body(t, carry)` for t = stop - 1, ..., begin."""
    return lax.fori_loop(0, stop - begin, lambda i, carry: body(stop - 1 - i, carry), carry)


def _joined(before: Array, last: Array) -> Array:
    """The arrays of the earlier segments and of the last, joined along one time axis."""
    return jnp.concatenate([before.reshape(before.shape[0] * before.shape[1], *before.shape[2:]), last])


def _at(tree: PyTree[Array], t: Int[Array, ""] | int) -> Any:
    return jax.tree_util.tree_map(lambda leaf: leaf[t], tree)


def _put(tree: PyTree[Array], t: Int[Array, ""] | int, now: PyTree[Array]) -> Any:
    return jax.tree_util.tree_map(lambda leaf, at: leaf.at[t].set(at), tree, now)


def _pull_qr(
    q: Float[Array, "N k"], r: Float[Array, "k k"], dq: Float[Array, "N k"], dlog: Float[Array, " k"]
) -> Float[Array, "N k"]:
    """From the cotangents of Q and log diag R to that of A."""
    return jax.linear_transpose(functools.partial(qr_tangent, q, r), q)((dq, dlog))[0]
