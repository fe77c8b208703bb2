"""The tangent flow over a window and its adjoint, re-orthonormalised at an interval that is data.

What a flossing epoch differentiates, with a reverse pass of its own. With D = df/dx the Jacobian of a step x' = f(x),
with A = D Q, and with A = Q' R where a block ends, cotangents run backwards in time,

    (x', A)  ->  (x, Q)        by the transpose of the step's derivative at (x, Q),
    (Q', log diag R)  ->  A    by that of the QR decomposition.

The loops turn as often as there are blocks, so that one program serves all intervals. JAX could not reverse such loops
by itself: it asks for a number of turns that it knows when it compiles.

The reverse pass needs what each step leaves behind. It is kept for the last segment of the window alone. Of the others
the forward pass keeps the place where they start, and they are pushed again when the reverse pass reaches them (Chen et
al. 2016): with sqrt(T) segments of sqrt(T) steps memory is of order sqrt(T), for one more forward pass. A window that
is one segment, thus its last, has no step pushed twice.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import log_diagonal, positive_qr, qr_tangent
from flossing._tangent.blocks import Blocks, Segment
from flossing._tangent.coordinates import Coordinates, shape_of_one
from flossing._tangent.linearised import LinearisedStep
from flossing._types import Input, State, Step


@in_full_precision
def window_growth(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    interval: Int[Array, ""],
    *,
    length: int,
    transient: int,
    segment: int | None = None,
) -> Float[Array, "T k"]:
    """log R_ii of each of `length` steps, 0 where no block ends; differentiable in reverse mode.

    Blocks of `interval` steps end exactly at `transient` and at `length`, as those of `tangent_flow` do. `segment` is
    the number of steps whose traces are kept at a time, all by default.
    """
    coordinates = Coordinates(state)
    step = eqx.filter_closure_convert(functools.partial(step), state, shape_of_one(inputs))
    x, rest = coordinates.split(state)
    blocks = Blocks(interval, length, transient)
    return _growth((step, x, inputs, basis.T), rest, coordinates, blocks, segment or length)


@eqx.filter_custom_vjp
def _growth(moving, rest, coordinates, blocks, size):
    return _forward(moving, rest, coordinates, blocks, size)[0]


@_growth.def_fwd
def _growth_and_kept(perturbed, moving, rest, coordinates, blocks, size):
    return _forward(moving, rest, coordinates, blocks, size)


@in_full_precision
def _forward(moving, rest, coordinates, blocks, size):
    step, x, inputs, q = moving
    linearised = LinearisedStep(step, coordinates, (x, rest), _at(inputs, 0), q)
    push = functools.partial(_push, step, coordinates, linearised, inputs)
    earlier, last = blocks.segments(size)

    def advance(place, start):
        end, growth, _ = push(place, earlier(start))
        return end, (growth, place)

    if not last.start:  # nor is the step traced twice, for a scan over no segments
        _, growth, traces = push((x, rest, q), last)
        return growth, (None, traces)
    end, (before, places) = lax.scan(advance, (x, rest, q), jnp.arange(0, last.start, size))
    _, growth, traces = push(end, last)
    return _joined(before, growth), (places, traces)


@_growth.def_bwd
@in_full_precision
def _backward(kept, dgrowth, perturbed, moving, rest, coordinates, blocks, size):
    step, x, inputs, q = moving
    places, traces = kept
    linearised = LinearisedStep(step, coordinates, (x, rest), _at(inputs, 0), q)
    push = functools.partial(_push, step, coordinates, linearised, inputs)
    pull = functools.partial(_pull, linearised, inputs, dgrowth)
    earlier, last = blocks.segments(size)

    def retreat(carry, kept):
        start, place = kept
        _, _, traces = push(place, earlier(start))
        return pull(carry, traces, earlier(start))

    carry = jax.tree_util.tree_map(jnp.zeros_like, eqx.filter((step, x, q), eqx.is_inexact_array))
    carry, dinputs = pull(carry, traces, last)
    if last.start:
        starts = jnp.arange(0, last.start, size)
        carry, before = lax.scan(retreat, carry, (starts, places), reverse=True)
        dinputs = jax.tree_util.tree_map(_joined, before, dinputs)
    dstep, dx, dq = carry
    return dstep, dx, dinputs, dq


def _push(
    step: Step, coordinates: Coordinates, linearised: LinearisedStep, inputs: Input, place: Any, segment: Segment
):
    """From the place where a segment starts to that where it ends, with its growth, and what its steps leave behind.

    A place is `x, rest, q`. Each step leaves what its pullback needs, each block Q and R.
    """
    x, rest, q = place
    k, start = len(q), segment.start

    def advance(carry, input):
        x, rest = carry
        return coordinates.split(step(coordinates.join(x, rest), input)), carry

    inputs = segment.of(inputs)
    (x, rest), orbit = lax.scan(advance, (x, rest), inputs, length=segment.size)

    def push(t, carry):
        q, left = carry
        a, now = linearised(*_at((orbit, inputs), t - start), q)
        return a, _put(left, t - start, now)

    def block(b, carry):
        q, left, decomposed, growth = carry
        begin, stop = segment.ends(b)
        a, left = lax.fori_loop(begin, stop, push, (q, left))
        q, r = positive_qr(a.T)
        growth = growth.at[stop - 1 - start].set(log_diagonal(r))
        return q.T, left, _put(decomposed, b - segment.first, (q, r)), growth

    def room(shape, dtype=q.dtype):
        return jnp.zeros((segment.size, *shape), dtype)

    left = [room(leaf.shape, leaf.dtype) for leaf in linearised.shapes]
    carry = q, left, (room(q.T.shape), room((k, k))), room((k,))
    q, left, decomposed, growth = lax.fori_loop(segment.first, segment.end, block, carry)
    if segment.is_open:
        q, left = lax.fori_loop(segment.begun, segment.stop, push, (q, left))
    return (x, rest, q), growth, (left, decomposed)


def _pull(
    linearised: LinearisedStep, inputs: Input, dgrowth: Float[Array, "T k"], carry: Any, traces: Any, segment: Segment
):
    """Backwards through a segment: the cotangents of the step, of x and of Q at its start; and of its inputs."""
    dstep, dx, dq = carry
    left, decomposed = traces
    start = segment.start

    def pull(i, carry, stop):
        dstep, dinputs, dx, da = carry
        t = stop - 1 - i
        (more, dinput), dx, dq = linearised.pullback(_at(left, t - start))((dx, da))
        return jax.tree_util.tree_map(jnp.add, dstep, more), _put(dinputs, t - start, dinput), dx, dq

    def block(i, carry):
        b = segment.end - 1 - i
        begin, stop = segment.ends(b)
        dstep, dinputs, dx, dq = carry
        q, r = _at(decomposed, b - segment.first)
        da = _pull_qr(q, r, dq.T, dgrowth[stop - 1]).T
        return lax.fori_loop(0, stop - begin, functools.partial(pull, stop=stop), (dstep, dinputs, dx, da))

    dinputs = jax.tree_util.tree_map(jnp.zeros_like, eqx.filter(segment.of(inputs), eqx.is_inexact_array))
    carry = dstep, dinputs, dx, dq
    if segment.is_open:
        cut = segment.stop - segment.begun
        carry = lax.fori_loop(0, cut, functools.partial(pull, stop=segment.stop), carry)
    dstep, dinputs, dx, dq = lax.fori_loop(0, segment.end - segment.first, block, carry)
    return (dstep, dx, dq), dinputs


def _joined(before: Array, last: Array) -> Array:
    """What earlier segments and the last have, with one axis of time."""
    return jnp.concatenate([before.reshape(before.shape[0] * before.shape[1], *before.shape[2:]), last])


def _at(tree: PyTree[Array], t: Int[Array, ""] | int) -> Any:
    return jax.tree_util.tree_map(lambda leaf: leaf[t], tree)


def _put(tree: PyTree[Array], t: Int[Array, ""], now: PyTree[Array]) -> Any:
    return jax.tree_util.tree_map(lambda leaf, at: leaf.at[t].set(at), tree, now)


def _pull_qr(
    q: Float[Array, "N k"], r: Float[Array, "k k"], dq: Float[Array, "N k"], dlog: Float[Array, " k"]
) -> Float[Array, "N k"]:
    """From the cotangents of Q and log diag R to that of A."""
    return jax.linear_transpose(functools.partial(qr_tangent, q, r), q)((dq, dlog))[0]
