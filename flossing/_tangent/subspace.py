"""Tangents that stay inside a subspace which the Jacobians of a step map into itself.

A basis inside such a subspace V has the exponents of the flow within V: the transversal exponents of synchronised
systems, the conditional exponents of a driven part (Pecora & Carroll 1990). Rounding puts about 1e-16 of each tangent
outside V. If that part grows faster than the tangents in V, it dominates after some tens of steps, and the exponents
are those of the wrong directions. Projecting onto V after each step, D -> V V^T D, removes it and changes nothing
else.
"""

import dataclasses
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flossing._checks import is_concrete
from flossing._linalg.precision import in_full_precision
from flossing._tangent.candidates import (
    CONTRAST_MESSAGE,
    LEAK,
    candidates,
    is_contrast,
    may_be_transversal,
    sampled_steps,
    transversal,
)
from flossing._tangent.problem import Problem


def restrict(problem: Problem, basis: Any, transient: int = 0, *, alone: bool = True) -> Problem:
    """`problem` with its tangents restricted to an invariant subspace that holds `basis`, if one is found.

    `basis` (N, k) or (B, N, k) is that of a user. Three subspaces are tried: its span; all vectors whose entries are
    zero where those of `basis` are, and equal up to sign where those are; and, where coordinates agree along the orbit,
    as those of synchronised systems do, all vectors whose entries add up to 0 over each group of them. Traced values
    are not examined. A system may also reach the subspace only during the `transient`, as one that synchronises. The
    third depends on the orbit, so it is tried only if this is the only sequence (`alone`). Warns of a basis that
    separates coordinates and lies in none of the three.
    """
    if not is_concrete((problem, basis)):
        return problem
    basis, eps = np.asarray(basis, float), float(jnp.finfo(problem.coordinates.dtype).eps)
    for candidate in _candidates(problem, basis, eps, transient, alone):
        subspace = jnp.asarray(candidate, problem.coordinates.dtype)
        if is_invariant(problem, subspace, transient):
            return dataclasses.replace(problem, subspace=subspace)
    if is_contrast(basis, eps):
        warnings.warn(CONTRAST_MESSAGE, stacklevel=3)
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


def is_invariant(problem: Problem, subspace: Float[Array, "N m"], transient: int = 0) -> bool:
    """Whether the Jacobians map the subspace into itself, at points of the orbit evenly spaced after the transient."""
    limit = LEAK * float(jnp.finfo(subspace.dtype).eps)
    if not transient and not float(_leak_at_start(problem, subspace)) <= limit:  # this alone excludes most bases
        return False
    at = jnp.asarray(transient + sampled_steps(problem.length - transient))
    return bool(_leak_along_orbit(problem, subspace, at) <= limit)


@eqx.filter_jit
def _states_at(problem: Problem, at: Array) -> Float[Array, "samples N"]:
    before, _ = problem.orbit()
    return before.x[at]


@eqx.filter_jit
def _leak_at_start(problem: Problem, subspace: Float[Array, "N m"]) -> Float[Array, ""]:
    first = jax.tree_util.tree_map(lambda s: s[0], problem.inputs)
    return _leak(problem, subspace, (problem.start, first))


@eqx.filter_jit
def _leak_along_orbit(problem: Problem, subspace: Float[Array, "N m"], at: Array) -> Float[Array, ""]:
    before, _ = problem.orbit()
    some = jax.tree_util.tree_map(lambda s: s[at], (before, problem.inputs))
    return jnp.max(jax.lax.map(partial(_leak, problem, subspace), some))


@in_full_precision
def _leak(problem: Problem, subspace: Float[Array, "N m"], at: tuple) -> Float[Array, ""]:
    """The size of the part of D V outside V, relative to D V."""
    point, input = at
    _, pushed = problem.push(point, subspace.T, input)
    outside = pushed - pushed @ subspace @ subspace.T
    return jnp.linalg.norm(outside) / jnp.maximum(jnp.linalg.norm(pushed), jnp.finfo(pushed.dtype).tiny)
