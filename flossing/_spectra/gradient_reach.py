"""How much of the gradient of late losses reaches back to the state at the start.

    reach = |dL/dh_0| / |dL/dtheta|,        L = sum over t > T/2 of g_t . h_t,        g_t ~ N(0, 1)

theta are all floating arrays of the step. L is random, so no task is needed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_key
from flossing._linalg.norm import norm_of
from flossing._linalg.precision import in_full_precision
from flossing._runtime.compiled import compiled
from flossing._tangent.batch import set_up_batch
from flossing._tangent.problem import Point, Problem
from flossing._types import Input, RandomKey, State


def gradient_reach(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    key: RandomKey | None = None,
    step: Callable | None = None,
    steps: int | None = None,
    batched: bool | None = None,
) -> Float[Array, ""]:
    """|dL/dh_0| / |dL/dtheta|: the gradient by the state T steps back, relative to the gradient by the weights.

    The loss is a random linear function of the states of the second half of the sequence, so the gradient has to cross
    at least T/2 steps. In our trials the ratio is below 1e-5 in networks that cannot learn a delay of T/2 steps, and
    above 5e-3 in those that do (tanh networks and GRUs of 64 units, XOR of lags 20 and 40, T = 80 and 100).

    **Arguments:** `model`, `inputs`, `state`, `step`, `steps`, `batched` as in [`lyapunov_spectrum`][]; `key` draws the
    loss, `jax.random.key(0)` by default. At least two steps.

    **Returns:** a scalar of the state's dtype; for a batch, the ratio of the root mean squares over its sequences.
    Infinity or NaN if gradients overflow, as they do along long chaotic orbits; 0 if they vanish.

    **Raises:** `ValueError` as `lyapunov_spectrum` does.

        print(fl.gradient_reach(cell, jax.random.normal(jax.random.key(0), (100, 1))))
    """
    check_key("key", key)
    key = jax.random.key(0) if key is None else key
    batch = set_up_batch(model, inputs, state=state, step=step, steps=steps, batched=batched)
    if batch.problem.length < 2:
        raise ValueError(f"inputs must have at least two steps, got {batch.problem.length}")
    axes = (None, None) if batch.size is None else batch.axes
    arguments = key, batch.starts, batch.inputs
    return compiled(_reach, batch.problem)(*arguments, size=batch.size, axes=axes)


@in_full_precision
def _reach(problem: Problem, key: RandomKey, starts: Point, inputs: Input, *, size: int | None, axes: Any):
    def one(key, start, sequence):
        return distant_and_local(problem.with_orbit(start, sequence, problem.length), key)

    if size is None:
        distant, local = one(key, starts, inputs)
    else:
        distant, local = jax.vmap(one, (0, *axes))(jax.random.split(key, size), starts, inputs)
    distant, local = norm_of(distant), norm_of(local)
    nothing = (distant == 0) & (local == 0)
    return jnp.where(nothing, 0, distant / jnp.where(nothing, 1, local))


def distant_and_local(problem: Problem, key: RandomKey) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """|dL/dh_0| and |dL/dtheta|."""
    moving, fixed = eqx.partition(problem.model, eqx.is_inexact_array)
    half, start = problem.length // 2, problem.start
    noise = jax.random.normal(key, (problem.length - half, start.x.size), start.x.dtype)

    def loss(moving, x):
        here = dataclasses.replace(problem, model=eqx.combine(moving, fixed), start=Point(x, start.nondiff))
        return jnp.sum(noise * here.states()[0][half:])

    local, distant = jax.grad(loss, (0, 1))(moving, start.x)
    return norm_of(distant), norm_of(local).astype(start.x.dtype)
