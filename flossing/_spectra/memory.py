"""The linear memory of a network: which past inputs can be read from its state."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from flossing._checks import check_leaves, is_concrete
from flossing._runtime.compiled import compiled
from flossing._spectra.linear_memory import MemoryFunction, memory_of
from flossing._tangent.batch import set_up_batch
from flossing._tangent.coordinates import real_coordinates
from flossing._tangent.problem import Problem
from flossing._types import Input, State


def memory_function(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    delays: int | None = None,
    transient: int | None = None,
    folds: int = 10,
    step: Callable | None = None,
    steps: int | None = None,
    batched: bool | None = None,
) -> MemoryFunction:
    """Measure how well a linear readout of the state recovers the inputs of the last steps.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`, `batched`: as in [`lyapunov_spectrum`][]. Every floating number of an
      input is a channel. The memory function is defined for white inputs: with correlated ones, part of the past can be
      guessed from the present, and counts as memory.
    - `delays`: d, the number of past inputs, counted from that of the last step; by default the most that hold at most
      N numbers, at least 1 and at most half the sequence.
    - `transient`: steps left out at the start, at least `delays` - 1; by default as in `lyapunov_spectrum`, or more.
    - `folds`: the blocks of the cross-validation, at least 2.

    **Returns:** [`MemoryFunction`][]. The readout is fitted by least squares on all blocks but one and tested on
    that one, and its error is corrected for the number of its weights: exactly for independent Gaussian samples, to
    first order in N / samples otherwise. Use ten or more samples per coordinate, best from many short sequences.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; if there are too few steps for the readout, with the number
    that it needs; for inputs that do not vary.

    **Source:** Jaeger (2001); the correction is that of Stein (1960) and Darlington (1968).

        memory = fl.memory_function(cell, jax.random.normal(jax.random.key(0), (5000, 1)))
        print(memory.capacity())
    """
    batch = set_up_batch(model, inputs, state=state, step=step, steps=steps, batched=batched)
    problem = batch.problem
    flow = orbit_flow if batch.size is None else batch_flow
    axes = () if batch.size is None else (batch.starts, batch.inputs)
    options = {} if batch.size is None else {"axes": batch.axes}
    if not is_concrete((problem, batch.starts, batch.inputs)):
        raise ValueError("memory_function must be called outside jit and vmap, got traced values: pass a batch instead")
    states, numbers, last = compiled(flow, problem)(*axes, **options)
    check_leaves("the last state", last)
    rows = (lambda leaf: np.asarray(leaf)[None]) if batch.size is None else np.asarray
    return memory_of(rows(states), rows(numbers), delays=delays, transient=transient, folds=folds)


def orbit_flow(problem: Problem) -> tuple[Float[Array, "T N"], Float[Array, "T S"], State]:
    """The coordinates of the state after each step, those of the inputs, and the last state."""
    states, end = problem.states()
    numbers = jax.vmap(real_coordinates)(problem.inputs) if jax.tree_util.tree_leaves(problem.inputs) else states[:, :0]
    return states, numbers, problem.state(end)


def batch_flow(problem: Problem, starts: Any, inputs: Input, *, axes: tuple[int | None, int | None]):
    """`orbit_flow` along each sequence of a batch."""

    def one(start, sequence):
        return orbit_flow(problem.with_orbit(start, sequence, problem.length))

    return jax.vmap(one, axes)(starts, inputs)
