"""Tangents that stay inside a subspace which the Jacobians of a step map into itself.

A basis inside such a subspace V has the exponents of the flow within V: the transversal exponents of synchronised
systems, the conditional exponents of a driven part (Pecora & Carroll 1990). Rounding puts about 1e-16 of each tangent
outside V. If that part grows faster than the tangents in V, it dominates after some tens of steps, and the exponents
are those of the wrong directions. Projecting onto V after each step, D -> V V^T D, removes it and changes nothing
else.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from flossing._checks import is_concrete
from flossing._linalg.precision import in_full_precision
from flossing._messages import warn
from flossing._tangent.batch import Batch
from flossing._tangent.candidates import (
    CONTRAST_MESSAGE,
    LEAK,
    candidates,
    is_contrast,
    is_kept,
    may_be_transversal,
    sampled_steps,
    transversal,
)
from flossing._tangent.problem import Point, Problem
from flossing._types import Input


def restrict(problem: Problem, basis: Any, transient: int = 0, *, batch: Batch | None = None) -> Problem:
    """`problem` with its tangents restricted to an invariant subspace that holds `basis`, if one is found.

    `basis` (N, k) or (B, N, k) is that of a user. Three subspaces are tried: its span; all vectors whose entries are
    zero where those of `basis` are, and equal up to sign where those are; and, where coordinates agree along the orbit,
    as those of synchronised systems do, all vectors whose entries add up to 0 over each group of them. Traced values
    are not examined. A system may also reach the subspace only during the `transient`, as one that synchronises. The
    Jacobians of all steps are checked, and those of all sequences of a `batch`, of which `problem` is the first; the
    third subspace depends on the orbit, and is not tried for several. Warns of a basis that separates coordinates and
    lies in none of the three.
    """
    if not is_concrete((problem, basis)):
        return problem
    batch = None if batch is None or batch.size is None else batch
    basis, eps = np.asarray(basis, float), float(jnp.finfo(problem.coordinates.dtype).eps)
    for candidate in _candidates(problem, basis, eps, transient, batch is None):
        subspace = jnp.asarray(candidate, problem.coordinates.dtype)
        if is_invariant(problem, subspace, transient, batch):
            return dataclasses.replace(problem, subspace=subspace)
    if is_contrast(basis, eps):
        warn(CONTRAST_MESSAGE)
    return problem


def _candidates(
    problem: Problem, basis: Float[np.ndarray, "*B N k"], eps: float, transient: int, alone: bool
) -> Iterator[Float[np.ndarray, "N m"]]:
    yield from candidates(basis, eps)
    if not alone or basis.ndim != 2 or not may_be_transversal(basis, eps):
        return
    at = jnp.asarray(transient + sampled_steps(problem.length - transient))
    across = transversal(basis, np.asarray(_states_at(problem, at), float), eps)
    if across is not None:
        yield across


def is_invariant(
    problem: Problem, subspace: Float[Array, "N m"], transient: int = 0, batch: Batch | None = None
) -> bool:
    """Whether the Jacobians map the subspace into itself after the transient, along all sequences."""
    limit = LEAK * float(jnp.finfo(subspace.dtype).eps)
    # One step, then some, exclude most bases; all of them are as costly as a measurement.
    if not transient and not _is_within(limit, *_leak_at_start(problem, subspace)):
        return False
    some = jnp.asarray(transient + sampled_steps(problem.length - transient))
    if not _is_within(limit, *_leaks(problem, subspace, some)):
        return False
    every = jnp.arange(transient, problem.length)
    if batch is None:
        return bool(is_kept(*_leaks(problem, subspace, every)))
    return bool(is_kept(*_leaks_of_many(problem, subspace, every, batch.starts, batch.inputs, batch.axes)))


def is_still_invariant(problem: Problem, transient: int) -> Bool[Array, ""]:
    """Whether the subspace is invariant with the current weights, at steps evenly spaced after the transient.

    Carries no gradient.
    """
    assert problem.subspace is not None
    fixed = jax.tree_util.tree_map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, problem)
    return is_kept(*_leaks(fixed, problem.subspace, transient + sampled_steps(problem.length - transient)))


def _is_within(limit: float, outside: Array, pushed: Array) -> bool:
    return bool(jnp.all(outside <= limit * pushed))


@eqx.filter_jit
def _states_at(problem: Problem, at: Array) -> Float[Array, "samples N"]:
    before, _ = problem.orbit()
    return before.x[at]


@eqx.filter_jit
def _leak_at_start(problem: Problem, subspace: Float[Array, "N m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    first = jax.tree_util.tree_map(lambda s: s[0], problem.inputs)
    return _leak(problem, subspace, (problem.start, first))


@eqx.filter_jit
def _leaks(
    problem: Problem, subspace: Float[Array, "N m"], at: Int[ArrayLike, " steps"]
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    before, _ = problem.orbit()
    return lax.map(partial(_leak, problem, subspace), jax.tree_util.tree_map(lambda s: s[at], (before, problem.inputs)))


@eqx.filter_jit
def _leaks_of_many(
    problem: Problem,
    subspace: Float[Array, "N m"],
    at: Int[Array, " steps"],
    starts: Point,
    inputs: Input,
    axes: tuple[int | None, int | None],
) -> tuple[Float[Array, "B steps"], Float[Array, "B steps"]]:
    def along(start: Point, inputs: Input) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
        return _leaks(problem.with_orbit(start, inputs, problem.length), subspace, at)

    return jax.vmap(along, axes)(starts, inputs)


@in_full_precision
def _leak(problem: Problem, subspace: Float[Array, "N m"], at: tuple) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The size of the part of D V outside V, and that of D V."""
    point, input = at
    _, pushed = dataclasses.replace(problem, subspace=None).push(point, subspace.T, input)
    return jnp.linalg.norm(pushed - pushed @ subspace @ subspace.T), jnp.linalg.norm(pushed)
