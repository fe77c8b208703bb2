"""The tangent flow over a window and its adjoint, re-orthonormalised at an interval that is data.

What a flossing epoch differentiates, with a reverse pass of its own. With D = df/dx the Jacobian of a step x' = f(x),
with A = D Q, and with A = Q' R where a block ends, cotangents run backwards in time,

    (x', A)  ->  (x, Q)        by the transpose of the step's derivative at (x, Q),
    (Q', log diag R)  ->  A    by that of the QR decomposition.

The loops turn as often as there are blocks, so that one program serves all intervals. JAX could not reverse such loops
by itself: it asks for a number of turns that it knows when it compiles.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from flossing._coordinates import Coordinates, shape_of_one
from flossing._linearised import LinearisedStep
from flossing._orthonormal import log_diagonal, qr_tangent
from flossing._precision import in_full_precision
from flossing._qr import positive_qr
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
) -> Float[Array, "T k"]:
    """log R_ii of each of `length` steps, 0 where no block ends; differentiable in reverse mode.

    Blocks of `interval` steps end exactly at `transient` and at `length`, as those of `tangent_flow` do.
    """
    coordinates = Coordinates(state)
    step = eqx.filter_closure_convert(functools.partial(step), state, shape_of_one(inputs))
    x, rest = coordinates.split(state)
    return _growth((step, x, inputs, basis.T), rest, coordinates, Blocks(interval, length, transient))


class Blocks(eqx.Module):
    """Blocks of `interval` steps, of which one ends at `transient` and the last at `length`."""

    interval: Int[Array, ""]
    length: int = eqx.field(static=True)
    transient: int = eqx.field(static=True)

    @property
    def count(self) -> Int[Array, ""]:
        """How many there are."""
        return 1 + jnp.maximum(0, -((self._first - self.length) // self.interval))

    def ends(self, b: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The step with which block `b` begins, and that before which it ends."""
        stop = self._first + b * self.interval
        return jnp.maximum(0, stop - self.interval), jnp.minimum(stop, self.length)

    @property
    def _first(self) -> Int[Array, ""]:
        return (self.transient - 1) % self.interval + 1


@eqx.filter_custom_vjp
def _growth(moving, rest, coordinates, blocks):
    return _forward(moving, rest, coordinates, blocks)[0]


@_growth.def_fwd
def _growth_and_kept(perturbed, moving, rest, coordinates, blocks):
    return _forward(moving, rest, coordinates, blocks)


@in_full_precision
def _forward(moving, rest, coordinates, blocks):
    step, x, inputs, q = moving
    k, length = len(q), blocks.length

    def advance(carry, input):
        x, rest = carry
        return coordinates.split(step(coordinates.join(x, rest), input)), carry

    orbit = lax.scan(advance, (x, rest), inputs, length=length)[1]
    linearised = LinearisedStep(step, coordinates, *_at((orbit, inputs), 0), q)

    def push(t, carry):
        q, kept = carry
        a, now = linearised(*_at((orbit, inputs), t), q)
        return a, _put(kept, t, now)

    def block(b, carry):
        q, kept, decomposed, growth = carry
        start, stop = blocks.ends(b)
        a, kept = lax.fori_loop(start, stop, push, (q, kept))
        q, r = positive_qr(a.T)
        return q.T, kept, _put(decomposed, b, (q, r)), growth.at[stop - 1].set(log_diagonal(r))

    def room(*shape):
        return jnp.zeros((length, *shape), q.dtype)

    kept = [jnp.zeros((length, *leaf.shape), leaf.dtype) for leaf in linearised.shapes]
    carry = q, kept, (room(*q.T.shape), room(k, k)), room(k)
    _, kept, decomposed, growth = lax.fori_loop(0, blocks.count, block, carry)
    return growth, (kept, decomposed)


@_growth.def_bwd
@in_full_precision
def _backward(kept, growth, perturbed, moving, rest, coordinates, blocks):
    step, x, inputs, q = moving
    kept, decomposed = kept
    linearised = LinearisedStep(step, coordinates, (x, rest), _at(inputs, 0), q)

    def pull(i, carry, stop):
        dstep, dinputs, dx, da = carry
        t = stop - 1 - i
        (more, dinput), dx, dq = linearised.pullback(_at(kept, t))((dx, da))
        return jax.tree_util.tree_map(jnp.add, dstep, more), _put(dinputs, t, dinput), dx, dq

    def block(i, carry):
        b = blocks.count - 1 - i
        start, stop = blocks.ends(b)
        dstep, dinputs, dx, dq = carry
        q, r = _at(decomposed, b)
        da = _pull_qr(q, r, dq.T, growth[stop - 1]).T
        return lax.fori_loop(0, stop - start, functools.partial(pull, stop=stop), (dstep, dinputs, dx, da))

    carry = jax.tree_util.tree_map(jnp.zeros_like, eqx.filter((step, inputs, x, q), eqx.is_inexact_array))
    dstep, dinputs, dx, dq = lax.fori_loop(0, blocks.count, block, carry)
    return dstep, dx, dinputs, dq


def _at(tree: PyTree[Array], t: Int[Array, ""] | int) -> Any:
    return jax.tree_util.tree_map(lambda leaf: leaf[t], tree)


def _put(tree: PyTree[Array], t: Int[Array, ""], now: PyTree[Array]) -> Any:
    return jax.tree_util.tree_map(lambda leaf, at: leaf.at[t].set(at), tree, now)


def _pull_qr(
    q: Float[Array, "N k"], r: Float[Array, "k k"], dq: Float[Array, "N k"], dlog: Float[Array, " k"]
) -> Float[Array, "N k"]:
    """From the cotangents of Q and log diag R to that of A."""
    return jax.linear_transpose(functools.partial(qr_tangent, q, r), q)((dq, dlog))[0]
