"""Lyapunov exponents along one sequence or a batch of sequences."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from flossing._arguments import default_transient
from flossing._checks import check_integer, check_leaves, check_positive, is_concrete
from flossing._messages import escape_message, warn
from flossing._programs import one_program
from flossing._runtime.compiled import compiled
from flossing._runtime.threads import one_lapack_thread
from flossing._spectra.spectrum import Spectrum
from flossing._tangent.batch import initial_bases, set_up_batch
from flossing._tangent.flow import Flow, tangent_flow
from flossing._tangent.interval import (
    PROBE_STEPS,
    interval_message,
    longer_interval,
    loses_directions,
    power_of_two,
    shorter_interval,
)
from flossing._tangent.lengths import mask_batch
from flossing._tangent.problem import Point, Problem
from flossing._tangent.spread import block_spread_ratio
from flossing._tangent.subspace import restrict
from flossing._types import Input, RandomKey, State


def lyapunov_spectrum(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    step: Callable | None = None,
    batched: bool | None = None,
    lengths: ArrayLike | Sequence[int] | None = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = 1,
    steps: int | None = None,
    time_step: float = 1.0,
) -> Spectrum:
    """Measure the first `k` Lyapunov exponents of `model` along `inputs`.

    **Arguments:**

    - `model`: a function `step(state, input) -> state`, or a cell, called as its ecosystem calls it: Equinox and
      [`flossing.cells`][] `cell(input, state)`, Flax `cell(carry, input)`. Its Jacobian is never formed: k tangents are
      pushed through it by forward-mode differentiation.
    - `inputs`: a pytree whose leaves have a leading time axis of T; or `None` for an autonomous system, which needs
      `steps=T` and is called with the input `None`. With a batch, leaves have shape (B, T, ...).
    - `state`: an array or a pytree; the model's zero state if left out. Its N real coordinates are the entries of the
      floating leaves in tree order (a complex entry counts twice); other leaves (random keys, counters) are carried
      without a tangent. With a batch it is one state for all sequences, or has a leading axis B on every leaf.
    - `k`: how many exponents, 1 to N; all N if neither `k` nor `basis` is given.
    - `key`: draws the initial basis, the Q factor of a Gaussian N x k matrix; `jax.random.key(0)` by default.
    - `basis`: the initial basis (N, k), instead of one drawn with `key`; its columns are orthonormalised first. With a
      batch it may also have shape (B, N, k), as that of an earlier result. If it lies in a subspace which the Jacobians
      map into itself, tangents stay there: the exponents are transversal or conditional ones. Outside `jit`, three
      such subspaces are tried: the span of `basis`; all vectors that are zero wherever `basis` is, and have entries
      equal up to sign wherever `basis` has; and, for one sequence, all vectors that separate synchronised systems
      (entries add up to 0 over coordinates that agree along the orbit).
    - `step`: `step(model, state, input) -> state`, for a model with another calling convention.
    - `batched`: whether there is a batch axis. By default inferred from the inputs of a known cell, (T, S) or
      (B, T, S); False for other models.
    - `lengths` (B,): the number of steps of each sequence in a padded batch, all T by default. Padded values are
      ignored; the state and the basis returned are those at the end of each sequence.
    - `transient`: steps at the start in which the basis aligns and growth is not counted, 0 to T - 1. A direction lost
      there to a singular Jacobian is replaced by another, which counts. `10 + ceil(T / 10)` by default, at most half of
      T, where T is the length of each sequence; 0 if `basis` is given, since that continues a run.
    - `interval`: steps between reorthonormalisations. In exact arithmetic every interval gives the same result; in
      floating point the growth within one interval must differ by less than 30 nats between directions in float64, 10
      in float32, and an interval that loses a direction is an error. `"auto"` measures the first steps twice, and
      chooses the longest interval that keeps gradients of the exponents to a relative error of 1e-9 in float64, 1e-3 in
      float32. Inside `jit`, where values are traced, pass the `interval` of such a result.
    - `steps`: the number of steps to run, from the start of `inputs`; all by default.
    - `time_step`: the duration of one step, for exponents per unit of time, such as those of a flow.

    **Returns:** a [`Spectrum`][]: exponents per step (or unit of time), natural logarithm.

    The result is differentiable, in forward and reverse mode, with respect to the arrays of `model`, the arrays it
    closes over, `state` and `inputs`. Along a chaotic orbit the derivative grows like exp(lambda_1 T), and stops
    meaning anything once lambda_1 T is near log(1 / eps). dtype: that of the state; nothing is promoted, x64 is never
    switched on. Where a Jacobian is singular (|R_ii| at rounding level), that exponent and the later ones are -inf with
    zero gradient; the earlier ones are not affected. Inside `jit`, -inf may also mean that `interval` is too long.
    Calls whose models compute the same with other weights share one compiled program.

    **Raises:** `ValueError`, in one line, for arguments out of range, NaN or infinite values, a float64 NumPy array
    while x64 is off, a model whose order of arguments is ambiguous, a step that is not pure, has no derivative or
    changes the structure, shape or dtype of its state, a state whose rows are those of a batch; outside `jit` only, for
    an orbit that does not stay finite, and for an interval so long that rounding destroys a direction. Warns
    (`UserWarning`) if all exponents are -inf: the step forgets its state; and if `basis` separates coordinates but
    lies in none of these subspaces.

    **Source:** Engelken (NeurIPS 2023) sections 2 and 3; Benettin, Galgani, Giorgilli & Strelcyn (1980).

        cell = fl.cells.VanillaRNN(64, key=jax.random.key(0))
        print(fl.lyapunov_spectrum(cell, jax.random.normal(jax.random.key(1), (200, 1)), k=8).exponents)
    """
    batch = set_up_batch(model, inputs, state=state, step=step, steps=steps, batched=batched)
    length, counts = batch.problem.length, None
    if lengths is not None:
        batch, counts = mask_batch(batch, lengths, 0 if transient is None and basis is not None else transient)
    if transient is None:
        transient = default_transient(length) if basis is None else 0
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    if interval != "auto":
        check_integer("interval", interval, least=1, note=" or 'auto'")
    check_positive("time_step", time_step)
    bases, basis_axis = initial_bases(batch, k=k, key=key, basis=basis)

    problem = batch.problem
    if basis is not None:
        problem = restrict(problem, basis, transient, batch=batch)

    flow = functools.partial(
        compiled(_flow, problem),
        batch.starts,
        batch.inputs,
        bases,
        counts,
        axes=None if batch.size is None else (*batch.axes, basis_axis),
        size=batch.size,
        time_step=float(time_step),
    )
    with one_lapack_thread():
        if interval == "auto":
            found, interval = _flow_at_longest_interval(flow, length, transient)
        else:
            found = flow(length=length, transient=transient, interval=interval)
            _check_interval(flow, found, length, transient, interval)
        settings = {"steps": length - transient, "interval": interval, "time_step": float(time_step)}
        spectrum = Spectrum(**found._asdict(), **settings, steps_of_each=counts)
        _check_spectrum(spectrum)
    return spectrum


def _flow(
    problem: Problem,
    starts: Point,
    inputs: Input,
    basis: Float[Array, "*B N k"],
    counts: Int[Array, " B"] | None,
    *,
    axes: tuple[int | None, int | None, int | None] | None,
    size: int | None,
    length: int,
    **options: Any,
) -> Flow:
    """The tangent flow over the first `length` steps of one sequence, or of each of a batch."""

    def run(start: Point, inputs: Input, basis: Float[Array, "N k"], count: Int[Array, ""] | None) -> Flow:
        flow = tangent_flow(problem.with_orbit(start, inputs, length), basis, **options)
        return flow if count is None else flow.up_to(count, options.get("interval", 1), options["time_step"])

    if axes is None:
        return run(starts, inputs, basis, None)
    over = (*axes, None if counts is None else 0)
    return jax.vmap(run, over, axis_size=size)(starts, inputs, basis, counts)


def _flow_at_longest_interval(flow: Callable[..., Flow], length: int, transient: int) -> tuple[Flow, int]:
    # The first steps choose the interval; the whole run may then show that it must be shorter.
    first = flow(length=min(length, PROBE_STEPS))
    if not is_concrete(first):
        raise ValueError("interval must be an integer where values are traced (inside jit, grad), got interval='auto'")
    interval = power_of_two(longer_interval(1, _largest_ratio(first), length))
    while True:
        found = flow(length=length, transient=transient, interval=interval)
        shorter = shorter_interval(interval, _largest_ratio(found))
        if shorter == interval:
            return found, interval
        interval = power_of_two(shorter)


def _largest_ratio(flow: Flow) -> np.ndarray:
    """The spread ratios of the worst sequence, as one epoch (1, factors)."""
    return np.asarray(_largest_of(flow.all_log_growth()))[None]


@one_program
def _largest_of(growth: Float[Array, "*B blocks k"]) -> Float[Array, " factors"]:
    return jax.vmap(block_spread_ratio)(growth.reshape(-1, *growth.shape[-2:])).max(0)


def _check_interval(flow: Callable[..., Flow], found: Flow, length: int, transient: int, interval: int):
    """Raise ValueError if the interval loses directions that an interval of 1 keeps; it then runs once more, at 1."""
    if interval == 1 or not is_concrete(found) or not loses_directions(np.asarray(found.log_growth)).any():
        return
    growth = np.asarray(flow(length=length, transient=transient, interval=1).all_log_growth())
    message = interval_message(np.asarray(found.log_growth), growth, transient, interval)
    if message is not None:
        raise ValueError(message)


def _check_spectrum(spectrum: Spectrum):
    """Raise ValueError if the orbit, or one of a batch, did not stay finite; warn if the step forgets its state."""
    if not is_concrete(spectrum):
        return
    growth = np.asarray(spectrum.log_growth)
    lost = (np.isnan(growth) | np.isposinf(growth)).any(-1)
    if lost.any():
        *sequence, block = (int(i) for i in np.argwhere(lost)[0])
        where = f"sequence {sequence[0]}, block {block}" if sequence else f"block {block}"
        raise ValueError(escape_message(f"in {where} after the transient"))
    check_leaves("the last state", spectrum.state)
    if np.isneginf(spectrum.exponents).all():
        warn("all exponents are -inf: step forgets its state, its Jacobian is zero")
