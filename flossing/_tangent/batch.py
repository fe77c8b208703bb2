"""Batches of sequences: which axes are batch axes, and the problem of a single sequence."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from flossing._checks import check_leaves, is_concrete
from flossing._linalg.mesh import spec_of, with_automatic_axes
from flossing._messages import rows_message
from flossing._tangent.problem import Point, Problem, initial_basis, set_up
from flossing._tangent.step import is_known_cell, read_step, zero_state
from flossing._types import Input, RandomKey, State


class Batch(NamedTuple):
    """One problem, or B problems with the same step.

    `problem` is that of the first sequence. `starts` and `inputs` are those of all sequences, with a leading axis of
    `size` if `has_starts` and `has_inputs` are true. `size` is None for a single sequence. `padded` is the length of
    the inputs as they were given.
    """

    problem: Problem
    starts: Point
    inputs: Input
    size: int | None
    has_starts: bool
    has_inputs: bool
    padded: int

    @property
    def axes(self) -> tuple[int | None, int | None]:
        """The batch axes of `starts` and `inputs`, for `jax.vmap`."""
        return 0 if self.has_starts else None, 0 if self.has_inputs else None


def set_up_batch(
    model: Any,
    inputs: Input,
    *,
    state: State,
    step: Any,
    steps: int | None,
    batched: bool | None,
    steps_name: str = "steps",
) -> Batch:
    """Like `set_up`, for one sequence or, if `batched`, for many; None infers it from the input axes of a known cell.

    With a batch, the leaves of `inputs` have shape (B, T, ...), or `inputs` is None. `state` is one state for all
    sequences, or one state each if every leaf has a leading axis B and the step accepts a single entry.
    """
    read_step(model, step)
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    state = zero_state(model) if state is None else state
    state, inputs = jax.tree_util.tree_map(jnp.asarray, (state, inputs))
    if batched not in (None, True, False):
        raise ValueError(f"batched must be True, False or None, got batched={batched!r}")
    given = batched
    if batched is None:
        leaves = jax.tree_util.tree_leaves(inputs)
        batched = step is None and is_known_cell(model) and bool(leaves) and all(leaf.ndim == 3 for leaf in leaves)
    if not batched:
        problem = set_up(model, inputs, state=state, step=step, steps=steps, steps_name=steps_name)
        if given is None and _rows_are_apart(problem, state, inputs):
            raise ValueError(rows_message(jax.tree_util.tree_leaves(state)[0].shape))
        return Batch(problem, problem.start, problem.inputs, None, False, False, problem.length)

    size = common_size("inputs", inputs) or common_size("state", state)
    if size is None:
        raise ValueError("inputs must be given, or state with a leading axis, to have a batch, got neither")
    first = jax.tree_util.tree_map(_first, inputs)
    has_inputs = bool(jax.tree_util.tree_leaves(inputs))
    options = {"step": step, "steps": steps, "steps_name": steps_name}
    problem, has_starts = _problem_of_one(model, first, state, size, has_inputs, **options)
    padded = jax.tree_util.tree_leaves(inputs)[0].shape[1] if has_inputs else problem.length
    inputs = jax.tree_util.tree_map(lambda s: s[:, : problem.length], inputs)
    split = problem.coordinates.split
    starts = jax.vmap(lambda state: Point(*split(state)))(state) if has_starts else problem.start
    return Batch(problem, starts, inputs, size, has_starts, has_inputs, padded)


def _rows_are_apart(problem: Problem, state: State, inputs: Input) -> bool:
    """Whether the state looks like a batch, one row for each of the second axis of `inputs`, and its rows are apart."""
    states, sequences = jax.tree_util.tree_leaves(state), jax.tree_util.tree_leaves(inputs)
    sizes = {leaf.shape[0] if leaf.ndim > 1 else 1 for leaf in states}
    sizes |= {leaf.shape[1] if leaf.ndim > 2 else 1 for leaf in sequences}
    if len(sizes) > 1 or sizes <= {1} or not sequences or not is_concrete((problem, state, inputs)):
        return False

    def along(row: int) -> Float[Array, " N"]:
        at_row = [jnp.zeros_like(x).at[row].set(1 if jnp.issubdtype(x.dtype, jnp.inexact) else x[row]) for x in states]
        return problem.coordinates.split(jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(state), at_row))[0]

    rows = jnp.stack([along(0), along(-1)])
    first = jax.tree_util.tree_map(lambda s: s[0], problem.inputs)
    pushed = problem.push(problem.start, rows, first)[1]
    return bool((jnp.where(rows == 0, pushed, 0) == 0).all() & (pushed != 0).any())


def _problem_of_one(model, first, state, size, has_inputs, **options) -> tuple[Problem, bool]:
    leaves = jax.tree_util.tree_leaves(state)
    if all(leaf.ndim and leaf.shape[0] == size for leaf in leaves):
        try:
            return set_up(model, first, state=jax.tree_util.tree_map(_first, state), **options), True
        except ValueError:
            if not has_inputs:
                raise
    return set_up(model, first, state=state, **options), False


def _first(leaf: Array) -> Array:
    """The first entry; also where the entries lie on different devices."""
    return with_automatic_axes(lambda leaf: leaf[0], PartitionSpec())(leaf)


def common_size(name: str, tree: Any) -> int | None:
    """B, the length of the leading axis that all leaves share; None without leaves, ValueError if they differ."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        label = name + jax.tree_util.keystr(path)
        if leaf.ndim == 0:
            raise ValueError(f"{label} must have a leading batch axis, one entry per sequence, got a scalar")
        sizes[label] = leaf.shape[0]
    if not sizes:
        return None
    if len(set(sizes.values())) > 1 or not min(sizes.values()):
        raise ValueError(f"{name} must have one leading batch axis of at least one sequence, got lengths {sizes}")
    return next(iter(sizes.values()))


def initial_bases(
    batch: Batch, *, k: int | None, key: RandomKey | None, basis: Any
) -> tuple[Float[Array, "*B N k"], int | None]:
    """The initial basis for all sequences, or one per sequence if `basis` has three axes; and its batch axis."""
    coordinates = batch.problem.coordinates
    if batch.size is None or basis is None or jnp.ndim(basis) != 3:
        return initial_basis(coordinates, k=k, key=key, basis=basis), None
    if jnp.shape(basis)[0] != batch.size:
        raise ValueError(f"basis must hold one basis for each of {batch.size} sequences, got shape {jnp.shape(basis)}")

    def orthonormalised(bases):
        return jnp.stack([initial_basis(coordinates, k=k, key=key, basis=each) for each in bases])

    return with_automatic_axes(orthonormalised, spec_of(jnp.asarray(basis)))(basis), 0
