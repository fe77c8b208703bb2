"""Sequences of unequal length in one padded batch: steps beyond the end of a sequence leave its state as it is.

Every sequence has its own transient, that of a run of its own length. Sequences are shifted so that all transients end
at the same step; then the blocks between reorthonormalisations are the same for all.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree

from flossing._checks import is_concrete
from flossing._programs import one_program
from flossing._tangent.batch import Batch
from flossing._tangent.coordinates import shape_of_one
from flossing._tangent.traced import trace_step
from flossing._types import Input, State

Length = Int[Array, ""]


def check_lengths(lengths: ArrayLike | Sequence[int], size: int, steps: int) -> Int[Array, " B"]:
    """`lengths` as an array (B,); ValueError unless they are integers from 1 to `steps`."""
    values = jnp.asarray(lengths)
    if values.shape != (size,) or not jnp.issubdtype(values.dtype, jnp.integer):
        legal = f"one integer for each of {size} sequences"
        raise ValueError(f"lengths must be {legal}, got {values.dtype} of shape {values.shape}")
    if is_concrete(values) and (wrong := (np.asarray(values) < 1) | (np.asarray(values) > steps)).any():
        first = int(np.argmax(wrong))
        raise ValueError(f"lengths must be from 1 to {steps}, the padded length, got lengths[{first}]={values[first]}")
    return values.astype(jnp.int32)


def own_transient(length: Length) -> Length:
    """`default_transient` of a traced length."""
    return jnp.minimum(10 - (-length // 10), length // 2)


def shifted(
    inputs: Input, length: Length, steps: int | Length, transient: int | Length | None
) -> tuple[tuple[Input, Bool[Array, " T"]], Length]:
    """Inputs of one sequence and which of the steps are real, shifted to the common transient; and the steps averaged.

    `transient` is that of all sequences, or None for the default of each. `steps` is the padded length.
    """
    length = jnp.minimum(length, steps)
    own = own_transient(length) if transient is None else jnp.asarray(transient, length.dtype)
    common = own_transient(jnp.asarray(steps, length.dtype)) if transient is None else own
    size = len(jax.tree_util.tree_leaves(inputs)[0])
    at = jnp.arange(size, dtype=length.dtype) - (common - own)
    real = (at >= 0) & (at < length)
    # Other steps repeat a real input, so that whatever fills the padding is never used.
    return (jax.tree_util.tree_map(lambda s: s[jnp.clip(at, 0, length - 1)], inputs), real), length - own


@functools.partial(one_program, static_argnums=(2, 3))
def _all_shifted(inputs: Input, lengths: Int[Array, " B"], steps: int, transient: int | None):
    return jax.vmap(lambda s, n: shifted(s, n, steps, transient))(inputs, lengths)


def masked(step: Callable[[PyTree, State, Input], State]) -> Callable[[PyTree, State, Any], State]:
    """`step` with the input `(input, real)`; where `real` is false, it returns its state."""

    def masked_step(model: PyTree, state: State, at: tuple[Input, Bool[Array, ""]]) -> State:
        input, real = at
        return jax.tree_util.tree_map(lambda new, old: jnp.where(real, new, old), step(model, state, input), state)

    return masked_step


def mask_batch(
    batch: Batch, lengths: ArrayLike | Sequence[int], transient: int | None
) -> tuple[Batch, Int[Array, " B"]]:
    """`batch` along sequences of these lengths, with the step masked; and the steps averaged of each."""
    if batch.size is None or not batch.has_inputs:
        raise ValueError("lengths must come with a batch of inputs, (B, T, ...), got a single sequence")
    problem = batch.problem
    values = jnp.minimum(check_lengths(lengths, batch.size, batch.padded), problem.length)
    if transient is not None and is_concrete(values) and transient >= (least := int(values.min())):
        raise ValueError(f"transient must be below the smallest of lengths, {least}, got transient={transient}")
    inputs, counts = _all_shifted(batch.inputs, values, problem.length, transient)
    first = jax.tree_util.tree_map(lambda s: s[0], inputs)
    traced, arrays, _ = trace_step(
        masked(problem.step), problem.model, problem.state(problem.start), shape_of_one(first)
    )
    problem = dataclasses.replace(problem, model=arrays, step=traced, inputs=first)
    return batch._replace(problem=problem, inputs=inputs), counts
