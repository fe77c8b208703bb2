"""The tangent flow of a driven system, and the Lyapunov exponents it measures.

A perturbation of the state h of h' = f(h, s) is multiplied by the Jacobian D = df/dh of each step. An orthonormal
basis Q (N x k), pushed along the orbit and re-orthonormalised, grows by the diagonal of R (Benettin et al. 1980):

    D Q = Q' R,        lambda_i = < log R_ii >,

natural logarithms, averaged over the steps after a transient. With a re-orthonormalisation interval of m steps,
D is the product of m Jacobians and log R_ii the growth over all m.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_leaves, is_concrete
from flossing._coordinates import Coordinates, describe_structure
from flossing._orthonormal import orthonormalise
from flossing._types import Input, RandomKey, State, Step


class Spectrum(eqx.Module):
    """Lyapunov exponents of one network along one sequence.

    - `exponents` (k,): per step, natural logarithm, descending as the flow settles; a function of the orbit, thus
      those of the driven system where inputs drive it.
    - `growth` (blocks, k): log R_ii of each block of `interval` steps after the transient; the last block may be
      shorter. `exponents` is its sum over blocks, divided by the steps kept.
    - `state`: the state after the last step, structured as the one given.
    - `basis` (N, k): the orthonormal basis after the last step. `state` and `basis` continue the run.
    """

    exponents: Float[Array, " k"]
    growth: Float[Array, "blocks k"]
    state: State
    basis: Float[Array, "N k"]


def lyapunov_spectrum(
    step: Step,
    state: State,
    inputs: Input,
    *,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    transient: int = 0,
    interval: int = 1,
    steps: int | None = None,
) -> Spectrum:
    """Measure the first `k` Lyapunov exponents of `step` along `inputs`, starting from `state`.

    **Arguments:**

    - `step`: any pure JAX function `step(state, input) -> state`. Its Jacobian is never formed: k tangents are
      pushed through it by forward-mode differentiation.
    - `state`: an array or a pytree. Its N real coordinates are the entries of the floating leaves in tree order (a
      complex entry counts twice); other leaves (random keys, counters) are carried without a tangent.
    - `inputs`: a pytree whose leaves have a leading time axis of T; or `None` for an autonomous system, which needs
      `steps=T` and is called as `step(state, None)`.
    - `k`: how many exponents, 1 to N; all N if neither `k` nor `basis` is given.
    - `key`: draws the initial basis, the Q factor of a Gaussian N x k matrix; a fixed key by default.
    - `basis`: the initial basis itself (N, k) instead of `key`; its columns are orthonormalised first.
    - `transient`: steps at the start during which the basis turns but growth is not counted, 0 to T - 1.
    - `interval`: steps between re-orthonormalisations. Exact in exact arithmetic; in floating point good as long
      as the growth rates within one interval differ by much less than the precision (36 nats in float64).

    **Returns:** a [`Spectrum`][]: exponents per step, natural logarithm.

    The result is differentiable, in forward and in reverse mode, in whatever `step` closes over, in `state` and in
    `inputs`. dtype: that of the state; nothing is promoted, x64 is never switched on. Where a Jacobian is singular
    (|R_ii| at rounding level) that exponent and the later ones are -inf with zero gradient, the earlier ones keep
    theirs. Each call outside `jit` compiles anew, unless `step` is an Equinox module: wrap repeated calls in
    `jax.jit`. Batches and ensembles are the caller's `jax.vmap`.

    **Raises:** `ValueError`, in one line, for arguments out of range, NaN or infinite values, a float64 NumPy array
    while x64 is off, a step that changes the structure, shape or dtype of its state, an orbit that ceases to be
    finite (seen only outside `jit`).

    **Source:** Engelken (NeurIPS 2023) sections 2 and 3; Benettin, Galgani, Giorgilli & Strelcyn (1980).
    """
    # Error checking
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    check_leaves("step", eqx.filter(step, eqx.is_array))
    state = jax.tree_util.tree_map(jnp.asarray, state)
    inputs = jax.tree_util.tree_map(jnp.asarray, inputs)
    length = sequence_length(inputs, steps)
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    check_integer("interval", interval, least=1)
    coordinates = Coordinates(state)
    check_step(step, coordinates, state, inputs)
    basis = initial_basis(coordinates, k=k, key=key, basis=basis)

    # An Equinox module carries its arrays as leaves and may be cached by its structure. A plain function may close
    # over arrays that the user rebinds between calls, of which a cache would not know: it is traced every time.
    cached = isinstance(step, eqx.Module)
    spectrum = (_jitted_flow if cached else tangent_flow)(
        step, state, inputs, basis, length=length, transient=transient, interval=interval
    )
    _check_orbit(spectrum)
    return spectrum


def tangent_flow(
    step: Step,
    state: State,
    inputs: Input,
    basis: Float[Array, "N k"],
    *,
    length: int,
    transient: int = 0,
    interval: int = 1,
) -> Spectrum:
    """The engine: push `basis` along the orbit, one scan over blocks of `interval` steps. Checks nothing.

    Blocks end exactly at `transient` and at `length`, so the first and the last may be shorter.
    """
    coordinates = Coordinates(state)

    def push(carry, input):
        x, rest, a = carry

        def flow(x):
            return coordinates.split(step(coordinates.join(x, rest), input))

        def along(v):
            return jax.jvp(flow, (x,), (v,), has_aux=True)

        x, da, rest = jax.vmap(along, in_axes=1, out_axes=(None, 1, None))(a)
        return (x, rest, da), None

    def block(carry, inputs, size):
        x, rest, q = carry
        (x, rest, a), _ = lax.scan(push, (x, rest, q), inputs, length=size, unroll=size == 1)
        q, log_r = orthonormalise(a)
        return (x, rest, q), log_r

    def blocks(carry, start, stop, size):
        count = (stop - start) // size
        cut = jax.tree_util.tree_map(lambda s: s[start:stop].reshape(count, size, *s.shape[1:]), inputs)
        return lax.scan(lambda c, s: block(c, s, size), carry, cut, length=count)

    first = transient % interval
    last = (length - transient) % interval
    x, rest = coordinates.split(state)
    carry, growth = (x, rest, basis), []
    for start, stop, size in ((0, first, first), (first, length - last, interval), (length - last, length, last)):
        if stop > start:
            carry, log_r = blocks(carry, start, stop, size)
            growth.append(log_r)
    exponents, growth = _average(jnp.concatenate(growth)[-(-transient // interval) :], length - transient)
    x, rest, basis = carry
    return Spectrum(exponents, growth, coordinates.join(x, rest), basis)


_jitted_flow = eqx.filter_jit(tangent_flow)


def _average(growth: Float[Array, "blocks k"], steps: int) -> tuple[Float[Array, " k"], Float[Array, "blocks k"]]:
    # A direction lost to a singular Jacobian is lost for the product of all. What Q is completed with afterwards is
    # arbitrary and must not be counted; and no block of a lost direction may send a gradient.
    dead = jnp.cumsum(jnp.isneginf(growth), axis=0) > 0
    lost = dead[-1]
    total = jnp.where(lost[None, :], 0, growth).sum(0)
    return jnp.where(lost, -jnp.inf, total / steps), jnp.where(dead, -jnp.inf, growth)


def initial_basis(
    coordinates: Coordinates,
    *,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: Any = None,
) -> Float[Array, "N k"]:
    """The orthonormal basis (N, k) that `lyapunov_spectrum` starts from; errors as there."""
    size = coordinates.size
    if k is not None:
        check_integer("k", k, least=1, most=size, note=f" (the state has {size} real coordinates)")
    if basis is None:
        key = jax.random.key(0) if key is None else key
        gaussian = jax.random.normal(key, (size, size if k is None else k), coordinates.dtype)
        return orthonormalise(gaussian)[0]
    check_leaves("basis", basis)
    shape = jnp.shape(basis)
    if len(shape) != 2 or shape[0] != size or not 1 <= shape[1] <= size or k not in (None, shape[1]):
        legal = f"({size}, k) with k = {k or f'1 to {size}'}"
        raise ValueError(f"basis must have shape {legal} for this state, got shape {shape}")
    q, log_r = orthonormalise(jnp.asarray(basis, coordinates.dtype))
    if is_concrete(log_r) and not jnp.isfinite(log_r).all():
        column = int(jnp.argmin(jnp.isfinite(log_r)))
        raise ValueError(f"basis must have linearly independent columns, got column {column} dependent on earlier ones")
    return q


def sequence_length(inputs: Input, steps: int | None = None) -> int:
    """T, from the leading time axis that all leaves of `inputs` share, or from `steps` if there are none."""
    if steps is not None:
        check_integer("steps", steps, least=1)
    leaves = jax.tree_util.tree_leaves_with_path(inputs)
    if not leaves:
        if steps is None:
            raise ValueError("steps must be given for an autonomous system (inputs=None), got steps=None")
        return int(steps)
    lengths = {}
    for path, leaf in leaves:
        label = "inputs" + jax.tree_util.keystr(path)
        if leaf.ndim == 0:
            raise ValueError(f"{label} must have a leading time axis, got a scalar")
        lengths[label] = leaf.shape[0]
    length = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inputs must share one leading time axis, got lengths {lengths}")
    if length == 0:
        raise ValueError("inputs must have at least one time step, got length 0")
    if steps not in (None, length):
        raise ValueError(f"steps must equal the length of inputs, {length}, or be left out, got steps={steps}")
    return length


def check_step(step: Step, coordinates: Coordinates, state: State, inputs: Input):
    """Raise ValueError unless `step` maps a state to a state of the same structure, shapes and dtypes."""
    first = jax.tree_util.tree_map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), inputs)
    returned = eqx.filter_eval_shape(step, state, first)
    if not coordinates.matches(returned):
        raise ValueError(
            f"step must return a state like the one it was given, {coordinates.describe()}, "
            f"got {describe_structure(returned)}"
        )


def _check_orbit(spectrum: Spectrum):
    if not is_concrete(spectrum):
        return
    lost = jnp.isnan(spectrum.growth).any(1) | jnp.isposinf(spectrum.growth).any(1)
    if lost.any():
        raise ValueError(
            f"step must keep the state and its tangents finite, got NaN or infinity in block {int(lost.argmax())} "
            "after the transient: check its parameters, or whether the orbit escapes"
        )
    check_leaves("state after the last step, state", spectrum.state)
