"""The tangent flow of a driven system, and the Lyapunov exponents it measures.

A perturbation of the state h of h' = f(h, s) is multiplied by the Jacobian D = df/dh of each step. An orthonormal
basis Q (N x k), pushed along the orbit and re-orthonormalised, grows by the diagonal of R (Benettin et al. 1980):

    D Q = Q' R,        lambda_i = < log R_ii >,

natural logarithms, averaged over the steps after a transient. With a re-orthonormalisation interval of m steps,
D is the product of m Jacobians and log R_ii the growth over all m.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_leaves, check_positive, is_concrete
from flossing._runtime.compiled import compiled
from flossing._runtime.threads import one_lapack_thread
from flossing._spectra.statistics import Uncertainty, batch_means
from flossing._tangent.flow import Flow, tangent_flow
from flossing._tangent.interval import longer_interval, power_of_two, shorter_interval, strains_of
from flossing._tangent.problem import initial_basis, prepare
from flossing._types import Input, RandomKey, State, Step

LOOK = 64
"""Steps at the start of a run by which `interval="auto"` judges how far exponents lie apart."""


class Spectrum(eqx.Module):
    """Lyapunov exponents of one network along one sequence.

    - `exponents` (k,): per step (per unit of time if a `time_step` was given), natural logarithm, descending as the
      flow settles; a function of the orbit, thus those of the driven system where inputs drive it.
    - `growth` (blocks, k): log R_ii of each block of `interval` steps after the transient; the last block may be
      shorter. `exponents` is its sum over blocks, divided by `steps * time_step`.
    - `state`: the state after the last step, structured as the one given.
    - `basis` (N, k): the orthonormal basis after the last step. `state` and `basis` continue the run.
    - `transient_growth` (blocks, k): the same of the blocks of the transient.
    - `steps`, `interval`, `time_step`: the number of steps averaged, those in a block, the duration of one.
    """

    exponents: Float[Array, " k"]
    growth: Float[Array, "blocks k"]
    state: State
    basis: Float[Array, "N k"]
    transient_growth: Float[Array, "before k"]
    steps: int = eqx.field(static=True)
    interval: int = eqx.field(static=True)
    time_step: float = eqx.field(static=True)

    def running_mean(self) -> Float[Array, "*B blocks k"]:
        """The exponents as they stood after each block: how the average has converged, in the exponents' unit."""
        steps = jnp.minimum(jnp.arange(1, self.growth.shape[-2] + 1) * self.interval, self.steps)
        time = jnp.broadcast_to(steps.astype(self.growth.dtype)[:, None] * self.time_step, self.growth.shape)
        return jnp.cumsum(self.growth, axis=-2) / time

    def all_growth(self) -> Float[Array, "*B blocks k"]:
        """log R_ii of each block, those of the transient first."""
        return jnp.concatenate([self.transient_growth, self.growth], axis=-2)

    def uncertainty(self, batches: int = 20) -> Uncertainty:
        """The standard errors of the exponents by batch means, in their unit; see [`Uncertainty`][].

        Raises ValueError if there are fewer than `8 * batches` blocks.
        """
        whole = self.steps // self.interval
        return batch_means(self.growth[..., :whole, :], self.interval * self.time_step, batches)


