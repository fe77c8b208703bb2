"""Covariant Lyapunov vectors: the directions that the flow maps onto themselves, one for each exponent.

Forward along the orbit an orthonormal basis is pushed, as for the exponents; backward an upper triangular C:

    D_t Q_{t-1} = Q_t R_t,        C_{t-1} = R_t^-1 C_t / |columns|,        V_t = Q_t C_t,

so that D_t V_{t-1} = V_t diag(exp growth). Going back, any C turns into the right one, as any Q does going forth
(Ginelli et al. 2007). The forward pass stores the basis only where a block of steps starts; the backward pass computes
each block a second time and takes C back through it.
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

from flossing._checks import check_integer, check_leaves, is_concrete
from flossing._linalg.precision import in_full_precision
from flossing._linalg.qr import independent_columns, positive_qr
from flossing._runtime.compiled import compiled
from flossing._tangent.coordinates import Coordinates
from flossing._tangent.flow import push_tangents
from flossing._tangent.problem import initial_basis, prepare
from flossing._types import Input, RandomKey, State, Step


class CovariantVectors(eqx.Module):
    """Covariant Lyapunov vectors of one network along one sequence, at n = T - transient - settling of its states.

    Entry i belongs to the state that enters the step with `inputs[transient + i]`, and to the Jacobian D of that step:
    D vectors[i] = vectors[i + 1] diag(exp growth[i]), signs included.

    - `exponents` (k,): the mean of `growth`, per step, natural logarithm. Those of [`lyapunov_spectrum`][] along the
      same steps differ by a boundary term O(1/n).
    - `growth` (n, k): the logarithm by which each vector grows in the step that follows.
    - `vectors` (n, N, k): unit columns in the coordinates of the state; None if there was a `measure`.
    - `states`: the n states, structured as the one given, with a leading axis of n; None if there was a `measure`.
    - `measured`: what `measure` returned, with a leading axis of n on every leaf; None if there was no `measure`.
    """

    exponents: Float[Array, " k"]
    growth: Float[Array, "n k"]
    vectors: Float[Array, "n N k"] | None
    states: State
    measured: PyTree


def covariant_vectors(
    step: Step,
    state: State,
    inputs: Input,
    *,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    transient: int = 0,
    settling: int = 0,
    steps: int | None = None,
    block: int | None = None,
    measure: Callable[[Any], PyTree] | None = None,
) -> CovariantVectors:
    """Compute the first `k` covariant Lyapunov vectors of `step` along `inputs`, starting from `state`.

    **Arguments:**

    - `step`, `state`, `inputs`, `k`, `key`, `basis`, `steps`: as in [`lyapunov_spectrum`][].
    - `transient`: steps at the start that are not returned, 0 to T - 1; in them the basis turns into place.
    - `settling`: steps at the end that are not returned, 0 to T - 1 - `transient`; in them C does, going back. At
      either end, m steps leave an error of the order exp(-m gap), with the gap between neighbouring exponents.
    - `block`: steps between two stored bases, at least 1; about sqrt(T) by default, the fewest to keep in memory:
      T / `block` + `block` bases. The result does not depend on it.
    - `measure`: `measure(vectors (N, k)) -> pytree`, such as [`angles_between`][], applied at each state; only its
      result is stored, in place of vectors and states.

    **Returns:** [`CovariantVectors`][]: unit vectors in the coordinates of the state; growth in nats per step.

    A vector is defined up to its sign, which the basis sets and the flow carries on; vectors of equal exponents (as
    of a complex pair) are covariant but not defined one by one. dtype: that of the state. Each call outside `jit`
    compiles anew, unless `step` and `measure`, if any, are Equinox modules: wrap repeated calls in `jax.jit`.

    Where a Jacobian is singular (|R_ii| at rounding level) after the transient, vector i and the later ones are lost,
    the earlier ones are not affected. That is an error outside `jit`; inside, where nothing can be raised, their
    growth and exponents are -inf and their vectors NaN.

    **Raises:** `ValueError`, in one line, as [`lyapunov_spectrum`][] does; for a lost vector; and if a block
    computed a second time comes out differently (rounding that differs, amplified by a chaotic orbit). The last two
    are seen only outside `jit`.

    **Source:** Ginelli, Poggi, Turchi, Chaté, Livi & Politi, Phys. Rev. Lett. 99, 130601 (2007).
    """
    # Error checking
    state, inputs, length, coordinates = prepare(step, state, inputs, steps)
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    note = f" (the run has {length} steps, transient={transient})"
    check_integer("settling", settling, least=0, most=length - 1 - transient, note=note)
    block = math.isqrt(length - transient) if block is None else block
    check_integer("block", block, least=1)
    block = min(block, length - transient)
    if measure is not None and not callable(measure):
        raise ValueError(f"measure must be a function of the vectors (N, k), or None, got measure={measure!r}")
    basis = initial_basis(coordinates, k=k, key=key, basis=basis)

    flow = compiled(covariant_flow, step, state, inputs, *(() if measure is None else (measure,)))
    result, trace = flow(state, inputs, basis, measure, (transient, length - settling, length), block)
    _check_trace(trace, transient, block)
    return result


class Trace(NamedTuple):
    """What tells afterwards how a run went: diag R (0 where lost), the last x, the largest gap between two blocks."""

    diagonal: Float[Array, "steps k"]
    x: Float[Array, " N"]
    gap: Float[Array, ""]


@in_full_precision
def covariant_flow(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    measure: Callable[[Any], PyTree] | None,
    stops: tuple[int, int, int],
    block: int,
) -> tuple[CovariantVectors, Trace]:
    """The engine: forward over all steps, back to the end of the transient. Checks nothing.

    `stops`: where the transient, the kept and the settling steps end. Blocks are counted from the end of the
    transient; the last one is filled up with steps that do nothing.
    """
    coordinates = Coordinates(state)
    transient, kept, length = stops[0], stops[1] - stops[0], stops[2] - stops[0]
    count = -(-length // block)
    identity = jnp.eye(basis.shape[1], dtype=basis.dtype)

    def forward(carry, now):
        (x, rest, q), (input, real) = carry, now
        one = jax.tree_util.tree_map(lambda s: s[None], input)
        x, rest, a = push_tangents(step, coordinates, x, rest, q.T, one, 1)
        q, r = positive_qr(a.T)
        independent = independent_columns(r)
        end, r = _where(real, ((x, rest, q), r), (carry, identity))
        return end, (carry, r, independent | ~real)

    def forward_only(carry, now):
        end, (_, r, independent) = forward(carry, now)
        return end, jnp.where(independent, jnp.diagonal(r), 0)

    def forward_block(carry, block):
        end, diagonal = lax.scan(forward_only, carry, block)
        return end, (carry, diagonal)

    def backward(c, before, look):
        (x, rest, q), r, independent = before
        # A lost column is taken out of the solve: it must not divide the zeros of the earlier ones by zero.
        c = triangular_solve(jnp.where(independent[None, :], r, identity), c, left_side=True)
        largest = jnp.max(jnp.abs(c), axis=0)
        c = c / largest[None, :]  # or its squares might overflow
        norms = jnp.linalg.norm(c, axis=0)
        c = c / norms[None, :]
        return c, look(x, rest, q @ c, -jnp.log(largest) - jnp.log(norms))

    def backward_block(carry, start_and_block, look):
        (c, q_after, gap), (start, block) = carry, start_and_block
        end, before = lax.scan(forward, start, block)
        gap = jnp.maximum(gap, jnp.max(jnp.abs(end[2] - q_after)))
        c, looks = lax.scan(partial(backward, look=look), c, before, reverse=True)
        return (c, start[2], gap), looks

    def show(x, rest, v, growth):
        v, growth = jnp.where(found[None, :], v, jnp.nan), jnp.where(found, growth, -jnp.inf)
        return (growth, v, coordinates.join(x, rest), None) if measure is None else (growth, None, None, measure(v))

    def cut(start, *shape):
        at = start + jnp.arange(math.prod(shape)).reshape(shape)
        real = at < stops[2]
        return jax.tree_util.tree_map(lambda s: s[jnp.where(real, at, stops[2] - 1)], inputs), real

    carry = (*coordinates.split(state), basis)
    if transient:
        carry, _ = lax.scan(forward_only, carry, cut(0, transient))
    blocks = cut(transient, count, block)
    (x, _, q), (starts, diagonal) = lax.scan(forward_block, carry, blocks)
    diagonal = diagonal.reshape(-1, diagonal.shape[2])
    found = (diagonal != 0).all(0)

    # The block in which the kept steps end is shown as a whole, and cut afterwards.
    back, shown = (identity, q, jnp.zeros_like(q[0, 0])), -(-kept // block)
    early = jax.tree_util.tree_map(lambda s: s[:shown], (starts, blocks))
    late = jax.tree_util.tree_map(lambda s: s[shown:], (starts, blocks))
    if shown < count:
        back, _ = lax.scan(partial(backward_block, look=lambda *_: None), back, late, reverse=True)
    back, looks = lax.scan(partial(backward_block, look=show), back, early, reverse=True)
    growth, *others = jax.tree_util.tree_map(lambda s: s.reshape(-1, *s.shape[2:])[:kept], looks)
    return CovariantVectors(growth.mean(0), growth, *others), Trace(diagonal, x, back[2])


def _where(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree_util.tree_map(partial(jnp.where, condition), new, old)


def _check_trace(trace: Trace, transient: int, block: int):
    if not is_concrete(trace):
        return
    escaped, lost = ~jnp.isfinite(trace.diagonal), trace.diagonal == 0
    if escaped.any():
        raise ValueError(
            f"step must keep the state and its tangents finite, got NaN or infinity at step "
            f"{transient + int(escaped.any(1).argmax())}: check its parameters, or whether the orbit escapes"
        )
    check_leaves("state after the last step, x", trace.x)
    if lost.any():
        vector = int(lost.any(0).argmax())
        raise ValueError(
            f"step must have Jacobians of rank k or more, got one of rank {vector} up to rounding at step "
            f"{transient + int(lost[:, vector].argmax())}, in which vector {vector} and the later ones are lost"
        )
    if trace.gap > jnp.sqrt(jnp.finfo(trace.gap.dtype).eps):
        raise ValueError(
            f"block must be so short that a block computed twice comes out alike, got block={block} and "
            f"bases {float(trace.gap):.1e} apart: take a smaller one"
        )


def angles_between(vectors: ArrayLike) -> Float[Array, "k k"]:
    """The angles in radians, 0 to pi / 2, between all columns of `vectors` (N, k), nonzero, up to their signs.

    A symmetric matrix with zeros on the diagonal, in the dtype of `vectors`; small angles lose no digits. `jax.vmap`
    takes a time axis. Raises `ValueError` if `vectors` does not have two axes.
    """
    v = _columns(vectors)
    v = v / jnp.linalg.norm(v, axis=0)[None, :]
    u, v = v[:, :, None], v[:, None, :]
    # The arc cosine of u.v would lose half the digits of a small angle.
    apart, together = jnp.linalg.norm(u - v, axis=0), jnp.linalg.norm(u + v, axis=0)
    return 2 * jnp.arctan2(jnp.minimum(apart, together), jnp.maximum(apart, together))


def angle_between_subspaces(vectors: ArrayLike, split: int) -> Float[Array, ""]:
    """The smallest principal angle between the span of the first `split` columns of `vectors` and that of the rest.

    In radians, 0 to pi / 2, in the dtype of `vectors`, (N, k) with independent columns; small angles lose no digits.
    With as many covariant vectors as expand for `split`, it tells how close an orbit comes to a tangency. Raises
    `ValueError` unless `split` is from 1 to k - 1. Source: Björck & Golub, Math. Comp. 27, 579 (1973).
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