def lyapunov_spectrum(
    step: Step,
    state: State,
    inputs: Input,
    *,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    transient: int = 0,
    interval: int | Literal["auto"] = 1,
    steps: int | None = None,
    time_step: float = 1.0,
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
    - `transient`: steps at the start during which the basis turns but growth is not counted, 0 to T - 1; a direction
      that a singular Jacobian loses there is replaced by another, which counts.
    - `interval`: steps between re-orthonormalisations. Exact in exact arithmetic; in floating point good as long
      as the growth rates within one interval differ by much less than the precision (36 nats in float64). `"auto"`
      measures the first steps twice to choose as many as keep the exponents to about 1e-9 in float64, 1e-3 in float32;
      the `interval` of the result says how many, for calls inside `jit`, where "auto" cannot look at values.
    - `steps`: T, for an autonomous system.
    - `time_step`: the duration of one step, if exponents are wanted per unit of time, as those of a flow.

    **Returns:** a [`Spectrum`][]: exponents per step (or unit of time), natural logarithm.

    The result is differentiable, in forward and in reverse mode, in whatever `step` closes over, in `state` and in
    `inputs`. dtype: that of the state; nothing is promoted, x64 is never switched on. Where a Jacobian is singular
    (|R_ii| at rounding level) that exponent and the later ones are -inf with zero gradient, the earlier ones keep
    theirs. Each call outside `jit` compiles anew, unless `step` is an Equinox module: wrap repeated calls in
    `jax.jit`. Batches and ensembles are the caller's `jax.vmap`.

    **Raises:** `ValueError`, in one line, for arguments out of range, NaN or infinite values, a float64 NumPy array
    while x64 is off, a step that changes the structure, shape or dtype of its state, an orbit that ceases to be
    finite (seen only outside `jit`). Warns (`UserWarning`) where all exponents are -inf: the step forgets its state.

    **Source:** Engelken (NeurIPS 2023) sections 2 and 3; Benettin, Galgani, Giorgilli & Strelcyn (1980).
    """
    # Error checking
    state, inputs, length, coordinates = prepare(step, state, inputs, steps)
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    if interval != "auto":
        check_integer("interval", interval, least=1)
    check_positive("time_step", time_step)
    basis = initial_basis(coordinates, k=k, key=key, basis=basis)

    flow = compiled(tangent_flow, step, state, inputs)
    flow = functools.partial(flow, state, basis=basis, time_step=float(time_step))
    with one_lapack_thread():
        if interval == "auto":
            found, interval = _measure_seldom(flow, inputs, length, transient)
        else:
            found = flow(inputs, length=length, transient=transient, interval=interval)
        spectrum = _spectrum(found, length - transient, interval, float(time_step))
        check_spectrum(spectrum)
    return spectrum


def _spectrum(flow: Flow, steps: int, interval: int, time_step: float) -> Spectrum:
    return Spectrum(
        flow.exponents, flow.growth, flow.state, flow.basis, flow.transient_growth, steps, interval, time_step
    )


def _measure_seldom(flow: Callable[..., Flow], inputs: Input, length: int, transient: int) -> tuple[Flow, int]:
    # A look at the first steps chooses the interval; what the whole run then says may shorten it.
    look = min(length, LOOK)
    first = flow(jax.tree_util.tree_map(lambda s: s[:look], inputs), length=look)
    if not is_concrete(first):
        raise ValueError("interval must be an integer where values are traced (inside jit, grad), got interval='auto'")
    interval = power_of_two(longer_interval(1, np.asarray(strains_of(first.growth))[None], length))
    while True:
        spectrum = flow(inputs, length=length, transient=transient, interval=interval)
        shorter = shorter_interval(interval, np.asarray(strains_of(spectrum.all_growth()))[None])
        if shorter == interval:
            return spectrum, interval
        interval = power_of_two(shorter)


def check_spectrum(spectrum: Spectrum):
    """Raise ValueError if the orbit, or one of a batch, did not stay finite; warn if the step forgets its state."""
    if not is_concrete(spectrum):
        return
    growth = np.asarray(spectrum.growth)
    lost = (np.isnan(growth) | np.isposinf(growth)).any(-1)
    if lost.any():
        *sequence, block = (int(i) for i in np.argwhere(lost)[0])
        where = f"sequence {sequence[0]}, block {block}" if sequence else f"block {block}"
        raise ValueError(
            f"step must keep the state and its tangents finite, got NaN or infinity in {where} "
            "after the transient: check its parameters, or whether the orbit escapes"
        )
    check_leaves("state after the last step, state", spectrum.state)
    if np.isneginf(spectrum.exponents).all():
        warnings.warn("all exponents are -inf: step forgets its state, its Jacobian is zero", stacklevel=3)


class Spectra(eqx.Module):
    """Lyapunov exponents of one network along B sequences.

    - `exponents` (B, k): those of each sequence; per step (or unit of time), natural logarithm.
    - `each`: a [`Spectrum`][] whose arrays have a leading axis B: growth, states and bases after the last step; what
      its methods give has that axis, too.
    """

    each: Spectrum

    @property
    def exponents(self) -> Float[Array, "B k"]:
        """The exponents of each sequence."""
        return self.each.exponents

    def mean(self) -> Float[Array, " k"]:
        """The mean over sequences; -inf where it is so for one of them."""
        return self.exponents.mean(0)

    def spread(self) -> Float[Array, " k"]:
        """The standard deviation over sequences (with B - 1); NaN for a single one, and where an exponent is -inf."""
        return jnp.std(self.exponents, axis=0, ddof=1)

    def standard_error(self) -> Float[Array, " k"]:
        """The standard error of the mean, for independent sequences."""
        return self.spread() / jnp.sqrt(jnp.asarray(len(self.exponents), self.exponents.dtype))


def lyapunov_spectra(
    step: Step,
    state: State,
    inputs: Input,
    *,
    batched_state: bool = False,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    transient: int = 0,
    interval: int = 1,
    steps: int | None = None,
    time_step: float = 1.0,
) -> Spectra:
    """Measure the first `k` Lyapunov exponents of `step` along each of B sequences of inputs.

    **Arguments:** those of [`lyapunov_spectrum`][], except for

    - `inputs`: a pytree whose leaves have shape (B, T, ...); or `None` for an autonomous system from B states.
    - `state`: where all sequences start; with `batched_state=True` its leaves have a leading axis B, one state each.
    - `interval`: an integer, for all sequences; `lyapunov_spectrum` of one of them with "auto" finds a good one.

    All sequences share the initial basis.

    **Returns:** [`Spectra`][], with `exponents` (B, k), `mean()`, `spread()` and `standard_error()`.

    **Raises:** `ValueError` as [`lyapunov_spectrum`][] does, and if the leaves do not share one leading axis.
    """
    # Error checking
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    state, inputs = jax.tree_util.tree_map(jnp.asarray, (state, inputs))
    axes = {"inputs": inputs, "state": state if batched_state else None}
    _common_length(axes)
    one_state = jax.tree_util.tree_map(lambda x: x[0], state) if batched_state else state
    one_input = jax.tree_util.tree_map(lambda x: x[0], inputs)
    *_, length, coordinates = prepare(step, one_state, one_input, steps)
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    check_integer("interval", interval, least=1)
    check_positive("time_step", time_step)
    basis = initial_basis(coordinates, k=k, key=key, basis=basis)

    measure = compiled(_flows, step, one_state, one_input)
    with one_lapack_thread():
        each = measure(
            state,
            inputs,
            basis,
            batched_state,
            length=length,
            transient=transient,
            interval=interval,
            time_step=float(time_step),
        )
        each = _spectrum(each, length - transient, interval, float(time_step))
        check_spectrum(each)
    return Spectra(each)


def _flows(step, state, inputs, basis, batched_state, **options) -> Flow:
    flow = functools.partial(tangent_flow, step, basis=basis, **options)
    axes = (0 if batched_state else None, 0)
    return eqx.filter_vmap(lambda state, inputs: flow(state, inputs), in_axes=axes)(state, inputs)


def _common_length(trees: dict[str, Any]):
    lengths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        label = path[0].key + jax.tree_util.keystr(path[1:])
        if leaf.ndim == 0:
            raise ValueError(f"{label} must have a leading axis, one entry a sequence, got a scalar")
        lengths[label] = leaf.shape[0]
    if not lengths:
        raise ValueError("inputs must be given, or batched_state=True, to have sequences, got inputs=None")
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"inputs and state must have one leading axis, one entry a sequence, got lengths {lengths}")
